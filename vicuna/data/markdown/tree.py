"""HTML of any quality → lxml's tree of it."""

import functools
import re

from lxml import etree

from vicuna.data.markdown.dom import Element

_PARSER_DEPTH = 2_000
"""libxml2 gives up at 2048."""
_AFTER_BODY = re.compile(r"</?(?:body|html)\b[^>]*>", re.IGNORECASE)

_OPENING = re.compile(
    r"<(?:(!--)|(!\[CDATA\[)|(\?)|(!\[(?:if|endif)\b)|(!(?:doctype|element|attlist|entity|notation)\b)|!)",
    re.IGNORECASE,
)
"""Where a comment, CDATA, an instruction, a condition or a declaration begins, or something that is none of these."""
_CLOSING = ("", "-->", "]]>", "?>", "]>", ">")
"""How they end, by the number of their group."""
_ANY_TEXT = (1, 2)
"""Comments and CDATA; the others hold no `<`."""


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
    if "<!" in html or "<?" in html:
        html = _mended(html)
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


def _mended(html: str) -> str:
    """The page with each `<!` and `<?` that begins nothing whole as text: a parser would drop the text after it."""
    parts: list[str] = []
    at = 0
    missing: set[str] = set()
    for match in _OPENING.finditer(html):
        if match.start() < at:
            continue
        closing, most = _CLOSING[match.lastindex or 0], len(html)
        if match.lastindex not in _ANY_TEXT and (tag := html.find("<", match.end())) >= 0:
            most = tag
        end = html.find(closing, match.end(), most) if closing and closing not in missing else -1
        if end >= 0:
            parts.append(html[at : end + len(closing)])
            at = end + len(closing)
            continue
        if match.lastindex in _ANY_TEXT:
            missing.add(closing)
        parts.append(html[at : match.start()] + "&lt;")
        at = match.start() + 1
    return "".join(parts) + html[at:]


def text_only(html: str) -> str:
    """The text of a page by a parser without a tree, for pages that no tree can hold."""
    from html.parser import HTMLParser

    parts: list[str] = []
    reader = HTMLParser()
    reader.handle_data = parts.append  # type: ignore[method-assign, assignment]
    reader.feed(html)
    reader.close()
    return "".join(parts)
