"""The same tables as the report, in the terminal."""

from collections.abc import Sequence
from pathlib import Path

from vicuna.eval.results import (
    CATEGORY_HEADERS,
    MODEL_HEADERS,
    PAIR_HEADERS,
    Results,
    category_cells,
    model_cells,
    pair_cells,
    pair_sentence,
)
from vicuna.eval.statistics import power


def show(results: Results, page: Path) -> None:
    """Print tables and headlines to standard output."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=False)

    def table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        shown = Table(title=title, title_justify="left")
        for header in headers:
            shown.add_column(header, overflow="fold")
        for row in rows:
            shown.add_row(*row)
        console.print(shown)

    if results.models:
        table(*_upright("Models", MODEL_HEADERS, [model_cells(each) for each in results.models]))
    for pair in results.pairs:
        rows = [category_cells(name, each) for name, each in pair.categories.items()]
        table(f"{pair.model} against {pair.baseline} ({pair.judge})", CATEGORY_HEADERS, rows)
    table(*_upright(f"Pairs ({results.judge})", PAIR_HEADERS, [pair_cells(pair) for pair in results.pairs]))
    for pair in results.pairs:
        print(pair_sentence(pair))
        print(power(pair.overall.scored).sentence())
    print(f"report: {page}")


def _upright(
    title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[str, Sequence[str], Sequence[Sequence[str]]]:
    """A table with a column for each row: many headers fit the width of a terminal only so."""
    columns = list(zip(headers, *rows, strict=True))
    return title, columns[0], columns[1:]
