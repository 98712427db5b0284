"""Judgement files of other projects, scored again from their raw texts; what they recorded is only compared with."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vicuna import config as settings
from vicuna import manifest, page
from vicuna.errors import InputError
from vicuna.eval.config import RescoreConfig
from vicuna.eval.grammar import Winner, parse_rating, parse_verdict, read_scores
from vicuna.eval.judge import UNREADABLE
from vicuna.eval.questions import UNSORTED, Question, read_questions
from vicuna.eval.report import Results, write_results
from vicuna.eval.scores import Match, Verdict, by_scores, matches, summarise
from vicuna.files import read_jsonl, sha256_file

KIND = "rescored judgements"
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


def rescore_files(config: RescoreConfig) -> int:
    """Read the files, write scores.json and report.html into `config.out`, and print the tables."""
    questions = read_questions(config.questions) if config.questions else []
    found = read_judgements(config.reviews, {each.id: each.category for each in questions}, _names(config.answers))
    games = {pair: _unique(matches(found.verdicts, *pair)) for pair in found.pairs}
    judge = ", ".join(found.judges) or "recorded judge"
    results = Results(
        title="Judgements read again",
        judge=judge,
        judge_is_reference=False,
        games=games,
        pairs=[summarise(each, judge, config.resamples, config.seed) for each in games.values()],
        questions=_turns_apart(questions, games),
        config={"reviews": list(config.reviews), "questions": config.questions},
        extra=_extra(found, config.reviews),
        notes=[page.Section("Recorded scores", _comparison(found))],
    )
    out = Path(config.out)
    (out / manifest.NAME).unlink(missing_ok=True)
    facts = write_results(results, out)
    parents = {path: sha256_file(path) for path in dict.fromkeys(config.reviews)}
    manifest.write(out, KIND, parents=parents, config=settings.to_dict(config), facts=facts)
    unread, different = _unreadable(found), _different(found)
    print(f"{len(found.rows)} judgements: {len(unread)} unreadable, {len(different)} read otherwise than recorded")
    return 0


def read_judgements(paths: Sequence[str], categories: Mapping[str, str], names: Mapping[str, str]) -> Judgements:
    """Read review and judgement files of every known layout.

    Args:
        paths: JSON Lines files: 2023 reviews, MT-bench pair or single judgements.
        categories: question id → category.
        names: answer id → model, for 2023 reviews; empty goes by the file names.

    Raises:
        InputError: unreadable file, or a row of no known layout.
    """
    verdicts: list[Verdict] = []
    pairs: dict[tuple[str, str], None] = {}
    ratings: list[Rating] = []
    rows: list[Row] = []
    judges: dict[str, None] = {}
    stems = [Path(path).stem for path in paths]
    for path in dict.fromkeys(paths):
        folder = Path(path).absolute().parent.name if stems.count(Path(path).stem) > 1 else ""
        for line, row in read_jsonl(path):
            where, category = f"{path}:{line}", categories.get(str(row.get("question_id")), UNSORTED)
            if row.keys() >= REVIEW:
                verdict, pair = _review(row, path, folder, category, names)
                verdicts.append(verdict)
                _add_pair(pairs, pair)
                rows.append(Row(where, verdict.question, verdict.scores, _recorded_scores(row.get("score"))))
            elif row.keys() >= PAIR:
                for verdict, recorded in _pair_games(row, category, where):
                    verdicts.append(verdict)
                    rows.append(Row(where, verdict.question, verdict.winner, recorded))
                _add_pair(pairs, (str(row["model_1"]), str(row["model_2"])))
            elif row.keys() >= SINGLE:
                rating = Rating(str(row["question_id"]), str(row["model"]), int(row.get("turn", 1)),
                                parse_rating(_text(row, "judgment", where)))  # fmt: skip
                ratings.append(rating)
                rows.append(Row(where, rating.question, rating.rating, _recorded_rating(row.get("score"))))
            else:
                raise InputError(f"{where}: neither a 2023 review nor an MT-bench pair or single judgement")
            judges[_judge(row)] = None
    if not rows:
        raise InputError(f"no judgements in {', '.join(paths)}")
    return Judgements(verdicts, list(pairs), ratings, rows, [name for name in judges if name])


def _add_pair(pairs: dict[tuple[str, str], None], pair: tuple[str, str]) -> None:
    """Keep a pair once, whichever of the two came first in a row."""
    if pair[::-1] not in pairs:
        pairs[pair] = None


# ------------------------------------------------------------------------------------------------ 2023 reviews
def _review(
    row: Mapping[str, Any], path: str, folder: str, category: str, names: Mapping[str, str]
) -> tuple[Verdict, tuple[str, str]]:
    """The verdict, and (model, baseline): answer 2 is the model under test, answer 1 the baseline."""
    first, second = _review_models(row, path, folder, names)
    text = _text(row, "text", path)
    reading = read_scores(text)
    scores = reading.scores if reading else None
    path_name = reading.path if reading else UNREADABLE
    name = str(row["question_id"])
    return Verdict(name, category, first, second, scores, by_scores(scores), path_name, text), (second, first)


def _review_models(row: Mapping[str, Any], path: str, folder: str, names: Mapping[str, str]) -> tuple[str, str]:
    """The two models: by answer id where the answers are known, else from review_FIRST_SECOND.jsonl.

    `folder` tells files of one name apart; it is empty where no two share one.
    """
    ids = str(row["answer1_id"]), str(row["answer2_id"])
    if ids[0] in names and ids[1] in names:
        return names[ids[0]], names[ids[1]]
    stem, prefix = Path(path).stem, f"{folder}/" if folder else ""
    parts = re.fullmatch(r"review_([^_]+)_(.+)", stem)
    first, second = parts.groups() if parts else (f"{stem}: answer 1", f"{stem}: answer 2")
    return prefix + first, prefix + second


def _recorded_scores(score: Any) -> tuple[float, float] | None:
    if not isinstance(score, list) or len(score) != 2 or any(each == -1 for each in score):
        return None
    return float(score[0]), float(score[1])


def _names(paths: Sequence[str]) -> dict[str, str]:
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


# ------------------------------------------------------------------------------------------------ what is written
def _unique(games: Sequence[Match]) -> list[Match]:
    """Matches with one verdict for each order: a row that a file repeats counts once, its last text."""
    kept = []
    for game in games:
        last = {verdict.first: verdict for verdict in game.verdicts}
        kept.append(Match(game.question, game.category, game.model, game.baseline, tuple(last.values())))
    return kept


def _turns_apart(questions: Sequence[Question], games: Mapping[tuple[str, str], Sequence[Match]]) -> list[Question]:
    """The questions under the names that matches have ("81 turn 2" for a later turn)."""
    known = {each.id: each for each in questions}
    names = dict.fromkeys(game.question for each in games.values() for game in each)
    found = {name: known.get(name.split(" turn ")[0]) for name in names}
    return [Question(name, each.category, each.turns, each.references) for name, each in found.items() if each]


def _unreadable(found: Judgements) -> list[Row]:
    return [row for row in found.rows if row.ours is None]


def _different(found: Judgements) -> list[Row]:
    """Rows where text and record disagree, those included that only one side could read."""
    return [row for row in found.rows if row.ours != row.recorded]


def _extra(found: Judgements, paths: Sequence[str]) -> dict[str, Any]:
    def listed(rows: Sequence[Row]) -> list[dict[str, Any]]:
        return [
            {"where": row.where, "question": row.question, "ours": row.ours, "recorded": row.recorded} for row in rows
        ]

    return {
        "files": list(paths),
        "judgements": len(found.rows),
        "unreadable": listed(_unreadable(found)),
        "different": listed(_different(found)),
        "ratings": _ratings(found.ratings),
    }


def _ratings(ratings: Sequence[Rating]) -> dict[str, Any]:
    """Model → mean rating, overall and by turn, and what could not be read."""
    summary = {}
    for model in dict.fromkeys(each.model for each in ratings):
        mine = [each for each in ratings if each.model == model]
        turns = sorted({each.turn for each in mine})
        summary[model] = {
            "mean": _mean(mine),
            "turns": {str(turn): _mean([each for each in mine if each.turn == turn]) for turn in turns},
            "rated": sum(each.rating is not None for each in mine),
            "unreadable": sum(each.rating is None for each in mine),
        }
    return summary


def _mean(ratings: Sequence[Rating]) -> float | None:
    values = [each.rating for each in ratings if each.rating is not None]
    return sum(values) / len(values) if values else None


def _comparison(found: Judgements) -> str:
    different, unread = _different(found), _unreadable(found)
    text = (
        f"<p>{len(found.rows)} judgements: {len(unread)} cannot be read, {len(different)} read otherwise than "
        "recorded. Every number on this page comes from the raw texts.</p>"
    )
    if found.ratings:
        rows = [
            (name, each["mean"], each["rated"], each["unreadable"]) for name, each in _ratings(found.ratings).items()
        ]
        text += page.table(("model", "mean rating", "rated", "unreadable"),
                           [(a, "–" if b is None else f"{b:.3f}", c, d) for a, b, c, d in rows])  # fmt: skip
    if different:
        rows = [(row.where, row.question, str(row.ours), str(row.recorded)) for row in different]
        text += page.table(("where", "question", "from the text", "recorded"), rows)
    return text
