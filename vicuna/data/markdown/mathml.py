"""Presentation MathML → LaTeX, for formulas on pages that do not hold their TeX source.

Source: MathML Core (W3C, 2025), section 3.
"""

import re
import unicodedata
from collections.abc import Callable

from vicuna.data.markdown.dom import Element
from vicuna.data.markdown.mathsymbols import (
    COMMANDS,
    FUNCTIONS,
    LIMITS,
    MATRICES,
    OVER,
    SPACED,
    STYLES,
    UNDER,
    VARIANTS,
    WORD_LIMITS,
)

_TOKENS = frozenset({"mi", "mn", "mo", "mtext", "ms"})
_ROWS = frozenset({"math", "mrow", "mstyle", "mpadded", "merror", "mphantom", "maction", "semantics", "menclose"})
_LAYOUT_NAMES = """mfrac msqrt mroot msup msub msubsup munder mover munderover mtable mtr mlabeledtr mtd mfenced mspace
mmultiscripts mprescripts none"""
_LAYOUTS = frozenset(_LAYOUT_NAMES.split())
_DEEPEST = 60
_ANNOTATIONS = frozenset({"annotation", "annotation-xml"})
_KNOWN = _TOKENS | _ROWS | _LAYOUTS | _ANNOTATIONS

_ONE = re.compile(r"\\left[^\\].*\\right[^\\]|\\[a-z]+\{[^{}]*\}", re.DOTALL)
"""What may carry a script without braces around it."""
_ENDS_IN_COMMAND = re.compile(r"\\[A-Za-z]+\Z")


def is_whole(math: Element) -> bool:
    """Whether a `math` element holds MathML only: known elements, not too deep, and text nowhere but in its tokens."""
    level = [math]
    for _ in range(_DEEPEST):
        if not level:
            return True
        if not all(each.tag in _KNOWN and not _stray_text(each) for each in level):
            return False
        level = [child for each in level for child in each]
    return False


def _stray_text(element: Element) -> str:
    """Text in an element that shows none of its own, or after one of its children."""
    inside = "" if element.tag in _TOKENS or element.tag in _ANNOTATIONS else (element.text or "")
    return (inside + "".join(child.tail or "" for child in element)).strip()


def to_tex(math: Element) -> str:
    """The formula as LaTeX without dollar signs.

    Args:
        math: a `math` element; see `is_whole`. Elements it does not know are read as rows of what is in them.
    """
    return _tex(math).strip()


def _tex(element: Element) -> str:
    tag = element.tag
    if tag in _TOKENS:
        return _token(element)
    if tag in _ANNOTATIONS:
        return ""
    layout = _LAYOUT.get(str(tag))
    return layout(element, list(element)) if layout else _row(list(element))


def _row(children: list[Element]) -> str:
    """Children side by side; a table between fences is a matrix, and fences that grow are `\\left` and `\\right`."""
    if _is_fenced(children) and not _matrix(children):
        opening, *inner, closing = (_tex(child).strip() for child in children)
        return _joined([f"\\left{opening or '.'}", " ", *inner, f" \\right{closing or '.'}"])
    parts: list[str] = []
    at = 0
    while at < len(children):
        matrix = _matrix(children[at : at + 3])
        parts.append(_tex(children[at]) if matrix is None else matrix[0])
        at += 1 if matrix is None else matrix[1]
    return _joined(parts)


def _is_fenced(children: list[Element]) -> bool:
    ends = (*children[:1], *children[-1:])
    return len(children) > 2 and all(end.tag == "mo" and end.get("fence") == "true" for end in ends)


def _joined(parts: list[str]) -> str:
    out = ""
    for part in parts:
        space = " " if part[:1].isalpha() and _ENDS_IN_COMMAND.search(out) else ""
        out += space + part
    return out


def _group(element: Element) -> str:
    return "{" + _tex(element).strip() + "}"


def _script(element: Element) -> str:
    """A script's argument: braces where it is more than one character."""
    inner = _tex(element).strip()
    return inner if len(inner) == 1 else "{" + inner + "}"


def _base(element: Element) -> str:
    inner = _tex(element).strip()
    simple = len(inner) <= 1 or element.tag in _TOKENS or element.tag in ("msqrt", "mfenced")
    return inner if inner and (simple or _ONE.fullmatch(inner)) else f"{{{inner}}}"


# ------------------------------------------------------------------------------------------------ tokens
def _token(element: Element) -> str:
    raw = element.text or ""
    if element.tag in ("mtext", "ms"):
        escaped = re.sub(r"([%#&_${}])", r"\\\1", raw)
        return f"\\text{{{escaped}}}" if escaped.strip() else COMMANDS.get(raw, "\\ " if raw else "")
    text = " ".join(raw.split()) or raw[:1]
    if text in FUNCTIONS:
        return "\\bmod" if text == "mod" else f"\\{text}"
    shown = _joined([_character_tex(character) for character in text])
    variant = element.get("mathvariant") or ""
    if variant in VARIANTS:
        return f"\\{VARIANTS[variant]}{{{shown}}}"
    if len(text) > 1 and text.isalpha():
        return f"\\operatorname{{{shown}}}" if text.isascii() else f"\\text{{{shown}}}"
    if element.tag == "mi" and variant == "normal" and text.isascii() and text.isalpha():
        return f"\\mathrm{{{shown}}}"
    return f" {shown} " if element.tag == "mo" and text in SPACED else shown


def _character_tex(character: str) -> str:
    """One character; the letters that Unicode has in bold, script and so on become commands."""
    if "\U0001d400" <= character <= "\U0001d7ff":
        plain, name = unicodedata.normalize("NFKC", character), unicodedata.name(character, "")
        style = next((style for word, style in STYLES if word in name), "")
        return f"\\{style}{{{plain}}}" if style else COMMANDS.get(plain, plain)
    return COMMANDS.get(character, character)


def _character(element: Element) -> str:
    """The single character that an operator is, looked for inside rows of one."""
    while element.tag in _ROWS and len(element) == 1:
        element = element[0]
    return (element.text or "").strip() if element.tag in _TOKENS else ""


# ------------------------------------------------------------------------------------------------ layouts
Layout = Callable[[Element, list[Element]], str]


def _fraction(element: Element, children: list[Element]) -> str:
    if len(children) != 2:
        return _row(children)
    if (element.get("linethickness") or "").strip("0pxemt.") == "" and element.get("linethickness"):
        return f"{{{_tex(children[0]).strip()} \\atop {_tex(children[1]).strip()}}}"
    return f"\\frac{_group(children[0])}{_group(children[1])}"


def _square_root(_: Element, children: list[Element]) -> str:
    return "\\sqrt{" + _row(children).strip() + "}"


def _root(_: Element, children: list[Element]) -> str:
    if len(children) != 2:
        return _row(children)
    return f"\\sqrt[{_tex(children[1]).strip()}]{_group(children[0])}"


def _scripts(marks: str) -> Layout:
    """A base with scripts: `_`, `^` or both, in the order of the element's children."""

    def write(_: Element, children: list[Element]) -> str:
        if len(children) != 1 + len(marks):
            return _row(children)
        scripts = [(mark, _tex(child).strip(), child) for mark, child in zip(marks, children[1:], strict=True)]
        base = _base(children[0])
        out = [base]
        for mark, inner, child in scripts:
            primes = mark == "^" and inner and set(inner) == {"'"}
            out.append(inner if primes else mark + _script(child))
        return "".join(out)

    return write


def _under_over(marks: str) -> Layout:
    """Something below (`_`), above (`^`) or both: limits, accents, braces, or a small line of text."""

    def write(element: Element, children: list[Element]) -> str:
        if len(children) != 1 + len(marks):
            return _row(children)
        base = children[0]
        out = _tex(base).strip()
        if _character(base) in LIMITS or out.removeprefix("\\") in WORD_LIMITS or _braced(base):
            return _scripts(marks)(element, children)
        for mark, child in zip(marks, children[1:], strict=True):
            accents, other = (OVER, "overset") if mark == "^" else (UNDER, "underset")
            accent = accents.get(_character(child))
            out = f"\\{accent}{{{out}}}" if accent else f"\\{other}{_group(child)}{{{out}}}"
        return out

    return write


def _braced(base: Element) -> bool:
    """Whether a base already is an under- or overbrace, whose text is a script."""
    while base.tag in _ROWS and len(base) == 1:
        base = base[0]
    return base.tag in ("munder", "mover") and len(base) == 2 and _character(base[1]) in ("⏞", "⏟")


def _prescripts(_: Element, children: list[Element]) -> str:
    if not children:
        return ""
    sides: tuple[list[Element], list[Element]] = ([], [])
    side = 0
    for child in children[1:]:
        if child.tag == "mprescripts":
            side = 1
        else:
            sides[side].append(child)
    after, before = (_script_pairs(each) for each in sides)
    return (f"{{}}{before}" if before else "") + _base(children[0]) + after


def _script_pairs(children: list[Element]) -> str:
    return "".join(
        mark + _script(child) for at, child in enumerate(children) if child.tag != "none" for mark in ["_^"[at % 2]]
    )


def _fenced(element: Element, children: list[Element]) -> str:
    opening, closing = element.get("open") or "(", element.get("close") or ")"
    separator = (element.get("separators") or ",").strip()[:1]
    inner = f"{separator} ".join(_tex(child).strip() for child in children)
    return f"\\left{COMMANDS.get(opening, opening)} {inner} \\right{COMMANDS.get(closing, closing)}"


def _space(element: Element, _: list[Element]) -> str:
    if element.get("linebreak") == "newline":
        return " \\\\ "
    found = re.match(r"(-?[\d.]+)em", element.get("width") or "")
    width = float(found[1]) if found and found[1].count(".") < 2 and found[1].strip("-.") else 0.0
    return "\\quad " if width >= 1 else "\\ " if width >= 0.25 else "\\, " if width > 0 else ""


def _matrix(children: list[Element]) -> tuple[str, int] | None:
    """(LaTeX, elements used) if these begin with a fence, a table and maybe another fence."""
    if len(children) < 2 or children[0].tag != "mo" or _character(children[0]) not in "([|{‖":
        return None
    table = children[1]
    while table.tag in _ROWS and len(table) == 1:
        table = table[0]
    if table.tag != "mtable":
        return None
    last = _character(children[2]) if len(children) > 2 and children[2].tag == "mo" else None
    closed = last is not None and last in ("", *")]|}‖")
    name = MATRICES.get((_character(children[0]), last or "" if closed else ""))
    return None if name is None else (_table_in(name, table), 2 + closed)


def _table(element: Element, _: list[Element]) -> str:
    aligned = any(len(row) > 1 and not _tex(row[0]).strip() for row in element) or (
        len(element) > 1
        and all(_tex(row[1]).strip()[:1] in tuple("=<>") for row in element if len(row) == 2)
        and all(len(row) == 2 for row in element)
    )
    return _table_in("aligned" if aligned else "matrix", element)


def _table_in(name: str, table: Element) -> str:
    lines = [list(line) if line.tag in ("mtr", "mlabeledtr") else [line] for line in table]
    rows = [" & ".join(_tex(cell).strip() for cell in cells) for cells in lines]
    return f"\\begin{{{name}}}" + " \\\\ ".join(rows) + f"\\end{{{name}}}"


_LAYOUT: dict[str, Layout] = {
    "mfrac": _fraction,
    "msqrt": _square_root,
    "mroot": _root,
    "msup": _scripts("^"),
    "msub": _scripts("_"),
    "msubsup": _scripts("_^"),
    "munder": _under_over("_"),
    "mover": _under_over("^"),
    "munderover": _under_over("_^"),
    "mmultiscripts": _prescripts,
    "mfenced": _fenced,
    "mspace": _space,
    "mtable": _table,
}
