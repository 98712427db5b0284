"""The short way to write a paragraph, for the ordinary ones that need no care.

It judges while it writes, and gives up at anything it would have to think about; what it does write is what the long
way (`vicuna.data.markdown.inline`) would have written.
"""

import re

from vicuna.data.markdown.pieces import CLOSE, CODE, EMPHASIS, OPEN, RAW, TEXT, Piece, code_span

_MAY_NEED_CARE = re.compile(r"[\\`*_~\[\]<&\n\t\r\f]").search
"""Characters of text that markdown may misread, and white space that may need tidying."""
_NEEDS_CARE = re.compile(
    r"""[\\`~\t\r\f]
    | (?<!\w)_ | _(?!\w)               # inside a word it is nothing
    | (?<!\s)\* | \*(?!\s)             # nor is an asterisk between spaces
    | <(?:[A-Za-z/!?]|\Z)
    | &\#?\w{0,40}(?:;|\Z)
    | \](?:[\[(:]|\Z)
    | [ \n]\n | \n[ ] | \A\n | \n\Z
    """,
    re.VERBOSE,
).search
_NO_SPACE_AFTER = (" ", "[")
_REFERENCE = re.compile(r"\][\[(:]").search


def plain(pieces: list[Piece], *, lines: bool) -> str | None:
    """The paragraph, if nothing in it needs escaping or tidying, and emphasis begins and ends at words; else None.

    Args:
        lines: line ends may stay; what stands at the start of a line is not judged here.
    """
    out: list[str] = []
    last = ""  # the last character of text
    far = ""  # on the far side of the delimiter just written
    opened = closed = inside = False
    bracket = linked = False
    for kind, value in pieces:
        if kind is TEXT:
            value = value if out else value.lstrip(" ")
            if not value:
                continue
            if "  " in value or (value[0] == " " and last in _NO_SPACE_AFTER):
                return None
            if _MAY_NEED_CARE(value):
                if _NEEDS_CARE(value) or (not lines and "\n" in value):
                    return None
                bracket = bracket or "[" in value or "]" in value
        elif kind is CODE:
            if not value or last == "`":
                return None
            value = code_span(value)
        elif kind is RAW:
            if not value or "\n" in value:
                return None
        elif kind is OPEN and value == "link":
            if last == "!":
                return None
            value, linked = "[", True
        elif kind is CLOSE and value[0] == "]":
            if last == " ":
                return None
        elif kind is OPEN or kind is CLOSE:
            if opened or closed or inside is (kind is OPEN) or (inside and last.isspace()):
                return None
            far, inside = last, not inside
            opened, closed = inside, not inside
            out.append(EMPHASIS[value])
            continue
        else:
            return None
        if (opened and not _may_open(far, value[0])) or (closed and not _may_close(far, value[0])):
            return None
        opened = closed = False
        out.append(value)
        last = value[-1]
    text = "".join(out).rstrip(" ")
    return None if bracket and (linked or _REFERENCE(text)) else text


def _may_open(outer: str, inner: str) -> bool:
    """Whether a delimiter between these characters opens emphasis and can never close any."""
    if not outer or outer.isspace():
        return not inner.isspace()
    return inner.isalnum() and not outer.isalnum()


def _may_close(inner: str, outer: str) -> bool:
    """Whether a delimiter between these characters closes emphasis and can never open any."""
    return outer.isspace() or (inner.isalnum() and not outer.isalnum())
