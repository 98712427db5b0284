"""Tables of a page → rows of cells that line up."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from vicuna.data.markdown import dom
from vicuna.data.markdown.dom import Element

Grid = list[list[Element | None]]
"""Rows of cells, all of the same length; None where a cell that spans columns or rows reaches, or where none is."""

_MOST = 100
"""Most columns or rows that one cell may span."""
_DEEPEST = 100
_PARTS = frozenset({"thead", "tbody", "tfoot", "colgroup"})
_DELIMITERS = {"left": ":---", "center": ":---:", "right": "---:"}


@dataclass
class Table:
    """What a `table` element holds."""

    rows: list[list[Element]] = field(default_factory=list)
    """The cells of each row."""
    stray: list[str | Element] = field(default_factory=list)
    """Text and elements that stand in no cell, in order."""


def read(element: Element) -> Table:
    """The rows of a table, and what stands outside of its cells."""
    table = Table()
    _collect(element, table, 0)
    return table


def _collect(element: Element, table: Table, depth: int) -> None:
    table.stray.append(element.text or "")
    for child in element:
        if child.tag in _PARTS and depth < _DEEPEST:
            _collect(child, table, depth + 1)
        elif child.tag in ("td", "th"):  # a row lost its tag
            table.rows.append([child])
        elif child.tag == "tr":
            _collect_row(child, table)
        elif child.tag != "col" and not dom.is_debris(child):
            table.stray.append(child)
        table.stray.append(child.tail or "")


def _collect_row(row: Element, table: Table) -> None:
    cells = [each for each in row if each.tag in ("td", "th")]
    if cells:
        table.rows.append(cells)
    table.stray.append((row.text or "") + " ".join(each.tail or "" for each in row))
    table.stray += [each for each in row if each.tag not in ("td", "th") and not dom.is_debris(each)]


def grid(rows: list[list[Element]]) -> Grid:
    """Put the cells where a browser shows them: beside cells that span columns, below those that span rows."""
    if not any("rowspan" in cell.attrib or "colspan" in cell.attrib for row in rows for cell in row):
        width = max(map(len, rows), default=0)
        return [[*row, *[None] * (width - len(row))] for row in rows]
    placed: list[dict[int, Element | None]] = [{} for _ in rows]
    for at, row in enumerate(rows):
        column = 0
        for cell in row:
            while column in placed[at]:
                column += 1
            wide, high = _span(cell, "colspan"), _span(cell, "rowspan")
            for below in placed[at : at + high]:
                below.update(dict.fromkeys(range(column, column + wide)))
            placed[at][column] = cell
            column += wide
    width = 1 + max((column for each in placed for column, cell in each.items() if cell is not None), default=-1)
    return [[each.get(column) for column in range(width)] for each in placed]


def _span(cell: Element, name: str) -> int:
    value = cell.get(name) or "1"
    return min(max(int(value), 1), _MOST) if value.isascii() and value.isdigit() and len(value) < 9 else 1


def pipe_table(cells: Grid, text_of: Callable[[Element], str]) -> str:
    """The table in markdown, its first row as the head; "" where there are no cells."""
    if not cells or not cells[0]:
        return ""
    lines = ["| " + " | ".join("" if cell is None else text_of(cell) for cell in row) + " |" for row in cells]
    columns = zip(*cells, strict=True)
    aligns = [_align(next((cell for cell in column if cell is not None), None)) for column in columns]
    return "\n".join([lines[0], "| " + " | ".join(aligns) + " |", *lines[1:]])


def _align(cell: Element | None) -> str:
    """The delimiter row's entry for a column, from its first cell."""
    if cell is None:
        return "---"
    found = re.search(r"text-align:\s*(\w+)", cell.get("style") or "")
    align = found[1] if found else cell.get("align") or ""
    return _DELIMITERS.get(align.lower(), "---")
