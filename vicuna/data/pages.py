"""Which messages are HTML of a chat page, and which are text that must be left alone."""

import re
from typing import Literal

from vicuna.data.config import MarkdownConfig
from vicuna.data.debris import without_debris

_MARKS = {
    "user": {"whitespace-pre-wrap", "min-h-[20px]", "text-message"},
    "assistant": {"markdown", "prose", "whitespace-pre-wrap", "min-h-[20px]", "text-message", "text-base",
                  "message-content", "border-red-500", "result-streaming"},
}  # fmt: skip
"""Classes by which chat pages' wrappers are known; people also paste HTML of their own, so fewer count for them."""
_WRAPPER = re.compile(
    r"\s*(?:\d{1,3} / \d{1,3}\s*)?<(?:div|article|section|span|main)\b[^>]*?\s(?:"
    r"class=[\"'](?P<classes>[^\"'>]*)|data-message-(?:author-role|id)=)[^>]*>",
    re.IGNORECASE,
)
_ANSWER_INSIDE = re.compile(r"<div\b[^>]*\sclass=[\"'](?:[^\"'>]*\s)?markdown prose[\s\"']", re.IGNORECASE)
_BARE = re.compile(
    r"\s*(?:\d{1,3} / \d{1,3}\s*)?<(p|ol|ul|pre|h[1-6]|table|blockquote)(?:\s[^<>]*)?>"
    r".*</(?:p|ol|ul|pre|h[1-6]|table|blockquote|div)>\s*\Z",
    re.IGNORECASE | re.DOTALL,
)


def is_page(text: str, role: Literal["user", "assistant"]) -> bool:
    """Whether a message is HTML that a chat page made, judged by how it begins.

    It is when it begins (after the page's `2 / 3` counter, if any) with a wrapper element that chat pages use: a `div`,
    `article`, `section`, `main` or `span` with one of their classes (`markdown`, `prose`, `whitespace-pre-wrap`, ...)
    or a `data-message-...` attribute, or with any such element that has a class if a `div` of the classes
    `markdown prose` follows.
    An assistant's message is also HTML when it begins with a block element (`p`, `ol`, `pre`, ...) and ends with the
    end of one: some collections cut the wrapper off. Everything else is text, whatever it contains: a person who asks
    about `<div>` did not write a page.
    """
    if "<" not in text:
        return False
    wrapper = _WRAPPER.match(text)
    if wrapper:
        known = wrapper["classes"] is None or not _MARKS[role].isdisjoint(wrapper["classes"].split())
        return known or _ANSWER_INSIDE.search(text, wrapper.end()) is not None
    return role == "assistant" and _BARE.match(text) is not None


def to_text(text: str, role: Literal["user", "assistant"], config: MarkdownConfig) -> str:
    """A message as markdown: a page is converted, text stays byte for byte but for the controls' debris."""
    if config.pages == "auto" and is_page(text, role):
        from vicuna.data.markdown import html_to_markdown

        return html_to_markdown(text)
    return without_debris(text) if config.debris else text
