"""A conversation as the model sees it, for people: every token with its text, its id and whether it is trained on."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from vicuna.conversation import Conversation
from vicuna.prompt import encode
from vicuna.template import Piece, Template, special_tokens

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_VISIBLE = {" ": "·", "\t": "→", "\n": "⏎"}
_UNSEEN = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]")


@dataclass(frozen=True, slots=True)
class Token:
    """One token."""

    id: int
    text: str
    """What it stands for; a byte that is no character by itself is written ⟨E4⟩."""
    control: bool
    """A special token that the template wrote."""
    target: bool
    """Whether training learns it."""


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring tokens that are all trained on, or all not."""

    start: int
    """Place of the first one, from 0."""
    tokens: Sequence[Token]

    @property
    def target(self) -> bool:
        """Whether they are trained on."""
        return self.tokens[0].target

    @property
    def title(self) -> str:
        """Which tokens they are, in words."""
        end, n = self.start + len(self.tokens) - 1, len(self.tokens)
        which = f"token {self.start}" if n == 1 else f"tokens {self.start} to {end} ({n:,})"
        return f"{which}: {'trained on' if self.target else 'not trained on'}"


@dataclass(frozen=True, slots=True)
class View:
    """What there is to see."""

    conversation: Conversation
    template: str
    """Name of the prompt template; "" where there is no tokenizer, and then the rest is empty."""
    pieces: Sequence[Piece] = ()
    """The rendered prompt, exactly."""
    tokens: Sequence[Token] = ()
    limit: int = 0
    """The context, in tokens."""

    @property
    def targets(self) -> int:
        """Tokens that are trained on."""
        return sum(token.target for token in self.tokens)

    def runs(self) -> Iterator[Run]:
        """The tokens, cut where the mask changes."""
        start = 0
        for _, group in groupby(self.tokens, key=lambda token: token.target):
            tokens = list(group)
            yield Run(start, tokens)
            start += len(tokens)


def view(conversation: Conversation, tokenizer: Any, template: Template, limit: int) -> View:
    """Encode a conversation as training does.

    Raises:
        TemplateError: the template cannot say these messages.
    """
    encoded = encode(conversation, tokenizer, template)
    specials = {tokenizer.convert_tokens_to_ids(name) for name in special_tokens(tokenizer)} - {tokenizer.unk_token_id}
    read = _Names(tokenizer)
    names = tokenizer.convert_ids_to_tokens(encoded.ids)
    tokens = [
        Token(number, str(name) if number in specials else read(str(name)), number in specials, target)
        for number, name, target in zip(encoded.ids, names, encoded.is_target, strict=True)
    ]
    return View(conversation, template.name, _merged(template.pieces(conversation.messages)), tokens, limit)


def _merged(pieces: Sequence[Piece]) -> list[Piece]:
    """Neighbouring pieces of one kind as one, empty ones left out."""
    kinds = groupby((piece for piece in pieces if piece.text), key=lambda piece: (piece.control, piece.target))
    return [Piece("".join(piece.text for piece in group), control, target) for (control, target), group in kinds]


def visible(text: str, form: str = "{}") -> str:
    """The text with marks for white space and for characters that show nothing; line ends stay behind their mark.

    Args:
        text: any text.
        form: how a mark is written, such as `<i>{}</i>`.
    """

    def mark(found: re.Match[str]) -> str:
        character = found[0]
        shown = _VISIBLE.get(character) or f"‹U+{ord(character):04X}›"
        return form.format(shown) + (character if character in "\n\t" else "")

    return _UNSEEN.sub(mark, text)


# ------------------------------------------------------------------------------------------------ names of tokens
class _Names:
    """Reads a token's name in the vocabulary as the text that it stands for."""

    def __init__(self, tokenizer: Any) -> None:
        source = json.loads(tokenizer.backend_tokenizer.to_str())
        parts = json.dumps([source.get("decoder"), source.get("pre_tokenizer")])
        self._bytes = _byte_names() if '"ByteLevel"' in parts else {}

    def __call__(self, name: str) -> str:
        if self._bytes and all(character in self._bytes for character in name):
            return _text(bytes(self._bytes[character] for character in name))
        if match := _BYTE.fullmatch(name):
            return _text(bytes([int(match[1], 16)]))
        return name.replace("▁", " ")


def _text(data: bytes) -> str:
    """UTF-8, and ⟨E4⟩ for each byte that is no part of a whole character."""
    return "".join(
        f"⟨{ord(each) - 0xDC00:02X}⟩" if "\udc80" <= each <= "\udcff" else each
        for each in data.decode("utf-8", "surrogateescape")
    )


def _byte_names() -> dict[str, int]:
    """The character by which byte-level vocabularies name a byte → the byte. Source: GPT-2's encoder."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}
