"""JSON values one after another, in an array or bare: where each begins and ends, and reading them again."""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import IO, Any

from vicuna.data.sources.record import Block, Record, problem, record, stretch

Known = Callable[[Any], bool]

_TOO_DEEP = "not readable: nested too deeply"
_CHUNK = 1 << 20
_NEAR = 16
"""An error so few characters before the end may be for want of more: no escape, literal or bracket is longer."""
_BEFORE = 4096
"""Characters before an error in which the next row may have begun already, and white space between two rows."""
_BETWEEN = re.compile("(?:[ \t\r\n,\ufeff]|\xef\xbb\xbf)*")
"""What may stand between two values. Commas too many or too few lose nothing, nor do marks that joining files left."""
_BEGINS = re.compile(r'[,\[\]}][ \t\r\n]*(\{[ \t\r\n]*")')
_TOKENS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)

_EXTENT = json.JSONDecoder(strict=False, parse_int=len, parse_float=len)
"""Finds where a value ends; here numbers may be of any length."""


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if abs(number) != float("inf") else None


DECODER = json.JSONDecoder(strict=False, parse_float=_finite, parse_constant=lambda _: None)
"""Reads values. Control characters may stand in strings; NaN and infinities, which JSON does not have, become null; of
keys that come twice the last one counts."""


# ------------------------------------------------------------------------------------------------ cutting
@dataclass(frozen=True, slots=True)
class _Span:
    start: int
    end: int
    problem: str = ""
    damaged: bool = False


class _Window:
    """A stretch of a file as text whose characters are its bytes (Latin-1), so that places in the text are bytes."""

    def __init__(self, file: IO[bytes], start: int) -> None:
        self._file = file
        self.size = os.fstat(file.fileno()).st_size
        self.base = file.seek(start)
        self.text, self.at, self.ended = "", 0, False

    @property
    def place(self) -> int:
        """The cursor as a byte of the file."""
        return self.base + self.at

    def more(self) -> None:
        """Forget what lies before the cursor, and read as much again as is left, at least a chunk."""
        rest = self.text[self.at :]
        data = self._file.read(max(_CHUNK, len(rest)))
        self.base, self.text, self.at, self.ended = self.place, rest + data.decode("latin-1"), 0, not data

    def skip(self) -> bool:
        """Move the cursor to the next value or bracket; False at the end of the file."""
        while True:
            between = _BETWEEN.match(self.text, self.at)
            self.at = between.end() if between else self.at
            if self.at < len(self.text) or self.ended:
                return self.at < len(self.text)
            self.more()

    def lacks(self, error: json.JSONDecodeError) -> bool:
        """Whether the error may only mean that the text ends too early."""
        return error.msg.startswith("Unterminated string") or error.pos >= len(self.text) - _NEAR


def cut(whole: Block, inside: bool, wrapped: bool, known: Known, most: tuple[int, int]) -> Iterator[Block]:
    """Blocks of the values from `whole.start` on, in constant memory: a window of the file grows to the longest value.

    Args:
        whole: the file as one block; its `problem` says why unpacking it ended too early.
        inside: it starts behind the bracket that opens the array.
        wrapped: the array is a member of an object, which ends after it.
        known: tells a row from other objects; where one is malformed, reading starts again at the next one.
        most: records and bytes of a block; a longer value is a block of its own.
    """
    start, end, count, number = whole.start, whole.start, 0, whole.first
    good = replace(whole, problem="")
    with open(whole.path, "rb") as file:
        for span in _spans(_Window(file, whole.start), inside, wrapped, known):
            full = span is None or span.problem or count == most[0] or span.end - start > most[1]
            if count and full:
                yield replace(good, start=start, end=end, first=number)
                number, count = number + count, 0
            if span is None:
                continue
            if span.problem:
                why = whole.problem if span.damaged and whole.problem else span.problem
                yield Block(
                    whole.path, whole.name, "damage", span.start, span.end, number, "element", why, span.damaged
                )
                if span.damaged:
                    return
                number += 1
            else:
                start, end, count = start if count else span.start, span.end, count + 1
    if count:
        yield replace(good, start=start, end=end, first=number)
    if whole.problem:
        size = whole.end
        yield Block(whole.path, whole.name, "damage", size, size, number + count, "element", whole.problem, True)


def _spans(window: _Window, inside: bool, wrapped: bool, known: Known) -> Iterator[_Span | None]:
    """Where the values stand, and the places between them that are none; None where an array begins or ends.

    Arrays in arrays are entered too, so that a bracket too many does not make one value of all that follows.
    """
    depth = int(inside)
    while window.skip():
        mark = window.text[window.at]
        if mark == "[":
            window.at += 1
            depth += 1
            yield None
        elif mark == "]" and depth:
            window.at += 1
            depth -= 1
            yield None
            if wrapped and not depth:
                yield from _after(window)
                return
        elif span := _value(window, known):
            yield span
    if depth:
        yield _Span(window.place, window.place, "the file breaks off: the array has no end", True)


def _value(window: _Window, known: Known) -> _Span | None:
    """The value at the cursor, which moves behind it; None if more of the file had to be read first."""
    why = ""
    try:
        end: int | None = _EXTENT.raw_decode(window.text, window.at)[1]
    except json.JSONDecodeError as error:
        if window.ended or not window.lacks(error):
            return _malformed(window, error, known)
        end = None
    except RecursionError:
        why, end = _TOO_DEEP, _bracketed(window.text, window.at)
    if not window.ended and (end is None or end == len(window.text)):  # what ends here may go on
        window.more()
        return None
    start, window.at = window.place, end or len(window.text)
    return _Span(start, window.place, why, damaged=end is None)


def _bracketed(text: str, at: int) -> int | None:
    """Where a value of brackets ends, however deep; None if it does not."""
    depth = 0
    for token in _TOKENS.finditer(text, at):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth == 0:
            return token.end()
    return None


def _malformed(window: _Window, error: json.JSONDecodeError, known: Known) -> _Span:
    """The malformed place at the cursor, up to the next row, to which the cursor moves."""
    start, broke_off = window.place, window.lacks(error)
    window.at = max(window.at + 1, error.pos - _BEFORE)
    while not _find_row(window, known):
        if window.ended:
            closed = window.text.rstrip().endswith(("]", "}")) and not broke_off
            window.at = len(window.text)
            why = (
                f"not JSON: {error.msg}" if closed else f"the file breaks off or is not JSON from here on: {error.msg}"
            )
            return _Span(start, window.place, why, not closed)
        window.more()
    return _Span(start, window.place, f"not JSON: {error.msg}")


def _find_row(window: _Window, known: Known) -> bool:
    """Move the cursor to the next row in the window; if there is none, to where one may begin that more would show."""
    for found in _BEGINS.finditer(window.text, window.at):
        try:
            row, _ = _EXTENT.raw_decode(window.text, found.start(1))
        except json.JSONDecodeError as error:
            if not window.ended and window.lacks(error):
                window.at = found.start()
                return False
        except RecursionError:
            continue
        else:
            if known(row):
                window.at = found.start(1)
                return True
    window.at = max(window.at, len(window.text) - _BEFORE)
    return False


def _after(window: _Window) -> Iterator[_Span]:
    """Nothing, if the object that holds the array ends after it, or with members that are no list of objects."""
    start = window.place
    if not window.ended:
        window.more()
    try:
        members = json.loads('{"": 0' + window.text[window.at :])
        more = any(isinstance(each, list) and dict in map(type, each) for each in members.values())
    except (ValueError, RecursionError):
        more = True
    if more or window.base + len(window.text) < window.size:
        yield _Span(start, window.size, "after the array that was read comes more", True)


# ------------------------------------------------------------------------------------------------ reading
def read(block: Block) -> list[Record]:
    """The records of a block that `cut` made, one for each value."""
    data = stretch(block)
    try:
        text = data.decode("utf-8")
        return list(_fast(block, text))
    except (ValueError, RecursionError):  # not UTF-8, a number too long, or nested too deeply
        return list(_one_by_one(block, data))


def _fast(block: Block, text: str) -> Iterator[Record]:
    at = offset = 0
    while (at := _next(text, at)) < len(text):
        row, end = DECODER.raw_decode(text, at)
        yield record(block, offset, row, text[at:end])
        at, offset = end, offset + 1


def _one_by_one(block: Block, data: bytes) -> Iterator[Record]:
    text, at, offset = data.decode("latin-1"), 0, 0
    while (at := _next(text, at)) < len(text):
        try:
            end = _EXTENT.raw_decode(text, at)[1]
        except RecursionError:
            end = _bracketed(text, at) or len(text)
        yield parsed(block, offset, data[at:end])
        at, offset = end, offset + 1


def _next(text: str, at: int) -> int:
    between = _BETWEEN.match(text, at)
    return between.end() if between else at


def parsed(block: Block, offset: int, data: bytes) -> Record:
    """The record that stands in these bytes, or why it cannot be read."""
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
        return record(block, offset, DECODER.decode(text), text)
    except UnicodeDecodeError as error:
        return problem(block, offset, f"not UTF-8 text: byte {error.start} does not fit", data)
    except json.JSONDecodeError as error:
        return problem(block, offset, f"not JSON: {error}", data)
    except RecursionError:
        return problem(block, offset, _TOO_DEEP, data)
    except ValueError:
        return problem(block, offset, "not readable: a number with too many digits", data)
