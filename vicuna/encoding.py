"""Tokens and masks of many conversations: exactly what `prompt.encode` gives, mostly without tokenising.

Where a tokenizer's parts prove that it tokenises words each by itself (see `words`), each word is tokenised once, and
the tokens of a text are those of its words, one after another. Text of the others is tokenised as usual.
"""

import functools
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from vicuna.conversation import Conversation
from vicuna.plain import PlainTokenizer, Segment, Stretch, mark_of, need_unicode, plain_tokenizer, stretches
from vicuna.prompt import stop_name
from vicuna.template import Template
from vicuna.words import Words, words_of

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
ID = np.dtype("<u4")
"""How a token id is packed."""


class Memory(dict[Key, Value], Generic[Key, Value]):
    """Values that are made when they are first asked for; forgets all when there are too many."""

    def __init__(self, make: Callable[[Key], Value], most: int) -> None:
        self._make = make
        self._most = most

    def __missing__(self, key: Key) -> Value:
        if len(self) >= self._most:
            self.clear()
        value = self[key] = self._make(key)
        return value


@dataclass(frozen=True, slots=True)
class _Cut(Generic[Value]):
    """Text in words."""

    first: str
    last: str | None
    """None where there is but one."""
    others: Value
    """Of all words but the first."""


class Wordwise(Generic[Value]):
    """What adds up over the words of a text: the number of its tokens, or the tokens themselves."""

    def __init__(
        self,
        plain: PlainTokenizer,
        words: Words,
        value: Callable[[Sequence[int]], Value],
        add: Callable[[Iterable[Value]], Value],
    ) -> None:
        """
        Args:
            plain: the tokenizer.
            words: how it can be proven to cut text.
            value: of the tokens of one word.
            add: values of words in order → that of the text.
        """
        self._plain, self._words, self._value, self._add = plain, words, value, add
        self._gap = words.gap
        self._heads = Memory(self._of_head, 10_000)
        self._others = Memory(self._of_other, 200_000)
        self._parts = Memory(self._of_word, 200_000)
        self._cut = functools.lru_cache(1_000)(self._cut_text)

    def of(self, stretch: Stretch) -> list[Value]:
        """The value of each segment of a stretch of one segment or two."""
        prompt, *answers = [self._cut(segment.text) for segment in stretch.segments]
        found = [self._add((self._head(stretch, prompt.first), prompt.others))]
        for answer in answers:
            found.append(self._add((self._after(stretch, prompt, answer.first), answer.others)))
        return found

    def _after(self, stretch: Stretch, prompt: _Cut[Value], first: str) -> Value:
        """The value of the word with which an answer begins."""
        last = prompt.first if prompt.last is None else prompt.last
        if self._words.ends(last, first):
            return self._others[first[len(self._gap) :]]
        return self._head(stretch if prompt.last is None else Stretch((), None, None, True), last, first)

    def _head(self, stretch: Stretch, prompt: str, answer: str = "") -> Value:
        """The value of a word with which a stretch begins; or of the answer's that goes on in that word."""
        return self._heads[prompt, answer, stretch.lead, stretch.continues]

    def _cut_text(self, text: str) -> _Cut[Value]:
        first, others = self._words.cut(text)
        last = self._gap + others[-1] if others else None
        return _Cut(first, last, self._add(map(self._others.__getitem__, others)))

    def _of_head(self, head: tuple[str, str, str | None, bool]) -> Value:
        prompt, answer, lead, continues = head
        segments = (Segment(prompt, False, True), Segment(answer, True, True))
        *_, last = self._plain.encode(Stretch(segments if answer else segments[:1], lead, None, continues))
        return self._value(last)

    def _of_other(self, other: str) -> Value:
        """The value of a word that is not the first, given without its gap."""
        word = self._gap + other
        if self._words.parts is None:
            return self._of_word(word)
        return self._add(map(self._parts.__getitem__, self._words.parts.findall(word)))

    def _of_word(self, word: str) -> Value:
        return self._value(self._plain.within(word))


@dataclass(frozen=True, slots=True)
class Tokens:
    """A conversation as the model sees it; both arrays have one entry for each token."""

    ids: npt.NDArray[np.uint32]
    """Token ids."""
    is_target: npt.NDArray[np.bool_]
    """Whether the model learns to predict this token."""


class Encoder:
    """Tokenises conversations as `prompt.encode` does, token for token, with a memory of words."""

    def __init__(self, tokenizer: Any, template: Template) -> None:
        """
        Args:
            tokenizer: fast Hugging Face tokenizer.
            template: the prompt template.

        Raises:
            TokenizerError: the tokenizer has no fast (Rust) backend.
        """
        self._tokenizer = tokenizer
        self._template = template
        self._plain = plain_tokenizer(tokenizer)
        words = words_of(self._plain.source())
        self._words: Wordwise[bytes] | None = Wordwise(self._plain, words, _packed, b"".join) if words else None
        self._opening = _packed(self._plain.opening_ids) if template.adds_bos else b""
        self._controls: Memory[str, bytes] = Memory(lambda name: _packed([self._plain.control_id(name)]), 1_000)
        self._stop: str | None = None

    def __call__(self, conversation: Conversation) -> Tokens:
        """Tokens and loss mask of a whole conversation.

        Raises:
            TemplateError: the template cannot say these messages.
        """
        pieces = self._template.pieces(conversation.messages)
        if self._stop is None:
            self._stop = stop_name(pieces, self._tokenizer, self._template)
        packed, learnt = [self._opening], [False]
        for stretch in stretches(pieces, self._stop):
            packed += self._packed_segments(stretch)
            learnt += [segment.target and segment.train for segment in stretch.segments]
            if stop := stretch.stop:
                packed.append(self._controls[stop.text])
                learnt.append(stop.target and stop.train)
        ids = np.frombuffer(b"".join(packed), ID)
        return Tokens(ids, np.repeat(learnt, [len(each) // ID.itemsize for each in packed]))

    def _packed_segments(self, stretch: Stretch) -> list[bytes]:
        """The token ids of each segment."""
        if not stretch.segments:
            return []
        text = "".join(segment.text for segment in stretch.segments)
        need_unicode(text)
        plain = plain_tokenizer(self._tokenizer, [text]) if mark_of(0) in text else self._plain
        if self._words is None or plain is not self._plain or len(stretch.segments) > 2:
            return [_packed(ids) for ids in plain.encode(stretch)]
        return self._words.of(stretch)


def _packed(ids: Sequence[int]) -> bytes:
    return np.array(ids, ID).tobytes()
