"""The `rescore` command: judgement files of other projects, scored again from their raw texts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vicuna import config as settings
from vicuna import manifest, page
from vicuna.eval.config import RescoreConfig
from vicuna.eval.judgements import Judgements, Rating, Row, answer_models, read_judgements
from vicuna.eval.questions import Question, read_questions
from vicuna.eval.report import write_results
from vicuna.eval.results import Results
from vicuna.eval.scores import Match, matches, summarise
from vicuna.files import sha256_file

KIND = "rescored judgements"


def rescore_files(config: RescoreConfig) -> int:
    """Read the files, write scores.json and report.html into `config.out`, and print the tables."""
    questions = read_questions(config.questions) if config.questions else []
    found = read_judgements(
        config.reviews, {each.id: each.category for each in questions}, answer_models(config.answers)
    )
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
