"""Conversations that hold questions of an evaluation, found by runs of words that they share."""

import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vicuna.data.chat import Chat, Drop, Result
from vicuna.data.config import DecontaminateConfig
from vicuna.data.questions import ANCHOR, Print, question_hashes, question_paths, read_prints
from vicuna.data.shingles import Array, Words, shingles, words
from vicuna.errors import InputError

WORDING = 10
"""A run of words that more different questions than this share is the wording of a test, not a question."""
_MOST_BITS = 24


class Match(NamedTuple):
    """A question that was found in a message."""

    message: int
    """Place of the message."""
    question: str
    """File and id of the question."""
    words: int
    """How many words in a row they share at least."""


class Index:
    """Finds questions in messages. Quick where there are none: one look at a table for each word."""

    def __init__(self, prints: Iterable[Print]) -> None:
        different: dict[tuple[tuple[int, int], ...], Print] = {}
        for each in prints:
            different.setdefault(each.runs, each)
        counts = Counter(run for each in different.values() for run in each.runs)
        self._runs: dict[tuple[int, int], str] = {}
        self._lengths: dict[int, set[int]] = {}
        for each in different.values():
            for anchor, run in each.runs:
                if counts[anchor, run] <= WORDING:
                    self._runs.setdefault((each.length, run), each.name)
                    self._lengths.setdefault(anchor, set()).add(each.length)
        # 32 times as many places as questions have runs: a word in 32 is looked at twice, and the table stays in cache
        bits = min(_MOST_BITS, (32 * len(self._lengths)).bit_length())
        self._shift = np.uint64(64 - max(bits, 1))
        self._table = np.zeros(1 << max(bits, 1), bool)
        self._table[np.array(list(self._lengths), np.uint64) >> self._shift] = True

    def matches(self, messages: Sequence[str]) -> list[Match]:
        """The questions in messages, in order of the messages; each question once for a message."""
        found = words(messages)
        hits = [*self._inside(found), *self._alone(found)] if self._runs else []
        return sorted(set(hits))

    def _inside(self, found: Words) -> list[Match]:
        """Questions of at least ANCHOR words, anywhere."""
        hashes = found.hashes
        if len(hashes) < ANCHOR:
            return []
        anchors = shingles(hashes, ANCHOR)
        places = np.flatnonzero(self._table[anchors >> self._shift])
        hits = []
        runs: dict[int, Array] = {}
        for at, anchor in zip(places.tolist(), anchors[places].tolist(), strict=True):
            for length in self._lengths.get(anchor, ()):
                if ANCHOR <= length <= len(hashes) - at:
                    if length not in runs:
                        runs[length] = shingles(hashes, length)
                    name = self._runs.get((length, int(runs[length][at])))
                    if name:
                        hits.append(Match(int(np.searchsorted(found.breaks, at)), name, length))
        return hits

    def _alone(self, found: Words) -> list[Match]:
        """Shorter questions, which must be the whole message."""
        marks = [-1, *found.breaks.tolist(), len(found.hashes)]
        hits = []
        for message, (start, end) in enumerate(itertools.pairwise(marks)):
            if 1 < end - start <= ANCHOR:
                length = end - start - 1
                name = self._runs.get((length, int(shingles(found.hashes[start + 1 : end], length)[0])))
                if name:
                    hits.append(Match(message, name, length))
        return hits


def prepare(config: DecontaminateConfig) -> None:
    """Look for the question files and read them now, and make the tables of characters."""
    _paths.cache_clear()
    index(config)
    words(("a", "ä"))


def index(config: DecontaminateConfig) -> Index | None:
    """The index over all question files of the settings; None where there are none.

    Made once in each process, and again after a file has changed.

    Raises:
        InputError: a file is missing, unreadable, or holds something else than questions.
    """
    paths = _paths(config)
    if not paths:
        return None
    try:
        stamps = [(name, path, (found := path.stat()).st_mtime_ns, found.st_size) for name, path in paths]
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}") from error
    return _index(tuple(stamps), config.ngram)


@functools.lru_cache(4)
def _paths(config: DecontaminateConfig) -> tuple[tuple[str, Path], ...]:
    return tuple(question_paths(config.questions, config.known).items())


@functools.lru_cache(4)
def _index(stamps: tuple[tuple[str, Path, int, int], ...], ngram: int) -> Index:
    return Index(each for name, path, *_ in stamps for each in read_prints(name, path, ngram))


def question_files(config: DecontaminateConfig) -> dict[str, str]:
    """Name → SHA-256 of each question file: what the output is made from besides the conversations."""
    return question_hashes(config.questions, config.known)


def decontaminated(chat: Chat, config: DecontaminateConfig) -> Result:
    """Drop the chat if a message (the system prompt too) holds a question of an evaluation, or cut it there.

    A cut keeps the rounds before the first match only: later ones may lean on it.
    """
    questions = index(config)
    if questions is None:
        return chat, []
    matches = questions.matches(chat.texts())
    if not matches:
        return chat, []
    owners = [at for at, each in enumerate(chat.rounds) for _ in each.users]
    owners += [at for at, each in enumerate(chat.rounds) for _ in each.answers] + [0]
    named = {owners[each.message]: each.question for each in reversed(matches)}
    first = min(named)
    start, other = (first, "after") if config.action == "cut" else (0, "beside")
    drops = []
    for at, each in enumerate(chat.rounds[start:], start):
        reason = "evaluation question" if at in named else f"{other} an evaluation question"
        drops.append(Drop("decontaminate", reason, named.get(at, named[first]), each))
    return chat.with_rounds(chat.rounds[:start]), drops
