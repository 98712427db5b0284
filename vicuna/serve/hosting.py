"""A process with several models: what each of its workers is given.

The names and adapters of one model share the places of one engine, so they are one worker. A model with an engine of
its own has its own places and its own health: it is a worker of its own, with its own port and its own entry in the
fleet. Otherwise answers for a busy model would fill the places of an idle one, and an engine in trouble would take the
others away with it.
"""

import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from vicuna.errors import ConfigError, VicunaError
from vicuna.hardware import cpu_count
from vicuna.models.adapter_folder import read_settings
from vicuna.models.load import need_folder, need_weights
from vicuna.serve import engines
from vicuna.serve.config import HostedConfig, WorkerConfig
from vicuna.serve.engines import Engine
from vicuna.serve.names import names_of

HostedT = TypeVar("HostedT", bound=HostedConfig)
LAST_PORT = 65535
_OWN = tuple(each.name for each in fields(HostedConfig))


class CannotStart(VicunaError):
    """One of several models cannot be served."""

    def __init__(self, name: str, error: VicunaError) -> None:
        super().__init__(f"model {name}: {error}")
        self.exit_status = error.exit_status


def split(config: WorkerConfig) -> tuple[WorkerConfig, ...]:
    """The settings of each worker of a process, one for each model.

    The first has the port and the advertised address that are set, the others those that follow; where no port is set,
    each takes a free one. Engines that compute on this machine share its cores.

    Raises:
        ConfigError: there are not enough ports behind the one that is set.
    """
    if not config.more:
        return (config,)
    shared = with_threads(config, threads_each([config]))
    return tuple(
        replace(
            shared,
            **{name: getattr(hosted, name) for name in _OWN},
            more=(),
            port=config.port and _later(config.port, number, "port"),
            advertise=_moved(config.advertise, number),
        )
        for number, hosted in enumerate(shared.hosted)
    )


def threads_each(workers: Iterable[WorkerConfig]) -> int:
    """This machine's cores, shared between the engines that compute on it."""
    computing = sum(hosted.engine.kind == "transformers" for worker in workers for hosted in worker.hosted)
    return max(1, cpu_count() // max(1, computing))


def with_threads(config: WorkerConfig, threads: int) -> WorkerConfig:
    """The same, with so many threads for each engine whose settings do not say how many."""
    more = tuple(_with_threads(hosted, threads) for hosted in config.more)
    return replace(_with_threads(config, threads), more=more)


def _with_threads(config: HostedT, threads: int) -> HostedT:
    return replace(config, engine=replace(config.engine, threads=config.engine.threads or threads))


@contextlib.asynccontextmanager
async def started(workers: Sequence[WorkerConfig]) -> AsyncIterator[list[Engine]]:
    """The engines of a process's workers; they are closed with the block, also where a later one cannot start.

    They start one after the other, so that each chooses from the memory that the ones before it have left. Before the
    first one does, the folders of all are looked at: loading a large model takes minutes.

    Raises:
        VicunaError: one cannot start; where there are several it says which.
    """
    for config in workers:
        with _naming(config, workers):
            _need_folders(config)
    made = [engines.make(each, each.tls, _share(workers[number:])) for number, each in enumerate(workers)]
    async with contextlib.AsyncExitStack() as stack:
        for config, engine in zip(workers, made, strict=True):
            stack.push_async_callback(engine.close)
            with _naming(config, workers):
                await engine.start()
        yield made


@contextlib.contextmanager
def _naming(config: WorkerConfig, workers: Sequence[WorkerConfig]) -> Iterator[None]:
    """Errors in the block say whose they are, where there are several models."""
    try:
        yield
    except VicunaError as error:
        if len(workers) == 1:
            raise
        raise CannotStart(names_of(config)[0], error) from error


def _need_folders(config: WorkerConfig) -> None:
    """Raise if it can be seen without loading anything that a model or an adapter is not there."""
    if config.engine.kind not in ("transformers", "vllm"):
        return
    need_folder(config.model.path, "a model")
    need_weights(Path(config.model.path))
    for adapter in config.adapters:
        need_folder(adapter.path, "an adapter")
        if config.engine.kind == "transformers":
            read_settings(Path(adapter.path))


def _share(left: Sequence[WorkerConfig]) -> float:
    """What the first may take of a device's memory, when all that are left to start are on the same one."""
    same = [each for each in left if each.engine.kind == "transformers" and each.engine.device == left[0].engine.device]
    return 1 / max(1, len(same))


def _moved(address: str, by: int) -> str:
    """The address with a later port."""
    if not address:
        return ""
    parts = urlsplit(address)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{host}:{_later(port, by, 'advertise')}"


def _later(port: int, by: int, setting: str) -> int:
    if port + by > LAST_PORT:
        raise ConfigError(
            f"{setting}: each model of `more` takes the next port, and behind {port} there are not enough"
        )
    return port + by
