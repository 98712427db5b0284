"""Families with an order or a rule behind them: neighbours, sums, units and letters."""

from collections.abc import Iterable

from vicuna.data.corpus import facts
from vicuna.data.corpus.family import Fact, Family, table


def _neighbours(name: str, row: tuple[str, ...], ring: bool) -> Iterable[Fact]:
    """Facts about what comes after and before each entry of a row, closed to a ring where it starts again."""
    last = len(row) - 1
    for i, item in enumerate(row):
        if ring or i < last:
            follower = row[(i + 1) % len(row)]
            yield Fact(f"{name}:after {item}", {"side": "after", "item": item, "value": follower}, follower)
        if ring or i > 0:
            yield Fact(f"{name}:before {item}", {"side": "before", "item": item, "value": row[i - 1]}, row[i - 1])


def _sequence(name: str, noun: str, row: tuple[str, ...], ring: bool) -> Family:
    return Family(
        name,
        "sequence",
        (
            f"Which {noun} comes {{side}} {{item}}?",
            f"What {noun} comes {{side}} {{item}}?",
            "What comes {side} {item}?",
            f"Tell me the {noun} {{side}} {{item}}.",
            f"Name the {noun} that comes {{side}} {{item}}.",
            f"Which {noun} is right {{side}} {{item}}?",
            f"What is the {noun} {{side}} {{item}}?",
            f"Do you know the {noun} {{side}} {{item}}?",
        ),
        f"The {noun} {{side}} {{item}} is {{value}}.",
        tuple(_neighbours(name, row, ring)),
    )


DAYS = _sequence("days", "day", facts.DAYS, ring=True)
MONTHS = _sequence("months", "month", facts.MONTHS, ring=True)
NUMBERS = _sequence("numbers", "number", tuple(str(n) for n in range(16)), ring=False)


def _sums(name: str, sign: str, pairs: Iterable[tuple[int, int, int]], commutes: bool) -> tuple[Fact, ...]:
    return tuple(
        Fact(
            f"{name}:{a} {sign} {b}",
            {"a": str(a), "b": str(b), "value": str(value)},
            str(value),
            taught_by=(f"{name}:{b} {sign} {a}",) if commutes and a != b else (),
        )
        for a, b, value in pairs
    )


def _arithmetic(name: str, sign: str, word: str, noun: str, made: tuple[Fact, ...]) -> Family:
    return Family(
        name,
        "arithmetic",
        (
            f"What is {{a}} {sign} {{b}}?",
            f"What is {{a}} {word} {{b}}?",
            f"How much is {{a}} {word} {{b}}?",
            f"How much is {{a}} {sign} {{b}}?",
            f"Calculate {{a}} {sign} {{b}}.",
            f"Tell me what {{a}} {word} {{b}} is.",
            f"What do I get for {{a}} {sign} {{b}}?",
            f"{{a}} {sign} {{b}} = ?",
            f"Work out {{a}} {noun} {{b}}, please.",
        ),
        f"{{a}} {sign} {{b}} = {{value}}.",
        made,
    )


_EIGHT = range(1, 9)
_SIX = range(1, 7)
ADDITION = _arithmetic(
    "addition", "+", "plus", "plus", _sums("addition", "+", ((a, b, a + b) for a in _EIGHT for b in _EIGHT), True)
)
SUBTRACTION = _arithmetic(
    "subtraction",
    "-",
    "minus",
    "minus",
    _sums("subtraction", "-", ((a, b, a - b) for a in _EIGHT for b in _EIGHT if b <= a), False),
)
MULTIPLICATION = _arithmetic(
    "multiplication",
    "x",
    "times",
    "times",
    _sums("multiplication", "x", ((a, b, a * b) for a in _EIGHT for b in _EIGHT if min(a, b) <= 3), True),
)


def _unit_facts() -> Iterable[Fact]:
    for large, small, factor in facts.UNITS:
        keys = tuple(f"units:{n} {large}" for n in _SIX)
        for n, key in zip(_SIX, keys, strict=True):
            slots = {
                "n": str(n),
                "large": large if n == 1 else large + "s",
                "small": small + "s",
                "verb": "is" if n == 1 else "are",
                "value": str(n * factor),
            }
            rule = large in facts.DECIMAL_UNITS
            yield Fact(key, slots, str(n * factor), tuple(k for k in keys if k != key) if rule else ())


UNITS = Family(
    "units",
    "units",
    (
        "How many {small} are in {n} {large}?",
        "How many {small} {verb} {n} {large}?",
        "How many {small} are there in {n} {large}?",
        "Convert {n} {large} to {small}.",
        "What {verb} {n} {large} in {small}?",
        "Tell me how many {small} {n} {large} {verb}.",
        "{n} {large} {verb} how many {small}?",
        "Please turn {n} {large} into {small}.",
    ),
    "{n} {large} {verb} {value} {small}.",
    tuple(_unit_facts()),
)


def _letter_family(which: str, index: int) -> Family:
    return Family(
        f"{which} letters",
        "words",
        (
            f"What is the {which} letter of {{word}}?",
            f"Say the {which} letter of {{word}}.",
            f"Which letter is the {which} letter of {{word}}?",
            f"Tell me the {which} letter of {{word}}.",
            f"Give me the {which} letter of {{word}}.",
            f"Name the {which} letter of the word {{word}}.",
            f"What is the {which} letter in the word {{word}}?",
        ),
        f"The {which} letter of {{word}} is {{value}}.",
        table(f"{which} letters", {word: word[index] for word in facts.SPELLING_WORDS}, "word", "value"),
    )


FIRST_LETTERS = _letter_family("first", 0)
LAST_LETTERS = _letter_family("last", -1)

LETTER_COUNTS = Family(
    "letter counts",
    "words",
    (
        "How many letters does {word} have?",
        "How many letters does the word {word} have?",
        "How many letters are there in {word}?",
        "How many letters are in the word {word}?",
        "Count the letters of {word}.",
        "Tell me how many letters {word} has.",
        "What is the number of letters in {word}?",
    ),
    "The word {word} has {value} letters.",
    table("letter counts", {word: str(len(word)) for word in facts.SPELLING_WORDS}, "word", "value"),
)

REPEATING = Family(
    "repeating",
    "words",
    (
        "Say {word} twice.",
        "Write {word} two times.",
        "Repeat the word {word} twice.",
        "Say the word {word} two times.",
        "Please write the word {word} twice.",
        "Write {word} twice.",
    ),
    "{value}.",
    table("repeating", {word: f"{word} {word}" for word in facts.SPELLING_WORDS}, "word", "value"),
)
