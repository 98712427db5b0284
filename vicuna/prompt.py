"""The one prompt truth: what data counts, what training masks and what serving sends are the same tokens.

The rendered text is cut at the special tokens that the template wrote; every stretch between two of them is tokenised
as the tokenizer itself would within the whole text. Where an answer begins, the tokens so far must be exactly those of
the prompt alone: they nearly always are, and where a tokenizer merges across that border, the border wins. So a server
that sends the prompt stands exactly where training stood, and no mismatch can arise.
"""

import json
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vicuna.conversation import Conversation, Message
from vicuna.errors import VicunaError
from vicuna.template import Piece, Template, TemplateError, TextTemplate, special_tokens, template

__all__ = ["Encoded", "Template", "TokenizerError", "encode", "encode_prompt", "render", "template"]


class TokenizerError(VicunaError):
    """The tokenizer cannot be used for training or serving."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A conversation as the model sees it; both lists have one entry for each token."""

    ids: list[int]
    """Token ids."""
    is_target: list[bool]
    """Whether the model learns to predict this token: the answers and their stop tokens, nothing else."""


def render(conversation: Conversation, template: Template) -> str:
    """The whole conversation as text, special tokens by name; the tokenizer's own opening tokens are not in it."""
    return "".join(piece.text for piece in template.pieces(conversation.messages))


def encode(conversation: Conversation, tokenizer: Any, template: Template) -> Encoded:
    """Tokens and loss mask of a whole conversation.

    Targets are each answer, the white space by which it follows the assistant's name (the model has to write that
    too), and its stop. Text that merely looks like a special token stays text. Without such text, and where no token
    reaches across the start of an answer, the ids are the tokenizer's own for the rendered text.

    Raises:
        TemplateError: the template cannot say these messages.
        TokenizerError: the tokenizer has no fast (Rust) backend.
    """
    return _encode(template.pieces(conversation.messages), tokenizer, template)


def encode_prompt(messages: Sequence[Message], tokenizer: Any, template: Template) -> list[int]:
    """The tokens that a server sends: the conversation so far, up to where the assistant begins to speak.

    For every answer of a conversation these are exactly the first tokens of what `encode` gives for the whole.
    """
    return _encode(template.pieces(messages, open_turn=True), tokenizer, template).ids


def _encode(pieces: Sequence[Piece], tokenizer: Any, template: Template) -> Encoded:
    _need_unicode(pieces)
    plain = _plain(tokenizer, pieces)
    out = Encoded([], [])
    if template.adds_bos:
        _extend(out, plain.opening_ids, False)
    lead: str | None = None
    segments: list[tuple[str, bool]] = []
    for piece in pieces:
        if not piece.control:
            _add(segments, piece)
            continue
        name = piece.text
        if isinstance(template, TextTemplate):
            name = template.stop_token(tokenizer)
        for ids, target in plain.encode_run(segments, lead, name):
            _extend(out, ids, target)
        _extend(out, [plain.control_id(name)], piece.target)
        lead, segments = name, []
    for ids, target in plain.encode_run(segments, lead, None):
        _extend(out, ids, target)
    return out


def _need_unicode(pieces: Sequence[Piece]) -> None:
    for piece in pieces:
        try:
            piece.text.encode()
        except UnicodeEncodeError as error:
            raise TemplateError(f"a message holds half a surrogate pair, which is no text: {error}") from error


def _add(segments: list[tuple[str, bool]], piece: Piece) -> None:
    """Append a piece of text, joined to the last segment where both are (or are not) target."""
    if not piece.text:
        return
    if segments and segments[-1][1] == piece.target:
        segments[-1] = (segments[-1][0] + piece.text, piece.target)
    else:
        segments.append((piece.text, piece.target))


def _extend(out: Encoded, ids: Sequence[int], target: bool) -> None:
    out.ids.extend(ids)
    out.is_target.extend([target] * len(ids))


class _Plain:
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

    def encode_run(
        self, segments: Sequence[tuple[str, bool]], lead: str | None, trail: str | None
    ) -> list[tuple[list[int], bool]]:
        """Tokens of the text between two special tokens, cut at the segments' borders.

        Args:
            segments: (text, is target), neighbours differing in the second.
            lead: name of the special token before the run; None at the start of the text.
            trail: name of the one after it; None at the end.
        """
        found: list[tuple[list[int], bool]] = []
        text, continued = "", False
        so_far: list[int] = []
        for i, (segment, target) in enumerate(segments):
            after = trail if i == len(segments) - 1 else None
            if i and not target:  # the answer before it stopped by text: a new run, so that the work stays linear
                text, so_far, continued, lead = "", [], True, None
            ids, ends = self._tokens(text + segment, lead, after, continued)
            if ids[: len(so_far)] != so_far or (so_far and ends[len(so_far) - 1] > len(text)):
                ids, _ = self._tokens(segment, None, after, True)
                text, so_far, continued, lead = "", [], True, None
            found.append((ids[len(so_far) :], target))
            text, so_far = text + segment, ids
        return found

    def _tokens(self, text: str, lead: str | None, trail: str | None, continued: bool) -> tuple[list[int], list[int]]:
        """Ids of `text` between two special tokens, and where in it each one ends."""
        before = self._marks[lead] if lead else ""
        after = self._marks[trail] if trail else ""
        backend = self._continued if continued else self._whole
        got = backend.encode(before + text + after, add_special_tokens=False)
        cut = slice(1 if lead else 0, len(got.ids) - (1 if trail else 0))
        return got.ids[cut], [end - len(before) for _, end in got.offsets[cut]]


_cache: weakref.WeakKeyDictionary[Any, dict[tuple[Any, ...], _Plain]] = weakref.WeakKeyDictionary()


def _plain(tokenizer: Any, pieces: Sequence[Piece]) -> _Plain:
    """The tokenizer's plain copy whose marks do not occur in the text (made once for each tokenizer)."""
    if not getattr(tokenizer, "is_fast", False):
        raise TokenizerError(
            f"{type(tokenizer).__name__} has no fast (Rust) backend, so its tokens cannot be placed in the text; "
            "convert it with AutoTokenizer.from_pretrained(..., use_fast=True)"
        )
    nonce = 0
    while any(f"\ufdd2{nonce}." in piece.text for piece in pieces):
        nonce += 1
    opens = tuple(bool(getattr(tokenizer, name, False)) for name in ("add_bos_token", "add_prefix_space"))
    key = (nonce, len(tokenizer), opens, *tokenizer.all_special_tokens)
    copies = _cache.setdefault(tokenizer, {})
    if key not in copies:
        copies[key] = _Plain(tokenizer, nonce)
    return copies[key]


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
