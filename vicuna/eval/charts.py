"""The report's drawings."""

from collections.abc import Sequence
from typing import Any

from vicuna import page
from vicuna.eval.results import Results
from vicuna.eval.scores import Match, ModelSummary, PairSummary
from vicuna.eval.statistics import Estimate

WIN, TIE, LOSS, NONE = "#3ca951", "#c9ced8", "#ff725c", "#8a6d00"


def figures(results: Results) -> str:
    """Every drawing that the results have data for, as HTML."""
    parts = [relative_quality(results.pairs), *(outcomes(pair) for pair in results.pairs)]
    parts.append(accuracies(results.models))
    parts.append(lengths(results))
    return "".join(parts)


def relative_quality(pairs: Sequence[PairSummary]) -> str:
    """Bars: each model's total score as a share of its baseline's (the 2023 report's Figure 1)."""
    known = [(pair, pair.relative_quality) for pair in pairs if pair.relative_quality]
    if not known:
        return ""
    drawing, axes = page.new_figure(8, 0.7 + 0.5 * len(known))
    names = [f"{pair.model} / {pair.baseline}" for pair, _ in known]
    _bars(axes, names, [quality for _, quality in known], page.COLOURS[0])
    axes.axvline(100, color="#888", linewidth=1, linestyle="--")
    axes.set_xlabel("total score in percent of the baseline's")
    return page.figure(drawing, "Relative quality. Whiskers: 95% interval. The dashed line is the baseline.")


def _bars(axes: Any, names: Sequence[str], values: Sequence[Estimate], colour: str) -> None:
    places = range(len(names))
    axes.barh(places, [100 * each.value for each in values], color=colour, height=0.6)
    for place, each in zip(places, values, strict=True):
        if each.low is not None and each.high is not None:
            axes.plot([100 * each.low, 100 * each.high], [place, place], color="#222", linewidth=1.4)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.grid(False, axis="y")


def outcomes(pair: PairSummary) -> str:
    """Stacked bars: won, tied, lost and unscored by category (the 2023 report's Figure 3)."""
    rows = {"all": pair.overall, **pair.categories}
    drawing, axes = page.new_figure(8, 1.0 + 0.32 * len(rows))
    left = [0.0] * len(rows)
    kinds = [("won", "win", WIN), ("tied", "tie", TIE), ("lost", "loss", LOSS), ("unscored", "unscored", NONE)]
    for label, name, colour in kinds:
        counts = [getattr(each, name) for each in rows.values()]
        shares = [100 * n / (each.scored + each.unscored) for n, each in zip(counts, rows.values(), strict=True)]
        if not any(counts):
            continue
        axes.barh(range(len(rows)), shares, left=left, color=colour, label=label, height=0.72)
        for place, (count, width, start) in enumerate(zip(counts, shares, left, strict=True)):
            if width >= 4:
                axes.text(start + width / 2, place, str(count), ha="center", va="center", fontsize=8)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("percent of questions")
    axes.grid(False, axis="y")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)
    return page.figure(drawing, f"{pair.model} against {pair.baseline}, by category. Numbers are questions.")


def accuracies(models: Sequence[ModelSummary]) -> str:
    """Grouped bars: exact answer accuracy by category, with Wilson intervals."""
    known = [each for each in models if each.accuracy]
    if not known:
        return ""
    names = ["all", *known[0].accuracy_by_category]
    drawing, axes = page.new_figure(8, 3.2)
    width = 0.8 / len(known)
    for index, model in enumerate(known):
        values = [model.accuracy, *model.accuracy_by_category.values()]
        places = [place + (index - (len(known) - 1) / 2) * width for place in range(len(names))]
        axes.bar(places, [100 * each.value for each in values if each], width=width * 0.92, label=model.model)
        for place, each in zip(places, values, strict=True):
            if each and each.low is not None and each.high is not None:
                axes.plot([place, place], [100 * each.low, 100 * each.high], color="#222", linewidth=1.1)
    axes.set_xticks(
        range(len(names)), names, rotation=25 if len(names) > 6 else 0, ha="right" if len(names) > 6 else "center"
    )
    axes.set_ylim(0, 104)
    axes.set_ylabel("right, %")
    axes.grid(False, axis="x")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)
    return page.figure(
        drawing, "Exact answers by category, graded against known references. Whiskers: Wilson 95% interval."
    )


def lengths(results: Results) -> str:
    """Points: score over answer length, one for each model and question."""
    points: dict[str, list[tuple[int, float]]] = {}
    for games in results.games.values():
        for game in games:
            _add_points(points, game, results)
    if not points:
        return ""
    drawing, axes = page.new_figure(8, 3.2)
    for name, known in points.items():
        axes.scatter(*zip(*known, strict=True), s=14, alpha=0.45, label=name, edgecolors="none")
    axes.set_xlabel("characters of the answer")
    axes.set_ylabel("mean score over both orders")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)
    return page.figure(
        drawing, "Score against length. A rising cloud may mean better answers or a judge that likes long ones."
    )


def _add_points(points: dict[str, list[tuple[int, float]]], game: Match, results: Results) -> None:
    if game.scores is None:
        return
    for name, score in zip((game.model, game.baseline), game.scores, strict=True):
        answer = results.answers.get(name, {}).get(game.question)
        if answer is not None:
            points.setdefault(name, []).append((answer.length, score))
