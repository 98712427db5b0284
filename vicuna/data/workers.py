"""Map a function over records in several processes: results in input order, few records in memory."""

import collections
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

from vicuna.errors import VicunaError

Item = TypeVar("Item")
Result = TypeVar("Result")
CHUNK = 32
"""Records that travel to a process at once."""

_state: dict[str, Any] = {}


class WorkerLostError(VicunaError):
    """A worker process died."""


def ordered_map(
    make: Callable[[], Callable[[Item], Result]], items: Iterable[Item], workers: int
) -> Generator[Result, None, None]:
    """`make()(item)` for each item, in order.

    Args:
        make: builds the function; called once in each process (or before the fork, where there is one), so it may
            load what cannot travel between processes.
        items: read as they are needed; about four chunks for each worker are in memory.
        workers: processes; 1 works in this one.

    Raises:
        WorkerLostError: a process was killed, usually for want of memory.
    """
    if workers == 1:
        yield from map(make(), items)
        return
    forks = sys.platform == "linux"  # elsewhere forking is not safe, or not there
    if forks:
        _state["function"] = make()
    context = multiprocessing.get_context("fork" if forks else "spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(make, os.getpid())) as pool:
        rest = iter(items)
        chunks = iter(lambda: list(islice(rest, CHUNK)), [])
        waiting: collections.deque[Future[list[Result]]] = collections.deque()
        try:
            pool.submit(_work, []).result()  # starts the processes before a progress bar's thread runs
            for chunk in chunks:
                waiting.append(pool.submit(_work, chunk))
                if len(waiting) >= 4 * workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        except BrokenProcessPool as error:
            message = "a worker process died, most likely for want of memory; use fewer --workers"
            raise WorkerLostError(message) from error
        finally:
            _state.clear()
            pool.shutdown(wait=True, cancel_futures=True)


def _start(make: Callable[[], Callable[[Any], Any]], parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if "function" not in _state:
        _state["function"] = make()


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone: killed, it cannot say so."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _work(chunk: list[Any]) -> list[Any]:
    return [_state["function"](item) for item in chunk]
