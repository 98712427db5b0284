"""Continuous batching: answers join between two steps and leave when they end; nobody waits for the longest.

A step is one forward pass over the next token of every answer under way and over pieces of the prompts of new ones, as
many prompt tokens as do not hold the others up for long. Half of them are the first prompt's, the rest the shortest
ones', so a short one is not held up by a long one and none waits for ever. What the cache holds already is not
computed, nor what another prompt of the same step computes.

Memory: an answer joins when its whole prompt finds room in the cache. When an answer that grows finds none, what is
kept for later goes first; then the answer that joined last gives up its place and waits at the head of the line. What
it has written stays; its tokens are computed again when it comes back.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from vicuna.models.adapters import Adapter
from vicuna.serve import faults
from vicuna.serve.engines import Piece, Step, likelihood
from vicuna.serve.engines.continuous import attention, fitting, lora
from vicuna.serve.engines.continuous.attention import Pools
from vicuna.serve.engines.continuous.cache import Cache, Chain
from vicuna.serve.engines.continuous.pace import LEAST, Pace, is_shortage
from vicuna.serve.engines.continuous.ragged import Ragged, Span
from vicuna.serve.engines.continuous.seats import Seat
from vicuna.serve.engines.sampling import choose, uniform
from vicuna.serve.faults import Fault

log = logging.getLogger(__name__)
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
        adapters: Sequence[Adapter] = (),
    ) -> None:
        """
        Args:
            model: a transformers causal language model in evaluation mode.
            slots: most answers that are computed at once.
            room: tokens that the cache holds.
            max_length: most tokens of prompt and answer together; at most `room`.
            prefix_cache: keep keys and values for prompts that begin alike.
            prefill: most prompt tokens of a step; 0 learns how many.
            adapters: LoRA adapters; a seat's `adapter` i is the i-th, counted from 1.

        Raises:
            InputError: the model cannot be computed here, or not rightly.
        """
        fitting.install(model, max_length)
        self.max_length = max_length
        self.running: list[Seat] = []
        self.waiting: deque[Seat] = deque()
        self._block = attention.block_size(model.device, model.dtype)
        self.cache = Cache(-(-room // self._block), self._block, share=prefix_cache)
        self.last = Step(0.0, 0, 0, 0, 0, 0, 0, room, 0, 0)
        self.pools = Pools(self.cache.blocks * self._block)
        self._model = model
        self._device, self._dtype = model.device, model.dtype
        self._switch = lora.install(model, adapters)
        self._pace = Pace(slots, prefill)
        # On a CPU, what others take of it meanwhile tells nothing about the step.
        self._clock = time.thread_time if self._device.type == "cpu" else time.monotonic
        self._joined: list[tuple[int, float]] = []
        """Of the answers that joined in this step, tokens and seconds of waiting."""
        self._found = self._put_back = 0

    def add(self, seat: Seat) -> None:
        """Queue an answer; it joins the batch at the next step with room."""
        self.waiting.append(seat)

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.running or self.waiting)

    @property
    def spare(self) -> int:
        """Tokens of something else that may be computed between two steps without holding the answers up for long."""
        answers = sum(seat.missing == 1 for seat in self.running)
        return max(LEAST, self._pace.budget(answers, 1) - self.last.prompt_tokens)

    def step(self, before: float = math.inf) -> list[Event]:
        """Compute; the events are new pieces and failures, in no particular order between answers.

        Args:
            before: answers that have waited since a later time (of `time.monotonic`) do not join.
        """
        began, clock = time.monotonic(), self._clock()
        self._joined, self._found, self._put_back = [], 0, 0
        self._leave()
        self._join(before)
        spans = self._spans()
        try:
            events = self._compute(spans) if spans else []
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_shortage(error):
                raise
            events, spans = self._shed(error), []
        self._leave(events)
        self._learn(self._clock() - clock, spans)
        self._note(time.monotonic() - began, spans, events)
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
            if isinstance(item, Fault):
                self._unseat(seat, wipe=True)
            if isinstance(item, Fault) or item.finish:
                seat.aborted = True
        gone = {seat for seat in self.running if seat.aborted}  # looked at once: others abort at any time
        for seat in gone:
            self._unseat(seat)
        if gone:
            self.running = [seat for seat in self.running if seat not in gone]
        if not events and any(seat.aborted for seat in self.waiting):
            self.waiting = deque(seat for seat in self.waiting if not seat.aborted)

    def _unseat(self, seat: Seat, *, wipe: bool = False) -> None:
        """Take an answer's place in the cache. `wipe`: nobody may find there what it has left, not even hidden behind a
        mask, where it is not a number."""
        if seat.chain is not None:
            freed = self.cache.close(seat.chain, keep=not wipe)
            if wipe:
                self.pools.wipe(freed, self._block)
        seat.chain, seat.filled = None, 0

    def _join(self, before: float) -> None:
        while self.waiting and len(self.running) < self._pace.slots:
            seat = self.waiting[0]
            if seat.since > before:
                return
            chain = self.cache.open(seat.adapter)
            found = self.cache.match(chain, seat.ids)
            if not self.cache.grow(chain, len(seat.ids), seat.limit):
                self.cache.close(chain)
                return
            seat.chain, seat.filled = chain, found
            self.running.append(self.waiting.popleft())
            self._joined.append((len(seat.ids), time.monotonic() - seat.since))
            self._found += found

    def _make_room(self, seat: Seat) -> bool:
        """Room for the next token of an answer under way; False: it is the answer itself that has to wait."""
        while seat.chain is not None:
            if self.cache.grow(seat.chain, len(seat.ids), seat.limit):
                return True
            self._put_last_back()
        return False

    def _put_last_back(self) -> None:
        """The answer that joined last waits again, at the head of the line; what it has written stays."""
        last = self.running.pop()
        self._unseat(last)
        last.since = time.monotonic()
        self.waiting.appendleft(last)
        self._put_back += 1

    def _shed(self, error: BaseException) -> list[Event]:
        """A step needed more memory than there is: compute less at once from now on."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        count = len(self.running)
        if not self._pace.shed(count):
            fault = faults.server_error("there is not enough memory to compute this answer", 503, "out_of_memory")
            return [(self.running[0], fault)]
        log.warning("out of memory with %d answers: %s for now (%s)", count, self._pace, error)
        while len(self.running) > self._pace.slots:
            self._put_last_back()
        return []

    # ------------------------------------------------------------------------------------- what is computed next
    def _spans(self) -> list[tuple[Seat, Span]]:
        made: list[tuple[Seat, Span]] = []
        for seat in [seat for seat in self.running if seat.missing == 1]:
            if self._make_room(seat) and seat.chain is not None:
                made.append((seat, Span(seat.ids[-1:], seat.filled, seat.chain)))
        made = [(seat, span) for seat, span in made if seat.chain is not None]  # some may have been put back since
        return made + self._prompts(len(made))

    def _prompts(self, answers: int) -> list[tuple[Seat, Span]]:
        """Pieces of prompts: half of the step for the one that came first, the rest for the shortest."""
        seats: list[tuple[Seat, Chain]] = []
        begun: set[object] = set()
        for seat in self.running:
            if seat.missing > 1 and seat.chain is not None:
                before, seat.filled = seat.filled, self.cache.adopt(seat.chain, seat.ids, seat.filled)
                self._found += seat.filled - before
                block = self.cache.next_block(seat.chain, seat.ids, seat.filled)
                if block is None or block not in begun:  # else another computes it now, and it is there for all then
                    begun.add(block)
                    seats.append((seat, seat.chain))
        budget = self._pace.budget(answers, len(seats))
        counts = _shares([seat.missing for seat, _ in seats], budget)
        return [
            (seat, Span(seat.ids[seat.filled : seat.filled + count], seat.filled, chain))
            for (seat, chain), count in zip(seats, counts, strict=True)
            if count
        ]

    # ------------------------------------------------------------------------------------- the forward pass
    def _compute(self, spans: list[tuple[Seat, Span]]) -> list[Event]:
        spans.sort(key=_order)
        with torch.inference_mode():
            seats, logits = self._pass(spans)
            broken = _broken(logits)
            if any(broken) and len(spans) > 1:
                seats, logits = self._apart(spans)
                broken = _broken(logits)
                if not any(broken):  # it came from what nobody uses now
                    self.pools.wipe(self.cache.forget(), self._block)
            events = self._choose(seats, logits, broken) if seats else []
        lost = {seat for seat, item in events if isinstance(item, Fault)}
        for seat, span in spans:
            if seat not in lost:
                seat.filled = span.end
                self.cache.fill(span.chain, seat.ids, seat.filled)
        return events

    def _pass(self, spans: Sequence[tuple[Seat, Span]]) -> tuple[list[Seat], torch.Tensor]:
        """The answers whose next token can be chosen now, and a row of logits for each."""
        batch = Ragged([span for _, span in spans], self._block, self.pools.tokens, self._device, self._dtype)
        ready = [index for index, (seat, span) in enumerate(spans) if span.end == len(seat.ids)]
        with self._switch.over(self._adapted(spans, batch.offsets)):
            return [spans[index][0] for index in ready], self._forward(batch, batch.lasts(ready))

    def _apart(self, spans: Sequence[tuple[Seat, Span]]) -> tuple[list[Seat], torch.Tensor]:
        """The same as `_pass`, one answer after the other.

        Attention reads beyond the ends of answers that it joins. A mask hides what it finds there, unless that is not
        a number: then everything is, and only this tells whose fault it was.
        """
        parts = [self._pass([each]) for each in spans]
        return [seat for seats, _ in parts for seat in seats], torch.cat([logits for _, logits in parts])

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

    def _adapted(self, spans: Sequence[tuple[Seat, Span]], offsets: Sequence[int]) -> list[tuple[int, int, int]]:
        """Which rows each adapter computes: (adapter from 0, first row, end)."""
        made: list[tuple[int, int, int]] = []
        for index, (seat, _) in enumerate(spans):
            if seat.adapter:
                begin = made.pop()[1] if made and made[-1][0] == seat.adapter - 1 else offsets[index]
                made.append((seat.adapter - 1, begin, offsets[index + 1]))
        return made

    def _choose(self, seats: list[Seat], logits: torch.Tensor, broken: Sequence[bool]) -> list[Event]:
        wishing = [row for row, seat in enumerate(seats) if seat.wish is not None]
        said = logits[wishing]  # a copy: what the model says before anybody changes it
        for row, seat in enumerate(seats):
            seat.adjust(logits[row])
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
    def _learn(self, seconds: float, spans: Sequence[tuple[Seat, Span]]) -> None:
        if spans:
            self._pace.learn(seconds, _prompt_tokens(spans), sum(len(span.ids) == 1 for _, span in spans))

    def _note(self, seconds: float, spans: Sequence[tuple[Seat, Span]], events: Sequence[Event]) -> None:
        self.last = Step(
            seconds=seconds,
            prompt_tokens=_prompt_tokens(spans),
            answer_tokens=sum(isinstance(item, Piece) for _, item in events),
            running=len(spans),
            waiting=len(self.waiting),
            used=self.cache.used * self._block,
            kept=self.cache.kept * self._block,
            room=self.cache.blocks * self._block,
            looked_up=sum(tokens for tokens, _ in self._joined),
            found=self._found,
            queued=tuple(waited for _, waited in self._joined),
            put_back=self._put_back,
        )


def _prompt_tokens(spans: Sequence[tuple[Seat, Span]]) -> int:
    return sum(len(span.ids) for _, span in spans if len(span.ids) > 1)


def _shares(missing: Sequence[int], budget: int) -> list[int]:
    """How many tokens of each prompt are computed, given what each lacks, first come first.

    The shortest first is what makes the wait short on the whole, and half for the first lets none wait for ever.
    """
    shares = [0] * len(missing)
    if missing:
        shares[0] = min(missing[0], -(-budget // 2))
    left = budget - sum(shares)
    for index in sorted(range(len(missing)), key=lambda index: missing[index] - shares[index]):
        more = min(missing[index] - shares[index], left)
        shares[index] += more
        left -= more
    return shares


def _order(each: tuple[Seat, Span]) -> tuple[int, ...]:
    """An adapter's rows must lie together; those whose keys lie together in the cache had better do, too."""
    seat, span = each
    return seat.adapter, len(span.ids), span.chain.blocks[0], span.chain.blocks[-1]


def _broken(logits: torch.Tensor) -> list[bool]:
    """Which rows of logits tell nothing, because the model has computed something that is not a number."""
    rows: list[bool] = (~torch.isfinite(logits.amax(-1))).tolist()
    return rows
