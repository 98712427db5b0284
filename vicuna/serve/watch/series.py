"""The series that a controller keeps for Prometheus: names, labels, buckets, and how their number stays bounded.

A model's name becomes a label only once a worker served it, and what belongs to a worker can be removed when it left.
"""

import functools
from dataclasses import asdict, dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram

OTHER = "other"
"""Stands for the values of a label that are too many, or that a client made up."""
MOST_VALUES = 500
"""Of one label."""
WAITS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Buckets for times that somebody waits, in seconds."""
_TOKEN_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0)
_DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Values:
    """The values that a label may have."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def learn(self, value: str) -> str:
        """A value from a source that can be trusted; the first MOST_VALUES are kept."""
        if value in self._known or len(self._known) < MOST_VALUES:
            self._known.add(value)
            return value
        return OTHER

    def look_up(self, value: str) -> str:
        """A value from a source that cannot: only what is known already, or nothing, is let through."""
        return value if not value or value in self._known else OTHER


@dataclass(slots=True)
class Totals:
    """Sums since the process began, for the page about the fleet."""

    requests: int = 0
    """Those that named a model."""
    answers: int = 0
    failovers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def as_dict(self) -> dict[str, int]:
        """Name → sum."""
        return asdict(self)


class WorkerSeries:
    """What one model on one worker counts, with the labels bound."""

    __slots__ = ("completion", "first", "gaps", "prompt")

    def __init__(self, series: "Series", model: str, worker: str) -> None:
        self.first = series.first_token.labels(model, worker)
        self.gaps = series.token_gaps.labels(model, worker)
        self.prompt = series.prompt_tokens.labels(model, worker)
        self.completion = series.completion_tokens.labels(model, worker)


class Series:
    """All of one controller's own series."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(name, about, labels, registry=registry)

        def histogram(name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, about, labels, registry=registry, buckets=buckets)

        self.requests = counter(
            "vicuna_requests", "HTTP requests answered; status 499: the client left.", "route", "model", "status"
        )
        self.seconds = histogram(
            "vicuna_request_seconds", "From a request's arrival to its reply's end.", _DURATIONS, "route", "model"
        )
        self.errors = counter("vicuna_errors", "Requests refused, failed or broken off, by error code.", "code")
        self.answers = counter("vicuna_answers", "Answers that ended; a request may have several.", "model", "outcome")
        self.queue = histogram("vicuna_queue_seconds", "Waiting for a worker.", WAITS, "model")
        self.first_token = histogram(
            "vicuna_time_to_first_token_seconds",
            "From an answer's beginning to its first token, waiting and failed workers included.",
            WAITS,
            "model",
            "worker",
        )
        self.token_gaps = histogram(
            "vicuna_inter_token_seconds",
            "Between two arrivals of an answer's tokens; a change of workers is in it.",
            _TOKEN_GAPS,
            "model",
            "worker",
        )
        self.prompt_tokens = counter("vicuna_prompt_tokens", "Tokens read.", "model", "worker")
        self.completion_tokens = counter("vicuna_completion_tokens", "Tokens written.", "model", "worker")
        self.failovers = counter(
            "vicuna_failovers", "Answers that a worker did not finish, by what happened.", "model", "worker", "kind"
        )
        self.models, self.codes, self.kinds = Values(), Values(), Values()
        self.totals = Totals()
        # Finding the series of some labels costs more than counting; there are few of each of these, and they stay.
        self.queue_of = functools.cache(self.queue.labels)
        self.answers_of = functools.cache(self.answers.labels)
        self.requests_of = functools.cache(self.requests.labels)
        self.seconds_of = functools.cache(self.seconds.labels)
        self._of_workers: dict[tuple[str, str], WorkerSeries] = {}

    def of(self, model: str, worker: str) -> WorkerSeries:
        """The series of a model that is served by a worker."""
        bound = self._of_workers.get((model, worker))
        if bound is None:
            bound = self._of_workers[model, worker] = WorkerSeries(self, self.models.learn(model), worker)
        return bound

    def workers(self) -> set[str]:
        """Every worker that series are kept of."""
        return {worker for _, worker in self._of_workers}

    def forget(self, worker: str) -> None:
        """Remove a worker's series; answers that it still computes are no longer counted for it."""
        self._of_workers = {key: bound for key, bound in self._of_workers.items() if key[1] != worker}
        by_worker = (self.first_token, self.token_gaps, self.prompt_tokens, self.completion_tokens, self.failovers)
        for each in by_worker:
            each.remove_by_labels({"worker": worker})
