"""HTML of chat pages → markdown."""

from vicuna.data.markdown.convert import html_to_markdown

__all__ = ["html_to_markdown"]
