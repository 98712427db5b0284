"""Random markdown out of every construct that a chatbot's answers have, hard ones among them."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import formulas
import prose

_CODE = {
    "python": (
        'import {w}\n\n\ndef {a}({b}={n}):\n    """Return the {w}."""\n    found = {{}}\n    for i, x in '
        'enumerate({b}):\n'
        "        if x is None or x < {n}:\n            continue\n        found[i] = x ** 2  # {p}\n\n    "
        "return found\n\n\n"
        'if __name__ == "__main__":\n    print({a}([1, *range({n})]))\n',
        "class {W}:\n    def __init__(self, {b}: int = {n}) -> None:\n        self.{b} = {b}\n\n    @property\n"
        "    def {a}(self) -> list[int]:\n        return [x * y for x, y in zip(self.{b}, range({n})) if x > y]\n",
        '>>> {a}("a*b*c", _{b}=`{w}`)\n{n}\n',
    ),
    "javascript": (
        "const {a} = async ({b}) => {{\n  const reply = await fetch(`/{w}/${{{b}}}?n={n}`);\n  if (!reply.ok && "
        "reply.status !== {n}) throw new Error('<bad> \"{w}\"');\n  return reply.json();\n}};\n\n{a}(1).then(x => "
        "console.log(x));\n",
    ),
    "html": (
        '<!DOCTYPE html>\n<html>\n  <body>\n    <div class="{w}">\n      <p>{p} &amp; more &lt;{n}&gt;</p>\n      '
        '<button onclick="{a}({n})">Copy code</button>\n    </div>\n  </body>\n</html>\n',
    ),
    "bash": (
        '#!/bin/bash\nset -e\nfor f in *.{w}; do\n\tmv "$f" "/tmp/{a}/${{f%.log}}.{n}"\ndone\necho "$(ls | wc '
        '-l) {p}"\n',
        "pip install {w} && {a} --{b}={n}\n",
    ),
    "sql": (
        "SELECT t.{a}, COUNT(*) AS n\nFROM {w}s t\nLEFT JOIN {b} o ON o.id = t.id\nWHERE o.total >= {n} AND "
        "t.x <> 'a_b'\n"
        "GROUP BY t.{a}\nHAVING COUNT(*) > {n};\n",
    ),
    "cpp": (
        "#include <iostream>\n#include <vector>\n\nint main() "
        "{{\n    std::vector<int> {a}({n}, 0);\n    for (auto& x : {a}) "
        "x <<= 1;\n    std::cout << {a}[0] << '\\n';  // {p}\n    return 0;\n}}\n",
    ),
    "json": ('{{\n  "{a}": [{n}, 2],\n  "{w}": {{"name": "{p}", "ok": true, "next": null}}\n}}\n',),
    "makefile": ("all: {w}\n\n{w}: main.o\n\tgcc -o $@ $< -l{b}\n\nclean:\n\trm -f *.o\n",),
    "yaml": ('services:\n  {w}:\n    image: "app:{n}"\n    ports:\n      - "{n}:80"\n    # {p}\n    key: *{b}\n',),
    "rust": (
        "fn {a}<T: Ord>(xs: &mut Vec<T>) -> Option<&T> {{\n    xs.sort();\n    xs.iter().nth({n})\n}}\n\n\n\n"
        "fn main() {{}}\n",
    ),
    "diff": ("--- a/{w}.py\n+++ b/{w}.py\n@@ -1,3 +1,3 @@\n def {a}():\n-    return {n}\n+    return {b}\n",),
    "latex": ("\\begin{{align}}\n  {w}_{{1}} &= \\frac{{1}}{{{n}}} \\\\\n  x^2 &\\le {n}\n\\end{{align}}\n",),
    "": (
        "{w}/\n├── {a}/\n│   └── main.py\n└── README.md\n",
        "{a} -> {b} -> done\n    (indented {n})\n\n\n* not a list\n# not a heading\n1. not a number\n",
        "    the first line keeps its indent ({n})\n  and the second its own\n",
        "trailing spaces   \n\n\n\nand blank lines, {n} | {w} | `{a}` | <{b}>\n",
    ),
}  # fmt: skip
_LITERAL = (
    "Use \\*{a} and \\_\\_{w}\\_\\_ literally; 2\\*{n}\\*4 and a\\_b\\_c too.",
    "1\\. not a list, \\# not a heading, \\- not a bullet, \\> not a quote, \\| not a table.",
    "\\# {p}\n\\- {p}\n\\+ {p}\n{n}\\. {p}",
    "The tags \\<div> and \\</{w}> are HTML, \\&amp; is an entity; AT&T and R&D are not.",
    "The path C:\\\\{w}\\\\{a} and the pattern `\\d+\\.\\d*|[^{w}]`.",
    "A [link *with* `{a}`](https://example.com/{w}_(x)) and <https://example.com/{w}_y_z?a=1&b=2>.",
    "Two spaces  \nbreak this line, and a backslash\\\nbreaks that one ({n}).",
    "Snake_case_{w} and 5 * {n} * 2 stay, [brackets] too, `` a`b `` and `` `{a}` `` as well.",
    "**{p}**{n} and *{w}*s join words; ***{p}*** is both; ~~{w}~~ is gone; **a *b* c**.",
    "> {n} is less; x < {n} > y && z; costs ${n} to $2{n}; {n}% ~ {n}",
    '![{p}](https://example.com/{w}.png) shows it. [{p}](https://example.com/{a} "{w} & more")',
    "{p}\\\n\\\n{p}",
    "Email \\<{w}@example.com> or ask @{w} (#{n}): \"quotes\" — dashes… and 'more'.",
)


@dataclass
class Writer:
    """Writes blocks of markdown; formulas are marks (see dom.MARK) whose TeX is in `tex`."""

    rng: random.Random
    maths: float = 0.12
    """Share of sentences with a formula in them."""
    tex: list[str] = field(default_factory=list)

    def answer(self, least: int, most: int, hard: float) -> str:
        """Some blocks; `hard` is the share of those that converters get wrong."""
        count = self.rng.randint(least, most)
        chosen = [self.rng.choice(_HARD if self.rng.random() < hard else _PLAIN) for _ in range(count)]
        return "\n\n".join(make(self) for make in chosen)

    def filled(self, template: str) -> str:
        """A template with its slots filled: a, b names; w word, W class; p words; n number."""
        rng = self.rng
        word = prose.word(rng)
        return template.format(
            a=prose.name(rng).strip("_"), b=prose.name(rng).strip("_"), w=word, W=word.capitalize(),
            p=prose.phrase(rng), n=rng.randint(2, 99),
        )  # fmt: skip

    def formula(self, display: bool = False) -> str:
        """The mark of a new formula."""
        self.tex.append(formulas.tex(self.rng))
        return f"{chr(0xE000 + display)}{len(self.tex) - 1}\ue002"

    def spans(self, least: int, most: int) -> str:
        """A line of sentences with code, emphasis, links and formulas in it."""
        return " ".join(self._span() for _ in range(self.rng.randint(least, most)))

    def _span(self) -> str:
        rng, said = self.rng, prose.sentence(self.rng)
        kind = rng.choice((12, 13)) if rng.random() < self.maths else rng.randrange(12)
        if kind < 6:
            return said
        extra = {
            6: lambda: f"Set `{prose.name(rng)}` to `{rng.randint(0, 9)}`.",
            7: lambda: f"**{prose.phrase(rng).capitalize()}** matters most here.",
            8: lambda: f"This is *{prose.word(rng)}*, not *{prose.word(rng)}*.",
            9: lambda: f"See [the {prose.phrase(rng)}](https://example.com/{prose.word(rng)}?q={rng.randint(1, 99)}).",
            10: lambda: (
                f"Call `{prose.name(rng)}({prose.word(rng)}=*args)` if {prose.word(rng)} < {rng.randint(2, 9)}."
            ),
            11: lambda: f"Use {rng.randint(2, 9)} * {rng.randint(2, 9)} or ${rng.randint(2, 9)} per {prose.word(rng)}.",
            12: lambda: f"By symmetry {self.formula()} holds as well.",
            13: lambda: f"Since {self.formula()}, we also have {self.formula()} there.",
        }
        return f"{said} {extra[kind]()}"

    # -------------------------------------------------------------------------------------------- blocks
    def paragraph(self) -> str:
        return self.spans(1, 4)

    def plain_paragraph(self) -> str:
        return prose.sentences(self.rng, 2, 5)

    def heading(self) -> str:
        extra = self.rng.choice(("", "", " #3", f" in `{prose.name(self.rng)}`", f": *{prose.word(self.rng)}*"))
        return "#" * self.rng.randint(1, 4) + " " + prose.phrase(self.rng).capitalize() + extra

    def code(self) -> str:
        language = self.rng.choice(("python", "python", "javascript", "bash", *_CODE))
        return f"```{language}\n{self.filled(self.rng.choice(_CODE[language]))}```"

    def nested_code(self) -> str:
        return f"````markdown\n# {prose.phrase(self.rng)}\n\n```python\nprint({self.rng.randint(1, 99)})\n```\n````"

    def items(self) -> str:
        """A tight list."""
        return self._list(0, loose=False)

    def loose_items(self) -> str:
        """A list whose items hold paragraphs, code and lists."""
        return self._list(0, loose=True)

    def _list(self, depth: int, loose: bool) -> str:
        rng = self.rng
        ordered = rng.random() < 0.5
        first = rng.choice((1, 1, 1, 3, 10)) if ordered and not depth else 1
        made = []
        for number in range(rng.randint(2, 5)):
            mark = f"{first + number}. " if ordered else "- "
            lines = self._item(depth, loose).split("\n")
            pad = " " * len(mark)
            made.append("\n".join([mark + lines[0], *(pad + line if line else "" for line in lines[1:])]))
        return ("\n\n" if loose else "\n").join(made)

    def _item(self, depth: int, loose: bool) -> str:
        rng, gap = self.rng, "\n\n" if loose else "\n"
        body = f"**{prose.phrase(rng).capitalize()}**: " if rng.random() < 0.5 else ""
        body += self.spans(1, 1)
        if loose and rng.random() < 0.3:
            body += "\n\n" + self.spans(1, 2)
        if loose and rng.random() < 0.25:
            body += "\n\n" + self.code()
        if depth < 2 and rng.random() < 0.25:
            body += gap + self._list(depth + 1, loose)
        return body

    def table(self) -> str:
        rng = self.rng
        columns = rng.randint(2, 5)
        rule = [rng.choice(("---", "---", ":---", ":---:", "---:")) for _ in range(columns)]
        head = [prose.word(rng).capitalize() for _ in range(columns)]
        rows = [[self._cell() for _ in range(columns)] for _ in range(rng.randint(2, 6))]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))

    def _cell(self) -> str:
        rng = self.rng
        made = (f"`{prose.name(rng)}`", f"**{prose.word(rng)}**", prose.phrase(rng), f"{prose.word(rng)}\\_id")
        return rng.choice(
            (*made, str(rng.randint(1, 999)), f"{rng.randint(1, 99)}%", "a \\| b", "`x \\| y`", "x < y", "")
        )

    def quote(self) -> str:
        body = self.spans(1, 2)
        if self.rng.random() < 0.4:
            body += f"\n\n- {self.spans(1, 1)}\n- {self.spans(1, 1)}"
        if self.rng.random() < 0.2:
            body += "\n\n" + self.code()
        return "\n".join(f"> {line}".rstrip() for line in body.split("\n"))

    def display(self) -> str:
        return f"{self.plain_paragraph()}\n\n{self.formula(display=True)}\n\n{self.plain_paragraph()}"

    def literal(self) -> str:
        """Characters that markdown would misread."""
        return self.filled(self.rng.choice(_LITERAL))

    def verse(self) -> str:
        """A poem: lines that end where they end."""
        return "  \n".join(prose.sentence(self.rng) for _ in range(4))

    def rule(self) -> str:
        return f"{self.plain_paragraph()}\n\n---\n\n{self.plain_paragraph()}"


Make = Callable[[Writer], str]
_PLAIN: tuple[Make, ...] = (
    *[Writer.plain_paragraph] * 6, *[Writer.paragraph] * 2, *[Writer.items] * 3, Writer.heading, *[Writer.code] * 2,
)  # fmt: skip
_HARD: tuple[Make, ...] = (
    Writer.paragraph, Writer.code, Writer.code, Writer.items, Writer.loose_items, Writer.loose_items, Writer.table,
    Writer.heading, Writer.quote, Writer.display, Writer.literal, Writer.literal, Writer.verse, Writer.rule,
    Writer.nested_code,
)  # fmt: skip
