"""The page of `stats`."""

from collections import Counter
from typing import Any

from vicuna.data.tools.tables import MOST, named, tables
from vicuna.data.tools.tally import Spread, Tally
from vicuna.page import Section, cards, figure, new_figure, page, table

_BINS = 40


def stats_page(tally: Tally) -> str:
    """One page that needs no network: headline numbers, charts, and the tables of the terminal."""
    headlines = [
        (f"{tally.conversations:,}", "conversations"),
        (f"{tally.rounds.total:,}", "rounds"),
        (f"{tally.characters.total:,}", "characters"),
        (f"{tally.words.total:,}", "words"),
    ]
    if tally.tokens:
        headlines.append((f"{tally.tokens.sample.total:,}", "tokens"))
        headlines.append((f"{tally.tokens.targets.total:,}", "tokens trained on"))
    charts = {"Length of a conversation": _lengths(tally)} | {
        title: _bars(counts, title, nothing) for title, counts, nothing in named(tally)
    }
    sections = [Section(title, table(headers, rows) + charts.get(title, "")) for title, headers, rows in tables(tally)]
    return page("What is in the conversations", sections, lead=cards(headlines))


def _lengths(tally: Tally) -> str:
    if not tally.conversations:
        return ""
    parts = [_histogram(tally.rounds, "rounds of a conversation", log=False)]
    if tally.tokens and tally.tokens.sample.n:
        parts.append(_histogram(tally.tokens.sample, "tokens of a conversation", line=tally.tokens.limit))
    parts.append(_histogram(tally.characters, "characters of a conversation"))
    drawing, axes = new_figure()
    for spread, name in ((tally.questions, "questions"), (tally.answers, "answers")):
        _steps(axes, spread, label=name)
    axes.set_xlabel("characters of a message")
    axes.set_ylabel("messages")
    axes.legend(frameon=False)
    return "".join(parts) + figure(drawing, "Length of questions and answers.")


def _histogram(spread: Spread, what: str, *, log: bool = True, line: int = 0) -> str:
    drawing, axes = new_figure()
    if log:
        _steps(axes, spread)
    else:
        last = max(spread.percentile(0.99), 2)
        values = Counter[int]()
        for value, n in spread.counts.items():
            values[min(value, last + 1)] += n
        axes.bar(list(values), list(values.values()))
        axes.set_xlim(-0.5, last + 1.7)
    if line:
        axes.axvline(line, color="#888", linewidth=1, linestyle="--")
    axes.set_xlabel(what)
    axes.set_ylabel("conversations")
    caption = f"{what.capitalize()}."
    if line:
        caption += f" The dashed line is the context of {line:,}."
    if not log and spread.most > last + 1:
        caption += f" The last bar holds all with more than {last}."
    return figure(drawing, caption)


def _steps(axes: Any, spread: Spread, label: str = "") -> None:
    """A histogram with bins that grow as the values do."""
    import numpy as np

    top = max(spread.most, 10)
    edges = np.unique(np.geomspace(1, top + 1, _BINS).astype(int))
    edges = np.concatenate([[0], edges])
    values = list(spread.counts)
    axes.hist(values, bins=edges, weights=[spread.counts[value] for value in values], label=label, alpha=0.6)
    axes.set_xscale("symlog", linthresh=10)
    if not label:
        axes.set_xlim(left=0.8 * spread.least)


def _bars(counts: Counter[str], title: str, nothing: str) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST]
    if len(ordered) < 2:
        return ""
    drawing, axes = new_figure(8, 0.6 + 0.3 * len(ordered))
    axes.barh([_short(name or nothing) for name, _ in ordered], [n for _, n in ordered])
    axes.invert_yaxis()
    axes.set_xlabel("conversations")
    axes.grid(False, axis="y")
    return figure(drawing, f"{title}, the most frequent ones.")


def _short(name: str) -> str:
    text = name.replace("$", r"\$")  # matplotlib reads formulas between dollars
    return text if len(text) <= 40 else f"…{text[-39:]}"
