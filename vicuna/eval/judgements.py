"""Judgement files of other projects: 2023 pair reviews, MT-bench's pair and single judgements.

Scores and verdicts are read from the raw texts; what a file recorded is kept beside them, only to compare.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vicuna.errors import InputError
from vicuna.eval.grammar import Winner, parse_rating, parse_verdict, read_scores
from vicuna.eval.judge import UNREADABLE
from vicuna.eval.questions import UNSORTED
from vicuna.eval.scores import Verdict, by_scores
from vicuna.files import read_jsonl

REVIEW = frozenset({"question_id", "answer1_id", "answer2_id", "text"})
PAIR = frozenset({"question_id", "model_1", "model_2", "g1_judgment", "g2_judgment"})
SINGLE = frozenset({"question_id", "model", "judgment"})


@dataclass(frozen=True)
class Rating:
    """A single answer's rating (MT-bench's single mode)."""

    question: str
    model: str
    turn: int
    rating: float | None


@dataclass(frozen=True)
class Row:
    """One judgement as it was read, beside what its file recorded."""

    where: str
    """FILE:LINE."""
    question: str
    ours: Any
    """Scores, winner or rating from the text; None where it cannot be read."""
    recorded: Any
    """The file's own value; None where it says that reading failed, or says nothing."""


@dataclass(frozen=True)
class Judgements:
    """Everything read from the files."""

    verdicts: Sequence[Verdict]
    pairs: Sequence[tuple[str, str]]
    """(model, baseline) in order of appearance."""
    ratings: Sequence[Rating]
    rows: Sequence[Row]
    judges: Sequence[str]


def read_judgements(paths: Sequence[str], categories: Mapping[str, str], names: Mapping[str, str]) -> Judgements:
    """Read review and judgement files of every known layout.

    Args:
        paths: JSON Lines files: 2023 reviews, MT-bench pair or single judgements.
        categories: question id → category.
        names: answer id → model, for 2023 reviews; empty goes by the file names.

    Raises:
        InputError: unreadable file, or a row of no known layout.
    """
    collector = _Collector(names)
    stems = [Path(path).stem for path in paths]
    for path in dict.fromkeys(paths):
        folder = Path(path).absolute().parent.name if stems.count(Path(path).stem) > 1 else ""
        for line, row in read_jsonl(path):
            category = categories.get(str(row.get("question_id")), UNSORTED)
            collector.add(row, category, _Place(path, line, folder))
    if not collector.rows:
        raise InputError(f"no judgements in {', '.join(paths)}")
    return collector.judgements()


@dataclass(frozen=True)
class _Place:
    path: str
    line: int
    folder: str  # tells files of one name apart; empty where no two share one

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


class _Collector:
    """Takes rows of any layout one by one."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._verdicts: list[Verdict] = []
        self._pairs: dict[tuple[str, str], None] = {}
        self._ratings: list[Rating] = []
        self._judges: dict[str, None] = {}
        self.rows: list[Row] = []

    def judgements(self) -> Judgements:
        """Everything that was added."""
        judges = [name for name in self._judges if name]
        return Judgements(self._verdicts, list(self._pairs), self._ratings, self.rows, judges)

    def add(self, row: Mapping[str, Any], category: str, place: _Place) -> None:
        """Read one row by the layout that its keys show."""
        if row.keys() >= REVIEW:
            verdict, pair = _review(row, place, category, self._names)
            self._pair(pair)
            self._verdict(verdict, verdict.scores, _recorded_scores(row.get("score")), place)
        elif row.keys() >= PAIR:
            self._pair((str(row["model_1"]), str(row["model_2"])))
            for verdict, recorded in _pair_games(row, category, str(place)):
                self._verdict(verdict, verdict.winner, recorded, place)
        elif row.keys() >= SINGLE:
            rating = _rating(row, str(place))
            self._ratings.append(rating)
            self.rows.append(Row(str(place), rating.question, rating.rating, _recorded_rating(row.get("score"))))
        else:
            raise InputError(f"{place}: neither a 2023 review nor an MT-bench pair or single judgement")
        self._judges[_judge(row)] = None

    def _verdict(self, verdict: Verdict, ours: Any, recorded: Any, place: _Place) -> None:
        self._verdicts.append(verdict)
        self.rows.append(Row(str(place), verdict.question, ours, recorded))

    def _pair(self, pair: tuple[str, str]) -> None:
        """Keep a pair once, whichever of the two came first in a row."""
        if pair[::-1] not in self._pairs:
            self._pairs[pair] = None


# ------------------------------------------------------------------------------------------------ 2023 reviews
def _review(
    row: Mapping[str, Any], place: _Place, category: str, names: Mapping[str, str]
) -> tuple[Verdict, tuple[str, str]]:
    """The verdict, and (model, baseline): answer 2 is the model under test, answer 1 the baseline."""
    first, second = _review_models(row, place, names)
    text = _text(row, "text", str(place))
    reading = read_scores(text)
    scores = reading.scores if reading else None
    path_name = reading.path if reading else UNREADABLE
    name = str(row["question_id"])
    return Verdict(name, category, first, second, scores, by_scores(scores), path_name, text), (second, first)


def _review_models(row: Mapping[str, Any], place: _Place, names: Mapping[str, str]) -> tuple[str, str]:
    """The two models: by answer id where the answers are known, else from review_FIRST_SECOND.jsonl."""
    ids = str(row["answer1_id"]), str(row["answer2_id"])
    if ids[0] in names and ids[1] in names:
        return names[ids[0]], names[ids[1]]
    stem, prefix = Path(place.path).stem, f"{place.folder}/" if place.folder else ""
    parts = re.fullmatch(r"review_([^_]+)_(.+)", stem)
    first, second = parts.groups() if parts else (f"{stem}: answer 1", f"{stem}: answer 2")
    return prefix + first, prefix + second


def _recorded_scores(score: Any) -> tuple[float, float] | None:
    if not isinstance(score, list) or len(score) != 2 or any(each == -1 for each in score):
        return None
    return float(score[0]), float(score[1])


def answer_models(paths: Sequence[str]) -> dict[str, str]:
    """Answer id → model, from answer files."""
    names = {}
    for path in paths:
        for line, row in read_jsonl(path):
            if "answer_id" not in row:
                raise InputError(f"{path}:{line}: an answer file's rows have answer_id and model_id")
            names[str(row["answer_id"])] = str(row.get("model_id") or row.get("model") or Path(path).stem)
    return names


# ------------------------------------------------------------------------------------------------ MT-bench
def _pair_games(row: Mapping[str, Any], category: str, where: str) -> Iterator[tuple[Verdict, Winner | None]]:
    """Both games of a pair judgement; game 2 shows the models in the other order."""
    one, two = str(row["model_1"]), str(row["model_2"])
    name = f"{row['question_id']}" + (f" turn {row['turn']}" if row.get("turn", 1) != 1 else "")
    for game, (first, second) in (("g1", (one, two)), ("g2", (two, one))):
        text = _text(row, f"{game}_judgment", where)
        winner = parse_verdict(text)
        recorded = _recorded_winner(row.get(f"{game}_winner"), swapped=game == "g2")
        yield (
            Verdict(name, category, first, second, None, winner, "[[verdict]]" if winner else UNREADABLE, text),
            recorded,
        )


def _recorded_winner(value: Any, swapped: bool) -> Winner | None:
    """What the file calls model_1, model_2 or tie, in the order in which the judge saw the answers."""
    shown: dict[str, Winner] = {"model_1": "second" if swapped else "first", "tie": "tie"}
    return (shown | {"model_2": "first" if swapped else "second"}).get(str(value))


def _rating(row: Mapping[str, Any], where: str) -> Rating:
    rating = parse_rating(_text(row, "judgment", where))
    return Rating(str(row["question_id"]), str(row["model"]), int(row.get("turn", 1)), rating)


def _recorded_rating(score: Any) -> float | None:
    return None if not isinstance(score, int | float) or score == -1 else float(score)


def _judge(row: Mapping[str, Any]) -> str:
    judge = row.get("judge", row.get("reviewer_id"))
    if isinstance(judge, list):
        judge = judge[0] if judge else ""
    return judge if isinstance(judge, str) else ""


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    text = row[key]
    if not isinstance(text, str):
        raise InputError(f"{where}: {key} is the judge's text; got {type(text).__name__}")
    return text
