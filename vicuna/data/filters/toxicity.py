"""Toxic rounds: a scorer says how toxic each text is, and rounds above the threshold go."""

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from vicuna.data.chat import Chat, Drop, Result
from vicuna.data.config import ToxicityConfig
from vicuna.data.filters.phrases import Phrases
from vicuna.errors import InputError

BUILT_IN = Path(__file__).parent / "words" / "english.txt"
"""English slurs, explicit words, abuse and curses, in our own choice and with our own weights."""


class Scorer(Protocol):
    """Says how toxic texts are."""

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """One score from 0 (harmless) to 1 for each text, in order."""


def judged(chat: Chat, scorer: Scorer, config: ToxicityConfig) -> Result:
    """Keep the rounds whose question and answer both score below the threshold."""
    if not chat.rounds:
        return chat, []
    scores = scorer([text for each in chat.rounds for text in (each.user, each.answer)])
    kept, drops = [], []
    for each, question, answer in zip(chat.rounds, scores[::2], scores[1::2], strict=True):
        if (worst := max(question, answer)) < config.threshold:
            kept.append(each)
        else:
            drops.append(
                Drop("toxicity", f"toxic {'question' if question >= answer else 'answer'}", f"{worst:.2f}", each)
            )
    return (chat.with_rounds(kept) if drops else chat), drops


@functools.lru_cache(2)
def scorer(config: ToxicityConfig) -> Scorer:
    """The scorer that the settings name; made once in each process, because loading one may take long.

    Raises:
        InputError: the file of words is missing or wrong, or the classifier cannot be loaded.
        ConfigError: the classifier has no such labels, or the endpoint wants a key.
    """
    if config.scorer == "openai":
        from vicuna.data.filters.moderation import Moderation

        return Moderation(config)
    if config.scorer == "huggingface":
        from vicuna.data.filters.classifier import Classifier

        return Classifier(config)
    return WordScorer(weights(Path(config.words) if config.words else BUILT_IN))


class WordScorer:
    """Scores by words: a text with words of the weights w1, w2, ... scores 1 - (1 - w1)(1 - w2)..."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        """Make a scorer.

        Args:
            weights: word or phrase in lower case → how much one use of it counts, above 0 and at most 1.
        """
        self._weights = dict(weights)
        self._phrases = Phrases(self._weights)

    def __call__(self, texts: Sequence[str]) -> list[float]:
        if not self._phrases.may_hold("\n".join(texts)):
            return [0.0] * len(texts)
        return [1 - math.prod(1 - self._weights[found] for found in self._phrases.each(text)) for text in texts]


def weights(path: Path) -> dict[str, float]:
    """Read a list of words: one word or phrase on a line, then perhaps a tab and its weight; `#` begins a comment.

    Raises:
        InputError: the file cannot be read, has no word, or a weight that is no number above 0 and at most 1.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the word list {path}: {getattr(error, 'strerror', None) or error}") from error
    found: dict[str, float] = {}
    for number, line in enumerate(lines, 1):
        entry, _, weight = line.partition("\t")
        if entry.strip() and not line.startswith("#"):
            found[" ".join(entry.casefold().split())] = _weight(weight.strip() or "1", f"{path}:{number}")
    if not found:
        raise InputError(f"the word list {path} has no words")
    return found


def _weight(text: str, where: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight <= 1:
        raise InputError(f"{where}: a word's weight is a number above 0 and at most 1; got {text!r}")
    return weight
