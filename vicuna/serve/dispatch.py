"""Waiting for a worker: a bounded first-in first-out queue per model in front of the fleet."""

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from vicuna.serve import faults
from vicuna.serve.ask import Ask
from vicuna.serve.config import LimitsConfig
from vicuna.serve.fleet import Fleet, Ticket
from vicuna.serve.protocol import ServedModel


@dataclass(slots=True, eq=False)
class _Waiter:
    future: "asyncio.Future[Ticket]"
    avoid: Collection[str]
    version: ServedModel | None
    since: float
    absent_since: float | None


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
        self._waiting: dict[str, deque[_Waiter]] = {}

    async def acquire(self, ask: Ask, avoid: Collection[str] = (), version: ServedModel | None = None) -> Ticket:
        """A ticket for the model, now or within the limits' times.

        Raises:
            Fault: 404 nobody ever served it; 503 all its workers are away, or this process is about to end; 429 too
                many wait, or waited too long.
        """
        name = ask.model
        if self.closed:
            raise faults.stopping()
        if name not in self._waiting:
            ticket = self.fleet.dispatch(name, avoid, version)
            if ticket is not None:
                return ticket
        if not self._known(name):
            raise faults.model_not_found(name, list(self.fleet.models()))
        queue = self._waiting.setdefault(name, deque())
        if len(queue) >= self._limits.queue:
            raise faults.overloaded(name, len(queue))
        now = self._clock()
        waiter = _Waiter(asyncio.get_running_loop().create_future(), avoid, version, now, None)
        queue.append(waiter)
        self._serve(name)
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
                self.release(waiter.future.result())
            raise
        finally:
            self._forget(name, waiter)

    def release(self, ticket: Ticket, answered: bool = False) -> None:
        """Give a ticket back and let the next one in."""
        self.fleet.release(ticket, answered)
        for name in ticket.worker.models:
            if name in self._waiting:
                self._serve(name)

    def wake(self) -> None:
        """The fleet changed: see who can go on."""
        for name in list(self._waiting):
            self._serve(name)

    def tick(self) -> None:
        """Let in who can go on, and end the waits that took too long."""
        now = self._clock()
        for name in list(self._waiting):
            self._serve(name)
            for waiter in list(self._waiting.get(name, ())):
                if not waiter.future.done():
                    self._check(name, waiter, now)

    def close(self) -> None:
        """Hand out nothing more, because this process is about to end."""
        self.closed = True
        for waiter in [each for queue in self._waiting.values() for each in queue]:
            if not waiter.future.done():
                waiter.future.set_exception(faults.stopping())

    @property
    def waiting(self) -> dict[str, int]:
        """How many wait for each model."""
        return {name: len(queue) for name, queue in self._waiting.items()}

    def _known(self, name: str) -> bool:
        """In the first moments after a start, workers may still be on their way back."""
        return self.fleet.has_seen(name) or self._clock() - self._started < self._limits.gap

    def _serve(self, name: str) -> None:
        for waiter in list(self._waiting.get(name, ())):
            if waiter.future.done():
                continue
            ticket = self.fleet.dispatch(name, waiter.avoid, waiter.version)
            if ticket is not None:
                waiter.future.set_result(ticket)
            elif not waiter.avoid and waiter.version is None:
                return  # nobody behind it in the line may overtake

    def _check(self, name: str, waiter: _Waiter, now: float) -> None:
        if self.fleet.can_serve(name, waiter.avoid, waiter.version):
            waiter.absent_since = None
            if now - waiter.since > self._limits.queue_wait:
                waiter.future.set_exception(faults.overloaded(name, len(self._waiting[name])))
            return
        waiter.absent_since = now if waiter.absent_since is None else waiter.absent_since
        if now - waiter.absent_since >= self._limits.gap:
            known = self.fleet.has_seen(name)
            served = list(self.fleet.models())
            waiter.future.set_exception(
                faults.no_worker(name, self._limits.gap) if known else faults.model_not_found(name, served)
            )

    def _forget(self, name: str, waiter: _Waiter) -> None:
        queue = self._waiting.get(name)
        if queue is None:
            return
        if waiter in queue:
            queue.remove(waiter)
        if not queue:
            del self._waiting[name]
