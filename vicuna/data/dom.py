"""What ChatGPT's pages wrap around an answer: code block headers, formulas, and buttons that are no part of the text.

The shapes are those of the pages of 2023 to 2025; each reader looks at structure (the `code` inside a `pre`, the TeX
annotation inside a formula), so small changes of the class names do not matter.
"""

import re
from collections.abc import Iterator

from lxml import etree

from vicuna.data.debris import COUNTER

Element = etree._Element

UNSEEN = frozenset({"button", "svg", "script", "style", "iframe", "noscript", "template", "select", "head"})
"""Elements that show no text of the answer: controls, drawings, programs."""

_LABELS = re.compile(r"(?:\s*(?:Copy code|Copied!|Copy|Edit|Run|Wrap|Collapse|Always show details))+\s*\Z")
_LANGUAGE = re.compile(r"[\w+#.\-/]{1,30}\Z")
_LABELLED = re.compile(r"([\w+#.\-/]{0,30})Copy code(?=\S|\n|\Z)")
_NEVER_IN_FORMULA = ("p", "ul", "ol", "li", "pre", "code", "table", "blockquote", "h1", "h2", "h3", "h4", "hr")
_CLASS_LANGUAGE = re.compile(r"(?:^|\s)lang(?:uage)?-(\S+)")


def classes(element: Element) -> str:
    """The `class` attribute; an empty string where there is none."""
    return element.get("class") or ""


def is_debris(element: Element) -> bool:
    """Whether the element is part of the page around the answer: a control, or text for screen readers only."""
    if element.tag in UNSEEN:
        return True
    if element.tag == "input":
        return element.get("type") != "checkbox"
    return "sr-only" in classes(element).split()


def is_counter(element: Element) -> bool:
    """Whether this is the page's own `2 / 3` counter: a bare `div` or `span` that stands before something else."""
    if element.tag not in ("div", "span") or element.getnext() is None:
        return False
    bare = all(child.tag in UNSEEN for child in element)
    return bare and bool(COUNTER.match(visible_text(element)))


def is_display_formula(element: Element) -> bool:
    """Whether a formula stands on its own line."""
    name = classes(element)
    return bool(name) and ("katex-display" in name or "math-display" in name)


def is_formula(element: Element) -> bool:
    """Whether the element is a formula that KaTeX drew (it then holds the TeX source)."""
    name = classes(element)
    return (bool(name) and ("katex" in name or "math-inline" in name)) or element.tag == "math"


def tex(element: Element) -> str | None:
    """The TeX source of a formula; None where the page does not hold it, or where other text got into the formula."""
    if "katex-error" in classes(element):
        return visible_text(element).strip()
    if not _is_drawing(element) or next(element.iterdescendants(*_NEVER_IN_FORMULA), None) is not None:
        return None
    for annotation in element.iter("annotation"):
        if annotation.get("encoding") == "application/x-tex":
            return visible_text(annotation).strip() or None  # an empty source says nothing of what is drawn
    return None


def _is_drawing(element: Element, depth: int = 0) -> bool:
    """Whether an element holds KaTeX's two renderings and no text beside them, as an unclosed one would."""
    if (element.text or "").strip() or depth > 4:  # KaTeX nests display, katex, and the two renderings
        return False
    for child in element:
        name = classes(child)
        if (child.tail or "").strip() or (child.tag in ("math", "semantics") and (child.text or "").strip()):
            return False
        part = child.tag in ("math", "semantics", "annotation") or child.get("aria-hidden") or "katex-" in name
        if not part and not ("katex" in name and _is_drawing(child, depth + 1)):
            return False
        if "katex-display" in name and not _is_drawing(child, depth + 1):
            return False
    return True


def visible_text(element: Element) -> str:
    """All text inside, without buttons and drawings; `br` is a line break."""
    if not len(element):
        return element.text or ""
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


def code_block(pre: Element) -> tuple[str, str, str, str]:
    """Read a code block.

    Returns:
        language ("" where the page names none), code without its final line end, and the text that stood before and
        after the code inside the block and is neither the language nor a button ("" on an undamaged page).
    """
    found = [each for each in pre.iter("code") if not any(up.tag == "code" for up in each.iterancestors("code"))]
    if len(found) != 1:
        language, code = _unlabelled(visible_text(pre).removeprefix("\n"))
        named = next((name for each in (*found, pre) if (name := language_of(each))), "")
        return language or named, code.removesuffix("\n"), "", ""
    (code_element,) = found
    before, after = _around(pre, code_element)
    header = _LABELS.sub("", before.strip())
    language = language_of(code_element) or language_of(pre)
    if _LANGUAGE.match(header):
        language, header = header, ""
    elif language and header.replace(" ", "").lower() == language.lower():
        header = ""
    elif header and len(header) <= 30 and "\n" not in header:  # a label such as "Plain text"
        language, header = language or header.replace(" ", "-"), ""
    return (
        language.replace("`", ""),
        visible_text(code_element).removesuffix("\n"),
        header,
        _LABELS.sub("", after.strip()),
    )


def language_of(element: Element) -> str:
    """The language that an element's class names (`language-python`), or ""."""
    named = _CLASS_LANGUAGE.search(classes(element))
    return named[1] if named else ""


def _unlabelled(text: str) -> tuple[str, str]:
    """Split `pythonCopy codeimport os` (pages whose tags are partly gone) into language and code."""
    label = _LABELLED.match(text)
    return (label[1], text[label.end() :]) if label else ("", text)


def _around(pre: Element, code: Element) -> tuple[str, str]:
    """The visible text of `pre` before and after its `code`."""
    sides: tuple[list[str], list[str]] = ([], [])
    side = 0
    stack: list[tuple[Element, bool]] = [(pre, True)]
    while stack:
        node, entering = stack.pop()
        if not entering:
            sides[side].append(node.tail or "")
            continue
        if node is not pre:
            stack.append((node, False))
        if node is code:
            side = 1
        elif isinstance(node.tag, str) and node.tag not in UNSEEN:
            sides[side].append(node.text or "")
            stack.extend((child, True) for child in reversed(node))
    return "".join(sides[0]), "".join(sides[1])
