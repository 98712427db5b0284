"""The reference judge: grades an answer against the known right one. Deterministic, offline, no language model.

An answer is right if it is finished, short, and states one accepted reference as *the* answer. Each rule below exists
to deny points to a model that babbles: a text that names every capital contains the right one too.
"""

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from vicuna.eval.numbers import Quantity, in_words, quantities, quantity

LABEL = "reference judge"
MAX_SENTENCES = 2
MAX_WORDS = 40
"""Longest answer that is read, in words beyond those of the reference."""

ARTICLES = frozenset({"a", "an", "the"})
DENIALS = frozenset({"not", "never", "no", "isn't", "aren't", "wasn't", "cannot", "can't"})
DENIAL_REACH = 3
"""A denial this many words before the reference takes it back."""

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+|\n+")
_CLAUSE_END = re.compile(r"[,;:.!?]+(?=\s|$)")
_MARKUP = re.compile(r"[*`_~#>]+")
_BULLET = re.compile(r"^[ \t]*(?:[-*+•]|\d+[.)])[ \t]+", re.M)


FUNCTION_WORDS = frozenset(
    {
        "in",
        "on",
        "up",
        "down",
        "out",
        "off",
        "over",
        "under",
        "before",
        "after",
        "was",
        "were",
        "is",
        "are",
        "has",
        "had",
    }
)
"""References that any sentence may hold without meaning an answer."""


@dataclass(frozen=True)
class Grade:
    """One answer's verdict."""

    right: bool
    reason: str
    """Why, as a sentence part: "it states 'Paris'"."""


def grade(
    reply: str,
    accepted: Sequence[str],
    question: str,
    *,
    finish_reason: str = "stop",
    rivals: Collection[str] = (),
) -> Grade:
    """Whether `reply` gives one of the `accepted` answers to `question`.

    Args:
        reply: the model's text of the graded turn.
        accepted: right answers; any one will do.
        question: every user turn up to the graded one; what it names is not an answer by being repeated.
        finish_reason: as the server gave it; an answer that was cut off is wrong.
        rivals: answers to other questions of the same kind; naming one beside the right answer is wrong.
    """
    if finish_reason not in ("stop", ""):
        return Grade(False, f"it did not end by itself ({finish_reason})")
    text = _plain(reply)
    if not text:
        return Grade(False, "it is empty")
    rambling = _rambling(text, reply, max(len(_words(each)) for each in accepted))
    if rambling:
        return Grade(False, rambling)
    grades = [_grade(text, each, _plain(question), rivals) for each in accepted]
    return next((each for each in grades if each.right), grades[0])


def _grade(text: str, reference: str, question: str, rivals: Collection[str]) -> Grade:
    wanted = quantity(_plain(reference))
    if wanted is not None:
        return _grade_quantity(text, wanted, question)
    words = _words(reference)
    if words in (["yes"], ["no"]):
        first = _words(text)[:1]
        return Grade(first == words, f"it begins with {' '.join(first)!r}, and {reference!r} is right")
    if len(words) == 1 and len(words[0]) == 1:
        return _grade_letter(text, words[0])
    return _grade_words(text, reference, question, rivals)


def is_name(reference: str) -> bool:
    """Whether naming this reference beside another one is a second answer: not for numbers, letters, small words."""
    words = _words(reference)
    return (
        quantity(_plain(reference)) is None
        and any(len(word) > 1 for word in words)
        and not (set(words) <= FUNCTION_WORDS)
    )


# ------------------------------------------------------------------------------------------------ kinds of reference
def _grade_quantity(text: str, wanted: Quantity, question: str) -> Grade:
    """What follows the last "=" decides, else the last number that the question does not name.

    A unit, where both state one, must agree too.
    """
    result = text.rpartition("=")[2]
    stated = quantities(result) or quantities(text) or in_words(text)
    if not stated:
        return Grade(False, f"it states no number, and {wanted} is right")
    asked = {each.value for each in [*quantities(question), *in_words(question)]}
    last = ([each for each in stated if each.value not in asked] or stated)[-1]
    if last.value != wanted.value:
        return Grade(False, f"it states {last}, and {wanted} is right")
    if last.unit and wanted.unit and last.unit != wanted.unit:
        return Grade(False, f"it states {last}, and {wanted} is right")
    sentence = _sentences(text)[-1]
    others = {each.value for each in quantities(sentence)} - asked - {wanted.value}
    if others and re.search(r"\bor\b", sentence):
        return Grade(False, f"it offers {len(others) + 1} numbers to choose from")
    return Grade(True, f"it states {wanted}")


def _grade_letter(text: str, letter: str) -> Grade:
    """The last single letter decides, since letters are also words ("a")."""
    letters = [word for word in _all_words(text) if len(word) == 1]
    if not letters:
        return Grade(False, f"it names no letter, and {letter!r} is right")
    said = f"it names {letters[-1]!r}"
    return Grade(letters[-1] == letter, said if letters[-1] == letter else f"{said}, and {letter!r} is right")


def _grade_words(text: str, reference: str, question: str, rivals: Collection[str]) -> Grade:
    """The reference stands there as whole words, is not taken back, and no other candidate stands beside it."""
    words, wanted = _words(text), _words(reference)
    places = _places(words, wanted)
    if not places:
        return Grade(False, f"it does not state {reference!r}")
    if _denied(text, wanted):
        return Grade(False, f"it denies {reference!r}")
    alternatives = [place for place in places if _beside_or(words, place, len(wanted))]
    if alternatives and "or" not in _words(question):
        return Grade(False, f"it offers {reference!r} as one of several")
    rival = _rival(words, wanted, _words(question), rivals)
    if rival:
        return Grade(False, f"it also states {rival!r}")
    return Grade(True, f"it states {reference!r}")


def _denied(text: str, wanted: Sequence[str]) -> bool:
    """Whether every clause that states the reference takes it back: "it is not Paris", but not "no, it is Paris"."""
    clauses = [_words(clause) for clause in _CLAUSE_END.split(text)]
    stated = [(clause, place) for clause in clauses for place in _places(clause, wanted)]
    denied = [bool(DENIALS & set(clause[max(0, place - DENIAL_REACH) : place])) for clause, place in stated]
    return bool(denied) and all(denied)


def _beside_or(words: Sequence[str], place: int, length: int) -> bool:
    return "or" in (*words[max(0, place - 1) : place], *words[place + length : place + length + 1])


def _rival(words: Sequence[str], wanted: Sequence[str], question: Sequence[str], rivals: Collection[str]) -> str:
    """The first other candidate that the reply states and the question does not."""
    kept = list(words)
    for place in _places(words, wanted):  # a rival inside the reference ("York" in "New York") is none
        kept[place : place + len(wanted)] = [""] * len(wanted)
    for rival in sorted(rivals):
        other = _words(rival)
        if other and other != list(wanted) and _places(kept, other) and not _places(question, other):
            return rival
    return ""


# ------------------------------------------------------------------------------------------------ length and form
def _rambling(text: str, reply: str, allowance: int) -> str:
    """Why the text is more than an answer; empty if it is not."""
    sentences, words = len(_sentences(text)), len(_all_words(text))
    if len(_BULLET.findall(reply)) > 1 or _lists(text):
        return "it lists several things"
    if words > MAX_WORDS + allowance:
        return f"it rambles: {words} words, at most {MAX_WORDS + allowance} are an answer"
    if sentences > MAX_SENTENCES:
        return f"it rambles: {sentences} sentences, at most {MAX_SENTENCES} are an answer"
    return ""


def _lists(text: str) -> bool:
    """Whether a sentence names at least three things in a row: "Paris, London, Rome"."""
    for sentence in _sentences(text):
        short = [0 < len(_all_words(item)) <= 2 for item in re.split(r",(?!\d)", sentence)[1:]]
        if any(here and after for here, after in zip(short, short[1:], strict=False)):
            return True
    return False


def _plain(text: str) -> str:
    return _MARKUP.sub("", unicodedata.normalize("NFKC", text)).replace("’", "'").strip()


def _sentences(text: str) -> list[str]:
    return [part for part in _SENTENCE_END.split(text) if _WORD.search(part)]


def _all_words(text: str) -> list[str]:
    return _WORD.findall(_plain(text).casefold())


def _words(text: str) -> list[str]:
    """Words without case, punctuation and articles; a text of articles only keeps them."""
    words = _all_words(text)
    return [word for word in words if word not in ARTICLES] or words


def _places(words: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Where `wanted` stands in `words`, as whole words in a row."""
    size = len(wanted)
    return [start for start in range(len(words) - size + 1) if list(words[start : start + size]) == list(wanted)]
