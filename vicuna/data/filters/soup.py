"""Text that is no text: broken characters (mojibake, U+FFFD, control characters), base64 blobs, random bytes."""

import re

from vicuna.data.filters.repetition import without_code

STRETCH = 50
"""Characters without white space that no word of a language that uses spaces has."""
LEAST = 0.2
"""The smallest share of blobs that is told from 0."""
_VARIETY = 10
"""Different characters in a blob; rules (`-----`) and drawings have fewer."""
_FEW = 2
"""Spoiled words that any text may have, for instance one that explains what mojibake is."""

_CODE = re.compile(r"`[^`\n]+`|\$[^$\n]+\$")
_CONTINUATION = "\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
"""What a UTF-8 continuation byte (80 to BF) becomes when it is read as Latin-1 or Windows-1252."""
_CYRILLIC = "ЂЃ‚ѓ„…†‡€‰Љ‹ЊЌЋЏђ‘’“”•–—™љ›њќћџ\xa0ЎўЈ¤Ґ¦§Ё©Є«¬\xad®Ї°±Ііґµ¶·ё№є»јЅѕї"
"""The same, read as Windows-1251."""
_BROKEN = re.compile(
    "[\ufffd\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\ufdd0-\ufdef\ufffe\uffff]"  # never in sound text
    f"|[ÂÃÅÄÐÑØÙÎÏ×][{_CONTINUATION}]"  # two bytes: Latin, Cyrillic, Arabic, Greek, Hebrew
    f"|[àáâãäåæçèéêëìíîï][{_CONTINUATION}]{{2}}"  # three bytes: punctuation, Indic, Han, Kana, Hangul
    f"|ðŸ[{_CONTINUATION}]"  # four bytes: emoji
    f"|(?:[РС][{_CYRILLIC}]){{2}}|вЂ|[ГВ][©®°±¤§¦¬µ¶·№†‡€‰•™\xa0\xad]"
    "|锟斤|烫烫|屯屯|ï¿½"  # what U+FFFD and unset memory become when they are read as GBK
)
_MARKS = re.compile(
    "[\ufffd\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\ufdd0-\ufdef\ufffe\uffffÂÃÅÄÐÑØÙÎÏ×àáâãäåæçèéêëìíîïðРСвГВ锟烫屯]"
)
"""With what every match of the above begins."""
_CONTROLS = bytes(each for each in range(32) if each not in b"\t\n\f\r\x1b") + b"\x7f"


def garbled_share(text: str) -> float:
    """Share of the words with broken characters, code and formulas left out; 0 where there are only one or two."""
    if text.isascii():
        if len(text.encode().translate(None, _CONTROLS)) == len(text):
            return 0.0
    elif not _MARKS.search(text) or not _BROKEN.search(text):
        return 0.0
    words = _CODE.sub("", without_code(text)).split()
    spoiled = sum(_BROKEN.search(word) is not None for word in words)
    return spoiled / len(words) if spoiled > _FEW or spoiled == len(words) > 0 else 0.0


def blob_share(text: str) -> float:
    """Share of a text's characters in long stretches without white space, but for code, formulas and addresses.

    Shares below a fifth are told as 0.
    """
    step = STRETCH // 2
    full = [at for at in range(0, len(text) - step + 1, step) if " " not in text[at : at + step]]
    solid = sum("\n" not in text[at : at + step] for at in full)
    if 3 * solid * step < LEAST * len(text):  # a stretch fills at least one block, and parts of two more
        return 0.0
    rest = _CODE.sub("", without_code(text))
    blobs = sum(len(word) for word in rest.split() if len(word) >= STRETCH and _is_blob(word))
    return blobs / len(text) if text and blobs >= LEAST * len(text) else 0.0


def _is_blob(word: str) -> bool:
    return word.isascii() and "://" not in word and len(set(word)) >= _VARIETY
