"""The Ray engine: the same steps as tasks of Ray Data, here or on a cluster whose machines share a file system."""

import logging
import os
import pickle
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from vicuna.data.config import EngineConfig
from vicuna.errors import ConfigError, VicunaError

Item = TypeVar("Item")
Result = TypeVar("Result")


class ClusterError(VicunaError):
    """Ray could not do the work."""


class Cluster:
    """Tasks of Ray Data."""

    def __init__(self, config: EngineConfig) -> None:
        """
        Args:
            config: which cluster, and how many tasks at once.

        Raises:
            ConfigError: Ray is not installed.
        """
        try:
            import ray.data  # noqa: F401
        except ImportError as error:
            raise ConfigError(f"engine.kind ray needs Ray: pip install 'vicuna[ray]' ({error})") from error
        self._config = config

    @contextmanager
    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Iterator[Result]]:
        """See `Engine.map`. All items are read first; results are taken as they come and handed on in order.

        Raises:
            ClusterError: the cluster cannot be reached, or a task was lost for good.
        """
        import ray
        import ray.data

        self._join()
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        rows = [{"item": pickle.dumps(item)} for item in items]
        task = _Task(function, str(Path.cwd()))
        try:
            if rows:
                found = ray.data.from_items(rows, override_num_blocks=len(rows))
                strategy = ray.data.TaskPoolStrategy(size=self._config.workers)
                done = found.map(task, num_cpus=1, compute=strategy)
                yield map(_unpacked, done.iter_rows())
            else:
                yield iter(())
        except ray.exceptions.RayTaskError:  # a programming mistake in a task keeps its traceback
            raise
        except ray.exceptions.RayError as error:
            raise ClusterError(f"Ray could not finish: {' '.join(str(error).split())[:300]}") from error

    def _join(self) -> None:
        """Connect to the cluster, or start one with as many slots as there may be tasks at once."""
        import ray

        if ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address = self._config.address
        _reach(address)
        local: dict[str, Any] = {} if address else {"num_cpus": self._config.workers, "include_dashboard": False}
        try:
            ray.init(address=address or "local", logging_level=logging.ERROR, log_to_driver=False, **local)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ClusterError(f"cannot join the Ray cluster {address!r}: {' '.join(str(error).split())}") from error


def _reach(address: str) -> None:
    """Raise unless somebody listens at an address that names host and port: Ray would try for minutes."""
    named = re.fullmatch(r"(?:ray://)?(.+):(\d{1,5})", address)
    if not named:
        return
    try:
        socket.create_connection((named[1].strip("[]"), int(named[2])), timeout=10).close()
    except OSError as error:
        raise ClusterError(f"cannot join the Ray cluster {address!r}: {error.strerror or error}") from error


class _Task:
    """A function over items as a function over rows of bytes, for Ray Data."""

    def __init__(self, function: Callable[[Any], Any], folder: str) -> None:
        self._function = function
        self._folder = folder

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        os.chdir(self._folder)  # paths may be relative to where the command was started
        try:
            return {"result": pickle.dumps(self._function(pickle.loads(row["item"]))), "error": b""}
        except VicunaError as error:  # Ray would wrap it in two of its own and a page of text
            return {"result": b"", "error": pickle.dumps(error)}


def _unpacked(row: dict[str, Any]) -> Any:
    if row["error"]:
        raise pickle.loads(row["error"])
    return pickle.loads(row["result"])
