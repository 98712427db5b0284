"""Tokenizers to which people's text is only text: special tokens come from the template and from nowhere else.

The rendered pieces of a conversation are cut into stretches, at the special tokens and after each answer that a text
ends. Every stretch is tokenised as the tokenizer itself would within the whole text.
"""

import json
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vicuna.errors import VicunaError
from vicuna.template import Piece, TemplateError, special_tokens


class TokenizerError(VicunaError):
    """The tokenizer cannot be used for training or serving."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Text of one kind within a stretch."""

    text: str
    target: bool
    """An answer, or the text that stops it."""
    train: bool
    """Whether a target is learnt."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Text that is tokenised together, and the special token that follows it."""

    segments: tuple[Segment, ...]
    """Usually a prompt and an answer; neighbours differ in kind, and none is empty."""
    lead: str | None
    """Name of the special token before it; None at the start of the text, or where it continues a text."""
    stop: Piece | None
    """The special token after it; None at the end of the text, or where more text follows."""
    continues: bool
    """It goes on within a text, so that no space is put in front of it."""


def stretches(pieces: Sequence[Piece], stop: str | None = None) -> Iterator[Stretch]:
    """Cut a rendered conversation into what is tokenised together.

    Args:
        pieces: what the template made.
        stop: name of the special token that stands for every control piece; None where they name it themselves.
    """
    lead: str | None = None
    segments: list[Segment] = []
    for piece in pieces:
        if not piece.control:
            _add(segments, piece)
            continue
        end = piece if stop is None else Piece(stop, True, piece.target, piece.train)
        yield from _at_answers(segments, lead, end)
        lead, segments = end.text, []
    yield from _at_answers(segments, lead, None)


def _add(segments: list[Segment], piece: Piece) -> None:
    """Append a piece of text, joined to the last segment where both are of one kind."""
    if not piece.text:
        return
    if segments and (segments[-1].target, segments[-1].train) == (piece.target, piece.train):
        segments[-1] = Segment(segments[-1].text + piece.text, piece.target, piece.train)
    else:
        segments.append(Segment(piece.text, piece.target, piece.train))


def _at_answers(segments: list[Segment], lead: str | None, end: Piece | None) -> Iterator[Stretch]:
    """A new stretch begins after every answer that stopped by text, so that the work stays linear."""
    starts = [0, *(i for i, segment in enumerate(segments) if i and not segment.target)]
    for start, stop in zip(starts, [*starts[1:], len(segments)], strict=True):
        last = stop == len(segments)
        yield Stretch(tuple(segments[start:stop]), None if start else lead, end if last else None, start > 0)


class PlainTokenizer:
    """A copy of a tokenizer in which special tokens have names that nobody can type.

    Each special token is renamed, in the vocabulary and in the list of added tokens, to a mark made of Unicode
    noncharacters; ids stay. Text then holds only plain text, whatever it looks like, and a mark put into it stands for
    the special token, with the tokenizer's own rules for what a special token does to its neighbours.
    """

    def __init__(self, tokenizer: Any, nonce: int) -> None:
        import tokenizers

        source = json.loads(tokenizer.backend_tokenizer.to_str())
        names = sorted(special_tokens(tokenizer))
        self._marks = {name: f"\ufdd2{nonce}.{i}\ufdd3" for i, name in enumerate(names)}
        self._ids = {name: int(tokenizer.convert_tokens_to_ids(name)) for name in self._marks}
        source.update(post_processor=None, truncation=None, padding=None)
        _rename(source, self._marks, self._ids)
        self._whole = tokenizers.Tokenizer.from_str(json.dumps(source))
        _drop_prefix_space(source)
        self._continued = tokenizers.Tokenizer.from_str(json.dumps(source))
        for name, mark in self._marks.items():
            if self._whole.token_to_id(mark) != self._ids[name]:
                raise TokenizerError(f"special token {name!r} cannot be told from text in this tokenizer")
        self.opening_ids = _opening_ids(tokenizer)

    def control_id(self, name: str) -> int:
        """The id of a special token."""
        return self._ids[name]

    def source(self) -> dict[str, Any]:
        """The parts of this tokenizer, as the tokenizers library serialises them."""
        return dict(json.loads(self._whole.to_str()))

    def within(self, text: str) -> list[int]:
        """Tokens of a stretch of text within a text."""
        return list(self._continued.encode(text, add_special_tokens=False).ids)

    def encode(self, stretch: Stretch) -> list[list[int]]:
        """Tokens of each segment of a stretch.

        Where a segment begins, the tokens so far must be exactly those of the text before it alone; where the tokenizer
        merges across that border, the segment is tokenised by itself.
        """
        found: list[list[int]] = []
        text, lead, continues = "", stretch.lead, stretch.continues
        so_far: list[int] = []
        for i, segment in enumerate(stretch.segments):
            stop = stretch.stop.text if stretch.stop and i == len(stretch.segments) - 1 else None
            ids, ends = self._tokens(text + segment.text, lead, stop, continues)
            if ids[: len(so_far)] != so_far or (so_far and ends[len(so_far) - 1] > len(text)):
                ids, _ = self._tokens(segment.text, None, stop, True)
                text, so_far, continues, lead = "", [], True, None
            found.append(ids[len(so_far) :])
            text, so_far = text + segment.text, ids
        return found

    def _tokens(self, text: str, lead: str | None, stop: str | None, continues: bool) -> tuple[list[int], list[int]]:
        """Ids of `text` between two special tokens, and where in it each one ends."""
        before = self._marks[lead] if lead else ""
        after = self._marks[stop] if stop else ""
        backend = self._continued if continues else self._whole
        got = backend.encode(before + text + after, add_special_tokens=False)
        cut = slice(1 if lead else 0, len(got.ids) - (1 if stop else 0))
        return got.ids[cut], [end - len(before) for _, end in got.offsets[cut]]


_cache: weakref.WeakKeyDictionary[Any, dict[tuple[Any, ...], PlainTokenizer]] = weakref.WeakKeyDictionary()


def plain_tokenizer(tokenizer: Any, texts: Iterable[str] = ()) -> PlainTokenizer:
    """The tokenizer's plain copy, whose marks do not occur in these texts (made once for each tokenizer).

    Raises:
        TemplateError: a text holds half a surrogate pair.
        TokenizerError: the tokenizer has no fast (Rust) backend.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise TokenizerError(
            f"{type(tokenizer).__name__} has no fast (Rust) backend, so its tokens cannot be placed in the text; "
            "convert it with AutoTokenizer.from_pretrained(..., use_fast=True)"
        )
    everything = "".join(texts)
    need_unicode(everything)
    nonce = 0
    while mark_of(nonce) in everything:
        nonce += 1
    opens = tuple(bool(getattr(tokenizer, name, False)) for name in ("add_bos_token", "add_prefix_space"))
    key = (nonce, len(tokenizer), opens, *tokenizer.all_special_tokens)
    copies = _cache.setdefault(tokenizer, {})
    if key not in copies:
        copies[key] = PlainTokenizer(tokenizer, nonce)
    return copies[key]


def mark_of(nonce: int) -> str:
    """How the marks of a plain copy begin."""
    return f"\ufdd2{nonce}."


def need_unicode(text: str) -> None:
    """Refuse text that no tokenizer takes.

    Raises:
        TemplateError: it holds half a surrogate pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TemplateError(f"a message holds half a surrogate pair, which is no text: {error}") from error


def _rename(source: dict[str, Any], marks: dict[str, str], ids: dict[str, int]) -> None:
    """Give the special tokens of a serialised tokenizer other names, under the same ids."""
    for each in source["added_tokens"]:
        each["content"] = marks.get(each["content"], each["content"])
    model = source["model"]
    merged = {"".join(pair) if isinstance(pair, list) else pair.replace(" ", "") for pair in model.get("merges") or []}
    if clash := sorted(merged & set(marks)):
        raise TokenizerError(f"{clash[0]!r} is both a special token and a merge of ordinary text in this tokenizer")
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):  # Unigram: [[piece, log probability], ...]; the index is the id
        for entry in vocabulary:
            entry[0] = marks.get(entry[0], entry[0])
    else:
        for name, mark in marks.items():
            vocabulary.pop(name, None)
            vocabulary[mark] = ids[name]
    if model.get("unk_token") in marks:
        model["unk_token"] = marks[model["unk_token"]]


def _drop_prefix_space(source: dict[str, Any]) -> None:
    """For text that goes on within a sentence: no space is put in front of it."""
    for part in _parts(source.get("normalizer"), "normalizers"):
        if part["type"] == "Prepend":
            part["prepend"] = ""
    for part in _parts(source.get("pre_tokenizer"), "pretokenizers"):
        if part["type"] == "Metaspace":
            part["prepend_scheme"] = "never"
        elif "add_prefix_space" in part:
            part["add_prefix_space"] = False


def _parts(component: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    if component is None:
        return []
    return [part for each in component[key] for part in _parts(each, key)] if key in component else [component]


def _opening_ids(tokenizer: Any) -> list[int]:
    """The special tokens that the tokenizer itself puts in front of a text (BOS, or none)."""
    bare = tokenizer("a", add_special_tokens=False).input_ids
    whole = tokenizer("a", add_special_tokens=True).input_ids
    starts = [i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare]
    if not starts:
        raise TokenizerError("the tokenizer encodes text differently with and without its special tokens")
    return list(whole[: starts[0]])
