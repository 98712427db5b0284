"""Backslashes: before each character of literal text that CommonMark would read as markup, and nowhere else.

The rules look at the whole paragraph, so `2 * 3` and `snake_case` stay as they are and `*args, **kwargs*` does not.
"""

import html.entities
import re

from vicuna.data.markdown.pieces import (
    ASCII_PUNCTUATION,
    CLOSE,
    CODE_RUNS,
    ENTITY,
    OPEN,
    RAW,
    TEXT,
    Piece,
    flanking,
)

_SPECIAL = re.compile(r"[\\`*_~\[\]<&!]")
_LINE_START = re.compile(
    r"""(?:[-+*]|\#{1,6})(?=[ \t]|$)      # bullet, heading
      | >                                # quote
      | `{3,}[^`]*$|~~~                  # fence
      | ([-_*])[ \t]*(?:\1[ \t]*)+$      # rule, after a list marker with two characters already
    """,
    re.VERBOSE,
)
_LATER_LINE_START = re.compile(
    r"""(?:=+|-+)[ \t]*$                 # underline of a heading
      | \|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$  # second line of a table
    """,
    re.VERBOSE,
)
_NUMBER_START = re.compile(r"(\d{1,9})[.)](?=[ \t]|$)")


def escape(pieces: list[Piece]) -> str:
    """Join the pieces; put a backslash before each character of text that would be read as markup."""
    joined = "".join(value for _, value in pieces)
    if not any(kind is TEXT and _SPECIAL.search(value) for kind, value in pieces):
        return joined
    marks: set[int] = set()
    kinds = bytearray()  # for each character of `joined`, the kind of its piece
    in_link = False
    lasts = joined.rfind(">"), max(map(joined.rfind, ("][", "](", "]:")))
    several_ticks = "`" in joined and len(CODE_RUNS.findall(joined)) > 1
    for kind, value in pieces:
        if kind is TEXT:
            for found in _SPECIAL.finditer(value):
                if found[0] == "`":
                    if several_ticks:
                        marks.add(len(kinds) + found.start())
                elif _needs_backslash(joined, len(kinds) + found.start(), in_link, lasts):
                    marks.add(len(kinds) + found.start())
        elif kind is OPEN and value == "[":
            in_link = True
            if joined[: len(kinds)].endswith("!") and kinds[-1] == TEXT:
                marks.add(len(kinds) - 1)
        elif kind is CLOSE and value[0] == "]":
            in_link = False
        kinds += bytes([kind]) * len(value)
    for character in "*_~":
        if character in joined:
            marks |= _emphasis_marks(joined, kinds, character)
    return _with_backslashes(joined, marks)


def _with_backslashes(text: str, marks: set[int]) -> str:
    out, last = [], 0
    for at in sorted(marks):
        out += [text[last:at], "\\"]
        last = at
    return "".join([*out, text[last:]])


def _needs_backslash(text: str, at: int, in_link: bool, lasts: tuple[int, int]) -> bool:
    """Whether the character of literal text at `at` would be misread; emphasis and backticks are judged elsewhere.

    `lasts` says where the last `>` stands, and the last end of a link's text.
    """
    character, follows = text[at], text[at + 1 : at + 2]
    if character == "\\":
        return follows in ASCII_PUNCTUATION or follows in ("", "\n") or text.startswith("  \n", at + 1)
    if character == "[":
        return in_link or lasts[1] > at
    if character == "]":
        return in_link
    if character == "<":
        tag = follows.isascii() and (follows.isalpha() or follows in ("/", "!", "?")) and follows != ""
        return tag and (lasts[0] > at or at == 0 or text[at - 1] == "\n")
    if character == "&":
        entity = ENTITY.match(text, at)
        return entity is not None and (not entity[1] or entity[1] + ";" in html.entities.html5)
    return False


def _emphasis_marks(text: str, kinds: bytearray, character: str) -> set[int]:
    """Places of `character` in literal text that could pair with another delimiter, written by us or literal too."""
    marks: set[int] = set()
    runs: list[tuple[int, int, bool, bool]] = []
    for run in re.finditer(re.escape(character) + "+", text):
        start, end = run.span()
        inside = set(kinds[start:end])
        if inside == {RAW}:
            continue
        if len(inside) > 1:  # literal characters touch a delimiter and would lengthen it
            marks.update(at for at in range(start, end) if kinds[at] == TEXT)
        opens, closes = flanking(text, start, end)
        runs.append((start, end, opens or OPEN in inside, closes or CLOSE in inside))
    openers = [start for start, _, opens, _ in runs if opens]
    closers = [start for start, _, _, closes in runs if closes]
    for start, end, opens, closes in runs:
        pairs = (opens and closers and closers[-1] > start) or (closes and openers and openers[0] < start)
        if pairs:
            marks.update(at for at in range(start, end) if kinds[at] == TEXT)
    return marks


def escape_line_starts(text: str) -> str:
    """Escape what at the start of a line would begin a list, heading, quote, fence, rule or table."""
    if "\n" not in text:
        return _escape_line_start(text, first=True)
    return "\n".join(_escape_line_start(line, first=not at) for at, line in enumerate(text.split("\n")))


def _escape_line_start(line: str, *, first: bool) -> str:
    if _LINE_START.match(line) or (not first and _LATER_LINE_START.match(line)):
        # what is left of a run must not be a delimiter
        run = len(line) - len(line.lstrip(line[0])) if line[0] in "*_~`" else 1
        return ("\\" + line[0]) * run + line[run:]
    if number := _NUMBER_START.match(line):
        return f"{number[1]}\\{line[number.end(1) :]}"
    return line
