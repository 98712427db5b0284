"""Elements within a paragraph → the pieces that it is made of."""

import re

from lxml.html import defs

from vicuna.data.markdown import dom, formulas
from vicuna.data.markdown.dom import Element
from vicuna.data.markdown.inline import paragraph
from vicuna.data.markdown.pieces import BREAK, CLOSE, CODE, OPEN, RAW, TEXT, Piece, link_end

DEEPEST = 100
"""Elements nested deeper than this keep their text and lose their structure; browsers' own limit is 512."""

_EMPHASIS = {"strong": "strong", "b": "strong", "em": "em", "i": "em", "cite": "em", "dfn": "em",
             "del": "del", "s": "del", "strike": "del"}  # fmt: skip
_CODE = frozenset({"code", "tt", "samp"})
_TAGS_KEPT = frozenset({"sup", "sub", "kbd", "mark", "ins"})
INLINE = _EMPHASIS.keys() | _CODE | _TAGS_KEPT | {"a", "br", "img", "u", "small", "q", "abbr", "var", "font", "label"}
"""Elements that are part of a paragraph unless they hold a block."""
_KNOWN_NAMES = """data time output progress meter ruby rt rp rb bdi wbr audio video source track picture
math mi mo mn ms mtext mrow msup msub msubsup mfrac msqrt mroot mover munder munderover mtable mtr mtd mstyle mspace
mpadded mphantom mfenced merror mmultiscripts maction semantics annotation annotation-xml
message-content response-element code-block link-block source-footnote sources-carousel-inline"""
_KNOWN = defs.tags | frozenset(_KNOWN_NAMES.split())
_MAIL = re.compile(r"[\w.+\-]+@[\w\-]+(\.[\w\-]+)+", re.ASCII)
_MORE_SOURCES = re.compile(r"\s*\+\d+\s*\Z")
_AUTOLINK = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]{1,31}:[^\s<>]*\Z")


def pieces_of(element: Element, depth: int) -> list[Piece]:
    """Everything inside an element without blocks, as pieces of one paragraph."""
    run: list[Piece] = []
    _children(element, run, depth)
    return run


def _children(element: Element, run: list[Piece], depth: int) -> None:
    if depth > DEEPEST:
        run.append((TEXT, dom.visible_text(element)))
        return
    if text := element.text:
        run.append((TEXT, text))
    for child in element:
        add_inline(child, run, depth + 1)
        if tail := child.tail:
            run.append((TEXT, tail))


def add_inline(element: Element, run: list[Piece], depth: int) -> None:
    """Add one inline element to the pieces."""
    tag = element.tag
    if tag in _CODE:
        run.append((CODE, dom.visible_text(element)))
    elif emphasis := _EMPHASIS.get(tag):
        run.append((OPEN, emphasis))
        _children(element, run, depth)
        run.append((CLOSE, emphasis))
    elif tag == "br":
        run.append((BREAK, ""))
    elif tag == "a" and element.get("href") is not None:
        _link(element, run, depth)
    elif tag == "img":
        run.append((RAW, _image(element)))
    elif dom.is_debris(element):
        pass
    elif tag == "input":
        run.append((RAW, "[x]" if element.get("checked") is not None else "[ ]"))
        run.append((TEXT, " "))
    elif formulas.is_formula(element) and (source := formulas.tex(element)) is not None:
        run.append((RAW, "$" + re.sub(r"\s*\n\s*", " ", source) + "$"))
    elif tag == "sup" and (note := _note(element)):
        run.append((RAW, note))
    elif tag in _TAGS_KEPT or _is_unknown(element):
        run.append((RAW, _start_tag(element)))
        _children(element, run, depth)
        run.append((RAW, f"</{tag}>"))
    elif element.get("data-testid") == "webpage-citation-pill":
        _citation(element, run)
    else:
        _children(element, run, depth)


def _link(element: Element, run: list[Piece], depth: int) -> None:
    target, title = element.get("href") or "", element.get("title") or ""
    shown = dom.visible_text(element)
    if not title and shown == target and _AUTOLINK.match(target):
        run.append((RAW, f"<{target}>"))
    elif not title and target == f"mailto:{shown}" and _MAIL.fullmatch(shown):
        run.append((RAW, f"<{shown}>"))
    else:
        run.append((OPEN, "link"))
        _children(element, run, depth)
        run.append((CLOSE, link_end(target, title)))


def _citation(element: Element, run: list[Piece]) -> None:
    """A source that an answer names, as a link in parentheses, which is how chat pages copy it; `+2` counts others."""
    link = next(element.iter("a"), None)
    label = _MORE_SOURCES.sub("", dom.visible_text(element)).strip()
    if link is None or not label:
        run.append((TEXT, label))
    else:
        run += [(TEXT, " ("), (OPEN, "link"), (TEXT, label), (CLOSE, link_end(link.get("href") or "")), (TEXT, ")")]


def _note(element: Element) -> str:
    """A reference to a footnote (`[^1]`); "" for other raised text."""
    link = element[0] if len(element) == 1 else None
    if link is None or link.get("data-footnote-ref") is None:
        return ""
    return f"[^{(link.get('href') or '').rpartition('fn-')[2]}]"


def _image(element: Element) -> str:
    """An image. One whose bytes the page itself holds (`data:`) keeps its kind only, and goes if it has no text."""
    source = element.get("src") or ""
    text = element.get("alt") or ""
    if source.startswith("data:"):
        source = re.split("[;,]", source, maxsplit=1)[0] if text else ""
        if not source:
            return ""
    alt = re.sub(r"(?<!\\)([\[\]])", r"\\\1", paragraph([(TEXT, text)], " "))
    return f"![{alt}" + link_end(source, element.get("title") or "")


def _is_unknown(element: Element) -> bool:
    """A name that is no HTML, such as the `string` of an unescaped `List<String>`: its tag is text worth keeping.

    Names with a hyphen are a page's own elements if they are styled or hold other elements.
    """
    tag = element.tag
    if not isinstance(tag, str) or tag in _KNOWN:
        return False
    own = len(element) or element.get("class") is not None or tag.startswith("mjx-")
    return "-" not in tag or not own


def _start_tag(element: Element) -> str:
    attributes = "".join(f' {name!s}="{value!s}"' for name, value in element.attrib.items())
    return f"<{element.tag}{attributes}>"
