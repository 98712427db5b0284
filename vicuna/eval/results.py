"""Everything that is known when a run ends, and how it is said: sentences and table rows for page and terminal."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vicuna import page
from vicuna.eval.answers import Answer
from vicuna.eval.ledger import Call
from vicuna.eval.questions import Question
from vicuna.eval.reference import Grade
from vicuna.eval.scores import Match, ModelSummary, PairSummary, Tally
from vicuna.eval.statistics import Estimate


@dataclass(frozen=True)
class Results:
    """Everything that is known at the end; both an evaluation and a rescoring fill it."""

    title: str
    judge: str
    judge_is_reference: bool
    games: Mapping[tuple[str, str], Sequence[Match]]
    """(model, baseline) → their matches."""
    pairs: Sequence[PairSummary]
    questions: Sequence[Question] = ()
    answers: Mapping[str, Mapping[str, Answer]] = field(default_factory=dict)
    """Model → question id → answer; empty where only verdicts are known."""
    grades: Mapping[tuple[str, str], Grade] = field(default_factory=dict)
    """(model, question id) → the reference judge's grade."""
    models: Sequence[ModelSummary] = ()
    calls: Sequence[Call] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further entries of scores.json."""
    notes: Sequence[page.Section] = ()
    """Further sections of the page."""

    def question(self, name: str) -> Question | None:
        """The question with this id, where the questions are known."""
        return self._by_id.get(name)

    @functools.cached_property
    def _by_id(self) -> dict[str, Question]:
        return {each.id: each for each in self.questions}


def pair_sentence(pair: PairSummary) -> str:
    """The headline of a pair: never a win rate without its interval and what was not scored."""
    rate = pair.overall.win_rate
    total = pair.overall.scored + pair.overall.unscored
    if rate is None:
        return f"{pair.model} against {pair.baseline}: none of the {total} verdicts could be scored."
    unscored = f"{pair.overall.unscored} unscored ({100 * pair.unscored_share:.1f}%)"
    return (
        f"{pair.model} against {pair.baseline}: win rate {rate.percent()}, {pair.overall.win} won, {pair.overall.tie} "
        f"tied, {pair.overall.loss} lost of {total} questions, {unscored}. Judge: {pair.judge}."
    )


def share(value: float | None) -> str:
    """A share as percent; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f}%"


def estimate(value: Estimate | None) -> str:
    """An estimate as percent with its interval; a dash where there is none."""
    return "–" if value is None else value.percent()


PAIR_HEADERS = ("model", "baseline", "win", "tie", "loss", "unscored", "win rate [95%]", "relative quality [95%]",
                "total scores", "flips", "sign test p")  # fmt: skip


def pair_cells(pair: PairSummary) -> list[str]:
    """A pair as a row under PAIR_HEADERS."""
    totals = f"{pair.totals[0]:g} : {pair.totals[1]:g}" if pair.totals else "–"
    flips = f"{pair.flips} of {pair.both_orders}" if pair.both_orders else "one order only"
    counts = [str(each) for each in (pair.overall.win, pair.overall.tie, pair.overall.loss, pair.overall.unscored)]
    return [pair.model, pair.baseline, *counts, estimate(pair.overall.win_rate), estimate(pair.relative_quality),
            totals, flips, f"{pair.sign_p:.2g}"]  # fmt: skip


CATEGORY_HEADERS = ("category", "win", "tie", "loss", "unscored", "win rate [95%]")


def category_cells(name: str, each: Tally) -> list[str]:
    """A category as a row under CATEGORY_HEADERS."""
    counts = [str(count) for count in (each.win, each.tie, each.loss, each.unscored)]
    return [name, *counts, estimate(each.win_rate)]


MODEL_HEADERS = ("model", "exact answers [95%]", "answers", "refused", "cut off", "mean characters", "mean tokens",
                 "mean seconds", "checkpoint")  # fmt: skip


def model_cells(each: ModelSummary) -> list[str]:
    """A model as a row under MODEL_HEADERS."""
    tokens = "–" if each.mean_tokens is None else f"{each.mean_tokens:.1f}"
    checkpoints = ", ".join(name[:12] for name in each.checkpoints) or "–"
    return [each.model, estimate(each.accuracy), str(each.answers), str(each.refused), str(each.cut),
            f"{each.mean_characters:.0f}", tokens, f"{each.mean_seconds:.2f}", checkpoints]  # fmt: skip
