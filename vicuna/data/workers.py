"""The local engine: a function over items in several processes, results in order, few items in memory."""

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
from typing import TypeVar

from vicuna.errors import VicunaError

Item = TypeVar("Item")
Result = TypeVar("Result")
WAITING = 4
"""Items for each process that are handed out before their results are taken."""


class WorkerLostError(VicunaError):
    """A worker process died."""


class Workers:
    """Processes on this machine."""

    def __init__(self, count: int) -> None:
        """
        Args:
            count: processes; 1 works in this one.
        """
        self._count = count

    @contextmanager
    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Iterator[Result]]:
        """See `Engine.map`. The processes start with the context, and on Linux have what this one has loaded.

        Raises:
            WorkerLostError: a process was killed, usually for want of memory.
        """
        if self._count == 1:
            yield map(function, items)
            return
        # elsewhere forking is not safe, or not there
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        with ProcessPoolExecutor(self._count, context, initializer=_start, initargs=(os.getpid(),)) as pool:
            try:
                pool.submit(os.getpid).result()  # starts them all, before a progress bar's thread runs
                yield _results(pool, function, items, WAITING * self._count)
            except BrokenProcessPool as error:
                message = "a worker process died, most likely for want of memory; use fewer --engine.workers"
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


def _start(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone: killed, it cannot say so."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
