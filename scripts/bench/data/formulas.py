"""Formulas: TeX made at random, and the HTML that KaTeX would have made of it, as far as a converter can see it.

KaTeX writes each formula twice: as MathML with the TeX source in an annotation, and as spans for the eye
(`katex-mathml`, `katex-html`). The spans here have KaTeX's nesting and classes, not its measures.
"""

import random
import re
from collections.abc import Callable

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\d+|[^\s]")
_SYMBOLS = {
    r"\alpha": "α", r"\beta": "β", r"\gamma": "γ", r"\lambda": "λ", r"\theta": "θ", r"\pi": "π", r"\sigma": "σ",
    r"\infty": "∞", r"\cdot": "⋅", r"\times": "×", r"\le": "≤", r"\ge": "≥", r"\ne": "≠", r"\approx": "≈",
    r"\in": "∈", r"\to": "→", r"\sum": "∑", r"\int": "∫", r"\partial": "∂", r"\nabla": "∇", r"\ldots": "…",
    r"\pm": "±", r"\,": " ", r"\;": " ", r"\{": "{", r"\}": "}", r"\%": "%", r"\log": "log", r"\sin": "sin",
    r"\lim": "lim", r"\max": "max", r"\left": "", r"\right": "", r"\mid": "∣", r"\cap": "∩",
}  # fmt: skip
_OPERATORS = set("+-=<>*/|,;:!()[]") | {"⋅", "×", "≤", "≥", "≠", "≈", "∈", "→", "∑", "∫", "±", "∣", "∩"}


class _Reader:
    """Reads TeX and writes MathML and spans side by side."""

    def __init__(self, tex: str) -> None:
        self.tokens = _TOKEN.findall(tex)
        self.at = 0

    def row(self, end: str = "") -> tuple[str, str]:
        """Everything up to a closing token."""
        made: list[tuple[str, str]] = []
        while self.at < len(self.tokens) and self.tokens[self.at] != end:
            made.append(self._scripts(self._atom()))
        self.at += 1
        return "".join(math for math, _ in made), "".join(spans for _, spans in made)

    def _atom(self) -> tuple[str, str]:
        token = self.tokens[self.at]
        self.at += 1
        if token == "{":
            math, spans = self.row("}")
            return f"<mrow>{math}</mrow>", f'<span class="mord">{spans}</span>'
        if token in _COMMANDS:
            return _COMMANDS[token](self)
        shown = _SYMBOLS.get(token, token.removeprefix("\\"))
        text = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        if token.isdigit():
            return f"<mn>{text}</mn>", f'<span class="mord">{text}</span>'
        if shown in _OPERATORS:
            return f"<mo>{text}</mo>", f'<span class="mrel">{text}</span>{_SPACE}'
        return f"<mi>{text}</mi>", f'<span class="mord mathnormal">{text}</span>'

    def _scripts(self, base: tuple[str, str]) -> tuple[str, str]:
        found: dict[str, tuple[str, str]] = {}
        while self.at < len(self.tokens) and self.tokens[self.at] in ("^", "_"):
            kind = self.tokens[self.at]
            self.at += 1
            found[kind] = self._atom()
        if not found:
            return base
        tag = "msubsup" if len(found) == 2 else "msub" if "_" in found else "msup"
        scripts = [found[kind] for kind in ("_", "^") if kind in found]
        math = f"<{tag}>{base[0]}{''.join(each for each, _ in scripts)}</{tag}>"
        return math, f'<span class="mord">{base[1]}{_stacked([spans for _, spans in scripts])}</span>'


_SPACE = '<span class="mspace" style="margin-right:0.2778em;"></span>'


def _stacked(lines: list[str]) -> str:
    rows = "".join(
        '<span style="top:-3.063em;margin-right:0.05em;"><span class="pstrut" style="height:2.7em;"></span>'
        f'<span class="sizing reset-size6 size3 mtight">{each}</span></span>'
        for each in lines
    )
    return (
        '<span class="msupsub"><span class="vlist-t vlist-t2"><span class="vlist-r"><span class="vlist" '
        f'style="height:0.8141em;">{rows}</span><span class="vlist-s">\u200b</span></span></span></span>'
    )


def _fraction(reader: _Reader) -> tuple[str, str]:
    over, under = reader._atom(), reader._atom()
    line = '<span class="frac-line" style="border-bottom-width:0.04em;"></span>'
    spans = f'<span class="mord"><span class="mfrac">{_stacked([under[1], line, over[1]])}</span></span>'
    return f"<mfrac>{over[0]}{under[0]}</mfrac>", spans


def _root(reader: _Reader) -> tuple[str, str]:
    math, spans = reader._atom()
    drawn = '<svg width="400em" height="1.08em" viewBox="0 0 400000 1080"><path d="M95,702c-2.7,0,-7.17"></path></svg>'
    return f"<msqrt>{math}</msqrt>", f'<span class="mord sqrt">{spans}<span class="hide-tail">{drawn}</span></span>'


def _text(reader: _Reader) -> tuple[str, str]:
    end = reader.tokens.index("}", reader.at)
    words = "".join(reader.tokens[reader.at + 1 : end])
    reader.at = end + 1
    return f"<mtext>{words}</mtext>", f'<span class="mord text"><span class="mord">{words}</span></span>'


_COMMANDS: dict[str, Callable[[_Reader], tuple[str, str]]] = {
    r"\frac": _fraction, r"\sqrt": _root, r"\text": _text, r"\mathrm": _text, r"\mathbb": _text,
}  # fmt: skip


def to_html(tex: str, display: bool) -> str:
    """A formula as a page shows it."""
    math, spans = _Reader(tex).row()
    source = tex.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    wide = ' display="block"' if display else ""
    strut = '<span class="strut" style="height:0.8974em;vertical-align:-0.0833em;"></span>'
    katex = (
        f'<span class="katex"><span class="katex-mathml"><math xmlns="http://www.w3.org/1998/Math/MathML"{wide}>'
        f'<semantics><mrow>{math}</mrow><annotation encoding="application/x-tex">{source}</annotation></semantics>'
        f'</math></span><span class="katex-html" aria-hidden="true"><span class="base">{strut}{spans}</span>'
        f"</span></span>"
    )
    return f'<span class="katex-display">{katex}</span>' if display else katex


# ------------------------------------------------------------------------------------------------ random TeX
_SHAPES = (
    "{v}_{n} = {n}{w}^2 + {n}", r"\frac{{w}}{{v} + {n}}", r"\sqrt{{v}^2 + {w}^2}", r"{g} \le {v}_{i} < {n}",
    r"{v}(x) = \sum_{{i}=1}^{n} {w}_{i} x^{i}", r"\int_0^{n} {v}(t)\,dt = {g}", r"P({v} \mid {w}) \ge \frac{1}{{n}}",
    r"{v}*{w} - {w}*{v} \ne 0", r"O({v} \log {v})", r"\nabla {v} = \left( \frac{\partial {v}}{\partial x}, {n} \right)",
    r"{v} \in \mathbb{R}^{{n}}", r"\lim_{{v} \to \infty} \frac{\sin {v}}{{v}} = 0", r"\{{v} : {v} > {n}\}",
    r"\text{rate} = \frac{{g}_{i}}{{n}\,\text{hours}}", r"e^{-{g} t} \approx 1 - {g} t", r"|{v}| < {n} \cdot |{w}|",
    r"{v}_{{i},{j}} = {v}_{{j},{i}}", r"a_{1}, a_{2}, \ldots, a_{{n}}", r"{n} \times {n} = {v}\%",
)  # fmt: skip


def tex(rng: random.Random) -> str:
    """A random formula."""
    values = {
        "{v}": rng.choice("abcfghkmpquvxyz"), "{w}": rng.choice("ABCFGHKMNQTXYZ"), "{i}": "i", "{j}": "j",
        "{n}": str(rng.randint(2, 99)), "{g}": rng.choice((r"\alpha", r"\beta", r"\gamma", r"\lambda", r"\theta")),
    }  # fmt: skip
    made = rng.choice(_SHAPES)
    for slot, value in values.items():
        made = made.replace(slot, value)
    return made
