"""Answers for the batcher, and what transformers' own `generate` answers to the same prompts."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from serve_tiny import model, tokenizer

from vicuna.serve.engines import Piece
from vicuna.serve.engines.continuous.batcher import Batcher
from vicuna.serve.engines.continuous.seats import Seat
from vicuna.serve.engines.detokenize import Detokenizing
from vicuna.serve.engines.spelling import Spelling
from vicuna.serve.engines.text import AnswerText
from vicuna.serve.protocol import Sampling

torch.set_num_threads(1)  # tiny tensors: a second thread costs more than it gives
GREEDY = Sampling(temperature=0)
CONTEXT = 256
END = 1
"""The token that ends an answer."""
KINDS = ["llama", "qwen2", "qwen3", "mistral", "neox"]
tiny = functools.cache(model)
words = functools.cache(tokenizer)
spelling = functools.cache(lambda: Spelling(words()))
_detokenizing = functools.cache(lambda: Detokenizing(words()))


@functools.cache
def served(kind: str) -> Any:
    """The model that batchers run; another copy than `tiny`, whose attention stays transformers' own."""
    return model(kind)


def batcher(kind: str = "llama", *, slots: int = 4, room: int = 2048, **more: Any) -> Batcher:
    return Batcher(served(kind), slots=slots, room=room, max_length=min(CONTEXT, room), **more)


def seat(
    prompt: Sequence[int], tokens: int, sampling: Sampling = GREEDY, emitted: Sequence[int] = (), **more: Any
) -> Seat:
    text = AnswerText(_detokenizing().begin(), sampling.stop, "")
    limit = min(CONTEXT, len(prompt) + tokens)
    return Seat(prompt, emitted, sampling, limit, frozenset([END]), text, **more)


def alone(kind: str, prompt: Sequence[int], tokens: int) -> list[int]:
    """What `generate` answers, one prompt at a time."""
    return _generated(kind, tuple(prompt), min(max(tokens, 40), CONTEXT - len(prompt)))[:tokens]


@functools.cache  # shorter greedy answers are beginnings of longer ones
def _generated(kind: str, prompt: tuple[int, ...], tokens: int) -> list[int]:
    ids = torch.tensor([prompt])
    out = tiny(kind).generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
    answer: list[int] = out[0, len(prompt) :].tolist()
    return answer


def run(
    batcher: Batcher, arrivals: Sequence[tuple[int, Seat]], aborts: Mapping[int, int] | None = None
) -> dict[Seat, list[Piece]]:
    """Step until nothing is left; seats arrive, and are aborted by their place in `arrivals`, at given steps."""
    answers: dict[Seat, list[Piece]] = {each: [] for _, each in arrivals}
    assert all(each.limit <= batcher.max_length for _, each in arrivals)
    coming = sorted(arrivals, key=lambda each: each[0])
    number = 0
    while coming or batcher.busy:
        while coming and coming[0][0] <= number:
            batcher.add(coming.pop(0)[1])
        for index, at in (aborts or {}).items():
            if at == number:
                arrivals[index][1].aborted = True
        for each, item in batcher.step():
            assert isinstance(item, Piece), item
            answers.setdefault(each, []).append(item)
        number += 1
        assert number < 5000
    return answers


def ids_of(pieces: Sequence[Piece]) -> list[int]:
    return [token for piece in pieces for token in piece.ids]


def text_of(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def all_numbers(batcher: Batcher) -> bool:
    """Whether there is nothing in the cache that is not a number."""
    pools = batcher.pools._layers.values()
    assert pools
    return all(bool(torch.isfinite(each).all()) for pool in pools for each in (pool.keys, pool.values))


def assert_all_is_free(batcher: Batcher) -> None:
    """No answer, no slot and no block is held."""
    cache = batcher.cache
    assert not batcher.busy
    assert cache.used == 0
    assert cache.free + cache.kept == cache.blocks
