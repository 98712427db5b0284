"""Waiting for a worker: a bounded line per model in front of the fleet."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection

from vicuna.serve import faults
from vicuna.serve.config import LimitsConfig
from vicuna.serve.faults import Fault
from vicuna.serve.fleet.ask import Ask
from vicuna.serve.fleet.table import Fleet, Ticket
from vicuna.serve.fleet.waiting import Kind, Line, Waiter
from vicuna.serve.protocol import FEATURES, ServedModel

SHORTEST_RETRY = 1.0
LONGEST_RETRY = 60.0
"""Seconds between which `retry-after` lies: estimates for longer are worth nothing."""
_PARAMS = {"images": "messages"} | dict.fromkeys(("chat", "completions", "token_prompts", "embeddings"), "model")
"""Fields of a request that need a feature, where they have another name than it."""


class Dispatcher:
    """Hands out the fleet's tickets; who cannot have one at once waits a bounded time.

    `tick` must be called a few times a second: it ends waits that took too long.
    """

    def __init__(self, fleet: Fleet, limits: LimitsConfig, clock: Callable[[], float]) -> None:
        self.fleet = fleet
        self.closed = False
        self._limits = limits
        self._clock = clock
        self._started = clock()
        self._lines: OrderedDict[str, Line] = OrderedDict()
        """By the name that was asked for; the line that was served longest ago stands first, so that models which
        share a worker take turns."""

    async def acquire(
        self,
        ask: Ask,
        avoid: Collection[str] = (),
        version: ServedModel | None = None,
        again: bool = False,
        since: float | None = None,
    ) -> Ticket:
        """A ticket for the model, now or within the limits' times.

        Args:
            ask: what the request wants.
            avoid: ids of workers that failed at it.
            version: the hashes of the worker that began the answer; only such ones may continue it.
            again: a worker had this answer before and refused it. Like answers with `avoid` or `version` it goes before
                the others and is not turned away from a full line.
            since: when it began to wait, on this clock, if that was before now.

        Raises:
            Fault: 404 nobody ever served it; 400 no worker of it can do what the request needs; 429 too many wait, or
                waited too long; 503 all its workers are away, or this process is about to end; 504 its deadline passed.
        """
        if self.closed:
            raise faults.stopping()
        now = self._clock()
        if ask.deadline <= now:
            raise faults.timeout(None)
        if ask.model not in self._lines:
            ticket = self.fleet.dispatch(ask, avoid, version)
            if ticket is not None:
                return ticket
        again = again or bool(avoid) or version is not None
        future: asyncio.Future[Ticket] = asyncio.get_running_loop().create_future()
        self._join(waiter := Waiter(ask, frozenset(avoid), version, again, future, now if since is None else since))
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
                self.release(waiter.future.result())
            raise
        finally:
            self._leave(waiter)

    def release(self, ticket: Ticket, answered: bool = False) -> None:
        """Give a ticket back and let the next one in."""
        self.fleet.release(ticket, answered)
        if self._lines:
            names = self.fleet.names_of(ticket.worker)
            self._serve([name for name in self._lines if name in names])

    def wake(self) -> None:
        """The fleet changed: see who can go on."""
        self._serve(list(self._lines))

    def tick(self) -> None:
        """Let in who can go on, and end the waits that took too long."""
        self.wake()
        now = self._clock()
        for line in list(self._lines.values()):
            self._end_waits(line, now)

    def close(self) -> None:
        """Hand out nothing more, because this process is about to end."""
        self.closed = True
        for line in list(self._lines.values()):
            for waiter in list(line):
                self._end(waiter, faults.stopping())

    @property
    def waiting(self) -> dict[str, int]:
        """How many wait for each model."""
        return {name: len(line) for name, line in self._lines.items()}

    # --------------------------------------------------------------------------------------- joining and leaving
    def _join(self, waiter: Waiter) -> None:
        ask = waiter.ask
        self._refuse_hopeless(ask)
        line = self._lines.get(ask.model)
        if line is None:  # `acquire` has just asked the fleet
            self._lines[ask.model] = line = Line(self._clock())
            line.join(waiter)
            return
        if not waiter.again and line.counted >= self._limits.queue:
            self._make_room(line, ask)
        stuck = line.has_kind(waiter.kind)
        line.join(waiter)
        if not stuck:  # those in front wait for something that this one may not need
            self._serve([ask.model])

    def _refuse_hopeless(self, ask: Ask) -> None:
        if not self._known(ask.model):
            raise faults.model_not_found(ask.model, list(self.fleet.models()))
        missing = sorted(self.fleet.lacks(ask))
        if missing:
            raise _unsupported(ask.model, missing)

    def _known(self, name: str) -> bool:
        """In the first moments after a start, workers may still be on their way back."""
        return self.fleet.has_seen(name) or self._clock() - self._started < self._limits.gap

    def _make_room(self, line: Line, ask: Ask) -> None:
        fault = self._overloaded(ask.model, line)
        other = line.gives_way(ask)
        if other is None:
            raise fault
        self._end(other, fault)

    def _leave(self, waiter: Waiter) -> None:
        line = self._lines.get(waiter.ask.model)
        if line is not None:
            line.leave(waiter)
            if not line:
                del self._lines[waiter.ask.model]

    def _end(self, waiter: Waiter, fault: Fault) -> None:
        self._leave(waiter)
        if not waiter.future.done():
            waiter.future.set_exception(fault)

    # --------------------------------------------------------------------------------------- whose turn it is
    def _serve(self, names: Collection[str]) -> None:
        """Hand out what the fleet has for these lines."""
        for name in names:
            refused: set[Kind] = set()
            while (line := self._lines.get(name)) and (waiter := line.next(refused)):
                if waiter.future.done():  # cancelled, and its task has not run since
                    self._leave(waiter)
                elif waiter.ask.deadline <= self._clock():
                    self._end(waiter, faults.timeout(None))
                elif (ticket := self.fleet.dispatch(waiter.ask, waiter.avoid, waiter.version)) is None:
                    refused.add(waiter.kind)
                else:
                    self._hand(line, waiter, ticket)

    def _hand(self, line: Line, waiter: Waiter, ticket: Ticket) -> None:
        self._lines.move_to_end(waiter.ask.model)
        line.served(waiter, self._clock())
        self._leave(waiter)  # and the line with its last waiter
        waiter.future.set_result(ticket)

    # --------------------------------------------------------------------------------------- waiting too long
    def _end_waits(self, line: Line, now: float) -> None:
        served: dict[Kind, bool] = {}
        for waiter in list(line):
            if waiter.kind not in served:
                served[waiter.kind] = self.fleet.can_serve(waiter.ask, waiter.avoid, waiter.version)
            fault = self._overdue(line, waiter, served[waiter.kind], now)
            if fault is not None:
                self._end(waiter, fault)

    def _overdue(self, line: Line, waiter: Waiter, served: bool, now: float) -> Fault | None:
        name = waiter.ask.model
        if waiter.ask.deadline <= now:
            return faults.timeout(None)
        if served:
            waiter.absent_since = None
            return self._overloaded(name, line) if now - waiter.since > self._limits.queue_wait else None
        if waiter.absent_since is None:
            waiter.absent_since = now
        if now - waiter.absent_since < self._limits.gap:
            return None
        if not self.fleet.has_seen(name):
            return faults.model_not_found(name, list(self.fleet.models()))
        missing = sorted(self.fleet.lacks(waiter.ask))
        return _unsupported(name, missing) if missing else faults.no_worker(name, self._limits.gap)

    def _overloaded(self, name: str, line: Line) -> Fault:
        retry_after = min(LONGEST_RETRY, max(SHORTEST_RETRY, line.wait(self._clock())))
        return faults.overloaded(name, len(line), retry_after)


def _unsupported(model: str, missing: list[str]) -> Fault:
    message = f"the model {model!r} cannot {' or '.join(FEATURES.get(each, each) for each in missing)}"
    return Fault(message, status=400, code="unsupported_parameter", param=_PARAMS.get(missing[0], missing[0]))
