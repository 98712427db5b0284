"""What a run says: scores.json, the report page, and tables in the terminal."""

import html
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vicuna import page
from vicuna.eval import browser, charts, terminal
from vicuna.eval.ledger import Call
from vicuna.eval.results import (
    CATEGORY_HEADERS,
    MODEL_HEADERS,
    PAIR_HEADERS,
    Results,
    category_cells,
    model_cells,
    pair_cells,
    pair_sentence,
    share,
)
from vicuna.eval.scores import pair_row
from vicuna.eval.statistics import power
from vicuna.files import write_json, write_text

SCORES, REPORT = "scores.json", "report.html"


def write_results(results: Results, folder: Path) -> dict[str, Any]:
    """Write scores.json and report.html, print the tables, and return the headline numbers."""
    write_json(folder / SCORES, scores_tree(results))
    write_text(folder / REPORT, report_page(results))
    terminal.show(results, folder / REPORT)
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


def report_page(results: Results) -> str:
    """The whole report as one HTML file that needs no network."""
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
