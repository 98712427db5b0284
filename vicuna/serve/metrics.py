"""What is counted and timed while serving, for Prometheus."""

import time


class AnswerWatch:
    """Times one answer."""

    def __init__(self, model: str) -> None:
        self._model = model

    def dispatched(self, worker: str) -> None:
        """A worker was found for it."""

    def tokens(self, count: int) -> float:
        """So many tokens have come; returns the time on the monotonic clock."""
        return time.monotonic()

    def failover(self, worker: str, kind: str) -> None:
        """The worker did not finish it."""

    def ended(self, prompt: int, completion: int, *, finished: bool) -> None:
        """It is over."""


class Metrics:
    """All of one process."""

    def answer(self, model: str) -> AnswerWatch:
        """The watch over one answer that begins now."""
        return AnswerWatch(model)
