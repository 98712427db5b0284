"""The short way to write a paragraph, for the ordinary ones that need no care.

It judges while it writes, and gives up at anything it would have to think about; what it does write is what the long
way (`vicuna.data.markdown.inline`) would have written.
"""

import re

from vicuna.data.markdown.pieces import (
    BREAK,
    CLOSE,
    CODE,
    EMPHASIS,
    HTML_SPACE,
    OPEN,
    RAW,
    TEXT,
    Kind,
    Piece,
    code_span,
)

_MAY_NEED_CARE = re.compile(r"[\\`*_~\[\]<&\n\t\r\f]").search
"""Characters of text that markdown may misread, and white space that may need tidying."""
_NEEDS_CARE = re.compile(
    r"""[\\`~\t\r\f]
    | (?<!\w)_ | _(?!\w)               # inside a word it is nothing
    | (?<!\s)\* | \*(?!\s)             # nor is an asterisk between spaces
    | <(?:[A-Za-z/!?]|\Z)
    | &\#?\w{0,40}(?:;|\Z)
    | [ \n]\n | \n[ ] | \A\n | \n\Z
    """,
    re.VERBOSE,
).search
_NO_SPACE_AFTER = frozenset(" [\n")
_REFERENCE = re.compile(r"\][\[(:]").search
_BREAK = "  \n"


def plain(pieces: list[Piece], *, lines: bool) -> str | None:
    """The paragraph, if nothing in it needs escaping or tidying, and emphasis begins and ends at words; else None.

    Args:
        lines: line ends may stay; what stands at the start of a line is not judged here.
    """
    if len(pieces) == 1 and pieces[0][0] is TEXT:
        return plain_text(pieces[0][1], lines=lines)
    out: list[str] = []
    last = ""  # the last character of text
    far = ""  # on the far side of the delimiter just written
    inside = ""  # delimiters that are open; only `***` holds two
    opened = closed = bracket = linked = False
    for kind, value in pieces:
        if kind is TEXT:
            if last == "\n" or not out:
                value = value.lstrip(HTML_SPACE)
            if not value:
                continue
            if "  " in value or (value[0] == " " and last in _NO_SPACE_AFTER):
                return None
            if _MAY_NEED_CARE(value):
                if _NEEDS_CARE(value) or (not lines and "\n" in value):
                    return None
                bracket = bracket or "[" in value or "]" in value
        elif value in EMPHASIS and (kind is OPEN or kind is CLOSE):
            mark = EMPHASIS[value]
            if not (opened or closed):
                far = last
            if kind is CLOSE and not (opened or last.isspace()):
                inside, closed = inside[: -len(mark)], True
            elif kind is OPEN and not closed and (not inside or (opened and inside == "*" and mark == "**")):
                inside, opened = inside + mark, True
            else:
                return None
            out.append(mark)
            continue
        else:
            linked = linked or kind is OPEN
            value = _markup(kind, value, last)
            if not value or (kind is BREAK and (opened or not lines)):
                return None
        if (opened and not _may_open(far, value[0])) or (closed and (inside or not _may_close(far, value[0]))):
            return None
        opened = closed = False
        out.append(value)
        last = value[-1]
    text = "".join(out).rstrip(" ")
    return None if last == "\n" or (bracket and (linked or _REFERENCE(text))) else text


def plain_text(text: str, *, lines: bool) -> str | None:
    """`plain` for a paragraph without any markup."""
    text = text.strip(HTML_SPACE)
    if "  " in text:
        return None
    if _MAY_NEED_CARE(text) and (_NEEDS_CARE(text) or _REFERENCE(text) or (not lines and "\n" in text)):
        return None
    return text


def _markup(kind: Kind, value: str, last: str) -> str:
    """What to write for a piece that is neither text nor emphasis; "" where that needs care."""
    if kind is CODE:
        return code_span(value) if last != "`" else ""
    if kind is RAW:
        return value if "\n" not in value else ""
    if kind is OPEN:
        return "[" if last != "!" else ""
    if kind is CLOSE:
        return value if not last.isspace() else ""
    return _BREAK if last not in _NO_SPACE_AFTER and last else ""


def _may_open(outer: str, inner: str) -> bool:
    """Whether a delimiter between these characters opens emphasis and can never close any."""
    if not outer or outer.isspace():
        return not inner.isspace()
    return inner.isalnum() and not outer.isalnum()


def _may_close(inner: str, outer: str) -> bool:
    """Whether a delimiter between these characters closes emphasis and can never open any."""
    return outer.isspace() or (inner.isalnum() and not outer.isalnum())
