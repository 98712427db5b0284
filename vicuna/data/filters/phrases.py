"""Finding whole words and phrases of a list in a text, quickly, and in scripts that write no spaces too."""

import functools
import re
from collections.abc import Iterable, Iterator

SPACELESS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
"""Letters of scripts that write no spaces between words, as they stand in a character class."""
_HANGUL = "\u1100-\u11ff\uac00-\ud7af"
_MARKS = "\u0300-\u036f\u0483-\u0489\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u0dff"
"""Vowel signs and accents of their own, which `\\w` leaves out although words go on with them."""
_IN_WORD = rf"(?:[^\W{SPACELESS}{_HANGUL}]|[{_MARKS}])"
_NO_SPACES = re.compile(f"[{SPACELESS}]")
_KOREAN = re.compile(f"[{_HANGUL}]")
_NOT_ASCII_WORD = bytes(each if chr(each).isalnum() and each < 128 else 32 for each in range(256))


class Phrases:
    """Words and phrases to look for, in any letter case.

    A word counts only where no letter or digit touches it: "ass" is not in "class". Chinese, Japanese, Thai and other
    scripts write no spaces between words, so there an entry counts wherever it stands, and their characters may touch
    a word of another script. A Korean word may have particles after it.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        folded = sorted({" ".join(each.casefold().split()) for each in entries} - {""})
        words = {each: _ascii_words(each.encode()) if each.isascii() else [] for each in folded}
        self._ascii: dict[bytes, list[tuple[str, frozenset[bytes]]]] = {}
        for each in folded:
            if words[each]:  # by its longest word, which is the rarest as a rule
                self._ascii.setdefault(max(words[each], key=len), []).append((each, frozenset(words[each])))
        self._others = [each for each in folded if not words[each]]

    def find(self, text: str) -> str:
        """The first entry in the text, in lower case; "" if there is none."""
        return next(self.each(text), "")

    def each(self, text: str) -> Iterator[str]:
        """Every place of an entry in the text, from left to right, without overlaps."""
        folded = text.casefold()
        likely = self._likely(folded)
        for match in _search(likely).finditer(folded) if likely else ():
            yield " ".join(match[0].split())

    def may_hold(self, text: str) -> bool:
        """A cheap look: False means that no entry is in the text."""
        return bool(self._likely(text.casefold()))

    def _likely(self, folded: str) -> tuple[str, ...]:
        """The entries whose words are all in the text.

        Letters that are not ASCII only cut words here, so nothing is missed, and what is too much the search drops.
        """
        likely = [each for each in self._others if each.split()[0] in folded]
        words = _ascii_words(folded.encode("ascii", "replace"))
        if not self._ascii.keys().isdisjoint(words):
            there = set(words)
            likely += [each for word in there & self._ascii.keys() for each, all_ in self._ascii[word] if all_ <= there]
        return tuple(sorted(likely, key=lambda each: (-len(each), each)))  # so that the whole phrase is named


@functools.lru_cache(256)
def _search(entries: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(_pattern, entries)))


def _ascii_words(text: bytes) -> list[bytes]:
    return text.translate(_NOT_ASCII_WORD).split()


def _pattern(entry: str) -> str:
    before = "" if _NO_SPACES.match(entry) else f"(?<![{_HANGUL}])" if _KOREAN.match(entry) else f"(?<!{_IN_WORD})"
    after = "" if _NO_SPACES.match(entry[-1]) or _KOREAN.match(entry[-1]) else f"(?!{_IN_WORD})"
    return before + r"\s+".join(map(re.escape, entry.split())) + after
