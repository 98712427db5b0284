"""What a worker computes at the moment: never more than it has room for, nothing new once it drains.

Room is kept here too, because several controllers may each believe that a worker has some.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

from vicuna.serve import faults
from vicuna.serve.faults import Fault

T = TypeVar("T")
TURN = 0.5
"""Seconds that a call waits for room: long enough that a controller which asks again and again has its turn beside one
whose calls follow each other closely, short enough to try another worker instead."""
LAST_WORDS = 1.0
"""Seconds that answers have to pass on that they are handed over."""


class HandedOver(Exception):
    """This worker computes no further; another one goes on. Its text is one word: why."""


class Work:
    """One answer, or one batch of embeddings."""

    def __init__(self) -> None:
        self._handed_over = False
        self._step: asyncio.Timeout | None = None

    async def step(self, compute: Callable[[], Awaitable[T]]) -> T:
        """What `compute` gives; it is cancelled when the work is handed over.

        Only the computing is cancelled, never the sending of what was computed before, so nothing is lost or cut.

        Raises:
            HandedOver: it was.
        """
        if self._handed_over:
            raise HandedOver("draining")
        try:
            async with asyncio.timeout(None) as self._step:
                return await compute()
        except TimeoutError:
            if self._handed_over:
                raise HandedOver("draining") from None
            raise
        finally:
            self._step = None

    def hand_over(self) -> None:
        """Stop here, so that another worker goes on."""
        if not self._handed_over and self._step is not None:
            self._step.reschedule(0.0)  # a time long past: now
        self._handed_over = True


class Running:
    """Everything that a worker computes."""

    def __init__(self, capacity: int) -> None:
        self.draining = False
        self._capacity = capacity
        self._room = asyncio.Semaphore(capacity)  # first come, first served
        self._open: set[Work] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._open)

    async def begin(self) -> Work:
        """Take one place, now or within a moment; it must be given back with `end`.

        Raises:
            Fault: 503; code `draining` or `full`.
        """
        self._refuse_when_draining()
        try:
            async with asyncio.timeout(TURN):
                await self._room.acquire()
        except TimeoutError:
            raise faults.server_error(f"this worker computes {self._capacity} answers already", 503, "full") from None
        try:
            self._refuse_when_draining()
        except Fault:
            self._room.release()
            raise
        work = Work()
        self._open.add(work)
        self._idle.clear()
        return work

    def end(self, work: Work) -> None:
        """Give the place back.

        Raises:
            KeyError: it was given back before.
        """
        self._open.remove(work)
        self._room.release()
        if not self._open:
            self._idle.set()

    async def drain(self, seconds: float) -> int:
        """Take nothing new, wait so long for what runs, then hand over what is left; how many that was."""
        self.draining = True
        await self._until_idle(seconds)
        left = len(self._open)
        for work in list(self._open):
            work.hand_over()
        await self._until_idle(LAST_WORDS)
        return left

    def _refuse_when_draining(self) -> None:
        if self.draining:
            raise faults.server_error("this worker takes no new work", status=503, code="draining")

    async def _until_idle(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
