"""Self-contained HTML pages: one file with tables and drawn figures, readable without a network, light and dark."""

import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

COLOURS = ("#4269d0", "#efb118", "#3ca951", "#ff725c", "#a463f2", "#6cc5b0", "#97bbf5", "#9c6b4e")
"""The house palette, in the order in which series take their colours."""

_STYLE = """
:root{--ink:#1d2330;--soft:#5c6675;--line:#dde2ea;--back:#fff;--card:#f7f8fb;--mark:#4269d0}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ef;--soft:#9aa4b5;--line:#323a49;--back:#141821;--card:#1c2230}
 figure svg{background:#fff;border-radius:8px}}
*{box-sizing:border-box}
body{margin:0;color:var(--ink);background:var(--back);font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1080px;margin:0 auto;padding:28px 20px 80px}
h1{font-size:28px;line-height:1.2;margin:0 0 6px}h2{font-size:20px;margin:38px 0 10px}
p{max-width:76ch}.soft,figcaption{color:var(--soft);font-size:14px}
table{border-collapse:collapse;margin:10px 0;font-variant-numeric:tabular-nums;display:block;overflow-x:auto}
th,td{padding:6px 14px 6px 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{font-weight:600}td.number,th.number{text-align:right}
figure{margin:14px 0}figure svg{max-width:100%;height:auto}
pre{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 12px;overflow:auto;
 white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.5 ui-monospace,Menlo,Consolas,monospace;margin:6px 0}
table.bars{display:table;width:100%}td.bar{width:45%;min-width:90px;padding-right:0;vertical-align:middle}
td.bar i{display:block;height:12px;border-radius:3px;background:var(--mark);min-width:1px}
svg.columns{background:none!important;width:100%;fill:var(--mark);font-size:12px}svg.columns text{fill:var(--soft)}
svg.columns line{stroke:var(--line)}
figure.plain svg{background:none;border-radius:0;fill:var(--ink);width:100%}
.cards{display:flex;flex-wrap:wrap;gap:12px;margin:14px 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:10px 16px;min-width:130px}
.card b{display:block;font-size:22px;line-height:1.3}.card span{color:var(--soft);font-size:13px}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:14px}.pair>*{min-width:0}
.narrow{position:absolute;width:0;height:0;overflow:hidden;visibility:hidden}
@media (max-width:720px){.pair{grid-template-columns:1fr}.card{flex:1 1 40%}
 .narrow{position:static;width:auto;height:auto;visibility:visible}
 .wide{position:absolute;width:0;height:0;overflow:hidden;visibility:hidden}}
"""


@dataclass(frozen=True)
class Section:
    """A part of a page under its own heading."""

    title: str
    """Heading; plain text."""
    html: str
    """Body; HTML that is already escaped where it must be."""


def page(title: str, sections: Sequence[Section], *, lead: str = "", head: str = "") -> str:
    """A whole HTML document.

    Args:
        title: heading and window title; plain text.
        sections: the parts in order.
        lead: HTML under the heading, before the first section.
        head: further style or script elements.
    """
    name = html.escape(title)
    body = "".join(f"<section><h2>{html.escape(each.title)}</h2>{each.html}</section>\n" for each in sections)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}</style>{head}</head>\n<body><main><h1>{name}</h1>{lead}\n{body}</main></body></html>\n"
    )


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An HTML table; cells are escaped, and columns that hold only numbers stand on the right."""
    numeric = [_is_numeric([row[i] for row in rows]) for i in range(len(headers))]

    def cells(tag: str, row: Sequence[Any]) -> str:
        marks = [' class="number"' if each else "" for each in numeric]
        return "".join(f"<{tag}{m}>{html.escape(str(c))}</{tag}>" for c, m in zip(row, marks, strict=True))

    lines = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells('th', headers)}</tr></thead><tbody>{lines}</tbody></table>"


def bars(
    headers: Sequence[str], rows: Sequence[Sequence[Any]], values: Sequence[float], colours: Sequence[str] = ()
) -> str:
    """A table like `table` whose rows end in bars.

    Args:
        headers, rows: as in `table`, without the bars.
        values: length of each row's bar, in any unit; at least 0.
        colours: of each row's bar; the house colour where there are none.
    """
    most = max(values, default=0) or 1
    ends = []
    for at, value in enumerate(values):
        colour = f";background:{colours[at]}" if colours else ""
        ends.append(f'<td class="bar"><i style="width:{100 * value / most:.1f}%{colour}"></i></td></tr>')
    parts = table((*headers, ""), [(*row, "") for row in rows]).split("<td></td></tr>")
    drawn = "".join(part + end for part, end in zip(parts, [*ends, ""], strict=True))
    return drawn.replace("<table>", '<table class="bars">', 1)


def columns(counts: Sequence[int], start: float, end: float, what: str, of: str, caption: str = "") -> str:
    """A histogram as inline SVG.

    Args:
        counts: of bins of the same width, in order.
        start, end: where the first bin begins and the last one ends.
        what: what is measured; stands under the columns.
        of: what is counted; stands over them.
        caption: stands under the figure.
    """
    left, top, wide, high = 60, 24, 720, 170
    most = max(counts, default=0) or 1
    each = wide / max(len(counts), 1)
    drawn = []
    for share in (0, 0.5, 1):
        y = top + high * (1 - share)
        drawn.append(f'<line x1="{left}" x2="{left + wide}" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawn.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{most * share:,.0f}</text>')
    for at, count in enumerate(counts):
        size = high * count / most
        place = f'x="{left + at * each:.1f}" y="{top + high - size:.1f}" width="{each * 0.92:.1f}" height="{size:.1f}"'
        ends = f"{start + (end - start) * at / len(counts):,.0f}-{start + (end - start) * (at + 1) / len(counts):,.0f}"
        drawn.append(f"<rect {place}><title>{ends}: {count:,}</title></rect>")
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = left + wide * share
        drawn.append(
            f'<text x="{x:.1f}" y="{top + high + 18}" text-anchor="middle">{start + (end - start) * share:,.0f}</text>'
        )
    drawn.append(f'<text x="{left + wide / 2}" y="{top + high + 38}" text-anchor="middle">{html.escape(what)}</text>')
    drawn.append(f'<text x="0" y="12">{html.escape(of)}</text>')
    svg = f'<svg class="columns" viewBox="0 0 800 240" role="img">{"".join(drawn)}</svg>'
    return f"<figure>{svg}{_caption(caption)}</figure>"


def cards(values: Sequence[tuple[str, str]]) -> str:
    """Headline numbers: (value, what it is), both plain text."""
    inner = "".join(f"<div class=card><b>{html.escape(v)}</b><span>{html.escape(w)}</span></div>" for v, w in values)
    return f'<div class="cards">{inner}</div>'


def new_figure(width: float = 8, height: float = 3.2) -> tuple[Any, Any]:
    """A matplotlib figure in the house style.

    Args:
        width, height: inches; 8 fills the page.

    Returns:
        (figure, axes); draw on the axes, then hand the figure to `figure`.
    """
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    drawing = Figure(figsize=(width, height), layout="constrained")
    axes = drawing.subplots()
    axes.set_prop_cycle(color=COLOURS)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    return drawing, axes


def figure(drawing: Any, caption: str = "") -> str:
    """A matplotlib figure as inline SVG; the same figure gives the same bytes."""
    return f"<figure>{_svg(drawing)}{_caption(caption)}</figure>"


def themed(draw: Callable[[float], Any], widths: Sequence[float], caption: str = "") -> str:
    """A matplotlib figure without a ground of its own: what it draws in black has the colour of the page's text.

    Args:
        draw: width in inches → figure.
        widths: one width, or one for wide windows (10.8 fills the page) and one for phones (4.6).
        caption: stands under the figure.
    """
    drawn = [_svg(draw(width)) for width in widths]
    for colour, role in _ROLES.items():
        drawn = [svg.replace(colour, role) for svg in drawn]
    if len(drawn) > 1:  # hidden in a way that leaves the glyphs, which the two share, usable
        drawn = [f'<div class="{name}">{svg}</div>' for name, svg in zip(("wide", "narrow"), drawn, strict=True)]
    return f'<figure class="plain">{"".join(drawn)}{_caption(caption)}</figure>'


_ROLES = {"#000000": "var(--ink)", "#ffffff": "none", "#b0b0b0": "var(--soft)"}
"""matplotlib's colours of text and lines, of the ground and of the grid → those of the page."""


def _svg(drawing: Any) -> str:
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "vicuna", "svg.fonttype": "path"}):
        drawing.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    return svg[svg.index("<svg") :]


def _caption(text: str) -> str:
    return f"<figcaption>{html.escape(text)}</figcaption>" if text else ""


_NUMBER = re.compile(r"[+\-−]?\d[\d,]*(\.\d+)?%?")
_NOTHING = ("", "-", "–")
"""What a cell holds where there is no number to show."""


def _is_numeric(column: Sequence[Any]) -> bool:
    """Whether a column holds numbers, or texts of digits with an optional % sign; cells may be empty, but not all."""
    cells = [cell for cell in column if str(cell) not in _NOTHING]
    return bool(cells) and all(_is_number(cell) for cell in cells)


def _is_number(cell: Any) -> bool:
    if isinstance(cell, str):
        return _NUMBER.fullmatch(cell) is not None
    return isinstance(cell, int | float) and not isinstance(cell, bool)
