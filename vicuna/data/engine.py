"""What runs a step over many blocks: processes on this machine, or Ray. Steps leave files and return only little."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from vicuna.data.config import EngineConfig

Item = TypeVar("Item")
Result = TypeVar("Result")


class Engine(Protocol):
    """Runs a function over items in parallel."""

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> AbstractContextManager[Iterator[Result]]:
        """The results in the order of the items, for as long as the context is open.

        Args:
            function: can travel to another process (a function of a module, or a `functools.partial` of one).
            items: small; read as they are needed by `local`, all at once by `ray`.
        """
        ...


def engine(config: EngineConfig) -> Engine:
    """The engine that the settings name.

    Raises:
        ConfigError: Ray is named and not installed.
    """
    if config.kind == "ray":
        from vicuna.data.cluster import Cluster

        return Cluster(config)
    from vicuna.workers import Workers

    return Workers(config.workers, "--engine.workers")
