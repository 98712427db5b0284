"""Inputs cut into blocks that any process can read by itself; what a file holds is told by its content."""

import contextlib
import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

from vicuna.data.sources import lines, rows, tables, values
from vicuna.data.sources.record import Block, Record, Source, damage
from vicuna.data.sources.unpack import Plain, unpacked
from vicuna.errors import InputError

__all__ = ["Block", "cut", "read", "records"]

_BOM = b"\xef\xbb\xbf"
_HEAD = 1 << 16
_LONGEST = 1 << 24
"""Bytes in which a file of JSON Lines must have its first line end."""
_WRAPPERS = ("conversations", "data", "rows", "items", "records", "train", "examples")
"""Members under which an object may hold the array of all rows."""
_TURN = {"from", "role", "author", "speaker", "value", "content", "text"}
"""Keys of a turn, not of a conversation."""
_ARRAY = re.compile(r"\[\s*\{", re.ASCII)
_BETWEEN = re.compile(r"[\s:,]*", re.ASCII)
_STRICT = json.JSONDecoder()


def cut(source: Source, spool: Path, most_records: int, most_bytes: int) -> Iterator[Block]:
    """Cut an input into blocks, in order and in constant memory.

    Understands JSON arrays, JSON Lines, JSON objects one after another and an array that is a member of an object, in
    UTF-8 or UTF-16, plain or compressed with gzip or zstd; Parquet; and ZIP archives of JSON files. A malformed record
    is a block of its own, and reading goes on at the next record; a file that breaks off gives all records before the
    break, and then a block that is `damaged`.

    Args:
        source: the input.
        spool: folder for what is unpacked; the blocks point into it.
        most_records: records in a block.
        most_bytes: bytes in a block; a longer record is a block of its own.

    Raises:
        InputError: the file cannot be opened, or is none of these.
    """
    with _readable(source.path):
        for part in unpacked(source, spool):
            given = str(source.path) if part.path == source.path else part.name  # not where it was unpacked to
            yield from _cut(part, given, spool, (most_records, most_bytes))


def records(block: Block) -> list[Record]:
    """All records of a block, in order.

    Raises:
        InputError: the file cannot be read any more.
    """
    with _readable(block.path):
        if block.kind == "damage":
            return [damage(block)]
        return {"elements": values.read, "lines": lines.read, "table": tables.read}[block.kind](block)


def read(source: Source) -> Iterator[Record]:
    """The records of one input in order, in constant memory; what has to be unpacked goes to a temporary folder."""
    with tempfile.TemporaryDirectory() as spool:
        for block in cut(source, Path(spool), most_records=256, most_bytes=1 << 22):
            yield from records(block)


@contextlib.contextmanager
def _readable(path: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _cut(part: Plain, given: str, spool: Path, most: tuple[int, int]) -> Iterator[Block]:
    size = part.path.stat().st_size
    whole = Block(str(part.path), part.name, "elements", 0, size, 0, problem=part.broken)
    with open(part.path, "rb") as file:
        if file.read(4) == tables.MAGIC:
            yield from tables.cut(whole, spool, most)
            return
        start, lines_before = _start(file)
        whole = replace(whole, start=start)
        file.seek(start)
        head = file.read(_HEAD).decode("latin-1")
        array = _wrapped(head)
        in_lines = not array and head.startswith("{") and _is_lines(file, start)
    if head and head[0] not in "[{":
        raise InputError(
            f"{given} holds no conversations: JSON begins with [ or {{, not {head[:12].encode('latin-1')!r}"
        )
    if array:
        yield from values.cut(replace(whole, start=start + array), True, True, rows.known, most)
    elif in_lines:
        yield from lines.cut(replace(whole, kind="lines", first=lines_before + 1, numbered="line"), most)
    else:
        yield from values.cut(whole, False, False, rows.known, most)


def _start(file: IO[bytes]) -> tuple[int, int]:
    """Where the first byte stands that is no white space or byte order mark, and how many line ends are before it."""
    at = line_ends = 0
    file.seek(0)
    while chunk := file.read(_HEAD):
        rest = (chunk if at else chunk.removeprefix(_BOM)).lstrip()
        line_ends += chunk.count(b"\n", 0, len(chunk) - len(rest))
        at += len(chunk) - len(rest)
        if rest:
            break
    return at, line_ends


def _is_lines(file: IO[bytes], start: int) -> bool:
    """Whether what begins with { is JSON Lines, not objects that go over several lines, or stand on one."""
    text, size = "", _HEAD
    while "\n" not in text and len(text) < _LONGEST:
        file.seek(start)
        before, text = len(text), file.read(size).decode("latin-1")
        size *= 4
        if len(text) == before:
            break
    first, _, rest = text.partition("\n")
    if first.strip() == "{" or len(first) >= _LONGEST:
        return False
    try:
        end = _STRICT.raw_decode(text)[1]
    except json.JSONDecodeError as error:  # before the second line: the first is malformed; later: one object in both
        return error.pos <= len(text) - len(rest.lstrip())
    except (RecursionError, ValueError):
        return True
    return end <= len(first)


def _wrapped(head: str) -> int:
    """Where the array begins (behind its bracket) in a file like {"version": 1, "data": [{...}, ...]}; else 0.

    One conversation looks the same from outside, but its array holds turns.
    """
    for key, at in _members(head, 1) if head.startswith("{") else ():
        array = _ARRAY.match(head, at)
        if key in _WRAPPERS and array:
            turns = any(each in _TURN for each, _ in _members(head, array.end()))
            return 0 if turns else at + 1
    return 0


def _members(head: str, at: int) -> Iterator[tuple[str, int]]:
    """The keys of an object opened before `at`, with the places of the values, up to the first list or object."""
    with contextlib.suppress(ValueError, RecursionError):
        while True:
            key, at = _STRICT.raw_decode(head, _past(head, at))
            at = _past(head, at)
            if not isinstance(key, str):
                return
            yield key, at
            if head[at : at + 1] in ("", "[", "{"):
                return
            _, at = _STRICT.raw_decode(head, at)


def _past(head: str, at: int) -> int:
    between = _BETWEEN.match(head, at)
    return between.end() if between else at
