"""The pieces that a paragraph is made of, and what CommonMark says about their characters."""

import re
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
ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|([A-Za-z][A-Za-z0-9]{1,31}));")
CODE_RUNS = re.compile(r"`+")
ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def code_span(code: str) -> str:
    """Inline code whose fence is longer than any run of backticks inside; empty code gives an empty string."""
    code = code.replace("\n", " ")
    if not code:
        return ""
    fence = "`"
    if fence in code:
        runs = {len(run) for run in CODE_RUNS.findall(code)}
        fence *= next(n for n in range(1, len(runs) + 2) if n not in runs)
    padded = code[0] == "`" or code[-1] == "`" or (code[0] == code[-1] == " " and code.strip(" "))
    return f"{fence} {code} {fence}" if padded else f"{fence}{code}{fence}"


def link_end(target: str, title: str = "") -> str:
    """What follows a link's text: `](target "title")`."""
    if re.search(r"[\x00-\x20\x7f<>]", target) or not _balanced(target, "()"):
        target = "<" + re.sub(r"([<>\\])", r"\\\1", target.replace("\n", "%0A")) + ">"
    else:
        target = re.sub(r"\\(?=[!-/:-@\[-`{-~])", r"\\\\", target)
    target = ENTITY.sub(lambda found: "\\" + found[0], target)
    if not title:
        return f"]({target})"
    title = re.sub(r'(["\\])', r"\\\1", re.sub(r"\n\s*\n", "\n", title))
    title = ENTITY.sub(lambda found: "\\" + found[0], title)
    return f']({target} "{title}")'


def is_punctuation(character: str) -> bool:
    return character in ASCII_PUNCTUATION or not (character.isalnum() or character.isspace() or character == "")


def flanking(text: str, start: int, end: int) -> tuple[bool, bool]:
    """Whether a run of delimiters can open and can close emphasis. Source: CommonMark 0.31, section 6.2."""
    before = text[start - 1] if start else " "
    after = text[end] if end < len(text) else " "
    left = not after.isspace() and (not is_punctuation(after) or before.isspace() or is_punctuation(before))
    right = not before.isspace() and (not is_punctuation(before) or after.isspace() or is_punctuation(after))
    if text[start] == "_":
        return left and (not right or is_punctuation(before)), right and (not left or is_punctuation(after))
    return left, right


def _balanced(text: str, pair: str) -> bool:
    depth = 0
    for character in text:
        depth += (character == pair[0]) - (character == pair[1])
        if depth < 0:
            return False
    return depth == 0
