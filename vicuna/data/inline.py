"""One paragraph of markdown: pieces of text and markup, joined so that a markdown reader sees exactly those pieces.

Text is escaped only where CommonMark would read it as markup; the rules look at the whole paragraph, so `2 * 3` and
`snake_case` stay as they are and `*args, **kwargs` does not.
"""

import html.entities
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum


class Kind(IntEnum):
    """What a piece of a paragraph is."""

    TEXT = 0
    """Literal text, not escaped yet."""
    RAW = 1
    """Finished markdown: a formula, an image."""
    OPEN = 2
    """Start of emphasis or of a link; the value names which: strong, em, del, link."""
    CLOSE = 3
    """Its end; for a link the value is what follows the text, from `]` on."""
    BREAK = 4
    """A hard line break."""
    CODE = 5
    """What stands in a code span."""


Piece = tuple[Kind, str]
TEXT, RAW, OPEN, CLOSE, BREAK, CODE = Kind.TEXT, Kind.RAW, Kind.OPEN, Kind.CLOSE, Kind.BREAK, Kind.CODE
EMPHASIS = {"strong": "**", "em": "*", "del": "~~"}
HTML_SPACE = " \t\n\r\f"

_SPACES = re.compile(r"[ \t\r\f]*\n[ \t\r\n\f]*|[ \t\r\f]+")
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
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|([A-Za-z][A-Za-z0-9]{1,31}));")
_CODE_RUNS = re.compile(r"`+")
_LEADING_MARKS = re.compile(r"[\W_]+")
_TRAILING_MARKS = re.compile(r"[\W_]+$")
_ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def code_span(code: str) -> str:
    """Inline code whose fence is longer than any run of backticks inside; empty code gives an empty string."""
    code = code.replace("\n", " ")
    if not code:
        return ""
    runs = {len(run) for run in _CODE_RUNS.findall(code)}
    fence = "`" * next(n for n in range(1, len(runs) + 2) if n not in runs)
    padded = code[0] == "`" or code[-1] == "`" or (code[0] == code[-1] == " " and code.strip(" "))
    return f"{fence} {code} {fence}" if padded else f"{fence}{code}{fence}"


def link_end(target: str, title: str = "") -> str:
    """What follows a link's text: `](target "title")`."""
    if re.search(r"[\x00-\x20\x7f<>]", target) or not _balanced(target, "()"):
        target = "<" + re.sub(r"([<>\\])", r"\\\1", target.replace("\n", "%0A")) + ">"
    else:
        target = re.sub(r"\\(?=[!-/:-@\[-`{-~])", r"\\\\", target)
    target = _ENTITY.sub(lambda found: "\\" + found[0], target)
    if not title:
        return f"]({target})"
    title = re.sub(r'(["\\])', r"\\\1", re.sub(r"\n\s*\n", "\n", title))
    title = _ENTITY.sub(lambda found: "\\" + found[0], title)
    return f']({target} "{title}")'


def paragraph(pieces: list[Piece], line_break: str = "  \n") -> str:
    """Join the pieces of one paragraph into markdown; white space collapses as in a browser, line ends stay.

    Args:
        pieces: in reading order; each OPEN has its CLOSE.
        line_break: how a hard break is written. One without a line end is for places that have one line only, such as
            headings and cells: there line ends become spaces, and no line start can be misread.
    """
    text = _escape(_with_delimiters(_tidy(pieces, line_break)))
    return _escape_line_starts(text) if "\n" in line_break else text


# ------------------------------------------------------------------------------------------------ white space
@dataclass
class _Line:
    """The pieces so far, and white space that waits for what comes next."""

    pieces: list[Piece]
    space: str = ""

    def place_space(self) -> None:
        """Put waiting white space before what has just been opened: `a <b>c` and `a<b> c` both give `a **c`."""
        at = self.before_open()
        if self.space and at and self.pieces[at - 1][0] is not BREAK:
            self.pieces.insert(at, (TEXT, self.space))
        self.space = ""

    def before_open(self) -> int:
        """Index of the place before all that has just been opened."""
        at = len(self.pieces)
        while at and self.pieces[at - 1][0] is OPEN:
            at -= 1
        return at


def _tidy(pieces: list[Piece], line_break: str) -> list[Piece]:
    """Collapse white space, move it out of emphasis, drop empty emphasis, join emphasis that touches."""
    line = _Line([])
    lines = "\n" in line_break
    for kind, value in pieces:
        if kind is TEXT:
            _add_text(line, _SPACES.sub(lambda m: "\n" if lines and "\n" in m[0] else " ", value))
        elif kind is OPEN:
            if value != "link" and not line.space and line.pieces and line.pieces[-1] == (CLOSE, value):
                line.pieces.pop()
            else:
                line.pieces.append((OPEN, value))
        elif kind is CLOSE:
            _close(line, value)
        elif kind is BREAK:
            line.space = ""
            line.pieces.insert(line.before_open(), (BREAK, line_break))
        elif value:
            line.place_space()
            line.pieces.append((kind, value))
    while line.pieces and line.pieces[-1][0] is BREAK:
        line.pieces.pop()
    while line.pieces and line.pieces[0][0] is BREAK:
        line.pieces.pop(0)
    return _join_breaks(line.pieces)


def _add_text(line: _Line, text: str) -> None:
    body = text.strip(HTML_SPACE)
    if not body:
        line.space = "\n" if "\n" in (line.space, text[:1]) else line.space or text[:1]
        return
    if text[0] in HTML_SPACE:
        line.space = "\n" if "\n" in (line.space, text[0]) else " "
    line.place_space()
    edge = len(body) - len(body.lstrip())  # other white space (no-break) cannot follow an opening delimiter
    if edge and line.pieces and line.pieces[-1][0] is OPEN:
        line.pieces.insert(line.before_open(), (TEXT, body[:edge]))
        body = body[edge:]
    if body:
        line.pieces.append((TEXT, body))
    line.space = text[-1] if text[-1] in HTML_SPACE else ""


def _close(line: _Line, value: str) -> None:
    name = value if value in EMPHASIS else "link"
    moved: list[Piece] = []  # what cannot stand before a closing delimiter goes after it
    while name != "link" and line.pieces and line.pieces[-1][0] in (BREAK, TEXT):
        kind, text = line.pieces[-1]
        bare = "" if kind is BREAK else text.rstrip()
        if len(bare) == len(text):
            break
        moved.insert(0, (kind, text[len(bare) :]))
        line.pieces[-1:] = [(TEXT, bare)] if bare else []
    if name != "link" and line.pieces[-1] == (OPEN, name):
        line.pieces.pop()
    else:
        line.pieces.append((CLOSE, value))
    line.pieces.extend(moved)


def _join_breaks(pieces: list[Piece]) -> list[Piece]:
    """Breaks in a row are written with backslashes: two spaces on an empty line would end the paragraph."""
    for at in range(len(pieces) - 1):
        if pieces[at][0] is BREAK and pieces[at + 1][0] is BREAK and "\n" in pieces[at][1]:
            pieces[at] = (BREAK, "\\\n")
            pieces[at + 1] = (BREAK, "\\\n")
    return pieces


# ------------------------------------------------------------------------------------------------ delimiters
def _with_delimiters(pieces: list[Piece]) -> list[Piece]:
    """Replace each OPEN and CLOSE value by the characters to write, in a way that CommonMark pairs them again.

    Where that cannot be (nestings that no markdown was ever rendered to), inner emphasis is given up, then all of it.
    """
    if not any(kind is OPEN for kind, _ in pieces):
        return _code_spans(pieces)
    pieces = _filtered(pieces, lambda inside, value: value != "del" or value not in inside)  # ~~~~ would be a fence
    marked = _mark(_shrink_emphasis(pieces))
    for simpler in (_without_twice, _without_inner, _without_emphasis):
        if _reads_back(marked):
            break
        marked = _mark(_shrink_emphasis(simpler(pieces)))
    return marked


def _mark(pieces: list[Piece]) -> list[Piece]:
    stack: list[tuple[int, str]] = []
    out: list[Piece] = []
    for at, (kind, value) in enumerate(pieces):
        if kind is OPEN:
            mark = "[" if value == "link" else EMPHASIS[value]
            if value == "em" and _needs_underscore(pieces, at, stack):
                mark = "_"
            stack.append((at, mark))
            out.append((OPEN, mark))
        elif kind is CLOSE:
            _, mark = stack.pop()
            out.append((CLOSE, value if mark == "[" else mark))
        else:
            out.append((kind, value))
    return _code_spans(out)


def _code_spans(pieces: list[Piece]) -> list[Piece]:
    """Write code spans; those that touch become one, for side by side their fences would run together."""
    out: list[Piece] = []
    for kind, value in pieces:
        if kind is CODE and out and out[-1][0] is CODE:
            out[-1] = (CODE, out[-1][1] + value)
        else:
            out.append((kind, value))
    return [(RAW, code_span(value)) if kind is CODE else (kind, value) for kind, value in out]


def _without_twice(pieces: list[Piece]) -> list[Piece]:
    """No emphasis within the same emphasis."""
    return _filtered(pieces, lambda inside, value: value not in inside)


def _without_inner(pieces: list[Piece]) -> list[Piece]:
    """No emphasis within emphasis."""
    return _filtered(pieces, lambda inside, value: not any(each in EMPHASIS for each in inside))


def _without_emphasis(pieces: list[Piece]) -> list[Piece]:
    return _filtered(pieces, lambda inside, value: False)


def _filtered(pieces: list[Piece], keep: Callable[[list[str], str], bool]) -> list[Piece]:
    """Leave out emphasis for which `keep(what it stands in, what it is)` is false; links stay."""
    out: list[Piece] = []
    inside: list[str] = []
    for kind, value in pieces:
        if kind is OPEN:
            kept = value == "link" or keep(inside, value)
            inside.append(value if kept else "")
        if kind is CLOSE:
            kept = inside.pop() != ""
        if kind not in (OPEN, CLOSE) or kept:
            out.append((kind, value))
    return out


@dataclass
class _Run:
    """Delimiters in a row, as CommonMark's algorithm sees them."""

    start: int
    length: int
    left: int
    """How many are not paired yet."""
    opens: bool
    closes: bool


def _reads_back(pieces: list[Piece]) -> bool:
    """Whether a reader pairs the delimiters as they were written. Source: CommonMark 0.31, appendix, phase 2."""
    text, wanted, stack, places = "", set(), [], []
    for kind, value in pieces:
        if kind is OPEN:
            stack.append(len(text))
        elif kind is CLOSE:
            start = stack.pop()
            if value[0] != "]":
                wanted.add((start, len(text), len(value)))
        if kind in (OPEN, CLOSE) and value[0] in "*_~":
            places += range(len(text), len(text) + len(value))
        text += value
    return len(wanted) < 2 or _pairs(text, places) == wanted


def _pairs(text: str, places: list[int]) -> set[tuple[int, int, int]]:
    """(opening place, closing place, length) for each pair that the delimiters at `places` form."""
    runs: list[_Run] = []
    for at in places:
        if runs and at == runs[-1].start + runs[-1].length and text[at] == text[at - 1]:
            runs[-1].length += 1
        else:
            runs.append(_Run(at, 1, 0, False, False))
    for run in runs:
        run.left = run.length
        run.opens, run.closes = _flanking(text, run.start, run.start + run.length)
    found = set()
    for at, closer in enumerate(runs):
        while closer.closes and closer.left:
            opener_at = next((i for i in range(at - 1, -1, -1) if _may_pair(text, runs[i], closer)), None)
            if opener_at is None:
                break
            opener = runs[opener_at]
            used = 2 if opener.left >= 2 and closer.left >= 2 else 1
            found.add((opener.start + opener.left - used, closer.start + closer.length - closer.left, used))
            opener.left, closer.left = opener.left - used, closer.left - used
            for between in runs[opener_at + 1 : at]:
                between.left = 0
    return found


def _may_pair(text: str, opener: _Run, closer: _Run) -> bool:
    if not (opener.opens and opener.left and text[opener.start] == text[closer.start]):
        return False
    if text[opener.start] == "~":
        return opener.left >= 2 and closer.left >= 2
    if (opener.closes or closer.opens) and (opener.length + closer.length) % 3 == 0:
        return opener.length % 3 == 0 and closer.length % 3 == 0
    return True


def _needs_underscore(pieces: list[Piece], at: int, stack: list[tuple[int, str]]) -> bool:
    """`***x***` is read as em(strong(x)): for strong(em(x)) and em(em(x)) the inner one needs `_`."""
    inside = stack and stack[-1][0] == at - 1 and stack[-1][1] in ("*", "**")
    if not inside and not (at and pieces[at - 1][0] is CLOSE and pieces[at - 1][1] in EMPHASIS):
        return False
    end = _partner(pieces, at)
    follows = pieces[end + 1] if end + 1 < len(pieces) else (BREAK, "")
    return follows[0] is not TEXT or not follows[1][0].isalnum()


def _partner(pieces: list[Piece], at: int) -> int:
    """Index of the CLOSE that belongs to the OPEN at `at`."""
    depth = 0
    for index in range(at, len(pieces)):
        kind = pieces[index][0]
        depth += (kind is OPEN) - (kind is CLOSE)
        if depth == 0:
            return index
    raise AssertionError("an OPEN without its CLOSE")


def _shrink_emphasis(pieces: list[Piece]) -> list[Piece]:
    """Move punctuation out of emphasis that could not open or close there: `**Note:**now` becomes `**Note**:now`."""
    at = 0
    while at < len(pieces):
        if pieces[at][0] is OPEN and pieces[at][1] != "link":
            fitted = _fit(pieces, at)
            given_up = len(fitted) < len(pieces)
            pieces = fitted
            if given_up:
                continue
        at += 1
    return pieces


def _fit(pieces: list[Piece], at: int) -> list[Piece]:
    """The same pieces with the emphasis that opens at `at` shrunk, or without it where it cannot be written."""
    end = _partner(pieces, at)
    before, inner, after = pieces[:at], pieces[at + 1 : end], pieces[end + 1 :]
    if _blocked(_character(pieces, at, -1), _character(pieces, at, 1)):
        kind, text = inner[0]
        edge = _LEADING_MARKS.match(text)
        if kind is not TEXT or not edge or edge.end() == len(text):
            return before + inner + after
        before, inner = [*before, (TEXT, edge[0])], [(TEXT, text[edge.end() :]), *inner[1:]]
    if _blocked(_character(pieces, end, 1), _character(pieces, end, -1)):
        kind, text = inner[-1]
        edge = _TRAILING_MARKS.search(text)
        if kind is not TEXT or not edge or edge.start() == 0:
            return before + inner + after
        inner, after = [*inner[:-1], (TEXT, text[: edge.start()])], [(TEXT, edge[0]), *after]
    return [*before, pieces[at], *inner, pieces[end], *after]


def _blocked(outside: str, inside: str) -> bool:
    """Whether a delimiter between these two characters would not open (close) towards `inside`."""
    return _punctuation(inside) and not (_punctuation(outside) or outside.isspace())


def _punctuation(character: str) -> bool:
    return character in _ASCII_PUNCTUATION or not (character.isalnum() or character.isspace() or character == "")


def _character(pieces: list[Piece], at: int, step: int) -> str:
    """The nearest character on one side of a delimiter, past other delimiters; a space at the ends."""
    at += step
    while 0 <= at < len(pieces):
        kind, value = pieces[at]
        if kind is BREAK:
            return " "
        if kind is OPEN and value == "link":
            return "["
        if kind is CLOSE and value not in EMPHASIS:
            return value[0] if step > 0 else value[-1]
        if kind is CODE:
            return "`"
        if kind in (TEXT, RAW) and value:
            return value[0] if step > 0 else value[-1]
        at += step
    return " "


# ------------------------------------------------------------------------------------------------ escaping
def _escape(pieces: list[Piece]) -> str:
    """Join the pieces; put a backslash before each character of text that would be read as markup."""
    joined = "".join(value for _, value in pieces)
    if not any(kind is TEXT and _SPECIAL.search(value) for kind, value in pieces):
        return joined
    marks: set[int] = set()
    kinds = bytearray()  # for each character of `joined`, the kind of its piece
    in_link = False
    for kind, value in pieces:
        if kind is TEXT:
            for found in _SPECIAL.finditer(value):
                if _needs_backslash(joined, len(kinds) + found.start(), in_link):
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


def _needs_backslash(text: str, at: int, in_link: bool) -> bool:
    """Whether the character of literal text at `at` would be misread; emphasis characters are judged elsewhere."""
    character, follows = text[at], text[at + 1 : at + 2]
    if character == "\\":
        return follows in _ASCII_PUNCTUATION or follows in ("", "\n") or text.startswith("  \n", at + 1)
    if character == "`":
        return len(_CODE_RUNS.findall(text)) > 1
    if character == "[":
        return in_link or bool(re.search(r"\][\[(:]", text[at:]))
    if character == "]":
        return in_link
    if character == "<":
        tag = follows.isascii() and (follows.isalpha() or follows in ("/", "!", "?")) and follows != ""
        return tag and (">" in text[at:] or at == 0 or text[at - 1] == "\n")
    if character == "&":
        entity = _ENTITY.match(text, at)
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
        opens, closes = _flanking(text, start, end)
        runs.append((start, end, opens or OPEN in inside, closes or CLOSE in inside))
    openers = [start for start, _, opens, _ in runs if opens]
    closers = [start for start, _, _, closes in runs if closes]
    for start, end, opens, closes in runs:
        pairs = (opens and closers and closers[-1] > start) or (closes and openers and openers[0] < start)
        if pairs:
            marks.update(at for at in range(start, end) if kinds[at] == TEXT)
    return marks


def _flanking(text: str, start: int, end: int) -> tuple[bool, bool]:
    """Whether a run of delimiters can open and can close emphasis. Source: CommonMark 0.31, section 6.2."""
    before = text[start - 1] if start else " "
    after = text[end] if end < len(text) else " "
    left = not after.isspace() and (not _punctuation(after) or before.isspace() or _punctuation(before))
    right = not before.isspace() and (not _punctuation(before) or after.isspace() or _punctuation(after))
    if text[start] == "_":
        return left and (not right or _punctuation(before)), right and (not left or _punctuation(after))
    return left, right


def _escape_line_starts(text: str) -> str:
    """Escape what at the start of a line would begin a list, heading, quote, fence, rule or table."""
    lines = text.split("\n")
    for at, line in enumerate(lines):
        if _LINE_START.match(line) or (at and _LATER_LINE_START.match(line)):
            run = len(line) - len(line.lstrip(line[0])) if line[0] in "*_~`" else 1  # what is left must not be a delimiter
            lines[at] = ("\\" + line[0]) * run + line[run:]
        elif number := _NUMBER_START.match(line):
            lines[at] = f"{number[1]}\\{line[number.end(1) :]}"
    return "\n".join(lines)


def _balanced(text: str, pair: str) -> bool:
    depth = 0
    for character in text:
        depth += (character == pair[0]) - (character == pair[1])
        if depth < 0:
            return False
    return depth == 0
