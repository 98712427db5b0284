"""Continuous batching: answers join between two steps and leave when they end; nobody waits for the longest.

One step is at most one pass over new prompts (several short ones together, or one piece of a long one, so that a long
prompt never holds the others up for long) and one pass that gives every running answer its next token.
"""

import inspect
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vicuna.serve import faults
from vicuna.serve.engines import Piece, likelihood
from vicuna.serve.engines.sampling import choose, penalise, uniform
from vicuna.serve.engines.slots import SlotCache, Write, causal, layer_kinds
from vicuna.serve.engines.text import AnswerText
from vicuna.serve.faults import Fault
from vicuna.serve.protocol import Sampling

log = logging.getLogger(__name__)
PREFILL_PIECE = 512
"""Most tokens of one prompt that are computed in one step."""
PREFILL_TOKENS = 1024
"""Most tokens, padding included, when several prompts are computed together."""
POSSIBLE_KINDS = {"full_attention", "sliding_attention"}


class Seat:
    """One answer in the batch or waiting for it."""

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
        """
        self.ids = [*prompt, *emitted]
        self.prompt_tokens = len(prompt)
        self.sampling = sampling
        self.limit = limit
        self.stop_ids = stop_ids
        self.text = text
        self.wish = wish
        self.filled = 0
        self.aborted = False
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


Event = tuple[Seat, Piece | Fault]


class Batcher:
    """Runs the model. Not thread-safe: one thread adds, steps and reads."""

    def __init__(self, model: Any, capacity: int, max_length: int) -> None:
        """
        Args:
            model: a transformers causal language model in evaluation mode.
            capacity: most answers that are computed at once.
            max_length: most tokens of prompt and answer together.

        Raises:
            InputError: the model keeps a state that slots cannot hold.
        """
        self.capacity = capacity
        self.max_length = max_length
        self.rows: list[Seat] = []
        self.waiting: deque[Seat] = deque()
        self._model = model
        self._device = model.device
        settings = model.config.get_text_config()
        self._kinds = layer_kinds(settings)
        self._window: int | None = getattr(settings, "sliding_window", None)
        self._cache = SlotCache(settings.num_hidden_layers, capacity, max_length)
        self._long_turn = False
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters

    def add(self, seat: Seat) -> None:
        """Queue an answer; it joins the batch at the next step with room."""
        self.waiting.append(seat)

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.rows or self.waiting)

    def step(self) -> list[Event]:
        """Compute; the events are new pieces and failures, in no particular order between answers."""
        events: list[Event] = []
        with torch.inference_mode():
            self._seat_and_unseat()
            group = self._next_prompts()
            if group:
                events += self._ended(self._prefill(group))
            decoding = [seat.missing == 1 for seat in self.rows]
            if any(decoding):
                events += self._ended(self._decode(decoding))
        return events

    def _ended(self, events: list[Event]) -> list[Event]:
        """Free the rows of the answers that have ended."""
        for seat, item in events:
            if isinstance(item, Fault) or item.finish:
                seat.aborted = True
        self._unseat()
        return events

    def clear(self) -> list[Seat]:
        """Forget everything, for example after a step failed; returns whose answers are lost."""
        lost = [*self.rows, *self.waiting]
        self.rows, self.waiting = [], deque()
        return lost

    # ------------------------------------------------------------------------------------- who sits where
    def _seat_and_unseat(self) -> None:
        self._unseat()
        self.waiting = deque(seat for seat in self.waiting if not seat.aborted)
        while self.waiting and len(self.rows) < self.capacity:
            self.rows.append(self.waiting.popleft())
        if self.rows:
            longest = max(len(seat.ids) for seat in self.rows)
            self._cache.reserve(len(self.rows), min(self.max_length, longest + 1))

    def _unseat(self) -> None:
        for row in range(len(self.rows) - 1, -1, -1):
            if self.rows[row].aborted:
                last = self.rows.pop()
                if row < len(self.rows):
                    self._cache.move(len(self.rows), row, last.filled)
                    self.rows[row] = last

    # ------------------------------------------------------------------------------------- prompts
    def _next_prompts(self) -> list[int]:
        """Rows whose prompts are computed next: short ones that fit together, or a piece of a long one, in turns."""
        new = [row for row, seat in enumerate(self.rows) if seat.missing > 1]
        short = [row for row in new if self.rows[row].filled == 0 and self.rows[row].missing <= PREFILL_PIECE]
        long = [row for row in new if row not in short]
        self._long_turn = bool(long) and not (short and self._long_turn)
        if self._long_turn:
            return long[:1]
        group: list[int] = []
        widest = 0
        for row in short:
            widest = max(widest, self.rows[row].missing)
            if group and widest * (len(group) + 1) > PREFILL_TOKENS:
                break
            group.append(row)
        return group

    def _prefill(self, group: list[int]) -> list[Event]:
        seats = [self.rows[row] for row in group]
        start = seats[0].filled
        sizes = [min(seat.missing, PREFILL_PIECE) for seat in seats]
        widest = max(sizes)
        tokens = [
            seat.ids[start : start + size] + [0] * (widest - size) for seat, size in zip(seats, sizes, strict=True)
        ]
        places = torch.arange(start, start + widest, device=self._device)[None]
        whole = start == 0 and all(seat.missing == size for seat, size in zip(seats, sizes, strict=True))
        reach = 0 if whole else start + widest
        self._cache.write = Write(
            rows=self._tensor(group),
            starts=self._tensor([start] * len(group)),
            tokens=widest,
            first_row=group[0],
            reach=reach,
        )
        mask = self._mask(places, reach or widest)
        ends = [size - 1 for size in sizes]
        logits = self._forward(self._tensor(tokens), places.expand(len(group), -1), mask, ends)
        for seat, size in zip(seats, sizes, strict=True):
            seat.filled += size
        ready = [i for i, seat in enumerate(seats) if seat.missing == 0]
        return self._choose([seats[i] for i in ready], logits[ready])

    # ------------------------------------------------------------------------------------- next tokens
    def _decode(self, decoding: list[bool]) -> list[Event]:
        """One token for every row; rows whose prompt is not finished ride along and are ignored."""
        tokens = [seat.ids[-1] if due else 0 for seat, due in zip(self.rows, decoding, strict=True)]
        places = [min(seat.filled, self._cache.places - 1) for seat in self.rows]
        reach = max(places) + 1
        at = self._tensor(places)
        self._cache.write = Write(torch.arange(len(places), device=self._device), at, 1, 0, reach)
        logits = self._forward(self._tensor(tokens)[:, None], at[:, None], self._mask(at[:, None], reach), None)
        ready = [row for row, due in enumerate(decoding) if due]
        for row in ready:
            self.rows[row].filled += 1
        return self._choose([self.rows[row] for row in ready], logits if len(ready) == len(places) else logits[ready])

    def _choose(self, seats: list[Seat], logits: torch.Tensor) -> list[Event]:
        if not seats:
            return []
        wishing = [row for row, seat in enumerate(seats) if seat.wish is not None]
        said = logits[wishing]  # a copy: what the model says before anybody changes it
        for row, seat in enumerate(seats):
            seat.adjust(logits[row])
        broken = (~torch.isfinite(logits.amax(-1))).tolist()
        tokens = choose(
            torch.nan_to_num(logits) if any(broken) else logits,
            [seat.sampling for seat in seats],
            [uniform(seat.sampling.seed, seat.generated) for seat in seats],
        )
        told: dict[int, dict[str, Any]] = {}
        if wishing:
            wishes = [wish for seat in seats if (wish := seat.wish) is not None]
            told = dict(zip(wishing, likelihood.rows(said, [tokens[row] for row in wishing], wishes), strict=True))
        fault = faults.server_error("the model computed something that is not a number", code="engine_failed")
        return [
            (seat, fault if broken[row] else seat.accept(tokens[row], told.get(row))) for row, seat in enumerate(seats)
        ]

    # ------------------------------------------------------------------------------------- the model
    def _forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, mask: Any, ends: list[int] | None
    ) -> torch.Tensor:
        """Logits of each row's last token, (n, vocabulary), float32; `ends`: which token that is."""
        keep: dict[str, Any] = {}
        kept = sorted(set(ends)) if ends is not None else [0]
        if self._keeps_logits and ends is not None:
            keep["logits_to_keep"] = self._tensor(kept)
        logits = self._model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
            **keep,
        ).logits
        rows = torch.arange(len(tokens), device=self._device)
        columns = [0] * len(tokens) if ends is None else [kept.index(end) if keep else end for end in ends]
        chosen: torch.Tensor = logits[rows, self._tensor(columns)].float()
        return chosen

    def _mask(self, positions: torch.Tensor, reach: int) -> Any:
        masks = {kind: self._one_mask(kind, positions, reach) for kind in self._kinds}
        return masks if getattr(self._model.config, "layer_types", None) else next(iter(masks.values()))

    def _one_mask(self, kind: str, positions: torch.Tensor, reach: int) -> torch.Tensor:
        mask = causal(positions, reach, self._window if kind == "sliding_attention" else None)
        if self._model.config._attn_implementation == "sdpa":
            return mask
        lowest = torch.finfo(self._model.dtype).min
        return torch.where(mask, 0.0, lowest).to(self._model.dtype)

    def _tensor(self, values: Sequence[Any]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._device)
