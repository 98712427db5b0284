"""Token counts of conversations: exactly what `prompt.encode` gives, mostly without tokenising.

Where a tokenizer's parts prove that it tokenises words each by itself, each word is tokenised once, and a count is a
sum. Text of the others is tokenised as usual. Either way the same text is counted once, however many cuts of a
conversation are tried.
"""

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from vicuna.conversation import Message
from vicuna.plain import PlainTokenizer, Segment, Stretch, mark_of, need_unicode, plain_tokenizer, stretches
from vicuna.prompt import stop_name
from vicuna.template import Piece, Template, TextTemplate
from vicuna.words import Words, words_of

Key = TypeVar("Key", bound=Hashable)


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
        words = words_of(self._plain.source())
        self._words = _WordCounter(self._plain, words) if words else None
        self._opening = len(self._plain.opening_ids) if template.adds_bos else 0
        self._stop: str | None = None
        self._stretches = _Counts(self._count_stretch, 1_000)
        self._rounds: _Counts[tuple[bool, tuple[Message, ...]]] | None = None
        if isinstance(template, TextTemplate) and template.stop_is_token and not template.answer_end:
            self._rounds = _Counts(functools.partial(self._count_round, template), 1_000)

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
        return self._words.count(stretch)


@dataclass(frozen=True, slots=True)
class _Cut:
    """Text in words."""

    first: str
    last: str | None
    """None where there is but one."""
    others: int
    """Tokens of all words but the first."""


class _WordCounter:
    """Counts the tokens of stretches, each word by itself."""

    def __init__(self, plain: PlainTokenizer, words: Words) -> None:
        self._plain = plain
        self._words = words
        self._gap = words.gap
        self._heads = _Counts(self._count_head, 10_000)
        self._others = _Counts(self._count_other, 200_000)
        self._parts = _Counts(plain.count, 200_000)
        self._cut = functools.lru_cache(1_000)(self._cut_text)

    def count(self, stretch: Stretch) -> int:
        """Tokens of a stretch of one segment or two."""
        prompt, *answers = [self._cut(segment.text) for segment in stretch.segments]
        if not answers:
            return self._head(stretch, prompt.first) + prompt.others
        (answer,) = answers
        last = prompt.first if prompt.last is None else prompt.last
        if self._words.ends(last, answer.first):
            return self._head(stretch, prompt.first) + prompt.others + self._other(answer.first) + answer.others
        if prompt.last is None:
            return self._head(stretch, last, answer.first) + answer.others
        border = self._head(Stretch((), None, None, True), last, answer.first)
        return self._head(stretch, prompt.first) + prompt.others - self._other(last) + border + answer.others

    def _head(self, stretch: Stretch, prompt: str, answer: str = "") -> int:
        """Tokens of the words with which a stretch begins."""
        return self._heads[prompt, answer, stretch.lead, stretch.continues]

    def _other(self, word: str) -> int:
        return self._others[word[len(self._gap) :]]

    def _cut_text(self, text: str) -> _Cut:
        first, others = self._words.cut(text)
        last = self._gap + others[-1] if others else None
        return _Cut(first, last, sum(map(self._others.__getitem__, others)))

    def _count_head(self, head: tuple[str, str, str | None, bool]) -> int:
        prompt, answer, lead, continues = head
        segments = (Segment(prompt, False, True), Segment(answer, True, True))
        return sum(map(len, self._plain.encode(Stretch(segments if answer else segments[:1], lead, None, continues))))

    def _count_other(self, other: str) -> int:
        """Tokens of a word that is not the first, given without its gap."""
        word = self._gap + other
        if self._words.parts is None:
            return self._plain.count(word)
        return sum(map(self._parts.__getitem__, self._words.parts.findall(word)))
