"""What engine.py shows of its measurements: tables, the bars, a figure."""

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine_systems import LENGTHS, SYSTEMS

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
import measure

NAN = float("nan")
TITLES = {"64": "prompts of 64 tokens", "512": "prompts of 512 tokens",
          "shared": "prompts of 512 tokens whose first 448 are the same"}  # fmt: skip
FIGURES = {"per_second": "tokens/s", "cpu_per_1000": "CPU s per 1,000 tokens", "first_50": "first token p50, ms",
           "first_99": "p99", "between_50": "between tokens p50, ms", "between_99": "p99"}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One measurement of one system: answers of `concurrency` clients at a time."""

    system: str
    cell: str
    concurrency: int
    repetition: int
    answers: list[str]
    """In the order of the prompts."""
    errors: list[str]
    tokens: int
    per_second: float
    cpu_per_1000: float
    """Seconds of the processor of all processes, for 1,000 tokens of answers."""
    first_50: float
    """Milliseconds until the first token."""
    first_99: float
    between_50: float
    """Milliseconds between two pieces of an answer."""
    between_99: float
    load: float
    """The machine's load average at its end."""


@dataclass(frozen=True)
class Stall:
    """What a long prompt did to answers under way."""

    system: str
    repetition: int
    first: float
    """Milliseconds until the long prompt's first token."""
    before_50: float
    """Milliseconds between two pieces of the others before it came."""
    during_50: float
    during_99: float
    over_meanwhile: float
    """The worst of the others: its 99th percentile meanwhile over its median meanwhile."""
    over_before: float
    """The same over its median before."""


@dataclass
class Results:
    """All measurements."""

    rows: list[Row] = field(default_factory=list)
    stalls: list[Stall] = field(default_factory=list)

    def values(self, system: str, cell: str, concurrency: int, name: str) -> dict[int, float]:
        """By repetition; those with a wrong answer are left out."""
        wanted = (system, cell, concurrency)
        return {row.repetition: getattr(row, name) for row in self.rows
                if (row.system, row.cell, row.concurrency) == wanted and not row.errors}  # fmt: skip

    def median(self, system: str, cell: str, concurrency: int, name: str) -> float:
        """Over the repetitions; not a number where there are none."""
        found = self.values(system, cell, concurrency, name).values()
        return statistics.median(found) if found else NAN

    def ratio(self, above: str, below: str, cell: str, concurrency: int, name: str) -> float:
        """Median of the ratios of two systems, each within one repetition."""
        over, under = (self.values(system, cell, concurrency, name) for system in (above, below))
        both = over.keys() & under.keys()
        return statistics.median(over[number] / under[number] for number in both) if both else NAN

    def stall(self, system: str, name: str) -> float:
        """Median over the repetitions."""
        found = [getattr(row, name) for row in self.stalls if row.system == system]
        return statistics.median(found) if found else NAN

    def agreement(self, system: str, other: str) -> tuple[int, int]:
        """Answers that are the same text, of those that both have given."""
        theirs = {(row.cell, row.concurrency, row.repetition): row.answers for row in self.rows if row.system == other}
        pairs = [pair for row in self.rows if row.system == system
                 for pair in zip(row.answers, theirs.get((row.cell, row.concurrency, row.repetition), []),
                                 strict=False)]  # fmt: skip
        return sum(a == b for a, b in pairs), len(pairs)

    def systems(self) -> list[str]:
        seen = {row.system for row in self.rows} | {row.system for row in self.stalls}
        return [name for name in SYSTEMS if name in seen]

    def concurrencies(self) -> list[int]:
        return sorted({row.concurrency for row in self.rows})


# ------------------------------------------------------------------------------------------------ tables
def tables(results: Results) -> Iterator[str]:
    """In markdown, one after the other."""
    for cell, title in TITLES.items():
        rows = [
            [SYSTEMS[name].label, clients, *(_number(results.median(name, cell, clients, each)) for each in FIGURES)]
            for name in results.systems()
            for clients in results.concurrencies()
            if results.values(name, cell, clients, "tokens")
        ]
        if rows:
            yield f"{title}\n\n" + measure.table(["system", "at once", *FIGURES.values()], rows)
    if results.stalls:
        names = {"first": "its first token, ms", "before_50": "others before p50, ms", "during_50": "meanwhile p50",
                 "during_99": "p99", "over_meanwhile": "worst p99 / its p50 meanwhile",
                 "over_before": "worst p99 / its p50 before"}  # fmt: skip
        rows = [[SYSTEMS[name].label, *(_number(results.stall(name, each)) for each in names)]
                for name in results.systems() if any(row.system == name for row in results.stalls)]  # fmt: skip
        yield "a prompt of 2,000 tokens beside eight answers\n\n" + measure.table(["system", *names.values()], rows)
    yield _agreements(results)


def _agreements(results: Results) -> str:
    reference = "generate" if "generate" in results.systems() else "ours"
    rows = [[SYSTEMS[name].label, measure.share(*results.agreement(name, reference))]
            for name in results.systems() if name != reference]  # fmt: skip
    return f"the same text as {SYSTEMS[reference].label}\n\n" + measure.table(["system", "answers"], rows)


def _number(value: float) -> str:
    if value != value:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


# ------------------------------------------------------------------------------------------------ bars
@dataclass(frozen=True)
class Bar:
    """What was to be reached, in one measurement or in several."""

    what: str
    bound: float
    values: dict[str, float]
    """What was measured, by where."""
    at_most: bool = False

    @property
    def said(self) -> str:
        """In a word or two."""
        known = {where: value for where, value in self.values.items() if value == value}
        missed = [
            where for where, value in known.items() if (value > self.bound if self.at_most else value < self.bound)
        ]
        if not known:
            return "not measured"
        return f"**missed** ({', '.join(missed)})" if missed else "met"


def bars(results: Results) -> Iterator[Bar]:
    """Every bar; the value of one that was not measured is not a number."""

    def frugal(other: str, cell: str, least: int = 1) -> dict[str, float]:
        """How many times as many tokens as another system we give for a second of the processor."""
        clients = [each for each in results.concurrencies() if each >= least]
        return {f"{each} at once": results.ratio(other, "ours", cell, each, "cpu_per_1000") for each in clients}

    for other, bound, cells, least in (
        ("fastchat", 8, LENGTHS, 16), ("serve", 1, LENGTHS, 1), ("continuous", 1, LENGTHS, 1),
        ("generate", 0.8, LENGTHS, 1), ("llama", 1, LENGTHS[:1], 16), ("ours-plain", 3, ("shared",), 16),
    ):  # fmt: skip
        for cell in cells:
            what = f"tokens per CPU second over those of {SYSTEMS[other].label}, {TITLES[cell]}"
            yield Bar(what, bound, frugal(other, cell, least))
    first = results.ratio("ours", "serve", "64", 16, "first_50")
    what = "time to first token over that of transformers serve, prompts of 64 tokens"
    yield Bar(what, 1, {"16 at once": first}, at_most=True)
    what = "worst stream's p99 between tokens over its median, while 2,000 tokens of another are prefilled"
    medians = {name: results.stall("ours", f"over_{name}") for name in ("meanwhile", "before")}
    yield Bar(what, 5, {f"median {name}": value for name, value in medians.items()}, at_most=True)


def bar_table(found: Sequence[Bar]) -> str:
    """Bars beside what was measured."""
    rows = [
        [
            bar.what,
            f"{'≤' if bar.at_most else '≥'} {bar.bound:g}",
            ", ".join(f"{_number(value)} ({where})" for where, value in bar.values.items()),
            bar.said,
        ]
        for bar in found
    ]
    return measure.table(["bar", "", "measured", ""], rows)


# ------------------------------------------------------------------------------------------------ figure
def plot(results: Results, path: str) -> None:
    """CPU seconds per 1,000 tokens by concurrency, a line for each system."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lengths = [cell for cell in LENGTHS if any(row.cell == cell for row in results.rows)]
    if not lengths:
        return
    figure, axes = pyplot.subplots(1, len(lengths), figsize=(5.2 * len(lengths), 4.2), squeeze=False)
    for cell, axis in zip(lengths, axes[0], strict=True):
        for name in results.systems():
            points = [(clients, value) for clients in results.concurrencies()
                      if (value := results.median(name, cell, clients, "cpu_per_1000")) == value]  # fmt: skip
            if points:
                style = {"linewidth": 2.6, "color": "black"} if name == "ours" else {"linewidth": 1.4}
                axis.plot(*zip(*points, strict=True), marker="o", markersize=4, label=SYSTEMS[name].label, **style)
        axis.set(title=TITLES[cell], xlabel="answers at once", xscale="log", yscale="log")
        _ticks(axis.set_xticks, results.concurrencies())
        _ticks(axis.set_yticks, [0.5, 1, 2, 5, 10])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("CPU seconds per 1,000 tokens")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(path, dpi=150)


def _ticks(setter: Callable[..., object], values: Sequence[float]) -> None:
    setter(values, [f"{value:g}" for value in values])
