"""Token counts of conversations: exactly what `prompt.encode` gives, mostly without tokenising.

Most tokenizers never make one token of a word's end and the white space after it. For those whose parts prove that, a
text is cut at such places into words, each word is tokenised once, and a count is a sum. Text of the others is
tokenised as usual. Either way every stretch is counted once, however many cuts of a conversation are tried.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from vicuna.conversation import Message
from vicuna.plain import Segment, Stretch, mark_of, need_unicode, plain_tokenizer, stretches
from vicuna.prompt import stop_name
from vicuna.template import Piece, Template

Key = TypeVar("Key")

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


class _Counts(dict[Key, int], Generic[Key]):
    """Counts that are made when they are first asked for; forgets all when there are too many."""

    def __init__(self, make: Callable[[Key], int], most: int) -> None:
        self._make = make
        self._most = most

    def __missing__(self, key: Key) -> int:
        if len(self) >= self._most:
            self.clear()
        count = self[key] = self._make(key)
        return count


class TokenCounter:
    """Counts tokens as training will."""

    def __init__(self, tokenizer: Any, template: Template) -> None:
        """
        Args:
            tokenizer: fast Hugging Face tokenizer.
            template: the prompt template that training will use.

        Raises:
            TokenizerError: the tokenizer has no fast (Rust) backend.
        """
        self._tokenizer = tokenizer
        self._template = template
        self._plain = plain_tokenizer(tokenizer)
        self._pattern = word_pattern(self._plain.source())
        self._stop: str | None = None
        self._words = _Counts(self._count_word, 200_000)
        self._heads = _Counts(self._count_head, 10_000)
        self._stretches = _Counts(self._count_stretch, 1_000)

    def __call__(self, messages: Sequence[Message]) -> int:
        """How many tokens `prompt.encode` gives for a conversation of these messages.

        Raises:
            TemplateError: the template cannot say these messages.
        """
        pieces = self._template.pieces(messages)
        text = "".join(piece.text for piece in pieces)
        if mark_of(0) in text:
            plain = plain_tokenizer(self._tokenizer, [text])
            stop = stop_name(pieces, self._tokenizer, self._template)
            found = [len(ids) for each in stretches(pieces, stop) for ids in plain.encode(each)]
            return sum(found) + self._around(pieces)
        need_unicode(text)
        if self._stop is None:
            self._stop = stop_name(pieces, self._tokenizer, self._template)
        return sum(map(self._stretches.__getitem__, stretches(pieces, self._stop))) + self._around(pieces)

    def _around(self, pieces: Sequence[Piece]) -> int:
        opening = len(self._plain.opening_ids) if self._template.adds_bos else 0
        return opening + sum(piece.control for piece in pieces)

    def _count_stretch(self, stretch: Stretch) -> int:
        """Tokens of a stretch without the special token after it."""
        if self._pattern is None or not 1 <= len(stretch.segments) <= 2:
            return sum(map(len, self._plain.encode(stretch)))
        head, *words = self._pattern.findall(stretch.segments[0].text)
        opening = Stretch((Segment(head, False, True),), stretch.lead, None, stretch.continues)
        if len(stretch.segments) == 1:
            return self._heads[opening] + self._sum(words)
        answer = self._pattern.findall(stretch.segments[1].text)
        last = words[-1] if words else head
        if self._pattern.findall(last + answer[0])[0] == last:  # a word ends where the answer begins
            return self._heads[opening] + self._sum(words) + self._sum(answer)
        border = (Segment(last, False, True), Segment(answer[0], True, True))
        if not words:
            return self._heads[Stretch(border, stretch.lead, None, stretch.continues)] + self._sum(answer[1:])
        middle = self._heads[Stretch(border, None, None, True)]
        return self._heads[opening] + self._sum(words[:-1]) + middle + self._sum(answer[1:])

    def _sum(self, words: Sequence[str]) -> int:
        return sum(map(self._words.__getitem__, words))

    def _count_word(self, word: str) -> int:
        return self._plain.count(word)

    def _count_head(self, stretch: Stretch) -> int:
        return sum(map(len, self._plain.encode(stretch)))


def word_pattern(source: Mapping[str, Any]) -> re.Pattern[str] | None:
    """How to cut text into words that a tokenizer tokenises each by itself; None where nothing proves that it does.

    Proven are four families:

    - GPT-2's: the expression that cuts text before BPE has no match in which white space follows anything else.
    - Llama 3's and Qwen 2's: theirs has no match in which a space follows anything but white space.
    - Metaspace that splits: every space begins a new piece.
    - Llama's: spaces become U+2581 and BPE runs over the whole text, but none of its merges makes a token in which
      U+2581 follows anything but itself. Merges to the left of such a place and to the right of it know nothing of
      each other.

    Args:
        source: the tokenizer as the tokenizers library serialises it.
    """
    normalizer, cutter = source.get("normalizer"), source.get("pre_tokenizer") or {"type": None}
    if any(_stands_out(each, normalized=normalizer is not None) for each in source["added_tokens"]):
        return None
    if cutter["type"] == "ByteLevel" and normalizer is None:
        return _WORDS if cutter["use_regex"] else None
    if cutter["type"] == "Sequence" and normalizer in (None, {"type": "NFC"}):
        return _LINES if _cuts_lines(cutter["pretokenizers"]) else None
    if cutter["type"] == "Metaspace" and normalizer is None and cutter["replacement"] == "\u2581":
        return _SPACES if cutter["split"] or _keeps_words_apart(source["model"]) else None
    if cutter["type"] is None and _marks_spaces(normalizer) and _keeps_words_apart(source["model"]):
        return _SPACES
    return None


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


def _keeps_words_apart(model: Mapping[str, Any]) -> bool:
    plain = not (model.get("dropout") or model.get("ignore_merges") or model.get("continuing_subword_prefix")
                 or model.get("end_of_word_suffix"))  # fmt: skip
    if model["type"] != "BPE" or not plain or "\u2581" not in model["vocab"]:
        return False
    if model["unk_token"] is None and not _knows_all_bytes(model):
        return False
    made = ("".join(pair) if isinstance(pair, list) else pair.replace(" ", "") for pair in model["merges"])
    return not any("\u2581" in token.lstrip("\u2581") for token in made)
