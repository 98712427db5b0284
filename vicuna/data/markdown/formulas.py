"""Formulas on chat pages → the TeX they were typed as: KaTeX, MathJax 2 and 3, Gemini's attributes, bare MathML."""

import re

from vicuna.data.markdown import mathml
from vicuna.data.markdown.dom import Element, classes, visible_text

_DISPLAY = re.compile(r"katex-display|math-display|math-block|MathJax_Display|MathJax_SVG_Display")
_INLINE = re.compile(r"katex|math-inline|(?:^|\s)MathJax")
_NEVER_IN_FORMULA = ("p", "ul", "ol", "li", "pre", "code", "table", "blockquote", "h1", "h2", "h3", "h4", "hr")
_SOURCES = ("data-math", "data-latex", "data-tex", "data-formula", "alttext")
"""Attributes that hold a formula's source."""
_TEX_TYPES = frozenset({"application/x-tex", "TeX", "LaTeX"})
_PARTS = frozenset({"math", "semantics", "annotation", "template", "nobr"})
_PART = re.compile(r"\Amjx-|katex-|MathJax|MJX")
"""Tag and classes of a rendering."""
_TAGS = frozenset({"span", "div", "math", "mjx-container"})
"""The elements that a formula may be."""


def is_display(element: Element) -> bool:
    """Whether a formula stands on its own line."""
    if element.tag not in _TAGS:
        return False
    if element.tag == "math":
        return element.get("display") == "block"
    if element.tag == "mjx-container":
        return element.get("display") == "true"
    name = element.get("class")
    return name is not None and ("ath" in name or "katex" in name) and _DISPLAY.search(name) is not None


def is_formula(element: Element) -> bool:
    """Whether the element is a formula."""
    if element.tag not in _TAGS:
        return False
    if element.tag in ("math", "mjx-container"):
        return True
    name = element.get("class")
    return name is not None and ("ath" in name or "katex" in name) and _INLINE.search(name) is not None


def restore_scripts(root: Element) -> None:
    """Put the sources of MathJax 2 (`<script type="math/tex">`) where it drew them."""
    for script in list(root.iter("script")):
        kind = script.get("type") or ""
        if not kind.startswith("math/tex"):
            continue
        drawn = script.getprevious()
        while drawn is not None and "MathJax" in classes(drawn) and not (drawn.tail or "").strip():
            drawn.tag = "template"
            drawn = drawn.getprevious()
        script.tag = "span"
        script.set("class", "math-display" if "mode=display" in kind else "math-inline")
        script.set("data-math", script.text or "")
        script.text = None


def tex(element: Element) -> str | None:
    """The TeX source of a formula; None where the page does not hold it, or where other text got into the formula."""
    if "katex-error" in classes(element):
        return visible_text(element).strip()
    if next(element.iterdescendants(*_NEVER_IN_FORMULA), None) is not None:
        return None
    if not (mathml.is_whole(element) if element.tag == "math" else _is_drawing(element)):
        return None
    for name in _SOURCES:
        if source := (element.get(name) or "").strip():
            return source
    annotated = _annotated(element)
    if annotated is not None:
        return annotated
    if element.tag == "math":
        return mathml.to_tex(element) or None
    math = next(element.iter("math"), None)
    return None if math is None else tex(math)


def _annotated(element: Element) -> str | None:
    for annotation in element.iter("annotation"):
        if annotation.get("encoding") in _TEX_TYPES:
            return visible_text(annotation).strip() or None  # an empty source says nothing of what is drawn
    return None


def _is_drawing(element: Element, depth: int = 0) -> bool:
    """Whether an element holds a formula's renderings and no text beside them, as an unclosed one would."""
    if (element.text or "").strip() or depth > 4:  # KaTeX nests display, katex, and the two renderings
        return False
    for child in element:
        name = classes(child)
        if (child.tail or "").strip() or (child.tag in ("math", "semantics") and (child.text or "").strip()):
            return False
        part = child.tag in _PARTS or child.get("aria-hidden") is not None or _PART.search(f"{child.tag} {name}")
        if not part and not ("katex" in name and _is_drawing(child, depth + 1)):
            return False
        if "katex-display" in name and not _is_drawing(child, depth + 1):
            return False
    return True
