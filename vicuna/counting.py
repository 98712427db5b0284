"""Token counts of conversations: exactly what `prompt.encode` gives, mostly without tokenising.

Where a tokenizer's parts prove that it tokenises words each by itself, each word is tokenised once, and a count is a
sum. Text of the others is tokenised as usual. Either way the same text is counted once, however many cuts of a
conversation are tried.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from vicuna.conversation import Message
from vicuna.encoding import Memory, Wordwise
from vicuna.plain import Stretch, mark_of, need_unicode, plain_tokenizer, stretches
from vicuna.prompt import stop_name
from vicuna.template import Piece, Template, TextTemplate
from vicuna.words import words_of


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
        words = words_of(self._plain.source())
        self._words: Wordwise[int] | None = Wordwise(self._plain, words, len, sum) if words else None
        self._opening = len(self._plain.opening_ids) if template.adds_bos else 0
        self._stop: str | None = None
        self._stretches = Memory(self._count_stretch, 1_000)
        self._rounds: Memory[tuple[bool, tuple[Message, ...]], int] | None = None
        if isinstance(template, TextTemplate) and template.stop_is_token and not template.answer_end:
            self._rounds = Memory(functools.partial(self._count_round, template), 1_000)

    def __call__(self, messages: Sequence[Message]) -> int:
        """How many tokens `prompt.encode` gives for a conversation of these messages.

        Raises:
            TemplateError: the template cannot say these messages.
        """
        if self._rounds is None:
            return self._opening + self._count(self._template.pieces(messages), self._stretches.__getitem__)
        ends = [0, *(i for i, message in enumerate(messages, 1) if message.role == "assistant")]
        rounds = [(start > 0, tuple(messages[start:end])) for start, end in zip(ends, [*ends[1:], None], strict=True)]
        return self._opening + sum(map(self._rounds.__getitem__, rounds))

    def _count_round(self, template: TextTemplate, part: tuple[bool, tuple[Message, ...]]) -> int:
        """Tokens up to the stop token of an answer, or to the end, of messages that may follow another answer."""
        follows, messages = part
        if not follows:
            return self._count(template.pieces(messages), self._count_stretch)
        return self._count([Piece(template.stop, control=True), *template.turns(messages)], self._count_stretch) - 1

    def _count(self, pieces: Sequence[Piece], count: Callable[[Stretch], int]) -> int:
        if self._stop is None:
            self._stop = stop_name(pieces, self._tokenizer, self._template)
        found = sum(count(stretch) for stretch in stretches(pieces, self._stop) if stretch.segments)
        return found + sum(piece.control for piece in pieces)

    def _count_stretch(self, stretch: Stretch) -> int:
        """Tokens of a stretch without the special token after it."""
        text = "".join(segment.text for segment in stretch.segments)
        need_unicode(text)
        plain = plain_tokenizer(self._tokenizer, [text]) if mark_of(0) in text else self._plain
        if self._words is None or plain is not self._plain or len(stretch.segments) > 2:
            return sum(map(len, plain.encode(stretch)))
        return sum(self._words.of(stretch))
