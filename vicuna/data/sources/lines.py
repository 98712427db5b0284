"""JSON Lines: one record on each line, so that a malformed one is only its own line."""

from collections.abc import Iterator
from dataclasses import replace

from vicuna.data.sources.record import Block, Record, stretch
from vicuna.data.sources.values import parsed

_CHUNK = 1 << 20


def cut(whole: Block, most: tuple[int, int]) -> Iterator[Block]:
    """Blocks of whole lines from `whole.start` on, in constant memory.

    Args:
        whole: the file as one block; its `problem` says why unpacking it ended too early.
        most: lines and bytes of a block; a longer line is a block of its own.
    """
    good = replace(whole, problem="")
    start, number = whole.start, whole.first
    end, lines = start, 0  # behind the last whole line, and how many there are since `start`
    for at in _line_ends(whole):
        if lines and at - start > most[1]:
            yield replace(good, start=start, end=end, first=number)
            start, number, lines = end, number + lines, 0
        end, lines = at, lines + 1
        if lines == most[0]:
            yield replace(good, start=start, end=end, first=number)
            start, number, lines = end, number + lines, 0
    if whole.problem:
        if lines:
            yield replace(good, start=start, end=end, first=number)
        yield from _broken(whole, end, number + lines)
    elif start < whole.end:
        yield replace(good, start=start, end=whole.end, first=number)


def _line_ends(whole: Block) -> Iterator[int]:
    """The byte behind each line end."""
    with open(whole.path, "rb") as file:
        base = file.seek(whole.start)
        while data := file.read(_CHUNK):
            at = 0
            while at := data.find(b"\n", at) + 1:
                yield base + at
            base += len(data)


def _broken(whole: Block, start: int, number: int) -> Iterator[Block]:
    """The end of a file whose unpacking broke off: perhaps one last whole row, then the damage."""
    last = replace(whole, start=start, problem="", first=number)
    if stretch(last).strip() and not read(last)[0].problem:
        yield last
        start, number = whole.end, number + 1
    yield Block(whole.path, whole.name, "damage", start, whole.end, number, "line", whole.problem, True)


def read(block: Block) -> list[Record]:
    """The records of a block that `cut` made: one for each line that is not blank.

    The last line of a file may lack its line end; if it is malformed too, the file breaks off there.
    """
    lines = stretch(block).split(b"\n")
    found = [parsed(block, offset, line) for offset, line in enumerate(lines) if line.strip()]
    if lines[-1].strip() and found[-1].problem:
        why = f"the file breaks off: {found[-1].problem}"
        found[-1] = replace(found[-1], problem=why, damaged=True)
    return found
