"""Continuous batching: answers join between two steps and leave when they end; nobody waits for the longest.

A step is one forward pass over the next token of every answer under way and over pieces of the prompts of new ones, as
many prompt tokens as do not hold the others up for long. Prompts share a step evenly, so a short one is not held up by
a long one. What the cache holds already is not computed, nor what another prompt of the same step computes.

Memory: an answer joins when its whole prompt finds room in the cache. When an answer that grows finds none, what is
kept for later goes first; then the answer that joined last gives up its place and waits at the head of the line. What
it has written stays; its tokens are computed again when it comes back.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch

from vicuna.serve import faults
from vicuna.serve.engines import Piece, Step, likelihood
from vicuna.serve.engines.continuous import attention
from vicuna.serve.engines.continuous.attention import Pools
from vicuna.serve.engines.continuous.cache import Cache
from vicuna.serve.engines.continuous.pace import Pace
from vicuna.serve.engines.continuous.ragged import Ragged, Span
from vicuna.serve.engines.continuous.seats import Seat
from vicuna.serve.engines.sampling import choose, uniform
from vicuna.serve.faults import Fault

log = logging.getLogger(__name__)
BLOCK = 16
"""Tokens of a block of the cache."""

Event = tuple[Seat, Piece | Fault]


class Batcher:
    """Runs the model. Not thread-safe: one thread adds, steps and reads."""

    def __init__(
        self,
        model: Any,
        *,
        slots: int,
        room: int,
        max_length: int,
        prefix_cache: bool = True,
        prefill: int = 0,
        adapters: Sequence[Any] = (),
    ) -> None:
        """
        Args:
            model: a transformers causal language model in evaluation mode.
            slots: most answers that are computed at once.
            room: tokens that the cache holds.
            max_length: most tokens of prompt and answer together; at most `room`.
            prefix_cache: keep keys and values for prompts that begin alike.
            prefill: most prompt tokens of a step; 0 learns how many.
            adapters: LoRA adapters (`vicuna.models.adapters.Adapter`).

        Raises:
            InputError: the model's attention cannot be computed here.
        """
        attention.install(model)
        self.slots = slots
        self.max_length = max_length
        self.running: list[Seat] = []
        self.waiting: deque[Seat] = deque()
        self.cache = Cache(room // BLOCK, BLOCK, share=prefix_cache)
        self.last = Step(0.0, 0, 0, 0, 0, 0, 0, room, 0, 0)
        self.pools = Pools(room)
        self._model = model
        self._device, self._dtype = model.device, model.dtype
        self._pace = Pace(prefill)
        self._joined: list[tuple[Seat, int, float]] = []
        self._put_back = 0

    def add(self, seat: Seat) -> None:
        """Queue an answer; it joins the batch at the next step with room."""
        self.waiting.append(seat)

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.running or self.waiting)

    def step(self) -> list[Event]:
        """Compute; the events are new pieces and failures, in no particular order between answers."""
        began = time.monotonic()
        self._joined, self._put_back = [], 0
        self._leave()
        self._join()
        spans = self._spans()
        events = self._compute(spans) if spans else []
        self._leave(events)
        self._note(time.monotonic() - began, spans)
        return events

    def clear(self) -> list[Seat]:
        """Forget everything, for example after a step failed; returns whose answers are lost."""
        lost = [*self.running, *self.waiting]
        for seat in self.running:
            self._unseat(seat)
        self.running, self.waiting = [], deque()
        return lost

    # ------------------------------------------------------------------------------------- who sits, who waits
    def _leave(self, events: Sequence[Event] = ()) -> None:
        """Free the places of answers that have ended or that nobody wants any more."""
        for seat, item in events:
            if isinstance(item, Fault) or item.finish:
                seat.aborted = True
        gone = [seat for seat in self.running if seat.aborted]
        for seat in gone:
            self._unseat(seat)
        if gone:
            self.running = [seat for seat in self.running if not seat.aborted]
        if not events and any(seat.aborted for seat in self.waiting):
            self.waiting = deque(seat for seat in self.waiting if not seat.aborted)

    def _unseat(self, seat: Seat) -> None:
        if seat.chain is not None:
            self.cache.close(seat.chain)
        seat.chain, seat.filled = None, 0

    def _join(self) -> None:
        while self.waiting and len(self.running) < self.slots:
            seat = self.waiting[0]
            chain = self.cache.open(seat.adapter)
            found = self.cache.match(chain, seat.ids)
            if not self.cache.grow(chain, len(seat.ids), seat.limit):
                self.cache.close(chain)
                return
            seat.chain, seat.filled = chain, found
            self.running.append(self.waiting.popleft())
            self._joined.append((seat, found, time.monotonic() - seat.since))

    def _make_room(self, seat: Seat) -> bool:
        """Room for the next token of an answer under way; False: it is the answer itself that has to wait."""
        while not self.cache.grow(seat.chain, len(seat.ids), seat.limit):
            last = self.running.pop()
            self._unseat(last)
            last.since = time.monotonic()
            self.waiting.appendleft(last)
            self._put_back += 1
            if last is seat:
                return False
        return True

    # ------------------------------------------------------------------------------------- what is computed next
    def _spans(self) -> list[tuple[Seat, Span]]:
        made: list[tuple[Seat, Span]] = []
        for seat in [seat for seat in self.running if seat.missing == 1]:
            if seat.chain is not None and self._make_room(seat):
                made.append((seat, Span(seat.ids[-1:], seat.filled, seat.chain)))
        made = [(seat, span) for seat, span in made if seat.chain is span.chain]  # others may have been put back since
        made += self._prompts(self._pace.budget(len(made)))
        return made

    def _prompts(self, budget: int) -> list[tuple[Seat, Span]]:
        """Pieces of prompts; the shortest first, each at most its even share of what is left."""
        seats, begun = [], set()
        for seat in self.running:
            if seat.missing > 1:
                seat.filled = self.cache.adopt(seat.chain, seat.ids, seat.filled)
                block = self._next_block(seat)
                if block is None or block not in begun:  # else another computes the same now: it is there at the next step
                    begun.add(block)
                    seats.append(seat)
        seats.sort(key=lambda seat: seat.missing)
        made: list[tuple[Seat, Span]] = []
        for place, seat in enumerate(seats):
            count = min(seat.missing, budget // (len(seats) - place))
            if count:
                budget -= count
                made.append((seat, Span(seat.ids[seat.filled : seat.filled + count], seat.filled, seat.chain)))
        return made

    def _next_block(self, seat: Seat) -> tuple[Any, ...] | None:
        """What names the next block that the answer would compute, where it would begin one."""
        chain = seat.chain
        if not chain.shares or seat.filled % BLOCK or seat.filled // BLOCK != len(chain.nodes) or seat.missing <= BLOCK:
            return None
        node = chain.nodes[-1] if chain.nodes else chain.root
        return id(node), *seat.ids[seat.filled : seat.filled + BLOCK]

    # ------------------------------------------------------------------------------------- the forward pass
    def _compute(self, spans: list[tuple[Seat, Span]]) -> list[Event]:
        spans.sort(key=lambda each: each[0].adapter)
        with torch.inference_mode():
            batch = Ragged([span for _, span in spans], BLOCK, self._device, self._dtype)
            ready = [index for index, (seat, span) in enumerate(spans) if span.end == len(seat.ids)]
            logits = self._forward(batch, batch.lasts(ready))
            for seat, span in spans:
                seat.filled = span.end
                self.cache.fill(span.chain, seat.ids, seat.filled)
            return self._choose([spans[index][0] for index in ready], logits) if ready else []

    def _forward(self, batch: Ragged, rows: torch.Tensor) -> torch.Tensor:
        """(len(rows), vocabulary) logits of some rows of the batch, float32."""
        logits: torch.Tensor = self._model(
            input_ids=batch.ids,
            position_ids=batch.positions,
            use_cache=False,
            logits_to_keep=rows,
            ragged=batch,
            pools=self.pools,
        ).logits
        return logits[0].float()

    def _choose(self, seats: list[Seat], logits: torch.Tensor) -> list[Event]:
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

    # ------------------------------------------------------------------------------------- what is told
    def _note(self, seconds: float, spans: Sequence[tuple[Seat, Span]]) -> None:
        answers = sum(len(span.ids) == 1 for _, span in spans)
        prompt_tokens = sum(len(span.ids) for _, span in spans) - answers
        if spans:
            self._pace.learn(seconds, prompt_tokens, answers)
        self.last = Step(
            seconds=seconds,
            prompt_tokens=prompt_tokens,
            answer_tokens=answers,
            running=len(self.running),
            waiting=len(self.waiting),
            used=self.cache.used * BLOCK,
            kept=self.cache.kept * BLOCK,
            room=self.cache.blocks * BLOCK,
            looked_up=sum(len(seat.ids) for seat, _, _ in self._joined),
            found=sum(found for _, found, _ in self._joined),
            queued=tuple(waited for _, _, waited in self._joined),
            put_back=self._put_back,
        )
