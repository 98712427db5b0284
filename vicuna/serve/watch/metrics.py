"""What is counted and timed while serving, as Prometheus reads it: the controller's side and the worker's."""

import time
from collections import Counter as Tally
from collections.abc import Callable, Mapping
from typing import Literal, get_args

from prometheus_client import Counter
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from vicuna.serve.engines import Step
from vicuna.serve.fleet.dispatch import Dispatcher
from vicuna.serve.watch.answer import AnswerWatch
from vicuna.serve.watch.exposition import Exposition
from vicuna.serve.watch.series import OTHER, Series
from vicuna.serve.watch.steps import StepSeries, cache

REMEMBERED = 300.0
"""Seconds that a worker's series outlive its place in the fleet, so that a scrape still sees how it ended."""
LOOK = 30.0
"""Seconds between two looks at who has left."""
Outcome = Literal["finished", "gone", "failed", "moved"]
"""How an answer ended at a worker: whole; its reader left; the engine failed; another worker goes on with it."""


class Metrics(Exposition):
    """All of one controller."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._series = Series(self.registry)
        self._absent_since: dict[str, float] = {}
        self._next_look = 0.0
        self._dispatcher: Dispatcher | None = None

    def answer(self, model: str) -> AnswerWatch:
        """The watch over one answer that begins now."""
        return AnswerWatch(self._series, model)

    def request(self, route: str, model: str, status: int, seconds: float, error: str = "") -> None:
        """A request was answered.

        Args:
            route: the route's pattern; "" where there is none.
            model: as the client named it; "" where it named none.
            status: of HTTP, or 499 where the client left.
            seconds: from its arrival to its reply's end.
            error: code of the error that it was answered with; "" where there was none.
        """
        labels = (route or OTHER, self._series.models.look_up(model))
        self._series.requests_of(*labels, str(status)).inc()
        self._series.seconds_of(*labels).observe(seconds)
        if error:
            self._series.errors.labels(self._series.codes.learn(error)).inc()
        self._series.totals.requests += bool(model)
        if self._clock() >= self._next_look:
            self._look_for_the_gone()

    def totals(self) -> dict[str, int]:
        """Sums since the process began: requests (that named a model), answers, failovers, and tokens."""
        return self._series.totals.as_dict()

    # ------------------------------------------------------------------------------------- the fleet
    def follow(self, dispatcher: Dispatcher) -> None:
        """Show this dispatcher's queue and fleet, and forget workers that leave it."""
        self._dispatcher = dispatcher
        self.read_with(lambda: _fleet(dispatcher))

    def _look_for_the_gone(self) -> None:
        """Remove the series of workers that left the fleet some time ago."""
        now = self._clock()
        self._next_look = now + LOOK
        if self._dispatcher is None:
            return
        gone = self._series.workers() - {worker.id for worker in self._dispatcher.fleet.workers()}
        self._absent_since = {worker: self._absent_since.get(worker, now) for worker in gone}
        for worker, since in self._absent_since.items():
            if now - since >= REMEMBERED:
                self._series.forget(worker)


def _fleet(dispatcher: Dispatcher) -> list[Metric]:
    fleet, now = dispatcher.fleet, time.monotonic()
    states: Tally[str] = Tally({"live": 0, "suspended": 0, "draining": 0})
    in_flight = GaugeMetricFamily("vicuna_in_flight", "Answers that a worker computes for us.", labels=["worker"])
    capacity = GaugeMetricFamily("vicuna_capacity", "Answers that a worker computes at once.", labels=["worker"])
    lease = GaugeMetricFamily("vicuna_lease_left_seconds", "Until a worker counts as gone.", labels=["worker"])
    for worker in fleet.workers():
        states[fleet.state(worker)] += 1
        in_flight.add_metric([worker.id], worker.in_flight)
        capacity.add_metric([worker.id], worker.capacity)
        lease.add_metric([worker.id], max(0.0, worker.expires - now))
    workers = GaugeMetricFamily("vicuna_workers", "Workers on the list.", labels=["state"])
    for state, count in states.items():
        workers.add_metric([state], count)
    waiting = GaugeMetricFamily("vicuna_waiting", "Answers that wait for a worker.", labels=["model"])
    for model, count in dispatcher.waiting.items():
        waiting.add_metric([model], count)
    return [workers, in_flight, capacity, lease, waiting]


class WorkerMetrics(Exposition):
    """All of one worker."""

    def __init__(self, running: Callable[[], int], capacity: int, load: Callable[[], Mapping[str, float]]) -> None:
        """
        Args:
            running: answers that it computes now.
            capacity: most answers that it computes at once.
            load: the engine's own numbers, by name.
        """
        super().__init__()
        answers = Counter("vicuna_worker_answers", "Answers that ended here.", ["outcome"], registry=self.registry)
        self._answers = {outcome: answers.labels(outcome) for outcome in get_args(Outcome)}
        self._tokens = Counter("vicuna_worker_tokens", "Tokens written.", registry=self.registry)
        self._steps = StepSeries(self.registry)
        self.read_with(lambda: _worker(running(), capacity, load()))

    def tokens(self, count: int) -> None:
        """So many tokens were computed."""
        self._tokens.inc(count)

    def step(self, step: Step) -> None:
        """The engine has made a step."""
        self._steps.add(step)

    def ended(self, outcome: Outcome) -> None:
        """An answer has ended."""
        self._answers[outcome].inc()


def _worker(running: int, capacity: int, load: Mapping[str, float]) -> list[Metric]:
    engine = GaugeMetricFamily("vicuna_engine_load", "The engine's own numbers.", labels=["what"])
    for what, value in load.items():
        engine.add_metric([what], value)
    return [
        GaugeMetricFamily("vicuna_worker_running", "Answers that are computed now.", running),
        GaugeMetricFamily("vicuna_worker_capacity", "Most answers that are computed at once.", capacity),
        engine,
        *cache(load),
    ]
