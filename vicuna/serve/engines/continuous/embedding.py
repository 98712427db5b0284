"""Vectors of texts from a causal language model, computed in small steps between those of the answers.

A text's vector is the mean of the model's last hidden states over the text's tokens, scaled to length 1. Texts use the
answers' cache while they are computed, a text that is too long for one step over several.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vicuna.serve import faults
from vicuna.serve.engines.continuous.attention import Pools
from vicuna.serve.engines.continuous.cache import Cache, Chain
from vicuna.serve.engines.continuous.pace import LEAST, is_shortage
from vicuna.serve.engines.continuous.ragged import Ragged, Span
from vicuna.serve.faults import Fault

log = logging.getLogger(__name__)
STEP_TOKENS = 512
"""Most tokens of one step."""


@dataclass
class _Text:
    """One text: what is done of it."""

    ids: Sequence[int]
    chain: Chain
    filled: int = 0
    total: Any = 0
    """The sum of the hidden states of the first `filled` tokens."""


class Texts:
    """The texts of one request."""

    def __init__(self, ids: Sequence[Sequence[int]]) -> None:
        """`ids`: token ids of each text, at least one."""
        self.ids = ids
        self.texts: list[_Text] = []
        self.vectors: list[list[float]] = []
        self.fault: Fault | None = None
        """Why there are no vectors."""
        self.aborted = False
        self.most = STEP_TOKENS
        """Tokens of one step, as far as memory suffices."""
        self.hungry = math.inf
        """Since when the next text has found no room."""

    @property
    def done(self) -> bool:
        """Whether each text has its vector."""
        return len(self.vectors) == len(self.ids)


class Embedder:
    """Runs the model over texts. Not thread-safe: one thread adds, steps and reads."""

    def __init__(self, model: Any, cache: Cache, pools: Pools) -> None:
        """
        Args:
            model: a transformers causal language model in evaluation mode, its attention installed.
            cache: the answers' cache.
            pools: its keys and values.
        """
        self._model = model
        self._cache = cache
        self._pools = pools
        self._waiting: deque[Texts] = deque()

    def add(self, texts: Texts) -> None:
        """Queue a request's texts."""
        texts.texts = [_Text(ids, self._cache.open(share=False)) for ids in texts.ids]
        self._waiting.append(texts)

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._waiting)

    def clear(self) -> list[Texts]:
        """Forget everything, for example after a step failed; returns whose vectors are lost."""
        lost, self._waiting = list(self._waiting), deque()
        for texts in lost:
            self._close(texts)
        return lost

    @property
    def hungry(self) -> float:
        """Since when a text has found no room. Answers that came later must not take it, or it would wait for ever."""
        return min((texts.hungry for texts in self._waiting), default=math.inf)

    def step(self, most: int = STEP_TOKENS) -> list[tuple[Texts, list[list[float]] | Fault]]:
        """Compute a little for one request, at most so many tokens; those that wait take turns. The result has the
        request if it is done or has failed."""
        self._leave()
        if not self._waiting:
            return []
        texts = self._waiting[0]
        pieces = self._pieces(texts, min(most, texts.most))
        try:
            if pieces:
                self._compute(texts, pieces)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_shortage(error):
                raise
            self._shed(texts, error)
        self._waiting.rotate(-1)
        if not texts.done and texts.fault is None:
            return []
        self._waiting.remove(texts)
        self._close(texts)
        return [(texts, texts.fault or texts.vectors)]

    def _leave(self) -> None:
        """Drop requests that nobody waits for any more."""
        gone = [texts for texts in self._waiting if texts.aborted]  # looked at once: others abort at any time
        for texts in gone:
            self._close(texts)
            self._waiting.remove(texts)

    def _shed(self, texts: Texts, error: BaseException) -> None:
        """A step needed more memory than there is: this request's steps become smaller."""
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        if texts.most <= LEAST:
            texts.fault = faults.server_error("there is not enough memory to compute this vector", 503, "out_of_memory")
        texts.most = max(LEAST, texts.most // 2)
        log.warning("out of memory with texts to embed: at most %d tokens a step (%s)", texts.most, error)

    def _pieces(self, texts: Texts, most: int) -> list[tuple[_Text, Span]]:
        """The next tokens, as many as fit into one step; none while answers need all of the cache."""
        made: list[tuple[_Text, Span]] = []
        left = most
        for text in texts.texts[len(texts.vectors) :]:
            count = min(left, len(text.ids) - text.filled)
            if not count:
                break
            if not self._seated(text):
                if not made:
                    texts.hungry = min(texts.hungry, time.monotonic())
                break
            texts.hungry = math.inf
            made.append((text, Span(text.ids[text.filled : text.filled + count], text.filled, text.chain)))
            left -= count
        return made

    def _seated(self, text: _Text) -> bool:
        """Whether there is room for the whole text: two that hold a half each could both wait for ever."""
        return bool(text.chain.blocks) or self._cache.grow(text.chain, len(text.ids))

    def _compute(self, texts: Texts, pieces: Sequence[tuple[_Text, Span]]) -> None:
        spans = [span for _, span in pieces]
        with torch.inference_mode():
            batch = Ragged(spans, self._cache.size, self._pools.tokens, self._model.device, self._model.dtype)
            hidden = self._model.base_model(
                input_ids=batch.ids, position_ids=batch.positions, use_cache=False, ragged=batch, pools=self._pools
            ).last_hidden_state[0]
            for (text, span), begin, end in zip(pieces, batch.offsets, batch.offsets[1:], strict=False):
                text.total = text.total + hidden[begin:end].float().sum(0)
                text.filled = span.end
                if text.filled == len(text.ids):
                    # Dividing by the number of tokens first would change nothing.
                    texts.vectors.append(torch.nn.functional.normalize(text.total, dim=0).tolist())
                    freed = self._cache.close(text.chain)
                    if not bool(torch.isfinite(text.total).all()):
                        self._pools.wipe(freed, self._cache.size)
                        texts.fault = faults.server_error("the model computed no number", code="engine_failed")

    def _close(self, texts: Texts) -> None:
        for text in texts.texts:
            self._cache.close(text.chain)
