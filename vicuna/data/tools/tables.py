"""The tables of `stats`: the same rows for the terminal, for the page and for programs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from vicuna.data.tools.tally import Spread, Tally

MOST = 12
"""Rows of a list of names; the rest become one row."""
LENGTHS = ("", "sum", "mean", "least", "10%", "median", "90%", "most")

Table = tuple[str, Sequence[str], list[list[Any]]]
"""Title, headers, rows."""


def tables(tally: Tally) -> Iterator[Table]:
    """All tables that there are numbers for."""
    yield "Conversations", ("", "count", "share"), _overview(tally)
    yield "Length of a conversation", LENGTHS, [[name, *_spread(each)] for name, each in spreads(tally)]
    if tally.faults:
        rows = [[fault, f"{n:,}", _share(n, tally.conversations)] for fault, n in tally.faults.most_common()]
        yield "Cannot be trained on as they are", ("because", "conversations", "share"), rows
    for title, counts, nothing in named(tally):
        yield title, (title.lower().rstrip("s"), "conversations", "share"), _names(counts, nothing)


def named(tally: Tally) -> Iterator[tuple[str, Counter[str], str]]:
    """Counts by name: title, counts, and what a name that is empty means."""
    if tally.languages:
        yield "Languages", tally.languages, "too little prose to tell"
    if set(tally.models) - {""}:
        yield "Models", tally.models, "not named"
    yield "Sources", tally.sources, "not named"


def spreads(tally: Tally) -> Iterator[tuple[str, Spread]]:
    """Distributions with what they count."""
    yield "rounds", tally.rounds
    yield "characters", tally.characters
    yield "words", tally.words
    yield "characters, a question", tally.questions
    yield "characters, an answer", tally.answers
    if tally.tokens:
        yield "tokens", tally.tokens.sample
        yield "tokens trained on", tally.tokens.targets


def _overview(tally: Tally) -> list[list[Any]]:
    rows = [("conversations", tally.conversations), ("with a code block", tally.code)]
    rows += [("that cannot be trained on as they are", tally.faulty)] if tally.faulty else []
    if tally.tokens:
        rows.append((f"longer than {tally.tokens.limit:,} tokens ({tally.tokens.template})", tally.tokens.too_long))
        if tally.tokens.unsayable:
            rows.append((f"that {tally.tokens.template} cannot say", tally.tokens.unsayable))
    cells = [[name, f"{n:,}", _share(n, tally.conversations)] for name, n in rows]
    if tally.unreadable:
        cells.append(["records that cannot be read", f"{tally.unreadable:,}", ""])
    turns = tally.roles.total()
    return cells + [[f"turns of {role}", f"{n:,}", _share(n, turns)] for role, n in sorted(tally.roles.items())]


def _spread(spread: Spread) -> list[str]:
    marks = [f"{spread.percentile(share):,}" for share in (0.1, 0.5, 0.9)]
    return [f"{spread.total:,}", f"{spread.mean:,.1f}", f"{spread.least:,}", *marks, f"{spread.most:,}"]


def _names(counts: Counter[str], nothing: str) -> list[list[str]]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ordered if len(ordered) <= MOST + 1 else ordered[:MOST]
    rows = [[name or nothing, f"{n:,}", _share(n, counts.total())] for name, n in shown]
    if rest := ordered[len(shown) :]:
        n = sum(count for _, count in rest)
        rows.append([f"{len(rest):,} others", f"{n:,}", _share(n, counts.total())])
    return rows


def _share(n: int, total: int) -> str:
    return f"{n / total:.1%}" if total else ""


def show(tally: Tally) -> None:
    """Print all tables to standard output."""
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    console = Console(highlight=False)
    for title, headers, rows in tables(tally):
        grid = Grid(title=title, title_justify="left")
        for i, header in enumerate(headers):
            grid.add_column(header, justify="right" if i else "left", no_wrap=bool(i), overflow="fold")
        for row in rows:
            grid.add_row(*(Text(str(cell)) for cell in row))
        console.print(grid)


def as_tree(tally: Tally) -> dict[str, Any]:
    """All numbers for programs."""
    tree: dict[str, Any] = {
        "conversations": tally.conversations,
        "unreadable": tally.unreadable,
        "faulty": tally.faulty,
        "faults": dict(tally.faults.most_common()),
        "with_code": tally.code,
        "turns": dict(sorted(tally.roles.items())),
        "lengths": {name: _numbers(each) for name, each in spreads(tally)},
    }
    tree |= {title.lower(): dict(counts.most_common()) for title, counts, _ in named(tally)}
    if tally.tokens:
        tokens = tally.tokens
        tree["tokens"] = {"template": tokens.template, "max_length": tokens.limit}
        tree["tokens"] |= {"too_long": tokens.too_long, "unsayable": tokens.unsayable}
    return tree


def _numbers(spread: Spread) -> dict[str, float]:
    marks = {f"p{share:.0%}".rstrip("%"): spread.percentile(share) for share in (0.1, 0.5, 0.9)}
    return {"total": spread.total, "mean": spread.mean, "least": spread.least, **marks, "most": spread.most}
