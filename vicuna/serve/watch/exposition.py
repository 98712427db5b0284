"""The metrics of one process in Prometheus' formats."""

import asyncio
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

import vicuna


class Exposition:
    """A registry of its own, with this process's memory, CPU time and open files in it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        build = Gauge("vicuna_build_info", "Always 1; the label is the version.", ["version"], registry=self.registry)
        build.labels(vicuna.__version__).set(1)
        self._snapshots: list[_Snapshot] = []

    def read_with(self, read: Callable[[], list[Metric]]) -> None:
        """Add series whose values are read from elsewhere, on the event loop, when somebody asks for the metrics."""
        snapshot = _Snapshot(read)
        self._snapshots.append(snapshot)
        self.registry.register(snapshot)

    async def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """Everything, and its content type: OpenMetrics where the `accept` header asks for it, else Prometheus' text.

        The text of a large fleet takes a while to write, so that is done beside the event loop.
        """
        for snapshot in self._snapshots:
            snapshot.take()
        encode, content_type = choose_encoder(accept)
        return await asyncio.to_thread(encode, self.registry), content_type


class _Snapshot(Collector):
    """Series as they were when they were last read."""

    def __init__(self, read: Callable[[], list[Metric]]) -> None:
        self._read = read
        self._found: list[Metric] = []

    def take(self) -> None:
        """Read them now."""
        self._found = self._read()

    def collect(self) -> Iterable[Metric]:
        """For the registry, in whatever thread."""
        return self._found
