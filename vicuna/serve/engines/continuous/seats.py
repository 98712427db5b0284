"""One answer in the batch or waiting for it."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vicuna.serve.engines import Piece, likelihood
from vicuna.serve.engines.continuous.cache import Chain
from vicuna.serve.engines.sampling import penalise
from vicuna.serve.engines.text import AnswerText
from vicuna.serve.protocol import Sampling


class Seat:
    """See the module."""

    def __init__(
        self,
        prompt: Sequence[int],
        emitted: Sequence[int],
        sampling: Sampling,
        limit: int,
        stop_ids: frozenset[int],
        text: AnswerText,
        wish: likelihood.Wish | None = None,
        biases: Mapping[int, float] | None = None,
        adapter: int = 0,
    ) -> None:
        """
        Args:
            prompt: token ids, at least one.
            emitted: token ids of the answer that exist already.
            sampling: how to choose tokens.
            limit: most tokens of prompt and answer together.
            stop_ids: token ids that end the answer.
            text: turns ids into text.
            wish: what to tell about how likely each token was.
            biases: what to add to the logits of single tokens.
            adapter: 0 for the model itself, i for its i-th adapter.
        """
        self.ids = [*prompt, *emitted]
        self.prompt_tokens = len(prompt)
        self.sampling = sampling
        self.limit = limit
        self.stop_ids = stop_ids
        self.text = text
        self.wish = wish
        self.adapter = adapter
        self.filled = 0
        """Tokens whose keys and values are in the cache."""
        self.chain: Chain | None = None
        """Where they are; None while the answer waits."""
        self.aborted = False
        self.since = time.monotonic()
        """When it began to wait."""
        self._biases = biases or {}
        self._counts: torch.Tensor | None = None
        self._seen: torch.Tensor | None = None

    @property
    def missing(self) -> int:
        """Tokens that the cache does not hold yet."""
        return len(self.ids) - self.filled

    @property
    def generated(self) -> int:
        """Tokens of the answer."""
        return len(self.ids) - self.prompt_tokens

    def accept(self, token: int, row: dict[str, Any] | None = None) -> Piece:
        """Take the next token, and what is to be told about it; the piece says whether the answer has ended."""
        self.ids.append(token)
        rows = None if row is None else [row]
        if self._counts is not None:
            self._counts[token] += 1
        if token in self.stop_ids:
            return Piece(self.text.flush(), [token], "stop")
        shown = self.text.push([token])
        if self.text.stopped:
            return Piece(shown, [token], "stop", logprobs=rows)
        if len(self.ids) < self.limit:
            return Piece(shown, [token], logprobs=rows)
        shown += self.text.flush()
        return Piece(shown, [token], "stop" if self.text.stopped else "length", logprobs=rows)

    def adjust(self, logits: torch.Tensor) -> None:
        """Apply this answer's penalties and biases to its row of logits, in place."""
        self._penalise(logits)
        if self._biases:
            ids = torch.tensor(list(self._biases), device=logits.device)
            logits[ids] += torch.tensor(list(self._biases.values()), device=logits.device)

    def _penalise(self, logits: torch.Tensor) -> None:
        row = self.sampling
        if row.presence_penalty == 0 and row.frequency_penalty == 0 and row.repetition_penalty == 1:
            return
        if self._counts is None or self._seen is None:
            answer = torch.tensor(self.ids[self.prompt_tokens :], dtype=torch.long, device=logits.device)
            self._counts = torch.bincount(answer, minlength=logits.shape[-1]).to(logits.dtype)
            self._seen = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
            self._seen[self.ids[: self.prompt_tokens]] = True
        penalise(logits, self._counts, self._seen, row)
