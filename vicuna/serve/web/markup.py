"""Text as it was written, shown as Markdown in which HTML is only text.

Gradio's Markdown lets HTML through: a model's `<div style="position: fixed">` would cover the page, and the tags in a
person's question about HTML would vanish. So tags are escaped outside of code, where Markdown does it by itself.
`written(shown(text)) == text` for every text, so what comes back from the page is what was sent to it.
"""

import re
from collections.abc import Callable

_CODE = re.compile(
    r"""
    ^[ \t>]*(?P<mark>`{3,}|~{3,})(?=[^`\n]*$) .*? (?:^[ \t>]*(?P=mark)|\Z)     # a fenced block, perhaps not ended yet
    | (?<![\\`])(?P<ticks>`+)(?!`) (?:(?!\n\s*\n).)+? (?<!`)(?P=ticks)(?!`)     # a span within one paragraph
    """,
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_LOOKS_ESCAPED = re.compile(r"&(?=(?:amp;)*lt;)")
_ESCAPED = re.compile(r"&lt;|&amp;(?=(?:amp;)*lt;)")


def shown(text: str) -> str:
    """Markdown that shows the text with its tags."""
    return _outside_code(text, lambda part: _TAG.sub("&lt;", _LOOKS_ESCAPED.sub("&amp;", part)))


def written(markdown: str) -> str:
    """The text that `shown` was given."""
    return _outside_code(markdown, lambda part: _ESCAPED.sub(lambda m: "<" if m[0] == "&lt;" else "&", part))


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    parts, end = [], 0
    for code in _CODE.finditer(text):
        parts += [change(text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, change(text[end:])])
