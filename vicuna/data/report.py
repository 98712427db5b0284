"""What a run did, for people: a table in the terminal and a page with charts and examples."""

import bisect
import html
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vicuna.data.ledger import Books
from vicuna.data.outcome import Example
from vicuna.data.verdicts import Decision
from vicuna.files import write_text
from vicuna.manifest import Manifest
from vicuna.page import COLOURS, Section, bars, cards, columns, page, table

BINS = 40
"""Columns of the chart of lengths."""


def show(made: Manifest, out: Path) -> None:
    """Print the counts of a finished dataset folder."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    facts = made.facts
    title = f"{out}: {facts['samples']:,} samples from {facts['conversations_in']:,} conversations"
    grid = Table(title=escape(title))
    grid.add_column("rounds")
    grid.add_column("count", justify="right")
    grid.add_column("share", justify="right")
    for name, count in _account(facts):
        grid.add_row(escape(name), f"{count:,}", f"{count / max(facts['rounds_in'], 1):.1%}")
    Console().print(grid)
    print(balance(facts))
    if facts.get("tokens"):
        print(f"{facts['tokens']:,} tokens with template {facts['template']}, at most {facts['max_length']} a sample")
    print(f"report: {out / 'report.html'}")


def balance(facts: Mapping[str, Any]) -> str:
    """The books in one sentence."""
    kept, dropped = f"{facts['rounds_kept']:,} in samples", f"{facts['rounds_dropped']:,} in the ledger"
    return f"{facts['rounds_in']:,} rounds in = {kept} + {dropped}"


def _account(facts: Mapping[str, Any]) -> list[tuple[str, int]]:
    dropped = sorted(facts["dropped"].items(), key=lambda item: -item[1])
    return [("read", facts["rounds_in"]), *dropped, ("kept", facts["rounds_kept"])]


def write_report(path: Path, books: Books, decision: Decision, facts: Mapping[str, Any]) -> None:
    """Write the page: counts, charts, and messages before and after."""
    lead = cards(
        [
            (f"{facts['conversations_in']:,}", "conversations read"),
            (f"{facts['rounds_in']:,}", "rounds read"),
            (f"{facts['rounds_kept']:,}", "rounds kept"),
            (f"{facts['rounds_dropped']:,}", "rounds dropped"),
            (f"{facts['samples']:,}", "samples written"),
        ]
    )
    sections = [Section("The books balance", _balance_html(books, facts)), Section("Dropped rounds", _drops(books))]
    if books.tokens:
        sections.append(Section("Lengths", _lengths(books, facts)))
    if books.languages:
        sections.append(Section("Languages", _languages(books)))
    sections.append(Section("Sources", _sources(books)))
    if decision.sizes:
        sections.append(Section("Near-duplicates", _near(decision)))
    if books.replaced:
        sections.append(Section("Personal data", _replaced(books)))
    if books.examples:
        examples = sorted(books.examples, key=lambda each: each.kind)
        sections.append(Section("Before and after", "".join(map(_example, examples))))
    write_text(path, page("Cleaned conversations", sections, lead=lead))


def _balance_html(books: Books, facts: Mapping[str, Any]) -> str:
    text = f"<p>{html.escape(balance(facts))}. Each dropped round has a line in <code>ledger.jsonl</code>.</p>"
    for place in facts.get("damaged", ()):
        text += f"<p><b>Broken off:</b> {html.escape(place)}</p>"
    if books.truncated:
        text += f"<p>{books.truncated:,} samples had the end of an answer cut off to fit.</p>"
    if books.roles:
        names = ", ".join(f"{html.escape(name)} ({n:,})" for name, n in sorted(books.roles.items()))
        text += f"<p>Turns under other role names: {names}.</p>"
    return text


def _drops(books: Books) -> str:
    if not books.dropped:
        return "<p>None.</p>"
    rows = sorted(books.dropped.items(), key=lambda item: (-item[1], item[0]))
    total = max(books.rounds_in, 1)
    cells = [(*name.partition(": ")[::2], n, f"{n / total:.1%}") for name, n in rows]
    of_stage = [name.partition(": ")[0] for name, _ in rows]
    stages = sorted(set(of_stage))
    colours = [COLOURS[stages.index(stage) % len(COLOURS)] for stage in of_stage]
    return bars(("stage", "reason", "rounds", "share"), cells, [n for _, n in rows], colours)


def _lengths(books: Books, facts: Mapping[str, Any]) -> str:
    lengths = sorted(books.tokens)
    below = list(itertools.accumulate(books.tokens[length] for length in lengths))
    marks = [(f"{share:.0%}", lengths[bisect.bisect_left(below, share * below[-1])]) for share in (0.1, 0.5, 0.9)]
    bins = [0] * BINS
    for length in lengths:
        bins[min(BINS * length // facts["max_length"], BINS - 1)] += books.tokens[length]
    what = f"tokens in a sample ({facts['template']}, at most {facts['max_length']})"
    drawn = columns(bins, 0, facts["max_length"], what, "samples", "Length of the samples")
    rows = [("shortest", lengths[0]), *((f"{name} are no longer", n) for name, n in marks), ("longest", lengths[-1])]
    return table(("", "tokens"), [*rows, ("all samples", facts["tokens"])]) + drawn


def _languages(books: Books) -> str:
    rows = sorted(books.languages.items(), key=lambda item: (-item[1], item[0]))
    cells = [(code or "too little prose to tell", n) for code, n in rows]
    note = "<p>Of the conversations that reached the language filter; told from prose, code left out.</p>"
    return note + bars(("language", "conversations"), cells, [n for _, n in cells])


def _sources(books: Books) -> str:
    rows = [(name, books.read[name], books.kept[name]) for name in sorted(books.read)]
    return table(("file", "rounds read", "rounds kept"), rows)


def _near(decision: Decision) -> str:
    clusters, together = sum(decision.sizes.values()), sum(size * n for size, n in decision.sizes.items())
    note = f"<p>{clusters:,} clusters hold {together:,} conversations; one of each stays.</p>"
    cells = [(f"{size} conversations", n) for size, n in sorted(decision.sizes.items())]
    shown = [(ids[0], ", ".join(ids[1:11]) + (", ..." if len(ids) > 11 else "")) for ids in decision.shown]
    largest = table(("stays", "dropped in its favour"), shown)
    return note + bars(("size", "clusters"), cells, [n for _, n in cells]) + largest


def _replaced(books: Books) -> str:
    rows = sorted(books.replaced.items(), key=lambda item: (-item[1], item[0]))
    return bars(("kind", "placeholders"), rows, [n for _, n in rows])


def _example(example: Example) -> str:
    before, after = html.escape(example.before), html.escape(example.after)
    title = f"{html.escape(example.kind)}, {html.escape(example.where)}"
    return f'<p class="soft">{title}</p><div class="pair"><pre>{before}</pre><pre>{after}</pre></div>'
