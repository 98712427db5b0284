"""From verdicts to numbers: matches of two models, their outcomes, and the summary of a pair and of a model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from vicuna.eval.grammar import Winner
from vicuna.eval.statistics import (
    Estimate,
    Floats,
    mean_estimate,
    power,
    rank_correlation,
    ratio_estimate,
    sign_test,
    wilson,
)

Outcome = Literal["win", "tie", "loss", "unscored"]
OUTCOMES: tuple[Outcome, ...] = ("win", "tie", "loss", "unscored")
POINTS = {"win": 1.0, "tie": 0.5, "loss": 0.0}


@dataclass(frozen=True)
class Verdict:
    """One judgement of one question in one order, as it was read from the judge's text."""

    question: str
    category: str
    first: str
    """The model shown as Assistant 1."""
    second: str
    scores: tuple[float, float] | None
    """Of first and second; None where the judge gives no scores, or none that can be read."""
    winner: Winner | None
    """None: unscored."""
    path: str
    """How the text was read, or why it could not be."""
    text: str


def by_scores(scores: tuple[float, float] | None) -> Winner | None:
    """The winner that two scores name; equal scores are a tie."""
    if scores is None:
        return None
    return "tie" if scores[0] == scores[1] else "first" if scores[0] > scores[1] else "second"


@dataclass(frozen=True)
class Match:
    """One question, seen from `model`'s side, with its verdicts in every order that was judged."""

    question: str
    category: str
    model: str
    baseline: str
    verdicts: tuple[Verdict, ...]

    @property
    def sides(self) -> list[Outcome]:
        """Each order's outcome for `model`."""
        return [self._side(verdict) for verdict in self.verdicts]

    def _side(self, verdict: Verdict) -> Outcome:
        if verdict.winner is None:
            return "unscored"
        if verdict.winner == "tie":
            return "tie"
        winner = verdict.first if verdict.winner == "first" else verdict.second
        return "win" if winner == self.model else "loss"

    @property
    def outcome(self) -> Outcome:
        """What the orders agree on; a tie where they do not; unscored where one of them is."""
        sides = set(self.sides)
        if not sides or "unscored" in sides:
            return "unscored"
        return sides.pop() if len(sides) == 1 else "tie"

    @property
    def flipped(self) -> bool:
        """Whether the verdict changed with the order."""
        return self.outcome == "tie" and len(set(self.sides)) > 1

    @property
    def scores(self) -> tuple[float, float] | None:
        """(model's, baseline's) mean score over the orders; None where an order has none."""
        pairs = [
            each.scores if each.first == self.model else (each.scores[1], each.scores[0])
            for each in self.verdicts
            if each.scores
        ]
        if not pairs or len(pairs) < len(self.verdicts):
            return None
        return sum(a for a, _ in pairs) / len(pairs), sum(b for _, b in pairs) / len(pairs)


def matches(verdicts: Iterable[Verdict], model: str, baseline: str) -> list[Match]:
    """The matches of two models, in the order in which their questions first appear."""
    found: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if {verdict.first, verdict.second} == {model, baseline}:
            found.setdefault(verdict.question, []).append(verdict)
    return [Match(name, each[0].category, model, baseline, tuple(each)) for name, each in found.items()]


@dataclass(frozen=True)
class Tally:
    """Outcomes of a group of matches."""

    win: int
    tie: int
    loss: int
    unscored: int
    win_rate: Estimate | None
    """(win + tie / 2) / scored; None where nothing is scored."""

    @property
    def scored(self) -> int:
        """Matches with an outcome."""
        return self.win + self.tie + self.loss


def tally(games: Sequence[Match], resamples: int, seed: int) -> Tally:
    """Count outcomes and estimate the win rate over the scored ones."""
    outcomes = [game.outcome for game in games]
    points = np.array([POINTS[each] for each in outcomes if each != "unscored"])
    rate = mean_estimate(points, resamples, seed) if len(points) else None
    win, tie, loss, unscored = (outcomes.count(each) for each in OUTCOMES)
    return Tally(win, tie, loss, unscored, rate)


@dataclass(frozen=True)
class PairSummary:
    """Everything that is said about one model against another."""

    model: str
    baseline: str
    judge: str
    overall: Tally
    categories: Mapping[str, Tally]
    totals: tuple[float, float] | None
    """Sum of scores of model and baseline over the questions that have them, as in the report's Table 2."""
    relative_quality: Estimate | None
    """model's total / baseline's total."""
    flips: int
    """Matches whose verdict changed with the order (each counts as a tie)."""
    both_orders: int
    """Scored matches that were judged in both orders: what flips are counted out of."""
    first_wins: int
    """Single verdicts for the answer that was shown first."""
    second_wins: int
    worst_case: tuple[float, float]
    """Win rate if every unscored match were lost, and if every one were won."""
    sign_p: float
    """Two-sided exact sign test over wins and losses."""
    length_correlation: float | None
    """Spearman's correlation of "longer than the baseline's" with "better than the baseline's"."""

    @property
    def flip_rate(self) -> float | None:
        """Share of matches whose verdict changed with the order."""
        return self.flips / self.both_orders if self.both_orders else None

    @property
    def unscored_share(self) -> float:
        """Share of matches without an outcome."""
        n = self.overall.scored + self.overall.unscored
        return self.overall.unscored / n if n else 0.0


def summarise(
    games: Sequence[Match], judge: str, resamples: int, seed: int, lengths: Mapping[tuple[str, str], int] | None = None
) -> PairSummary:
    """The summary of the matches of one pair; `lengths`: (model, question) → characters of the answer."""
    overall = tally(games, resamples, seed)
    scored = [game for game in games if game.outcome != "unscored"]
    winners = [verdict.winner for game in games for verdict in game.verdicts]
    total = len(games)
    points = overall.win + overall.tie / 2
    totals, quality = _totals(games, resamples, seed)
    return PairSummary(
        model=games[0].model,
        baseline=games[0].baseline,
        judge=judge,
        overall=overall,
        categories=by_category(games, resamples, seed),
        totals=totals,
        relative_quality=quality,
        flips=sum(game.flipped for game in games),
        both_orders=sum(len(game.verdicts) > 1 for game in scored),
        first_wins=winners.count("first"),
        second_wins=winners.count("second"),
        worst_case=(points / total, (points + overall.unscored) / total),
        sign_p=sign_test(overall.win, overall.loss),
        length_correlation=_length_correlation(scored, lengths or {}),
    )


def by_category(games: Sequence[Match], resamples: int, seed: int) -> dict[str, Tally]:
    """Category → its tally, in order of first appearance."""
    names = list(dict.fromkeys(game.category for game in games))
    return {name: tally([game for game in games if game.category == name], resamples, seed) for name in names}


def _totals(games: Sequence[Match], resamples: int, seed: int) -> tuple[tuple[float, float] | None, Estimate | None]:
    pairs = [game.scores for game in games]
    scores = np.array([each for each in pairs if each is not None])
    if not len(scores):
        return None, None
    mine, theirs = scores[:, 0], scores[:, 1]
    totals = float(mine.sum()), float(theirs.sum())
    return totals, ratio_estimate(mine, theirs, resamples, seed) if theirs.sum() > 0 else None


def _length_correlation(games: Sequence[Match], lengths: Mapping[tuple[str, str], int]) -> float | None:
    known = [
        (lengths[game.model, game.question] - lengths[game.baseline, game.question], POINTS[game.outcome])
        for game in games
        if (game.model, game.question) in lengths and (game.baseline, game.question) in lengths
    ]
    if not known:
        return None
    columns: Floats = np.array(known, dtype=np.float64)
    return rank_correlation(columns[:, 0], columns[:, 1])


@dataclass(frozen=True)
class ModelSummary:
    """What is said about one model by itself."""

    model: str
    answers: int
    refused: int
    """Questions that the server would not answer."""
    cut: int
    """Answers that ended at the length limit."""
    mean_characters: float
    mean_tokens: float | None
    mean_seconds: float
    accuracy: Estimate | None
    """Share of the questions with a known answer that were answered rightly (the reference judge's grading)."""
    accuracy_by_category: Mapping[str, Estimate]
    checkpoints: tuple[str, ...]
    """Hashes of the weights that answered, where the server says so."""


def accuracy(grades: Sequence[tuple[str, bool]]) -> tuple[Estimate | None, dict[str, Estimate]]:
    """Overall and by category, from (category, right) of each graded answer."""
    if not grades:
        return None, {}
    names = dict.fromkeys(category for category, _ in grades)
    parts = {name: [right for category, right in grades if category == name] for name in names}
    overall = wilson(sum(right for _, right in grades), len(grades))
    return overall, {name: wilson(sum(part), len(part)) for name, part in parts.items()}


def pair_row(pair: PairSummary) -> dict[str, Any]:
    """A pair as it stands in scores.json."""
    tallies = {"overall": _tally_row(pair.overall)} | {name: _tally_row(each) for name, each in pair.categories.items()}
    row = asdict(pair) | {"flip_rate": pair.flip_rate, "unscored_share": pair.unscored_share}
    del row["overall"]
    totals = pair.totals and {pair.model: pair.totals[0], pair.baseline: pair.totals[1]}
    return row | tallies.pop("overall") | {
        "categories": tallies, "totals": totals, "power": asdict(power(pair.overall.scored)),
    }  # fmt: skip


def _tally_row(each: Tally) -> dict[str, Any]:
    return asdict(each) | {"scored": each.scored}
