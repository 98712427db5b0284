"""How much of an answer only says again what it said before: lines, sentences, and stretches of words."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

WINDOW = 8
"""Words (characters, where words are not separated by spaces) in a stretch."""
SENTENCE = 24
"""Characters of the shortest line or sentence that counts as a loop; shorter ones recur in sound text (`Example:`)."""
LEAST = 0.2
"""The smallest share of lines, or of the text that a loop makes up, that is told from 0."""
LEAST_WORDS = 0.4
"""The smallest share of words that is told from 0."""
_WIDE = 160
"""Characters of a line that may hold sentences enough to matter."""
_LONG = 400
"""Characters of a piece that is no common sentence, so that a loop may hide in it."""
_SHORT = 600
"""Characters below which a text has no room to repeat; a Chinese character counts for one and a half."""

_FENCE = re.compile(r"^ *(`{3,}|~{3,}).*?(?:^ *\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_FORMULA = re.compile(r"\$\$.*?\$\$", re.DOTALL)
_LETTER = re.compile(r"[^\W_]")


@dataclass(frozen=True, slots=True)
class Repetition:
    """What a text repeats."""

    words: float = 0.0
    """Share of the words that lie in a stretch which stood before, between 0 and 1."""
    lines: float = 0.0
    """Share of the characters that lie in lines and sentences which stood before, between 0 and 1."""
    loop: int = 1
    """How often a line or sentence (of `SENTENCE` characters or more) stands, if that makes up a fifth of the text."""


NONE = Repetition()


def repetition(text: str) -> Repetition:
    """Measure how much of a text only repeats.

    What stands for the first time never counts: of a song of three verses with a chorus after each, a third is
    repeated; of what a model says that is caught in a loop, nearly all. Fenced code, tables and displayed formulas do
    not count.

    Source: the duplicate line and duplicate n-gram rules of MassiveText (Rae et al. 2021, Gopher) and the repeated
    spans of C4 (Raffel et al. 2020), with their units made to fit a single answer.
    """
    if _size(text) < _SHORT or (alike := _alike(text)) < LEAST:
        return NONE
    prose = without_code(text)
    if _size(prose) < _SHORT:
        return NONE
    counts = Counter(piece for piece in map(_core, _pieces(prose)) if piece)
    size = sum(len(piece) * count for piece, count in counts.items())
    again = sum(len(piece) * (count - 1) for piece, count in counts.items())
    loops = (count for piece, count in counts.items() if len(piece) >= SENTENCE and len(piece) * count >= LEAST * size)
    return Repetition(
        words=_repeated(_units(prose)) if alike >= LEAST_WORDS else 0.0,
        lines=again / size if size else 0.0,
        loop=max(loops, default=1),
    )


def without_code(text: str) -> str:
    """A text without fenced code, tables and displayed formulas."""
    if "```" in text or "~~~" in text:
        text = _FENCE.sub("", text)
    if "$$" in text:
        text = _FORMULA.sub("", text)
    if "|" in text:
        text = "\n".join(line for line in text.split("\n") if not line.lstrip().startswith("|"))
    return text


def _pieces(text: str) -> list[str]:
    if not text.isascii():
        text = text.replace("。", "\n").replace("！", "\n").replace("？", "\n")
    return text.replace(". ", "\n").replace("! ", "\n").replace("? ", "\n").split("\n")


def _core(piece: str) -> str:
    """A line or sentence without what a list or a quote puts around it."""
    return piece.strip(" \t>*-+#=_~.0123456789)\"'")


def _alike(text: str) -> float:
    """A cheap look: the share of a text in lines and sentences that end like earlier ones, or are very long."""
    if "```" in text:
        text = "\n".join(text.split("```")[::2])
    pieces: list[str] = []
    for line in text.split("\n"):
        if len(line) > _WIDE:
            pieces += (line if line.isascii() else line.replace("。", ". ")).split(". ")
        elif line:
            pieces.append(line)
    ends = {piece[-SENTENCE:] for piece in pieces}
    if len(ends) == len(pieces) and max(map(len, pieces), default=0) < _LONG:
        return 0.0
    again = 0
    for piece in pieces:
        if len(piece) >= _LONG or piece[-SENTENCE:] not in ends:
            again += len(piece)
        ends.discard(piece[-SENTENCE:])
    return again / len(text)


def _units(text: str) -> Sequence[str]:
    words = [word for word in text.split() if _LETTER.search(word)]
    return words if len(text) < 16 * len(words) else "".join(words)


def _repeated(units: Sequence[str]) -> float:
    """Share of the units that lie in a stretch of `WINDOW` units which stood before."""
    if len(units) < 4 * WINDOW:
        return 0.0
    stretches = list(zip(*(units[at:] for at in range(WINDOW)), strict=False))
    if WINDOW * (len(stretches) - len(set(stretches))) < LEAST_WORDS * len(units):
        return 0.0
    seen: set[tuple[str, ...]] = set()
    end = again = 0
    for at, stretch in enumerate(stretches):
        if stretch in seen:
            again += at + WINDOW - max(end, at)
            end = at + WINDOW
        seen.add(stretch)
    return again / len(units)


def _size(text: str) -> int:
    return len(text) if text.isascii() else max(len(text), len(text.encode("utf-8", "surrogatepass")) // 2)
