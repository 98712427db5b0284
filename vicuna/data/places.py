"""Where an answer may be cut: between paragraphs rather than lines, sentences or words, and outside of code blocks."""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

_FENCE = re.compile(r"^[ \t>]*(?P<mark>`{3,}|~{3,})(?P<rest>.*)$", re.MULTILINE)
_PLACE = re.compile(r"\s+|(?<=[。！？])(?![。！？」』”’）\s])")
_SENTENCE_END = re.compile(r"""[.!?…。！？]["'”’」』）)\]*_]*\Z""")
_JOINERS = "\u200d\ufe0e\ufe0f"
"""Zero width joiner and variation selectors, which make one character of several."""


class Block(NamedTuple):
    """A fenced code block: a cut at `start` or at `end` leaves it whole."""

    start: int
    """Where the text before it ends."""
    end: int
    """Where its last line ends."""


def code_blocks(text: str) -> list[Block]:
    """The fenced code blocks of a markdown text, in order; one that is never closed reaches the text's end."""
    found: list[Block] = []
    mark, start = "", 0
    for fence in _FENCE.finditer(text):
        if not mark:
            if "`" not in fence["rest"]:  # else it is code within a line
                mark, start = fence["mark"], len(text[: fence.start()].rstrip())
        elif fence["mark"].startswith(mark) and not fence["rest"].strip():
            found.append(Block(start, fence.end()))
            mark = ""
    return [*found, Block(start, len(text))] if mark else found


def best_place(text: str, start: int, end: int, blocks: Sequence[Block], *, characters: bool = False) -> int | None:
    """The best place for a cut of `text[start:]` that leaves most of `text[start:end]` before it.

    Of the places in the later half, one between paragraphs is best, then between lines, sentences, words; of equals the
    last. White space stands after the cut, and text on both sides of it. What ends in a colon counts as going on.

    Args:
        blocks: code blocks that may not be cut.
        characters: cut between two characters where nothing better is found.
    """
    end = min(end, len(text.rstrip()) - 1)
    best, rank = None, -1
    for place in _PLACE.finditer(text, start + (end - start) // 2 + 1):
        at = place.start()
        if at > end:
            break
        if not text[at - 1].isspace() and not _within(at, blocks) and (found := _rank(text, at, place[0])) >= rank:
            best, rank = at, found
    if best is None and characters:
        while end > start and (_joined(text, end) or _within(end, blocks)):
            end -= 1
        best = end
    return best if best is not None and text[start:best].strip() else None


def _within(at: int, blocks: Sequence[Block]) -> bool:
    return any(block.start < at < block.end for block in blocks)


def _rank(text: str, at: int, white: str) -> int:
    if text[at - 1] == ":":
        return -1
    if "\n" in white:
        return 3 if white.count("\n") > 1 else 2
    return 1 if _SENTENCE_END.search(text, max(0, at - 8), at) else 0


def _joined(text: str, at: int) -> bool:
    """Whether the code points on both sides belong to one character."""
    return unicodedata.combining(text[at]) > 0 or text[at] in _JOINERS or text[at - 1] == "\u200d"
