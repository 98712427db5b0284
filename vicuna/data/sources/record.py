"""What reading hands on: the files that were named, stretches of them, and the records in these."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_PIECE = 1 << 20

Kind = Literal["elements", "lines", "table", "damage"]


@dataclass(frozen=True, slots=True)
class Source:
    """An input file and the name that it has in the output."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of a file whose records any process can read by itself; can be pickled, and written as JSON."""

    path: str
    """The file to open: an input, or what was unpacked from one."""
    name: str
    """What the records say they come from: the input's name, and the member of an archive."""
    kind: Kind
    """elements: JSON values with commas or white space between; lines: JSON Lines; table: row groups of a Parquet file;
    damage: one place that cannot be read."""
    start: int
    """First byte; of a table, its first row group."""
    end: int
    """Byte, or row group, after the last one."""
    first: int
    """Number of the first record: lines count from 1, elements and rows from 0."""
    numbered: Literal["line", "element"] = "element"
    """How a position is written: `:12` or `[11]`."""
    problem: str = ""
    """What is wrong with a place that is damaged."""
    damaged: bool = False
    """Nothing after this place could be read."""

    def position(self, offset: int = 0) -> str:
        """The place of the block's record number `offset` (from 0) in the file."""
        number = self.first + offset
        return f":{number}" if self.numbered == "line" else f"[{number}]"


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file, or the reason why there is none at this place."""

    file: str
    position: str
    """`:12` is a line, `[11]` an element of an array or a row of a table."""
    row: Any = None
    problem: str = ""
    """Why the record could not be read; "" for a good one."""
    text_hash: str = ""
    """SHA-256 of the bytes that could not be read, where there is a problem."""
    damaged: bool = False
    """Nothing after this place could be read."""


def record(block: Block, offset: int, row: Any, text: str) -> Record:
    """The record of a value, which is a problem unless it is an object."""
    if isinstance(row, dict):
        return Record(block.name, block.position(offset), row)
    return problem(block, offset, f"expected an object, got {type(row).__name__}", text.encode("utf-8", "replace"))


def problem(block: Block, offset: int, why: str, data: bytes) -> Record:
    """The record in place of one that cannot be read."""
    return Record(block.name, block.position(offset), problem=why, text_hash=hashlib.sha256(data).hexdigest())


def damage(block: Block) -> Record:
    """The one record of a block that is a damaged place."""
    digest = hashlib.sha256()
    with open(block.path, "rb") as file:
        file.seek(block.start)
        while rest := block.end - file.tell():
            digest.update(file.read(min(rest, _PIECE)))
    hashed = digest.hexdigest()
    return Record(block.name, block.position(), problem=block.problem, text_hash=hashed, damaged=block.damaged)


def stretch(block: Block) -> bytes:
    """The bytes of a block of a text file."""
    with open(block.path, "rb") as file:
        file.seek(block.start)
        return file.read(block.end - block.start)


def whole_text(text: str) -> str:
    """The text with halves of surrogate pairs, which no UTF-8 file can hold, replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
