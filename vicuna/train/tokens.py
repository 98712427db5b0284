"""Conversations → samples of tokens, a block at a time, in as many processes as there is work for."""

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from vicuna.conversation import Conversation, problems
from vicuna.encoding import Encoder, Tokens
from vicuna.errors import InputError
from vicuna.hardware import cpu_count
from vicuna.prompt import Template
from vicuna.train.config import DataConfig
from vicuna.workers import Workers

BLOCK = 1000
"""Conversations that are tokenised together; all that a process holds at once."""
SAMPLE = np.dtype(
    [("tokens", "<i4"), ("targets", "<i4"), ("name", "<i4"), ("conversation", "<u8"), ("stem", "<u8"), ("place", "<u8")]
)
"""What is known of a sample: its tokens, those that are learnt, the bytes of its name, and hashes of its conversation's
id, of the same without what marks a piece of a conversation, and of that together with its source."""
_PIECE = re.compile(r"_\d+(?:\.\d+)?\Z")
"""What `vicuna.data` and FastChat add to a conversation's id where they cut it."""


@dataclass(frozen=True)
class Rules:
    """What decides the tokens of a conversation."""

    tokenizer: Any
    template: Template
    max_length: int
    """Most tokens of a sample."""
    data: DataConfig

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest type that holds every token id."""
        return np.dtype("<u2" if len(self.tokenizer) <= 1 << 16 else "<u4")


@dataclass(frozen=True, slots=True)
class Lost:
    """What is not learnt of a conversation, and why."""

    id: str
    source: str
    reason: str
    kept: bool
    """The sample is learnt; only its end is lost."""


@dataclass(frozen=True)
class Block:
    """Samples end to end."""

    conversations: int
    """How many were read for it."""
    ids: npt.NDArray[Any]
    """Token ids of all samples, shape (T,)."""
    is_target: npt.NDArray[np.bool_]
    """Whether each is learnt, shape (T,)."""
    names: bytes
    """Ids of all samples in UTF-8."""
    samples: npt.NDArray[np.void]
    """A `SAMPLE` for each, shape (N,)."""
    lost: list[Lost]


class Sampler:
    """Makes samples of conversations."""

    def __init__(self, rules: Rules) -> None:
        """
        Raises:
            TokenizerError: the tokenizer has no fast (Rust) backend.
            InputError: plain text is to be learnt, and the tokenizer has no EOS token to end it.
        """
        self._rules = rules
        self._encoder = Encoder(rules.tokenizer, rules.template)
        if rules.data.format == "text" and rules.tokenizer.eos_token_id is None:
            raise InputError("the tokenizer has no EOS token, which ends a text; give it one (eos_token)")

    def __call__(self, conversations: list[Conversation]) -> Block:
        """The samples of a block.

        Raises:
            InputError: one is no valid conversation.
            TemplateError: the template cannot say one.
        """
        made: list[Tokens] = []
        names: list[bytes] = []
        rows: list[tuple[int, ...]] = []
        lost: list[Lost] = []
        for conversation in conversations:
            hashes = _hashes(conversation)
            for name, whole in self._samples(conversation):
                tokens, reason = self._fit(whole)
                if reason:
                    lost.append(Lost(name, conversation.source, reason, tokens is not None))
                if tokens is not None:
                    made.append(tokens)
                    names.append(name.encode())
                    rows.append((len(tokens.ids), _targets(tokens), len(names[-1]), *hashes))
        return Block(
            conversations=len(conversations),
            ids=_joined([each.ids for each in made], self._rules.dtype),
            is_target=_joined([each.is_target for each in made], np.dtype(np.bool_)),
            names=b"".join(names),
            samples=np.array(rows, SAMPLE),
            lost=lost,
        )

    def __reduce__(self) -> tuple[type["Sampler"], tuple[Rules]]:
        """Where processes are not forked, the rules travel and the memory of words does not."""
        return Sampler, (self._rules,)

    def _samples(self, conversation: Conversation) -> Iterator[tuple[str, Tokens]]:
        if self._rules.data.format == "text":
            yield from self._texts(conversation)
            return
        if reasons := problems(conversation):
            name, source = conversation.id, conversation.source
            where = name if source in ("", name) else f"{source} ({name})"
            raise InputError(f"{where}: {reasons[0]}; clean it with vicuna.data first")
        for each in _rounds(conversation) if self._rules.data.rounds == "single" else [conversation]:
            yield each.id, self._encoder(each)

    def _texts(self, conversation: Conversation) -> Iterator[tuple[str, Tokens]]:
        """The messages as one document: BOS, text, EOS, in pieces of at most `max_length` tokens, all learnt."""
        tokenizer, most = self._rules.tokenizer, self._rules.max_length
        text = "\n".join(message.content for message in conversation.messages)
        ids = np.array([*tokenizer(text).input_ids, tokenizer.eos_token_id], np.uint32)
        for start in range(0, len(ids), most):
            piece = ids[start : start + most]
            yield f"{conversation.id}[{start}]", Tokens(piece, np.ones(len(piece), np.bool_))

    def _fit(self, tokens: Tokens) -> tuple[Tokens | None, str]:
        """A sample as it is learnt, and what is wrong with it; None where it is not learnt at all."""
        most, reason = self._rules.max_length, ""
        if len(tokens.ids) > most:
            if self._rules.data.overlong == "drop":
                return None, f"longer than {most} tokens"
            tokens, reason = Tokens(tokens.ids[:most], tokens.is_target[:most]), f"cut to {most} tokens"
        if not _targets(tokens):
            return None, f"no token to learn when {reason}" if reason else "no token to learn"
        return tokens, reason


def _targets(tokens: Tokens) -> int:
    """Tokens that are learnt; never the first, which has nothing before it."""
    return int(np.count_nonzero(tokens.is_target[1:]))


def _joined(arrays: list[npt.NDArray[Any]], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *arrays], dtype=dtype, casting="unsafe")


def _rounds(conversation: Conversation) -> Iterator[Conversation]:
    """Each round as a conversation by itself, with the system message; named as a piece that `vicuna.data` cut."""
    system = conversation.messages[: len(conversation.messages) - len(conversation.turns)]
    for i, pair in enumerate(conversation.rounds()):
        yield replace(conversation, id=f"{conversation.id}_{2 * i}", messages=(*system, *pair))


def _hashes(conversation: Conversation) -> tuple[int, int, int]:
    """See `SAMPLE`. A record without an id is named by its place, which may change, so its text stands for it."""
    name = conversation.id
    if name == conversation.source:
        name = "\n".join(message.content for message in conversation.messages)
    stem = _PIECE.sub("", name)
    return _hash(name), _hash(stem), _hash(f"{conversation.source}\n{stem}")


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


# ------------------------------------------------------------------------------------------------ processes
def blocks(conversations: Iterable[Conversation], rules: Rules) -> Iterator[Block]:
    """The samples of all conversations, in order. One block is worked on here, more in `rules.data.workers` processes.

    Raises:
        InputError, TemplateError, TokenizerError: as `Sampler`.
        WorkerLostError: a process was killed.
    """
    rows = iter(conversations)
    read = iter(lambda: list(itertools.islice(rows, BLOCK)), [])
    first = list(itertools.islice(read, 2))
    count = (rules.data.workers or cpu_count()) if len(first) > 1 else 1
    sampler = Sampler(rules)
    with Workers(count, "--data.workers", _begin, sampler).map(_work, itertools.chain(first, read)) as made:
        yield from made


_SAMPLER: list[Sampler] = []
"""That of this process."""


def _begin(sampler: Sampler) -> None:
    _SAMPLER[:] = [sampler]


def _work(block: list[Conversation]) -> Block:
    (sampler,) = _SAMPLER
    return sampler(block)
