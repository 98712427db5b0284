"""The one prompt truth: what data counts, what training masks and what serving sends are the same tokens.

The rendered text is cut at the special tokens that the template wrote; every stretch between two of them is tokenised
as the tokenizer itself would within the whole text. Where an answer begins, the tokens so far must be exactly those of
the prompt alone: they nearly always are, and where a tokenizer merges across that border, the border wins. So a server
that sends the prompt stands exactly where training stood, and no mismatch can arise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vicuna.conversation import Conversation, Message
from vicuna.plain import TokenizerError, plain_tokenizer, stretches
from vicuna.template import Piece, Template, TextTemplate, template

__all__ = ["Encoded", "Template", "TokenizerError", "encode", "encode_prompt", "render", "template"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A conversation as the model sees it; both lists have one entry for each token."""

    ids: list[int]
    """Token ids."""
    is_target: list[bool]
    """Whether the model learns to predict this token: the answers that are to be learnt and their stop tokens."""


def render(conversation: Conversation, template: Template) -> str:
    """The whole conversation as text, special tokens by name; the tokenizer's own opening tokens are not in it."""
    return "".join(piece.text for piece in template.pieces(conversation.messages))


def encode(conversation: Conversation, tokenizer: Any, template: Template) -> Encoded:
    """Tokens and loss mask of a whole conversation.

    Targets are each answer that is to be learnt (`Message.train`), the white space by which it follows the assistant's
    name (the model has to write that too), and its stop; the ids are the same for answers that are not. Text that
    merely looks like a special token stays text. Without such text, and where no token reaches across the start of an
    answer, the ids are the tokenizer's own for the rendered text.

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
    plain = plain_tokenizer(tokenizer, (piece.text for piece in pieces))
    out = Encoded([], [])
    if template.adds_bos:
        _extend(out, plain.opening_ids, False)
    for stretch in stretches(pieces, stop_name(pieces, tokenizer, template)):
        for segment, ids in zip(stretch.segments, plain.encode(stretch), strict=True):
            _extend(out, ids, segment.target and segment.train)
        if stop := stretch.stop:
            _extend(out, [plain.control_id(stop.text)], stop.target and stop.train)
    return out


def stop_name(pieces: Sequence[Piece], tokenizer: Any, template: Template) -> str | None:
    """The special token that these control pieces stand for; None where each names its own."""
    if isinstance(template, TextTemplate) and any(piece.control for piece in pieces):
        return template.stop_token(tokenizer)
    return None


def _extend(out: Encoded, ids: Sequence[int], is_target: bool) -> None:
    out.ids.extend(ids)
    out.is_target.extend([is_target] * len(ids))
