"""Elements within a paragraph → the pieces that it is made of."""

import re

from lxml.html import defs

from vicuna.data import dom
from vicuna.data.dom import Element
from vicuna.data.inline import paragraph
from vicuna.data.pieces import BREAK, CLOSE, CODE, OPEN, RAW, TEXT, Piece, link_end

DEEPEST = 100
"""Elements nested deeper than this keep their text and lose their structure; browsers' own limit is 512."""

_EMPHASIS = {"strong": "strong", "b": "strong", "em": "em", "i": "em", "cite": "em", "dfn": "em",
             "del": "del", "s": "del", "strike": "del"}  # fmt: skip
_CODE = frozenset({"code", "tt", "samp"})
_TAGS_KEPT = frozenset({"sup", "sub", "kbd", "mark", "ins"})
_KNOWN_NAMES = """data time output progress meter ruby rt rp rb bdi wbr audio video source track picture
math mi mo mn ms mtext mrow msup msub msubsup mfrac msqrt mroot mover munder munderover mtable mtr mtd mstyle mspace
mpadded mphantom mfenced merror mmultiscripts maction semantics annotation annotation-xml"""
_KNOWN = defs.tags | frozenset(_KNOWN_NAMES.split())
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
    if element.text:
        run.append((TEXT, element.text))
    for child in element:
        if not dom.is_debris(child):
            add_inline(child, run, depth + 1)
        if child.tail:
            run.append((TEXT, child.tail))


def add_inline(element: Element, run: list[Piece], depth: int) -> None:
    """Add one inline element to the pieces."""
    tag = element.tag
    if tag in _CODE:
        run.append((CODE, dom.visible_text(element)))
    elif tag == "br":
        run.append((BREAK, ""))
    elif tag in _EMPHASIS:
        run.append((OPEN, _EMPHASIS[tag]))
        _children(element, run, depth)
        run.append((CLOSE, _EMPHASIS[tag]))
    elif tag == "a" and element.get("href") is not None:
        _link(element, run, depth)
    elif tag == "img":
        run.append((RAW, _image(element)))
    elif tag == "input":
        run.append((RAW, "[x] " if element.get("checked") is not None else "[ ] "))
    elif dom.is_formula(element) and (source := dom.tex(element)) is not None:
        run.append((RAW, "$" + re.sub(r"\s*\n\s*", " ", source) + "$"))
    elif tag in _TAGS_KEPT or _is_unknown(tag):
        run.append((RAW, _start_tag(element)))
        _children(element, run, depth)
        run.append((RAW, f"</{tag}>"))
    else:
        _children(element, run, depth)


def _link(element: Element, run: list[Piece], depth: int) -> None:
    target, title = element.get("href") or "", element.get("title") or ""
    shown = dom.visible_text(element)
    if not title and shown == target and _AUTOLINK.match(target):
        run.append((RAW, f"<{target}>"))
    elif not title and target == f"mailto:{shown}" and re.fullmatch(r"[\w.+\-]+@[\w\-]+(\.[\w\-]+)+", shown, re.ASCII):
        run.append((RAW, f"<{shown}>"))
    else:
        run.append((OPEN, "link"))
        _children(element, run, depth)
        run.append((CLOSE, link_end(target, title)))


def _image(element: Element) -> str:
    alt = paragraph([(TEXT, element.get("alt") or "")], " ")
    alt = re.sub(r"(?<!\\)([\[\]])", r"\\\1", alt)
    return f"![{alt}" + link_end(element.get("src") or "", element.get("title") or "")


def _is_unknown(tag: object) -> bool:
    """A name that is no HTML, such as the `string` of an unescaped `List<String>`: its tag is text worth keeping."""
    return isinstance(tag, str) and tag not in _KNOWN


def _start_tag(element: Element) -> str:
    attributes = "".join(f' {name!s}="{value!s}"' for name, value in element.attrib.items())
    return f"<{element.tag}{attributes}>"
