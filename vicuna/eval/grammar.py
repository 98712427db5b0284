"""Reading scores and verdicts from a judge's text: a strict grammar, so that what it cannot read is known to be unread.

The score pair of the March 2023 Vicuna report stands alone on the first line. Judges that must reason first (maths,
coding) end with a tuple, with two numbers on the last line, or with a line for each assistant; the last such statement
is the verdict. The double brackets are MT-bench's.
"""

import re
from dataclasses import dataclass
from typing import Literal

LOWEST, HIGHEST = 0.0, 10.0
"""Prompts ask for 1 to 10; real GPT-4 reviews also give 0 to an answer with nothing in it, and it counts as stated."""
Winner = Literal["first", "second", "tie"]

_NUMBER = r"(\d{1,3}(?:\.\d{1,2})?)(?:[ \t]*(?:/|out of)[ \t]*10(?!\d|\.\d))?"
_LABEL = r"\b(?:scores?|ratings?|rated?|tuple|output)\b\)?[^\n()\[\]]{0,80}?"
_PAIR = rf"{_NUMBER}(?:[ \t]*[,;|][ \t]*|[ \t]+and[ \t]+|[ \t]+){_NUMBER}"
_BRACKETED = rf"[(\[]{{1,2}}[ \t]*{_NUMBER}[ \t]*,[ \t]*{_NUMBER}[ \t]*[)\]]{{1,2}}"

_ALONE = re.compile(rf"[ \t]*(?:[(\[]{{1,2}}[ \t]*)?{_PAIR}(?:[ \t]*[)\]]{{1,2}})?[ \t]*\.?[ \t]*")
_NAMED = re.compile(
    rf"[ \t]*(?:(?:the )?(?:final |overall )?(?:scores?|ratings?|tuple|output)[ \t]*[:=][ \t]*){_PAIR}[ \t]*\.?", re.I
)
_TUPLE_LINE = re.compile(rf"^[ \t]*{_BRACKETED}[ \t]*\.?[ \t]*$", re.M)
_TUPLE_NAMED = re.compile(rf"{_LABEL}{_BRACKETED}", re.I)

_LINK = (
    r"(?:['’]s)?[ \t]*(?:(?:overall|final|total|perfect|full|high|low|scores?|scored|rating|rated|is|gets?|receives?"
    r"|received|earns?|deserves?|given|would|should|be|an?|of|with|at)[ \t]*){0,8}"
)
_END = r"(?=[ \t]*(?:$|[;,)\]|(\n–—-]|\.(?!\d)|and\b|while\b|points?\b|out of\b|Assistant\b))"
_ASSISTANT = re.compile(
    rf"\bAssistant[ \t]*([12])\b(?=['’ \t:=|–—-])({_LINK}[:=|(–—-]?[ \t]*){_NUMBER}{_END}", re.I | re.M
)
_GIVEN_TO = re.compile(
    rf"\b(?:score|rating)[ \t]+of[ \t]+{_NUMBER}[ \t]+(?:to|for)[ \t]+Assistant[ \t]*([12])\b"
    rf"[^\n.]{{0,60}}?{_NUMBER}[ \t]+(?:to|for)[ \t]+Assistant[ \t]*([12])\b",
    re.I,
)
_MARKUP = re.compile(r"\*\*|__|`+(?:[A-Za-z]+$)?|^#+[ \t]+", re.M)
_VERDICT = re.compile(r"\[\[\s*([ABC])\s*\]\]")
_RATING = re.compile(r"\[\[\s*(\d{1,3}(?:\.\d+)?)\s*\]\]")


@dataclass(frozen=True)
class Reading:
    """Scores, and where in the text they were found."""

    scores: tuple[float, float]
    """Of Assistant 1 and Assistant 2, each 0 to 10."""
    path: Literal["first line", "tuple", "last line", "assistants"]


def parse_scores(text: str) -> tuple[float, float] | None:
    """The judge's scores of Assistant 1 and Assistant 2, or None where the text states none.

    Read are: two numbers alone on the first line; else the last of these statements: a tuple that is alone on its line
    or named as scores, a score for each of Assistant 1 and Assistant 2, two numbers alone on the last line. "8/10" is
    8. A score outside 0 to 10 makes the text unreadable: it is never clipped and never replaced by another statement.
    """
    reading = read_scores(text)
    return reading.scores if reading else None


def read_scores(text: str) -> Reading | None:
    """`parse_scores`, with the place where the scores stood."""
    plain = _MARKUP.sub("", text).strip()
    lines = plain.splitlines() or [""]
    first = _ALONE.fullmatch(lines[0]) or _NAMED.fullmatch(lines[0])
    if first:
        return _within(Reading((float(first[1]), float(first[2])), "first line"))
    found = [*_tuples(plain), *_assistants(plain), *_last_line(plain, lines[-1])]
    return _within(max(found, key=lambda each: each[0])[1]) if found else None


def _within(reading: Reading) -> Reading | None:
    return reading if all(LOWEST <= score <= HIGHEST for score in reading.scores) else None


def _tuples(text: str) -> list[tuple[int, Reading]]:
    matches = [*_TUPLE_LINE.finditer(text), *_TUPLE_NAMED.finditer(text)]
    return [(match.end(), Reading((float(match[1]), float(match[2])), "tuple")) for match in matches]


def _last_line(text: str, line: str) -> list[tuple[int, Reading]]:
    match = _ALONE.fullmatch(line) or _NAMED.fullmatch(line)
    return [(len(text), Reading((float(match[1]), float(match[2])), "last line"))] if match else []


def _assistants(text: str) -> list[tuple[int, Reading]]:
    """The last score of each assistant, if both have one."""
    stated: dict[str, tuple[int, float]] = {}
    for match in _ASSISTANT.finditer(text):
        if match[2].strip():
            stated[match[1]] = (match.end(), float(match[3]))
    for match in _GIVEN_TO.finditer(text):
        stated |= {match[2]: (match.end(), float(match[1])), match[4]: (match.end(), float(match[3]))}
    if len(stated) < 2:
        return []
    (end_1, score_1), (end_2, score_2) = stated["1"], stated["2"]
    return [(max(end_1, end_2), Reading((score_1, score_2), "assistants"))]


def parse_verdict(text: str) -> Winner | None:
    """The winner that MT-bench's pair prompts ask for: the last [[A]], [[B]] or [[C]] (tie) of the text."""
    found = _VERDICT.findall(text)
    winners: dict[str, Winner] = {"A": "first", "B": "second", "C": "tie"}
    return winners[found[-1]] if found else None


def parse_rating(text: str) -> float | None:
    """The rating that MT-bench's single prompts ask for: the last [[number]] of the text, if it is 0 to 10."""
    found = _RATING.findall(text)
    return float(found[-1]) if found and LOWEST <= float(found[-1]) <= HIGHEST else None
