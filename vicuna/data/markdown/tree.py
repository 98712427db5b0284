"""HTML of any quality → lxml's tree of it."""

import functools
import re

from lxml import etree

from vicuna.data.markdown.dom import Element

_PARSER_DEPTH = 2_000
"""libxml2 gives up at 2048."""
_AFTER_BODY = re.compile(r"</?(?:body|html)\b[^>]*>", re.IGNORECASE)


class TooDeepError(ValueError):
    """The elements are nested deeper than the parser goes."""


@functools.cache
def _parser() -> etree.HTMLParser:
    return etree.HTMLParser(encoding="utf-8", huge_tree=True, remove_comments=True, remove_pis=True)


def parse(html: str) -> Element | None:
    """lxml's tree of the page, rooted at `html`; None where there is nothing in it.

    Raises:
        TooDeepError: elements are nested more than 2048 deep.
    """
    if "</body" in html or "</html" in html or "<body" in html:  # text after them would be cut off
        html = _AFTER_BODY.sub("", html)
    try:
        data = html.encode()
    except UnicodeEncodeError:  # half a surrogate pair has no place in a page: browsers show U+FFFD
        data = html.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
    if not data.strip():
        return None
    parser = _parser()
    root: Element | None = etree.fromstring(data, parser)
    deep = len(data) > _PARSER_DEPTH * len("<b>") and data.count(b"<") > _PARSER_DEPTH
    if deep and any(error.type_name == "ERR_RESOURCE_LIMIT" for error in parser.error_log):
        raise TooDeepError
    return root


def text_only(html: str) -> str:
    """The text of a page by a parser without a tree, for pages that no tree can hold."""
    from html.parser import HTMLParser

    parts: list[str] = []
    reader = HTMLParser()
    reader.handle_data = parts.append  # type: ignore[method-assign, assignment]
    reader.feed(html)
    reader.close()
    return "".join(parts)
