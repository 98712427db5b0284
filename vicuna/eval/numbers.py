"""Numbers and units as people write them: "1,000", "3.5", "three hundred", "300 cm", "300 centimetres"."""

import re
from dataclasses import dataclass
from fractions import Fraction

UNITS: dict[str, tuple[str, ...]] = {
    "mm": ("millimetre", "millimeter"),
    "cm": ("centimetre", "centimeter"),
    "m": ("metre", "meter"),
    "km": ("kilometre", "kilometer"),
    "mg": ("milligram", "milligramme"),
    "g": ("gram", "gramme"),
    "kg": ("kilogram", "kilogramme", "kilo"),
    "ml": ("millilitre", "milliliter"),
    "l": ("litre", "liter"),
    "second": ("sec",),
    "minute": ("min",),
    "hour": ("hr",),
    "day": (),
    "week": (),
    "month": (),
    "year": (),
    "cent": (),
    "dollar": ("$",),
    "euro": ("€",),
    "%": ("percent",),
    "°c": ("degrees celsius", "c"),
    "°f": ("degrees fahrenheit", "f"),
}
"""Unit → its other names, in the singular."""

_NAMES = {
    name: unit
    for unit, others in UNITS.items()
    for each in (unit, *others)
    for name in (each, each + "s" if len(each) > 2 else each)
}
_UNIT = "|".join(re.escape(name) for name in sorted(_NAMES, key=len, reverse=True))
_NUMBER = r"(?<![\w.,])[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?"
_QUANTITY = re.compile(rf"({_NUMBER})(?:[ \t]?({_UNIT})(?!\w))?", re.I)

_WORDS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50,
    "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
_SPELLED = re.compile(
    rf"\b(?:{'|'.join(_WORDS)})(?:[ -]+(?:and[ -]+)?(?:{'|'.join([*_WORDS, *_SCALES])}))*\b", re.I
)  # fmt: skip


@dataclass(frozen=True)
class Quantity:
    """A number, and its unit where one follows it."""

    value: Fraction
    unit: str = ""

    def __str__(self) -> str:
        number = str(self.value) if self.value.denominator == 1 else f"{float(self.value):g}"
        return f"{number} {self.unit}".strip()


def quantity(text: str) -> Quantity | None:
    """The quantity that `text` is, or None if it is more than that, or none."""
    bare = text.strip().rstrip(".").strip()
    match = _QUANTITY.fullmatch(bare)
    if match:
        return _quantity(match)
    spelled = _SPELLED.fullmatch(bare)
    return Quantity(_spelled(spelled[0])) if spelled else None


def quantities(text: str) -> list[Quantity]:
    """Every number in digits, in order, each with the unit that follows it."""
    return [_quantity(match) for match in _QUANTITY.finditer(text)]


def in_words(text: str) -> list[Quantity]:
    """Every number that is spelled out, in order."""
    return [Quantity(_spelled(match[0])) for match in _SPELLED.finditer(text)]


def _quantity(match: re.Match[str]) -> Quantity:
    digits = match[1].replace(",", "").replace("−", "-")
    number, slash, below = digits.partition("/")
    if slash and int(below) == 0:  # "3/0" is no number; its first part is
        slash = ""
    value = Fraction(number) / int(below) if slash else Fraction(number)
    return Quantity(value, _NAMES.get((match[2] or "").casefold(), ""))


def _spelled(text: str) -> Fraction:
    """ "two hundred and five" → 205."""
    total, group = 0, 0
    for word in re.findall(r"[a-z]+", text.casefold()):
        if word in _WORDS:
            group += _WORDS[word]
        elif word == "hundred":
            group = max(group, 1) * 100
        elif word in _SCALES:
            total, group = total + max(group, 1) * _SCALES[word], 0
    return Fraction(total + group)
