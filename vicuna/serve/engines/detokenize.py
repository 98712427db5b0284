"""From a growing list of token ids to text: each piece comes out once, is never taken back, and costs little.

What the pieces make together is what the tokenizer's own `decode` makes of all ids at once, special tokens left out.
The prompt belongs to it: a space that only a text's first token loses is not lost, and a character that the prompt's
last token has begun is the answer's. For the two ways of decoding that nearly all language models have, the text is
put together from what each token stands for (`spelling.py`); for any other, a short window is decoded again.
"""

import codecs
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from vicuna.serve.engines.spelling import Spelling, decoders

_REPLACEMENT = "\ufffd"
_UNFINISHED = 3
"""Bytes of a character that may be there before its last one, so also the most replacement characters that the next
token may still change."""
_WINDOW = 8
"""Ids that a window goes back at least: the text of a token depends on no earlier ones."""
_SPACES = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
_FALLBACK = [_SPACES, {"type": "ByteFallback"}, {"type": "Fuse"}]


class Stream(Protocol):
    """The text of one answer."""

    def push(self, ids: Sequence[int]) -> str:
        """Text that is certain after these ids too."""
        ...

    def flush(self) -> str:
        """What was held back; bytes that make no character come out as replacement characters."""
        ...


class Detokenizing:
    """A tokenizer's way from ids to text; made once, used for all answers."""

    def __init__(self, tokenizer: Any) -> None:
        """
        Args:
            tokenizer: of transformers.
        """
        self._spelling = Spelling(tokenizer)
        self._special = frozenset(tokenizer.all_special_ids)
        self._decode = lambda ids: tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        self._kind = [] if _own_way(tokenizer) else decoders(tokenizer)
        if self._kind:  # it says of each added token whether `decode` leaves it out
            added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
            self._special = frozenset(index for index, token in added.items() if token.special)

    def begin(self, prompt: Sequence[int] = ()) -> Stream:
        """The text of an answer.

        Args:
            prompt: the ids before it, of which the last ones count; they are not shown.
        """
        seen = itertools.islice((index for index in reversed(prompt) if index not in self._special), _WINDOW)
        before = list(seen)[::-1]
        match self._kind:
            case [{"type": "ByteLevel"}]:
                return ByteLevel(self._spelling, self._special, before)
            case [*first] if first == _FALLBACK:
                return ByteFallback(self._spelling, self._special, before, strips=False)
            case [*first, last] if first == _FALLBACK and last == _STRIP:
                return ByteFallback(self._spelling, self._special, before, strips=True)
        return Window(self._decode, self._special, before)


def _own_way(tokenizer: Any) -> bool:
    """Whether its class does not simply pass ids on to the library tokenizers."""
    from transformers import PreTrainedTokenizerFast

    return getattr(type(tokenizer), "_decode", None) is not PreTrainedTokenizerFast._decode


class ByteLevel:
    """Every token stands for bytes, and the bytes of all are UTF-8 (GPT-2, Llama 3, Qwen, GPT-NeoX)."""

    def __init__(self, spelling: Spelling, special: frozenset[int], prompt: Sequence[int] = ()) -> None:
        self._spelling = spelling
        self._special = special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.push(prompt)

    def push(self, ids: Sequence[int]) -> str:
        """Text that is certain after these ids too."""
        spelling, special = self._spelling, self._special
        return self._decoder.decode(b"".join([spelling[index] for index in ids if index not in special]))

    def flush(self) -> str:
        """What was held back."""
        return self._decoder.decode(b"", final=True)


class ByteFallback:
    """Tokens are text, and characters without a token are written in tokens of one byte each (SentencePiece: Llama 2,
    Mistral, Gemma).

    The library tokenizers reads a run of bytes as a whole: all of it is UTF-8, or each byte is a replacement character.
    So a run is shown when it has ended.
    """

    def __init__(self, spelling: Spelling, special: frozenset[int], prompt: Sequence[int], *, strips: bool) -> None:
        self._spelling = spelling
        self._special = special
        self._strips = strips
        """Whether a space is still to be left out: the one before the first word."""
        self._run = bytearray()
        self.push(prompt)
        self._run = _unfinished(self._run)

    def push(self, ids: Sequence[int]) -> str:
        """Text that is certain after these ids too."""
        text = ""
        for index in ids:
            if index in self._special:
                continue
            byte = self._spelling.single_bytes.get(index)
            if byte is not None:
                self._run += byte
            elif content := self._spelling[index]:  # else the tokenizer does not have it
                text += self._end_run() + content.decode()
        return self._stripped(text)

    def flush(self) -> str:
        """What was held back."""
        return self._stripped(self._end_run())

    def _end_run(self) -> str:
        run, self._run = self._run, bytearray()
        try:
            return run.decode()
        except UnicodeDecodeError:
            return _REPLACEMENT * len(run)

    def _stripped(self, text: str) -> str:
        if self._strips and text:
            text, self._strips = text.removeprefix(" "), False
        return text


def _unfinished(run: bytearray) -> bytearray:
    """The bytes at the end that may be the beginning of a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(run)
    return bytearray(decoder.getstate()[0])


class Window:
    """Any other tokenizer: the last ids are decoded again with each new one, and what the text has grown by is shown.

    Exact where a token's text depends on its neighbours alone, as it does in every tokenizer known to us.
    """

    def __init__(
        self, decode: Callable[[list[int]], str], special: frozenset[int] = frozenset(), prompt: Sequence[int] = ()
    ) -> None:
        """
        Args:
            decode: ids → text.
            special: ids that are left out.
            prompt: the last ids before the text; they are not shown.
        """
        self._decode = decode
        self._special = special
        self._ids: list[int] = []
        self._shown = 0
        """Characters of the window's text that are out."""
        self.push(prompt)

    def push(self, ids: Sequence[int]) -> str:
        """Text that is certain after these ids too."""
        self._ids += [index for index in ids if index not in self._special]
        text = self._decode(self._ids)
        held = min(_UNFINISHED, len(text) - len(text.rstrip(_REPLACEMENT)))
        fresh = text[self._shown : len(text) - held]
        self._shown = max(self._shown, len(text) - held)
        if len(self._ids) > 2 * _WINDOW:
            del self._ids[:-_WINDOW]
            self._shown = len(self._decode(self._ids)) - held
        return fresh

    def flush(self) -> str:
        """What was held back."""
        text = self._decode(self._ids)
        fresh = text[self._shown :]
        self._shown = len(text)
        return fresh
