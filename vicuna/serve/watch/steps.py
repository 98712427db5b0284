"""The series that a worker keeps about its engine: how long steps take, how full they are, what the cache holds."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily

from vicuna.serve.engines import Step
from vicuna.serve.watch.series import WAITS

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0)
_ANSWERS = (0, 1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512)
_TOKENS = (0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


class StepSeries:
    """Counts the steps of an engine that batches by itself."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, about: str) -> Counter:
            return Counter(name, about, registry=registry)

        def histogram(name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, about, registry=registry, buckets=buckets)

        self._seconds = histogram("vicuna_engine_step_seconds", "One step of the model.", _SECONDS)
        self._batch = histogram("vicuna_engine_step_answers", "Answers in the batch of a step.", _ANSWERS)
        self._prompts = histogram("vicuna_engine_step_prompt_tokens", "Prompt tokens computed in a step.", _TOKENS)
        self._queue = histogram(
            "vicuna_engine_queue_seconds", "From an answer's arrival at the engine until it joined the batch.", WAITS
        )
        self._looked_up = counter("vicuna_engine_prefix_looked_up_tokens", "Prompt tokens of answers that joined.")
        self._found = counter("vicuna_engine_prefix_found_tokens", "Those of them that the cache held already.")
        self._put_back = counter("vicuna_engine_put_back", "Answers that gave up their place for want of memory.")

    def add(self, step: Step) -> None:
        """Count a step. It takes some 10 µs, between two steps that take milliseconds."""
        self._seconds.observe(step.seconds)
        self._batch.observe(step.running)
        self._prompts.observe(step.prompt_tokens)
        for seconds in step.queued:
            self._queue.observe(seconds)
        self._looked_up.inc(step.looked_up)
        self._found.inc(step.found)
        self._put_back.inc(step.put_back)


def cache(load: Mapping[str, float]) -> list[GaugeMetricFamily]:
    """What the cache holds now, from an engine's `load`; nothing where that says nothing of a cache."""
    if "cache_room" not in load:
        return []
    used, kept = load.get("cache_used", 0.0), load.get("cache_kept", 0.0)
    tokens = GaugeMetricFamily(
        "vicuna_engine_cache_tokens",
        "The cache: of answers in the batch, kept for later prompts, and free.",
        labels=["state"],
    )
    for state, count in (("used", used), ("kept", kept), ("free", load["cache_room"] - used - kept)):
        tokens.add_metric([state], count)
    return [tokens]
