"""A function over items in several processes of this machine: results in order, few items in memory."""

import collections
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from vicuna.errors import VicunaError

Item = TypeVar("Item")
Result = TypeVar("Result")
WAITING = 4
"""Items for each process that are handed out before their results are taken."""


class WorkerLostError(VicunaError):
    """A worker process died."""


class Workers:
    """Processes on this machine."""

    def __init__(self, count: int, flag: str, begin: Callable[..., object] | None = None, *arguments: Any) -> None:
        """
        Args:
            count: processes; 1 works in this one.
            flag: of the setting that is their number, for people whose machine has too little memory for them.
            begin: what each process does first.
            arguments: of `begin`. On Linux a process has them without their being sent.
        """
        self._count, self._flag, self._begin, self._arguments = count, flag, begin, arguments

    @contextmanager
    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Iterator[Result]]:
        """The results in the order of the items, for as long as the context is open.

        The processes start with the context, and on Linux have what this one has loaded.

        Args:
            function: can travel to another process (a function of a module, or a `functools.partial` of one).
            items: read as they are needed.

        Raises:
            WorkerLostError: a process was killed, usually for want of memory.
        """
        if self._count == 1:
            if self._begin:
                self._begin(*self._arguments)
            yield map(function, items)
            return
        # elsewhere forking is not safe, or not there
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        start = (os.getpid(), self._begin, self._arguments)
        with ProcessPoolExecutor(self._count, context, initializer=_start, initargs=start) as pool:
            try:
                pool.submit(os.getpid).result()  # starts them all, before a progress bar's thread runs
                yield _results(pool, function, items, WAITING * self._count)
            except BrokenProcessPool as error:
                message = f"a worker process died, most likely for want of memory; use fewer {self._flag}"
                raise WorkerLostError(message) from error
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _results(
    pool: ProcessPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], most: int
) -> Iterator[Result]:
    waiting: collections.deque[Future[Result]] = collections.deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _start(parent: int, begin: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if begin:
        begin(*arguments)


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone: killed, it cannot say so."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
