"""lxml's elements as a chat page means them: what shows text, and what only belongs to the page around an answer."""

import functools
from collections.abc import Iterator
from typing import cast

from lxml import etree

from vicuna.data.debris import COUNTER

Element = etree._Element

UNSEEN = frozenset({"button", "svg", "script", "style", "iframe", "noscript", "template", "select", "head", "mat-icon"})
"""Elements that show no text of the answer: controls, drawings, programs."""
_CLOSED = ("button", "svg", "iframe")
_CONTENT = frozenset({"p", "pre", "ul", "ol", "li", "table", "td", "blockquote", "h1", "h2", "h3", "h4", "h5", "h6"})
_NOT_PLAIN = (*sorted(UNSEEN), "br")

_CONTROLS = (
    ("sr-only", "//*[contains(concat(' ', normalize-space(@class), ' '), ' sr-only ')]"),
    ("visually-hidden", "//*[contains(@class, 'visually-hidden')]"),
    ('role="button"', "//div[@role='button'] | //span[@role='button']"),
    ("linenumber", "//span[contains(@class, 'linenumber')]"),
    ("line-number", "//span[contains(@class, 'line-number')]"),
    ("code-block-decoration footer", "//div[contains(@class, 'code-block-decoration footer')]"),
    ("data-footnote-backref", "//a[@data-footnote-backref]"),
)
"""(what the page's source holds, where they are) for controls that are no elements of their own: text for screen
readers, buttons made of other elements, line numbers, the warning under Gemini's code, the arrow after a footnote."""


def classes(element: Element) -> str:
    """The `class` attribute; an empty string where there is none."""
    return element.get("class") or ""


def is_debris(element: Element) -> bool:
    """Whether the element is part of the page around the answer."""
    return element.tag in UNSEEN or (element.tag == "input" and element.get("type") != "checkbox")


def hide_controls(root: Element, html: str) -> None:
    """Make every control in the tree one of the `UNSEEN` elements; `html` is the tree's source.

    A control that holds paragraphs lost its end, and what it swallowed is the page's text; that one is none.
    """
    for mark, path in _CONTROLS:
        if mark in html:
            for control in cast("list[Element]", _finder(path)(root)):
                if not _swallowed(control):
                    control.tag = "template"
    for control in list(root.iter(*_CLOSED)):
        if len(control) and _swallowed(control) and html.count(f"<{control.tag}") > html.count(f"</{control.tag}"):
            control.tag = "span"


def _swallowed(control: Element) -> bool:
    return not _CONTENT.isdisjoint([each.tag for each in control.iterdescendants()])


@functools.cache
def _finder(path: str) -> etree.XPath:
    return etree.XPath(path)


def is_counter(element: Element) -> bool:
    """Whether this is the page's own `2 / 3` counter: a bare `div` or `span` that stands before something else."""
    if element.tag not in ("div", "span") or element.getnext() is None:
        return False
    bare = all(child.tag in UNSEEN for child in element)
    return bare and bool(COUNTER.match(visible_text(element)))


def visible_text(element: Element) -> str:
    """All text inside, without buttons and drawings; `br` is a line break."""
    if not len(element):
        return element.text or ""
    if next(element.iterdescendants(*_NOT_PLAIN), None) is None:
        return _all_text(element)
    return "".join(_visible(element))


def _visible(element: Element) -> Iterator[str]:
    stack: list[tuple[Element, bool]] = [(element, True)]
    while stack:
        node, entering = stack.pop()
        if not entering:
            yield node.tail or ""
            continue
        if node is not element:
            stack.append((node, False))
        if not isinstance(node.tag, str) or node.tag in UNSEEN:
            continue
        if node.tag == "br":
            yield "\n"
        yield node.text or ""
        stack.extend((child, True) for child in reversed(node))


def text_around(outer: Element, inner: Element) -> tuple[str, str, str]:
    """The visible text of `outer` before, in and after `inner`, which stands somewhere in it.

    What shows no text is taken out of `outer`, unless `inner` stands in it: a button that lost its end.
    """
    path = [inner, *inner.iterancestors()]
    path = path[: path.index(outer)]
    for control in path:
        if control.tag in UNSEEN:
            control.tag = "span"
    etree.strip_elements(outer, *UNSEEN, with_tail=False)
    for line_break in outer.iter("br"):
        line_break.tail = "\n" + (line_break.tail or "")
    before: list[str] = []
    after: list[str] = []
    for node in path:
        before += [_all_text(above, tail=True) for above in node.itersiblings(preceding=True)]
        after.append(node.tail or "")
        after += [_all_text(below, tail=True) for below in node.itersiblings()]
        before.append(cast("Element", node.getparent()).text or "")
    return "".join(reversed(before)), _all_text(inner), "".join(after)


def _all_text(element: Element, *, tail: bool = False) -> str:
    return etree.tostring(element, method="text", encoding="unicode", with_tail=tail)
