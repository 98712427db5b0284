"""One paragraph of markdown: pieces of text and markup, joined so that a markdown reader sees exactly those pieces."""

import re
from dataclasses import dataclass

from vicuna.data.markdown.emphasis import with_delimiters
from vicuna.data.markdown.escape import escape, escape_line_starts
from vicuna.data.markdown.pieces import BREAK, CLOSE, EMPHASIS, HTML_SPACE, OPEN, TEXT, Piece
from vicuna.data.markdown.plain import plain, plain_text

_SPACES = re.compile(r"[ \t\r\f]*\n[ \t\r\n\f]*|[ \t\r\f]+")


def paragraph(pieces: list[Piece], line_break: str = "  \n") -> str:
    """Join the pieces of one paragraph into markdown; white space collapses as in a browser, line ends stay.

    Args:
        pieces: in reading order; each OPEN has its CLOSE.
        line_break: how a hard break is written. One without a line end is for places that have one line only, such as
            headings and cells: there line ends become spaces, and no line start can be misread.
    """
    lines = "\n" in line_break
    if pieces and pieces[-1][0] is TEXT and pieces[-1][1][-1:].isspace():  # at the end it shows nothing
        pieces[-1] = (TEXT, pieces[-1][1].rstrip(HTML_SPACE))
    text = plain(pieces, lines=lines)
    if text is None:
        text = escape(with_delimiters(_tidy(pieces, line_break)))
    return _with_line_starts(text) if lines else text


def text_paragraph(text: str) -> str:
    """The same for a text without markup."""
    short = plain_text(text, lines=True)
    return paragraph([(TEXT, text)]) if short is None else _with_line_starts(short)


def _with_line_starts(text: str) -> str:
    return text if text[:1].isalpha() and "\n" not in text else escape_line_starts(text)


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
        if line.pieces[-1] == (OPEN, name):
            line.place_space()
        line.pieces.append((CLOSE, value))
    line.pieces.extend(moved)


def _join_breaks(pieces: list[Piece]) -> list[Piece]:
    """Breaks in a row are written with backslashes: two spaces on an empty line would end the paragraph."""
    for at in range(len(pieces) - 1):
        if pieces[at][0] is BREAK and pieces[at + 1][0] is BREAK and "\n" in pieces[at][1]:
            pieces[at] = (BREAK, "\\\n")
            pieces[at + 1] = (BREAK, "\\\n")
    return pieces
