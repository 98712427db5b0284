"""Which messages are HTML of a chat page, and which are text that must be left alone."""

import html
import re
from typing import Literal

from vicuna.data.config import MarkdownConfig
from vicuna.data.debris import without_debris

Role = Literal["user", "assistant"]

_MARKS: dict[Role, frozenset[str]] = {
    "user": frozenset({"whitespace-pre-wrap", "min-h-[20px]", "text-message", "font-user-message"}),
    "assistant": frozenset({"markdown", "prose", "whitespace-pre-wrap", "min-h-[20px]", "text-message", "text-base",
                            "message-content", "border-red-500", "result-streaming", "font-claude-message",
                            "font-claude-response", "model-response-text", "ds-markdown", "ac-container",
                            "ac-textBlock", "cib-message-content"}),
}  # fmt: skip
"""Classes by which chat pages' wrappers are known; people also paste HTML of their own, so fewer count for them."""
_HASHED = re.compile(r"(?:Markdown_markdownContainer|Message_(?:bot|leftSide)Message\w*|ChatMessage_\w+)__\w+")
"""Classes of Poe's pages, which end with a hash that changes from build to build."""
_COUNTER = r"\s*(?:\d{1,3} / \d{1,3}\s*)?"
_WRAPPER = re.compile(
    _COUNTER + r"<(?:div|article|section|span|main|message-content|response-element)\b[^>]*?\s(?:"
    r"class=[\"'](?P<classes>[^\"'>]*)|data-(?:message-(?:author-role|id)|testid=[\"']conversation-turn-\d+[\"']))[^>]*>",
    re.IGNORECASE,
)
_ANSWER_INSIDE = re.compile(r"<div\b[^>]*\sclass=[\"'](?:[^\"'>]*\s)?markdown prose[\s\"']", re.IGNORECASE)
_BARE = re.compile(
    _COUNTER + r"<(p|ol|ul|pre|h[1-6]|table|blockquote)(?:\s[^<>]*)?>"
    r".*</(?:p|ol|ul|pre|h[1-6]|table|blockquote|div)>\s*\Z",
    re.IGNORECASE | re.DOTALL,
)
_ESCAPED = re.compile(_COUNTER + r"&lt;(?:div|article|section|main)\s")
_HTML = re.compile(
    r"\s*(?:<!doctype html[^>]*>\s*|<!--.*?-->\s*)*"
    r"<(?:html|head|body|main|article|section|header|div|p|ol|ul|dl|pre|h[1-6]|table|blockquote|span|b|strong|em|i|a"
    r"|center|font|hr|br|img|figure|details)(?:\s[^<>]*)?/?>",
    re.IGNORECASE | re.DOTALL,
)
_HTML_END = re.compile(r"(?:</[a-z][a-z0-9]*\s*>|<(?:br|hr|img)\b[^<>]*>|-->)\s*\Z", re.IGNORECASE)
_BLOCK_END = re.compile(r"</(?:div|p|li|pre|h[1-6]|table|blockquote|section|article|body|dl)\s*>|<br\b", re.IGNORECASE)
_PRE = re.compile(r"<pre\b.*?</pre\s*>", re.IGNORECASE | re.DOTALL)
_MARKDOWN = re.compile(r"^(?:```|~~~|#{1,6} |[-*] |\d+\. |> )", re.MULTILINE)


def is_page(text: str, role: Role) -> bool:
    """Whether a message is HTML that a chat page made, judged by how it begins.

    It is when it begins (after the page's `2 / 3` counter, if any) with a wrapper element that chat pages use: a `div`,
    `article`, `section`, `main` or `span` with one of their classes (`markdown`, `prose`, `whitespace-pre-wrap`, ...)
    or a `data-message-...` attribute, or with any such element that has a class if a `div` of the classes
    `markdown prose` follows.
    An assistant's message is also HTML when it begins with a block element (`p`, `ol`, `pre`, ...), ends with the end
    of one and has no fences of markdown: some collections cut the wrapper off. Everything else is text, whatever it
    contains: a person who asks about `<div>` did not write a page.
    """
    if "<" not in text:
        return False
    return _is_wrapped(text, role) or (role == "assistant" and _is_bare(text))


def _is_bare(text: str) -> bool:
    return _BARE.match(text) is not None and not ("\n```" in text and "\n```" in _PRE.sub("", text))


def _is_wrapped(text: str, role: Role) -> bool:
    wrapper = _WRAPPER.match(text)
    if not wrapper:
        return False
    if wrapper["classes"] is None:
        return True
    known = not _MARKS[role].isdisjoint(wrapper["classes"].split())
    hashed = role == "assistant" and _HASHED.search(wrapper["classes"]) is not None
    return known or hashed or _ANSWER_INSIDE.search(text, wrapper.end()) is not None


def unescaped_page(text: str, role: Role) -> str | None:
    """The page, if the whole message is one that was escaped once too often (`&lt;div class="markdown ...`).

    Decided strictly, because an answer about HTML may hold such text too: no tag of its own anywhere, a known wrapper
    at the start, and the end of an element at the end.
    """
    if "<" in text or not _ESCAPED.match(text):
        return None
    page = html.unescape(text)
    return page if _is_wrapped(page, role) and page.rstrip().endswith("</div>") else None


def is_html(text: str) -> bool:
    """Whether an answer is HTML of unknown origin, judged by its structure.

    It is when it begins with a tag and ends with one, holds a block element or a line break, and no line of it looks
    like markdown (a fence, a heading, a list, a quote): answers in markdown may hold tags too.
    """
    begins = _HTML.match(text)
    if not begins or not _HTML_END.search(text) or not _BLOCK_END.search(text):
        return False
    return not _MARKDOWN.search(_PRE.sub("", text))


def to_text(text: str, role: Role, config: MarkdownConfig) -> str:
    """A message as markdown: a page is converted, text stays byte for byte but for the controls' debris."""
    page = text if is_page(text, role) else unescaped_page(text, role)
    if page is not None:
        from vicuna.data.markdown import html_to_markdown

        return html_to_markdown(page)
    if config.pages == "any" and role == "assistant" and is_html(text):
        from vicuna.data.markdown import generic

        return generic.html_to_markdown(text)
    return without_debris(text) if config.debris else text
