"""Emphasis: which delimiters to write so that a markdown reader pairs them as they were meant."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from vicuna.data.markdown.pieces import (
    BREAK,
    CLOSE,
    CODE,
    EMPHASIS,
    OPEN,
    RAW,
    TEXT,
    Piece,
    code_span,
    flanking,
    is_punctuation,
)

_MOST = 3_000
"""Pieces of one paragraph whose delimiters are matched; the work grows with their square."""
_LEADING_MARKS = re.compile(r"[\W_]+")
_TRAILING_MARKS = re.compile(r"[\W_]+$")


def with_delimiters(pieces: list[Piece]) -> list[Piece]:
    """Replace each OPEN and CLOSE value by the characters to write, in a way that CommonMark pairs them again.

    Where that cannot be (nestings that no markdown was ever rendered to), inner emphasis is given up, then all of it;
    so it is in paragraphs of more than `_MOST` pieces.
    """
    if not any(kind is OPEN for kind, _ in pieces):
        return _code_spans(pieces)
    if len(pieces) > _MOST:
        return _mark(_without_emphasis(pieces))
    if (OPEN, "del") in pieces:
        pieces = _filtered(pieces, lambda inside, value: value != "del" or value not in inside)  # ~~~~ would be a fence
    marked = _mark(_shrink_emphasis(pieces))
    for simpler in (_without_twice, _without_inner, _without_emphasis):
        if _reads_back(marked):
            break
        marked = _mark(_shrink_emphasis(simpler(pieces)))
    return marked


def _mark(pieces: list[Piece]) -> list[Piece]:
    stack: list[tuple[int, str]] = []
    out: list[Piece] = []
    for at, (kind, value) in enumerate(pieces):
        if kind is OPEN:
            mark = "[" if value == "link" else EMPHASIS[value]
            if value == "em" and _needs_underscore(pieces, at, stack):
                mark = "_"
            stack.append((at, mark))
            out.append((OPEN, mark))
        elif kind is CLOSE:
            _, mark = stack.pop()
            out.append((CLOSE, value if mark == "[" else mark))
        else:
            out.append((kind, value))
    return _code_spans(out)


def _code_spans(pieces: list[Piece]) -> list[Piece]:
    """Write code spans; those that touch become one, for side by side their fences would run together."""
    out: list[Piece] = []
    for kind, value in pieces:
        if kind is CODE and out and out[-1][0] is CODE:
            out[-1] = (CODE, out[-1][1] + value)
        else:
            out.append((kind, value))
    return [(RAW, code_span(value)) if kind is CODE else (kind, value) for kind, value in out]


def _without_twice(pieces: list[Piece]) -> list[Piece]:
    """No emphasis within the same emphasis."""
    return _filtered(pieces, lambda inside, value: value not in inside)


def _without_inner(pieces: list[Piece]) -> list[Piece]:
    """No emphasis within emphasis."""
    return _filtered(pieces, lambda inside, _: not any(each in EMPHASIS for each in inside))


def _without_emphasis(pieces: list[Piece]) -> list[Piece]:
    return _filtered(pieces, lambda _inside, _: False)


def _filtered(pieces: list[Piece], keep: Callable[[list[str], str], bool]) -> list[Piece]:
    """Leave out emphasis for which `keep(what it stands in, what it is)` is false; links stay."""
    out: list[Piece] = []
    inside: list[str] = []
    for kind, value in pieces:
        if kind is OPEN:
            kept = value == "link" or keep(inside, value)
            inside.append(value if kept else "")
        if kind is CLOSE:
            kept = inside.pop() != ""
        if kind not in (OPEN, CLOSE) or kept:
            out.append((kind, value))
    return out


@dataclass
class _Run:
    """Delimiters in a row, as CommonMark's algorithm sees them."""

    start: int
    length: int
    left: int
    """How many are not paired yet."""
    opens: bool
    closes: bool


def _reads_back(pieces: list[Piece]) -> bool:
    """Whether a reader pairs the delimiters as they were written. Source: CommonMark 0.31, appendix, phase 2."""
    text = ""
    wanted: set[tuple[int, int, int]] = set()
    stack: list[int] = []
    places: list[int] = []
    for kind, value in pieces:
        if kind is OPEN:
            stack.append(len(text))
        elif kind is CLOSE:
            start = stack.pop()
            if value[0] != "]":
                wanted.add((start, len(text), len(value)))
        if kind in (OPEN, CLOSE) and value[0] in "*_~":
            places += range(len(text), len(text) + len(value))
        text += value
    return len(wanted) < 2 or _pairs(text, places) == wanted


def _pairs(text: str, places: list[int]) -> set[tuple[int, int, int]]:
    """(opening place, closing place, length) for each pair that the delimiters at `places` form."""
    runs: list[_Run] = []
    for at in places:
        if runs and at == runs[-1].start + runs[-1].length and text[at] == text[at - 1]:
            runs[-1].length += 1
        else:
            runs.append(_Run(at, 1, 0, False, False))
    for run in runs:
        run.left = run.length
        run.opens, run.closes = flanking(text, run.start, run.start + run.length)
    found = set()
    for at, closer in enumerate(runs):
        while closer.closes and closer.left:
            opener_at = next((i for i in range(at - 1, -1, -1) if _may_pair(text, runs[i], closer)), None)
            if opener_at is None:
                break
            opener = runs[opener_at]
            used = 2 if opener.left >= 2 and closer.left >= 2 else 1
            found.add((opener.start + opener.left - used, closer.start + closer.length - closer.left, used))
            opener.left, closer.left = opener.left - used, closer.left - used
            for between in runs[opener_at + 1 : at]:
                between.left = 0
    return found


def _may_pair(text: str, opener: _Run, closer: _Run) -> bool:
    if not (opener.opens and opener.left and text[opener.start] == text[closer.start]):
        return False
    if text[opener.start] == "~":
        return opener.left >= 2 and closer.left >= 2
    if (opener.closes or closer.opens) and (opener.length + closer.length) % 3 == 0:
        return opener.length % 3 == 0 and closer.length % 3 == 0
    return True


def _needs_underscore(pieces: list[Piece], at: int, stack: list[tuple[int, str]]) -> bool:
    """`***x***` is read as em(strong(x)): for strong(em(x)) and em(em(x)) the inner one needs `_`."""
    inside = stack and stack[-1][0] == at - 1 and stack[-1][1] in ("*", "**")
    if not inside and not (at and pieces[at - 1][0] is CLOSE and pieces[at - 1][1] in EMPHASIS):
        return False
    end = _partner(pieces, at)
    follows = pieces[end + 1] if end + 1 < len(pieces) else (BREAK, "")
    return follows[0] is not TEXT or not follows[1][0].isalnum()


def _partner(pieces: list[Piece], at: int) -> int:
    """Index of the CLOSE that belongs to the OPEN at `at`."""
    depth = 0
    for index in range(at, len(pieces)):
        kind = pieces[index][0]
        depth += (kind is OPEN) - (kind is CLOSE)
        if depth == 0:
            return index
    raise AssertionError("an OPEN without its CLOSE")


def _shrink_emphasis(pieces: list[Piece]) -> list[Piece]:
    """Move punctuation out of emphasis that could not open or close there: `**Note:**now` becomes `**Note**:now`."""
    at = 0
    while at < len(pieces):
        if pieces[at][0] is OPEN and pieces[at][1] != "link":
            fitted = _fit(pieces, at)
            given_up = len(fitted) < len(pieces)
            pieces = fitted
            if given_up:
                continue
        at += 1
    return pieces


def _fit(pieces: list[Piece], at: int) -> list[Piece]:
    """The same pieces with the emphasis that opens at `at` shrunk, or without it where it cannot be written."""
    end = _partner(pieces, at)
    opening_blocked = _blocked(_character(pieces, at, -1), _character(pieces, at, 1))
    closing_blocked = _blocked(_character(pieces, end, 1), _character(pieces, end, -1))
    if not (opening_blocked or closing_blocked):
        return pieces
    before, inner, after = pieces[:at], pieces[at + 1 : end], pieces[end + 1 :]
    if opening_blocked:
        kind, text = inner[0]
        edge = _LEADING_MARKS.match(text)
        if kind is not TEXT or not edge or edge.end() == len(text):
            return before + inner + after
        before, inner = [*before, (TEXT, edge[0])], [(TEXT, text[edge.end() :]), *inner[1:]]
    if closing_blocked:
        kind, text = inner[-1]
        edge = _TRAILING_MARKS.search(text)
        if kind is not TEXT or not edge or edge.start() == 0:
            return before + inner + after
        inner, after = [*inner[:-1], (TEXT, text[: edge.start()])], [(TEXT, edge[0]), *after]
    return [*before, pieces[at], *inner, pieces[end], *after]


def _blocked(outside: str, inside: str) -> bool:
    """Whether a delimiter between these two characters would not open (close) towards `inside`."""
    return is_punctuation(inside) and not (is_punctuation(outside) or outside.isspace())


def _character(pieces: list[Piece], at: int, step: int) -> str:
    """The nearest character on one side of a delimiter, past other delimiters; a space at the ends."""
    at += step
    while 0 <= at < len(pieces):
        kind, value = pieces[at]
        if kind is BREAK:
            return " "
        if kind is OPEN and value == "link":
            return "["
        if kind is CLOSE and value not in EMPHASIS:
            return value[0] if step > 0 else value[-1]
        if kind is CODE:
            return "`"
        if kind in (TEXT, RAW) and value:
            return value[0] if step > 0 else value[-1]
        at += step
    return " "
