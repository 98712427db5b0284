"""Blocks of markdown, and how they stand under each other."""

import re
from typing import NamedTuple


class Block(NamedTuple):
    """A block of markdown; a list waits for its markers, which depend on the list above, and code for its fence."""

    kind: str
    """p, h, pre, quote, hr, table, math, note, ul or ol."""
    text: str = ""
    items: tuple[str, ...] = ()
    """Of a list: the items, already indented below their (missing) markers."""
    number: int = 1
    """Of a numbered list: the first number."""
    loose: bool = False
    """Of a list: blank lines stand between the items."""
    language: str = ""
    """Of code: the language that its fence names."""
    labelled: bool = False
    """Of code: its label, which stood above it, has been taken into the fence."""


def join(blocks: list[Block], *, tight: bool) -> str:
    """Put blocks under each other, with a blank line between them unless they are parts of a tight list item."""
    if len(blocks) == 1 and not (only := blocks[0]).items and only.kind != "pre":
        return only.text
    out: list[str] = []
    other = False  # two lists in a row need different markers, or they would be read as one
    for at, block in enumerate(blocks):
        if at:
            out.append("\n" if tight and _may_touch(blocks[at - 1], block) else "\n\n")
        other = bool(at) and block.kind in ("ul", "ol") and blocks[at - 1].kind == block.kind and not other
        if block.kind == "pre":
            out.append(_fenced(block.text, block.language))
        else:
            out.append(_list_text(block, other) if block.items else block.text)
    return "".join(out)


def _may_touch(above: Block, below: Block) -> bool:
    """Whether markdown reads two blocks right without a blank line between them."""
    if below.kind == "ol" and above.kind == "p":
        return below.number == 1 and bool(below.items[0])
    if below.kind == "ul" and above.kind == "p":
        return bool(below.items[0])
    return below.kind in ("ul", "ol", "pre") and above.kind in ("p", "pre", "h") and not below.loose


def _fenced(code: str, language: str) -> str:
    """Code between fences longer than any in it."""
    fence = "```"
    if fence in code:
        fence = "`" * (1 + max(len(run) for run in re.findall("`{3,}", code)))
    return f"{fence}{language}\n{code}\n{fence}" if code else f"{fence}{language}\n{fence}"


def list_of(items: list[list[Block]], loose: bool, number: int | None) -> list[Block]:
    """The block of a list, or none where there are no items.

    Args:
        items: the blocks of each item.
        loose: blank lines stand between the items.
        number: of the first item; None for bullets.
    """
    if not items:
        return []
    texts = []
    for at, blocks in enumerate(items):
        if blocks and blocks[0].kind == "hr":  # `- ---` would be one rule
            blocks = [Block("hr", "___"), *blocks[1:]]
        text = join(blocks, tight=not loose)
        if "\n" in text:
            text = indent(text, " " * (len("- ") if number is None else len(f"{number + at}. ")))
        texts.append(text)
    kind, first = ("ul", 1) if number is None else ("ol", number)
    return [Block(kind, "", tuple(texts), first, loose)]


def _list_text(block: Block, other: bool) -> str:
    """The list with its markers: `-` and `1.`, or `*` and `1)` in the `other` style."""
    if block.kind == "ul":
        bullet = "*" if other else "-"
        lines = [f"{bullet} {item}" if item else bullet for item in block.items]
    else:
        dot = ")" if other else "."
        lines = [f"{at}{dot} {item}" if item else f"{at}{dot}" for at, item in enumerate(block.items, block.number)]
    return ("\n\n" if block.loose else "\n").join(lines)


def prefix(text: str, mark: str) -> str:
    """Put the mark before each line; without its space before empty lines."""
    bare = mark.rstrip(" ")
    return "\n".join(mark + line if line else bare for line in text.split("\n"))


def indent(text: str, by: str) -> str:
    """Indent all lines but the first; empty lines stay empty."""
    first, *others = text.split("\n")
    return "\n".join([first, *[by + line if line else line for line in others]])
