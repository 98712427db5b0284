"""Where text may be cut so that its tokens are those of its words, one after another.

Most tokenizers never make one token of a word's end and the white space after it; here is which ones prove that.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SPACES = re.compile("[ \u2581]*[^ \u2581]+|[ \u2581]+")
"""A word with the spaces before it, or spaces at the end; U+2581 is how such tokenizers write a space."""

# White space that programs do not agree on never ends a word here.
_UNSURE = "\x1c-\x1f\x85\xa0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
_WHITE = "[ \t\n\r\f\v]"
_WORDS = re.compile(rf"(?a:{_WHITE}*[^\s]+(?:(?<=[{_UNSURE}]){_WHITE}+[^\s]*)*|{_WHITE}+)")
"""A word with the white space before it, or white space at the end."""
_LINES = re.compile(rf"(?: *[^ ]+(?:(?<=[\t\n\r\f\v{_UNSURE}]) +[^ ]*)*| +)")
"""The same, where only a space after a character that is no white space begins a word."""

_LINE_CUTTERS = tuple(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    + digits
    + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in (r"\p{N}{1,3}", r"\p{N}")
)
"""How Llama 3 and Qwen 2 cut text before BPE."""

_KIND = r"(?:[A-Za-z]+|[0-9]+|[\x00-\x1f!-/:-@\[-`{-\x7f]+)"
_OTHER = r"[^\x00-\x7f\u2581]"
_PARTS = re.compile(rf"[ \u2581]*(?:{_KIND}(?:{_OTHER}+{_KIND}?)*|(?:{_OTHER}+{_KIND}?)+)|[ \u2581]+")
"""A part of a word: it ends only between an ASCII letter, digit or sign and an ASCII character of another kind."""


@dataclass(frozen=True, slots=True)
class Words:
    """How to cut text into words that a tokenizer tokenises each by itself."""

    pattern: re.Pattern[str]
    """A word with the white space before it, or white space at the end of the text."""
    parts: re.Pattern[str] | None = None
    """A part of a word that is tokenised by itself too; None where only the whole word is."""

    @property
    def gap(self) -> str:
        """What all words but the first begin with, and `cut` leaves out of them."""
        return " " if self.pattern is _SPACES else ""

    def cut(self, text: str) -> tuple[str, list[str]]:
        """The first word of a text, and the others without their `gap`."""
        if self.pattern is not _SPACES:
            first, *others = self.pattern.findall(text)
            return first, others
        if "\u2581" in text:
            text = text.replace("\u2581", " ")
        if "  " in text:  # only the first of several spaces stays one
            text = text.replace("  ", " \u2581").replace("\u2581 ", "\u2581\u2581")
        first, *others = text.split(" ")
        return (first, others) if first else (" " + others[0], others[1:])

    def ends(self, word: str, following: str) -> bool:
        """Whether a word ends where another one follows it."""
        return bool(self.pattern.findall(word + following)[0] == word)


def words_of(source: Mapping[str, Any]) -> Words | None:
    """How to cut text into words that a tokenizer tokenises each by itself; None where nothing proves that it does.

    Proven are four families:

    - GPT-2's: the expression that cuts text before BPE has no match in which white space follows anything else.
    - Llama 3's and Qwen 2's: theirs has no match in which a space follows anything but white space.
    - Metaspace that splits: every space begins a new piece.
    - Llama's: spaces become U+2581 and BPE runs over the whole text, but none of its merges makes a token in which
      U+2581 follows anything but itself. Merges to the left of such a place and to the right of it know nothing of
      each other.

    Words of the last two are cut further, into parts, where no merge makes a token with two neighbours of such kinds.

    Args:
        source: the tokenizer as the tokenizers library serialises it.
    """
    normalizer, cutter = source.get("normalizer"), source.get("pre_tokenizer") or {"type": None}
    if any(_stands_out(each, normalized=normalizer is not None) for each in source["added_tokens"]):
        return None
    if cutter["type"] == "ByteLevel" and normalizer is None:
        return Words(_WORDS) if cutter["use_regex"] else None
    if cutter["type"] == "Sequence" and normalizer in (None, {"type": "NFC"}):
        return Words(_LINES) if _cuts_lines(cutter["pretokenizers"]) else None
    if cutter["type"] == "Metaspace" and normalizer is None and cutter["replacement"] == "\u2581":
        return _at_spaces(source["model"], split=cutter["split"])
    return _at_spaces(source["model"]) if cutter["type"] is None and _marks_spaces(normalizer) else None


def _stands_out(added: Mapping[str, Any], *, normalized: bool) -> bool:
    """Whether an added token may be found in people's text, or changes the text around it."""
    return bool(not added["special"] or added["lstrip"] or added["rstrip"] or added["single_word"]
                or (normalized and added["normalized"]))  # fmt: skip


def _cuts_lines(parts: Sequence[Mapping[str, Any]]) -> bool:
    """Whether text is cut by a known expression, and its bytes then renamed."""
    if [part["type"] for part in parts] != ["Split", "ByteLevel"]:
        return False
    split, rename = parts
    known = [{"Regex": expression} for expression in _LINE_CUTTERS]
    return (
        split["pattern"] in known
        and split["behavior"] == "Isolated"
        and not split["invert"]
        and not rename["use_regex"]
        and not rename["add_prefix_space"]
    )


def _marks_spaces(normalizer: Mapping[str, Any] | None) -> bool:
    """Whether a normalizer makes U+2581 of every space, and nothing else but putting one in front."""
    if not normalizer or normalizer["type"] != "Sequence":
        return False
    parts = normalizer["normalizers"]
    replaces = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    return replaces in parts and all(part == replaces or part["type"] == "Prepend" for part in parts)


def _knows_all_bytes(model: Mapping[str, Any]) -> bool:
    """Whether there is a token for every character, so that none is unknown."""
    return bool(model.get("byte_fallback")) and all(f"<0x{byte:02X}>" in model["vocab"] for byte in range(256))


def _at_spaces(model: Mapping[str, Any], *, split: bool = False) -> Words | None:
    """Words that begin with spaces, where the text is split there or the model keeps them apart by itself."""
    made = _made(model)
    if made is None:
        return Words(_SPACES) if split else None
    if not split and any("\u2581" in token.lstrip("\u2581") for token in made):
        return None
    apart = not model.get("fuse_unk") or _knows_all_bytes(model)
    return Words(_SPACES, _PARTS if apart and all(map(_PARTS.fullmatch, made)) else None)


def _made(model: Mapping[str, Any]) -> list[str] | None:
    """What the merges of a BPE model make; None where other things decide too, or characters may be lost."""
    plain = not (model.get("dropout") or model.get("ignore_merges") or model.get("continuing_subword_prefix")
                 or model.get("end_of_word_suffix"))  # fmt: skip
    if model["type"] != "BPE" or not plain or "\u2581" not in model["vocab"]:
        return None
    if model["unk_token"] is None and not _knows_all_bytes(model):
        return None
    return ["".join(pair) if isinstance(pair, list) else pair.replace(" ", "") for pair in model["merges"]]
