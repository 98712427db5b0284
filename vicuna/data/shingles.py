"""Text as numbers: a 64-bit hash for each word and each run of words, the same on every machine and in any process."""

import functools
import re
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

_MARK = "\0"
"""Stands between two messages and is a word of its own, so that no run of a text's words reaches across."""
_GAP, _LETTER, _WORD, _BREAK = range(4)
"""What a character is: between words, part of a word, a word by itself, the mark."""
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]+"
)
"""Thai, Lao, Tibetan, Burmese, Khmer, Japanese and Chinese: no spaces between words."""
_PLANES = 0x40000
"""No character from here on is a letter."""
_BASE = 0x9E3779B97F4A7C15
_STEP = np.uint64(0xD6E8FEB86659FD93)


class Words(NamedTuple):
    """The words of several messages."""

    hashes: Array
    """uint64, one for each word in order, and one for the mark between two messages."""
    breaks: Array
    """Places of the marks in `hashes`, rising; one fewer than messages."""

    def span(self, first: int, last: int) -> Array:
        """The hashes of the words from message `first` to message `last`, marks between them included."""
        start = int(self.breaks[first - 1]) + 1 if first else 0
        end = int(self.breaks[last]) if last < len(self.breaks) else len(self.hashes)
        return self.hashes[start:end]


def words(messages: Sequence[str]) -> Words:
    """Hash the words of one or more messages; letter case, punctuation and white space do not count.

    A word is a run of letters and digits, or one character of a script that puts no spaces between words. Where no
    message has a word, all signs are taken for words. The arrays cannot be written to: two stages share them.
    """
    return _words_of(tuple(messages))


@functools.lru_cache(1)
def _words_of(messages: tuple[str, ...]) -> Words:
    text = _MARK.join(messages)
    if text.count(_MARK) != len(messages) - 1:
        text = _MARK.join(each.replace(_MARK, " ") for each in messages)
    if text.isascii():
        codes = np.frombuffer(text.lower().encode(), np.uint8)
        kinds = _kinds(128).take(codes)
    else:
        text = unicodedata.normalize("NFC", text.casefold())
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        kinds = _kinds(sys.maxunicode + 1).take(codes)
    found = _words(codes, kinds)
    if len(found.hashes) == len(found.breaks):  # neither letters nor words
        found = _words(codes, np.where(codes > ord(" "), _WORD, kinds))
    found.hashes.flags.writeable = False
    return found


def _words(codes: Array, kinds: Array) -> Words:
    """The words of characters (code points) whose kinds are known."""
    inside = kinds > _GAP
    begins = inside.copy()
    begins[1:] &= (kinds[1:] > _LETTER) | (kinds[:-1] != _LETTER)
    starts = np.flatnonzero(begins)
    if not len(starts):
        return Words(np.zeros(0, np.uint64), starts)
    powers, inverses = _powers(len(codes).bit_length())
    # a polynomial in _BASE modulo 2^64, divided by the power with which the word begins
    hashes = np.add.reduceat((codes * inside) * powers[: len(codes)], starts) * inverses[starts]
    return Words(_mixed(hashes), np.flatnonzero(kinds[starts] == _BREAK))


def shingles(hashes: Array, length: int) -> Array:
    """One hash for each run of `length` words; of fewer words one for all of them, and one for none."""
    if not len(hashes):
        return np.zeros(1, np.uint64)
    length = min(length, len(hashes))
    last = len(hashes) - length + 1
    found = hashes[:last].copy()
    for at in range(1, length):
        found *= _STEP
        found += hashes[at : at + last]
    return found


def _mixed(hashes: Array) -> Array:
    """Spread every bit over all others, in place. Source: the last steps of MurmurHash3 (Appleby 2011)."""
    hashes ^= hashes >> np.uint64(33)
    hashes *= np.uint64(0xFF51AFD7ED558CCD)
    hashes ^= hashes >> np.uint64(33)
    hashes *= np.uint64(0xC4CEB9FE1A85EC53)
    hashes ^= hashes >> np.uint64(33)
    return hashes


@functools.cache
def _powers(bits: int) -> tuple[Array, Array]:
    """The first 2^bits powers of _BASE, and their inverses, modulo 2^64."""
    powers = np.full(1 << bits, _BASE, np.uint64)
    inverses = np.full(1 << bits, pow(_BASE, -1, 1 << 64), np.uint64)
    powers[0] = inverses[0] = 1
    return np.cumprod(powers), np.cumprod(inverses)


@functools.cache
def _kinds(size: int) -> Array:
    """What each of the first `size` code points is; uint8."""
    kinds = np.full(size, _GAP, np.uint8)
    every = "".join(map(chr, range(min(size, _PLANES))))
    for kind, pattern in ((_LETTER, re.compile(r"[^\W_]+")), (_WORD, _UNSPACED)):
        for match in pattern.finditer(every):
            kinds[match.start() : match.end()] = kind
    kinds[0] = _BREAK
    return kinds
