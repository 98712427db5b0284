"""What a run says: scores.json, the report page, and tables in the terminal."""

import functools
import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vicuna import page
from vicuna.eval.answers import Answer
from vicuna.eval.ledger import Call
from vicuna.eval.questions import Question
from vicuna.eval.reference import Grade
from vicuna.eval.scores import Match, ModelSummary, PairSummary, Tally, pair_row
from vicuna.eval.statistics import Estimate, power
from vicuna.files import write_json, write_text

SCORES, REPORT = "scores.json", "report.html"


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


def write_results(results: Results, folder: Path) -> dict[str, Any]:
    """Write scores.json and report.html, print the tables, and return the headline numbers."""
    from vicuna.eval.terminal import show

    write_json(folder / SCORES, scores_tree(results))
    write_text(folder / REPORT, report_page(results))
    show(results, folder / REPORT)
    return headline(results)


def scores_tree(results: Results) -> dict[str, Any]:
    """scores.json."""
    judge = {"label": results.judge, "kind": "reference" if results.judge_is_reference else "llm"}
    return {
        "judge": judge,
        "questions": len(results.questions) or max((len(each) for each in results.games.values()), default=0),
        "pairs": [pair_row(pair) for pair in results.pairs],
        "models": {each.model: asdict(each) for each in results.models},
        "calls": _call_counts(results.calls),
        **results.extra,
    }


def headline(results: Results) -> dict[str, Any]:
    """The numbers for a manifest: per pair the win rate with its interval and what stands beside it."""
    pairs = [
        {
            "model": pair.model, "baseline": pair.baseline,
            "win_rate": asdict(pair.overall.win_rate) if pair.overall.win_rate else None,
            "scored": pair.overall.scored, "unscored": pair.overall.unscored, "flips": pair.flips,
            "relative_quality": asdict(pair.relative_quality) if pair.relative_quality else None,
        }
        for pair in results.pairs
    ]  # fmt: skip
    accuracy = {each.model: asdict(each.accuracy) for each in results.models if each.accuracy}
    return {"judge": results.judge, "pairs": pairs, "accuracy": accuracy}


def _call_counts(calls: Sequence[Call]) -> dict[str, Any]:
    return {
        "calls": len(calls),
        "repairs": sum(bool(call.repairs) for call in calls),
        "refused": sum(bool(call.refused) for call in calls),
        "prompt_tokens": sum(call.prompt_tokens or 0 for call in calls),
        "completion_tokens": sum(call.completion_tokens or 0 for call in calls),
        "seconds": round(sum(call.seconds for call in calls), 1),
    }


# ------------------------------------------------------------------------------------------------ sentences and rows
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


# ------------------------------------------------------------------------------------------------ the page
def report_page(results: Results) -> str:
    """The whole report as one HTML file that needs no network."""
    from vicuna.eval import browser, charts

    sections = [page.Section("Result", _result(results)), *_model_sections(results)]
    figures = charts.figures(results)
    if figures:
        sections.append(page.Section("Charts", figures))
    sections.append(page.Section("By category", _categories(results)))
    sections.append(page.Section("How far to trust this", _trust(results)))
    sections += results.notes
    sections.append(page.Section("Every question", browser.questions(results)))
    sections.append(page.Section("How it was made", _origin(results)))
    return page.page(results.title, sections, lead=_lead(results), head=browser.HEAD)


def _lead(results: Results) -> str:
    lines = [f"<p>{html.escape(pair_sentence(pair))}</p>" for pair in results.pairs]
    if results.judge_is_reference:
        lines.append(
            '<p class="soft">The <b>reference judge</b> compared each answer with a known right one: 10 for right, 1 '
            "for wrong. No language model judged, and style counts for nothing.</p>"
        )
    return "".join(lines)


def _result(results: Results) -> str:
    cards = []
    for pair in results.pairs[:1]:
        total = pair.overall.scored + pair.overall.unscored
        cards = [
            (share(pair.overall.win_rate.value if pair.overall.win_rate else None), f"win rate of {pair.model}"),
            (share(pair.relative_quality.value if pair.relative_quality else None), f"of {pair.baseline}'s score"),
            (f"{pair.overall.unscored} of {total}", "unscored"),
            (share(pair.flip_rate), "flipped with the order"),
        ]
    cards += [
        (share(each.accuracy.value), f"exact answers of {each.model}") for each in results.models if each.accuracy
    ]
    return page.cards(cards) + page.table(PAIR_HEADERS, [pair_cells(pair) for pair in results.pairs])


def _model_sections(results: Results) -> list[page.Section]:
    if not results.models:
        return []
    note = ""
    if any(each.accuracy for each in results.models):
        note = (
            '<p class="soft">Exact answers: the share of the questions with a known answer whose reply is finished, '
            "short, and states that answer and no other. Interval: Wilson, 95%.</p>"
        )
    rows = [model_cells(each) for each in results.models]
    return [page.Section("Models", page.table(MODEL_HEADERS, rows) + note)]


def _categories(results: Results) -> str:
    parts = []
    for pair in results.pairs:
        rows = [category_cells(name, each) for name, each in pair.categories.items()]
        name = f"{pair.model} against {pair.baseline}"
        parts.append(f"<h3>{html.escape(name)}</h3>{page.table(CATEGORY_HEADERS, rows)}")
    return "".join(parts)


def _trust(results: Results) -> str:
    rows = []
    for pair in results.pairs:
        decided = pair.first_wins + pair.second_wins
        low, high = pair.worst_case
        rows.append([
            f"{pair.model} : {pair.baseline}",
            share(pair.unscored_share), f"{share(low)} to {share(high)}", share(pair.flip_rate),
            share(pair.first_wins / decided) if decided else "–",
            "–" if pair.length_correlation is None else f"{pair.length_correlation:+.2f}",
            power(pair.overall.scored).sentence(),
        ])  # fmt: skip
    headers = ("pair", "unscored", "win rate whatever they were", "flips", "wins of the answer shown first",
               "longer goes with better", "power")  # fmt: skip
    both = all(pair.both_orders == pair.overall.scored for pair in results.pairs)
    orders = (
        "Both orders of every pair are judged. Where they disagree the question is a tie and counts as a flip. "
        if both
        else "Some questions were judged in one order only, so what the order did to them is not known. "
    )
    return page.table(headers, rows) + (
        f"<p class=soft>{orders}A verdict that cannot be read is unscored: it is counted here, is never zero, and is "
        "never left out silently. Intervals are paired bootstraps over questions, or Wilson's where all outcomes are "
        "equal. “Longer goes with better” is Spearman's correlation of the difference in length with the outcome; an "
        "unbiased judge of equally good answers shows about 0.</p>"
    )


def _origin(results: Results) -> str:
    counts = [(name.replace("_", " "), value) for name, value in _call_counts(results.calls).items()]
    tables = page.table(("judge calls", ""), counts) if results.calls else ""
    if results.parents:
        tables += page.table(("made from", "content hash"), sorted(results.parents.items()))
    import yaml

    tree = yaml.safe_dump(dict(results.config), sort_keys=False, allow_unicode=True)
    return f"{tables}<details><summary>Settings</summary><pre>{html.escape(tree)}</pre></details>"
