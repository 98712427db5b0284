"""Phone numbers in text: candidates by their form, judged by the phonenumbers library (Google's libphonenumber)."""

import re
from collections.abc import Callable, Sequence

_GLOBAL = re.compile(r"(?a)\+(?<![\w+.*/=^)-]\+)[1-9]\d{0,2}(?:[ .()/-]{0,2}\d){6,12}(?![\w%])(?![.,]\d)")
"""With a country code; the lookbehind stands after the plus so that the search can skip to it."""
_ABROAD = re.compile(r"(?a)00(?<![\w.,:+*/=^$€£#-]00) ?[1-9]\d{0,2}[ ./(-](?:[ .()/-]{0,2}\d){6,12}(?![\w%])(?![.,]\d)")
"""The same as dialled in most countries: 0049 89 636480. Without anything between the digits it is any number."""
_DIALS_00 = "DE"
"""A country whose prefix for calls abroad is 00."""
_NORTH_AMERICAN = re.compile(
    r"(?a)(?<![\w.,+*/=^$€£#-])(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[-.])\d{3}[-.]\d{4}(?![\w%-]|[.,:/]\d)"
)
"""(212) 867-5309, 212-867-5309, 212.867.5309: told by their form."""
_LOCAL = re.compile(r"(?a)(?<![\w.,+*/=^$€£#-])(?<![\d)] )\(?\d[\d ().-]{5,16}\d(?![\w%-])(?![.,:/]\d)(?! ?\d)")
"""Any other form, which only a word before it makes a phone number."""
_CALLED = re.compile(
    r"\b(?:(?:tele)?phone|telefon\w*|tel|mobile|cell|call|dial|fax|whatsapp|hotline|my (?:new )?number|"
    r"(?:text|reach|contact|message|ring) (?:me|us))\b[^\d\n]{0,24}\Z",
    re.IGNORECASE | re.ASCII,
)
"""What stands before a number without a country code."""
_CALLS = ("hone", "HONE", "tel:", "Tel", "elefon", "obile", "cell", "Cell", "all ", "all: ", "ial ", "fax", "Fax",
          "FAX", "atsApp", "atsapp", "otline", "y number", "y new number", " me at", " me on", " us at", " us on",
          )  # fmt: skip
_LAST_GROUP = re.compile(r"[ .()/-]+[0-9]+\Z")
_MADE_UP = re.compile(r"\+?1?(?:\d{3})?555(?:01\d\d|\d{7})")
"""555-0100 to 555-0199, which North America keeps for films, and the area code 555, which nobody has."""

Place = Callable[[str], str]
"""What stands in place of a find."""


def may_stand(text: str, shape: bytes) -> bool:
    """Whether a text that has digits enough may hold a phone number, by a cheap look.

    Args:
        text: any text.
        shape: the same with a for each ASCII letter and 0 for each digit.
    """
    if b"+0" in shape or b"000-0000" in shape or b"000.0000" in shape or _ABROAD.search(text):
        return True
    return any(word in text for word in _CALLS)


def replaced(text: str, regions: Sequence[str], place: Place) -> str:
    """A text with `place(number)` for each phone number.

    A number with a country code (+44 20 7946 0123, 0044 20 ...) counts wherever it stands. One without it counts if it
    is a number of one of the regions, and either is written as in North America ((212) 867-5309) or has a word such as
    "call" or "phone" before it.

    Args:
        text: any text.
        regions: ISO 3166 codes of the countries whose numbers are known without a country code.
        place: gives what stands in a number's place.
    """
    if "+" in text:
        text = _GLOBAL.sub(lambda match: _global(match[0], None, place), text)
    if "00" in text:
        text = _ABROAD.sub(lambda match: _global(match[0], _DIALS_00, place), text)
    if regions:
        text = _NORTH_AMERICAN.sub(lambda match: _if_number(match[0], regions, place), text)
        text = _LOCAL.sub(lambda match: _local(match, regions, place), text)
    return text


def _global(number: str, region: str | None, place: Place) -> str:
    """The candidate with its number replaced; digits after it that stand apart may be something else."""
    rest = ""
    while not _is_number(number, region):
        shorter = _LAST_GROUP.sub("", number)
        if shorter == number:
            return number + rest
        number, rest = shorter, number[len(shorter) :] + rest
    return place(number) + rest


def _local(match: re.Match[str], regions: Sequence[str], place: Place) -> str:
    before = match.string[max(0, match.start() - 40) : match.start()]
    called = sum(each.isdigit() for each in match[0]) > 6 and _CALLED.search(before)
    return _if_number(match[0], regions, place) if called else match[0]


def _if_number(number: str, regions: Sequence[str], place: Place) -> str:
    return place(number) if any(_is_number(number, region) for region in regions) else number


def _is_number(text: str, region: str | None) -> bool:
    import phonenumbers

    if _MADE_UP.fullmatch(re.sub(r"[^0-9+]", "", text)):
        return False
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return False
    return bool(phonenumbers.is_valid_number(number))
