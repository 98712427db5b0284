"""Vectors of texts from a causal language model, computed in small steps between those of the answers.

A text's vector is the mean of the model's last hidden states over the text's tokens, scaled to length 1.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

STEP_TOKENS = 512
"""Most tokens, padding included, of one step."""


class Texts:
    """The texts of one request: what is done, and what is not."""

    def __init__(self, ids: Sequence[Sequence[int]]) -> None:
        """`ids`: token ids of each text, at least one."""
        self.ids = ids
        self.vectors: list[list[float]] = []
        self.aborted = False
        self.cache: DynamicCache | None = None
        """Keys and values of the beginning of a text that is too long for one step."""
        self.total: torch.Tensor | None = None
        """The sum of that beginning's hidden states."""
        self.filled = 0
        """Its tokens."""

    @property
    def done(self) -> bool:
        """Whether each text has its vector."""
        return len(self.vectors) == len(self.ids)


class Embedder:
    """Runs the model over texts. Not thread-safe: one thread adds, steps and reads."""

    def __init__(self, model: Any) -> None:
        """`model`: a transformers causal language model in evaluation mode."""
        self._body = model.base_model
        self._device = model.device
        self._config = model.config
        self._waiting: deque[Texts] = deque()

    def add(self, texts: Texts) -> None:
        """Queue a request's texts."""
        self._waiting.append(texts)

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._waiting)

    def clear(self) -> list[Texts]:
        """Forget everything, for example after a step failed; returns whose vectors are lost."""
        lost, self._waiting = list(self._waiting), deque()
        return lost

    def step(self) -> list[tuple[Texts, list[list[float]]]]:
        """Compute a little for one request; those that wait take turns. The result has the request if it is done."""
        self._waiting = deque(texts for texts in self._waiting if not texts.aborted)
        if not self._waiting:
            return []
        texts = self._waiting[0]
        with torch.inference_mode():
            if len(texts.ids[len(texts.vectors)]) > STEP_TOKENS:
                self._advance(texts)
            else:
                self._finish_some(texts)
        self._waiting.popleft()
        if texts.done:
            return [(texts, texts.vectors)]
        self._waiting.append(texts)
        return []

    def _finish_some(self, texts: Texts) -> None:
        """The next texts, as many as fit into one step."""
        group: list[Sequence[int]] = []
        widest = 0
        for ids in texts.ids[len(texts.vectors) :]:
            widest = max(widest, len(ids))
            if widest * (len(group) + 1) > STEP_TOKENS:
                break
            group.append(ids)
        widest = max(map(len, group))
        # Padding stands behind the text, where a causal model's tokens cannot see it.
        padded = torch.tensor([[*ids, *[0] * (widest - len(ids))] for ids in group], device=self._device)
        sizes = torch.tensor([len(ids) for ids in group], device=self._device)[:, None]
        hidden = self._body(input_ids=padded, use_cache=False).last_hidden_state.float()
        real = torch.arange(widest, device=self._device) < sizes
        texts.vectors += _vectors((hidden * real[:, :, None]).sum(1))

    def _advance(self, texts: Texts) -> None:
        """One piece of a text that is too long for one step."""
        ids = texts.ids[len(texts.vectors)]
        if texts.cache is None:
            texts.cache, texts.filled, texts.total = DynamicCache(config=self._config), 0, None
        piece = torch.tensor([ids[texts.filled : texts.filled + STEP_TOKENS]], device=self._device)
        hidden = self._body(input_ids=piece, past_key_values=texts.cache, use_cache=True).last_hidden_state.float()
        added = hidden.sum(1)
        texts.total = added if texts.total is None else texts.total + added
        texts.filled += piece.shape[1]
        if texts.filled == len(ids):
            texts.vectors += _vectors(texts.total)
            texts.cache = None


def _vectors(sums: torch.Tensor) -> list[list[float]]:
    """Rows of length 1: dividing by the number of tokens first would change nothing."""
    rows: list[list[float]] = torch.nn.functional.normalize(sums, dim=-1).tolist()
    return rows
