"""One answer, timed: for the metrics, for its request's line in the log, and for its trace."""

import time

from vicuna.serve.watch import logs
from vicuna.serve.watch.series import Series, WorkerSeries
from vicuna.serve.watch.tracing import OFF


class AnswerWatch:
    """Is told what happens to an answer, from its beginning to its end."""

    def __init__(self, series: Series, model: str) -> None:
        self._all = series
        self._model = model
        self._here: WorkerSeries | None = None
        self._began = self._waiting_since = time.monotonic()
        self._last: float | None = None
        self._entry = logs.current.get()
        self._span = OFF
        if self._entry is not None:
            self._entry.model = self._entry.model or model

    def dispatched(self, worker: str) -> None:
        """A worker was found for it."""
        waited = time.monotonic() - self._waiting_since
        self._here = self._all.of(self._model, worker)
        self._all.queue_of(self._all.models.look_up(self._model)).observe(waited)
        if self._entry is not None:
            self._entry.queued = max(self._entry.queued or 0.0, waited)
            if worker not in self._entry.workers:
                self._entry.workers.append(worker)
            self._end_span()
            self._span = self._entry.span.child("attempt", **{"vicuna.worker": worker, "vicuna.model": self._model})

    def headers(self) -> dict[str, str]:
        """For the call to the worker: the trace that its part belongs to."""
        return self._span.headers()

    def tokens(self, count: int) -> float:
        """So many tokens have come (0: only the news that it has ended); returns the time on the monotonic clock."""
        now = time.monotonic()
        here, last = self._here, self._last
        if here is not None and count:
            if last is None:
                self._first(here, now - self._began)
            else:
                here.gaps.observe(now - last)
            here.completion.inc(count)
        self._all.totals.completion_tokens += count
        self._last = now
        return now

    def _first(self, here: WorkerSeries, seconds: float) -> None:
        here.first.observe(seconds)
        if self._entry is not None:
            known = self._entry.first_token
            self._entry.first_token = seconds if known is None else min(known, seconds)

    def failover(self, worker: str, kind: str) -> None:
        """The worker did not finish it."""
        self._all.of(self._model, worker)
        self._all.failovers.labels(self._all.models.look_up(self._model), worker, self._all.kinds.learn(kind)).inc()
        self._all.totals.failovers += 1
        self._end_span(kind)
        self._waiting_since = time.monotonic()

    def ended(self, prompt: int, completion: int, *, finished: bool) -> None:
        """It is over.

        Args:
            prompt, completion: its tokens.
            finished: it is whole; else its reader left, or no worker could finish it.
        """
        outcome = "finished" if finished else "unfinished"
        self._all.answers_of(self._all.models.look_up(self._model), outcome).inc()
        self._all.totals.answers += 1
        self._all.totals.prompt_tokens += prompt
        if self._here is not None:
            self._here.prompt.inc(prompt)
        if self._entry is not None:
            self._entry.prompt_tokens += prompt
            self._entry.completion_tokens += completion
        self._end_span("" if finished else outcome)

    def _end_span(self, error: str = "") -> None:
        self._span.end(error=error)
        self._span = OFF
