"""What vLLM tells about its steps, through its interface for loggers of statistics (`StatLoggerBase`)."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vicuna.serve.engines import STUCK, Step


class Steps:
    """Takes vLLM's numbers in and hands them on as ours. Everything happens in the event loop's thread."""

    def __init__(self) -> None:
        self.room = 0
        """Tokens that vLLM's cache holds; known after it has started."""
        self.watch: Callable[[Step], None] = _nobody
        """Whom to tell of each step."""
        self._open = 0
        self._last: Step | None = None
        self._moved = time.monotonic()
        """When the last step ended, or work began after a pause."""

    @contextmanager
    def answering(self) -> Iterator[None]:
        """An answer is with vLLM."""
        if not self._open:
            self._moved = time.monotonic()
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    def load(self) -> Mapping[str, float]:
        """How busy vLLM is. It tells nothing more once its last answer is given up, so ours are counted here."""
        last, open_now = self._last, float(self._open)
        batch = min(open_now, float(last.running)) if last else 0.0
        said = {"batch": batch, "waiting": open_now - batch, "cache_room": float(self.room)}
        return said | {"cache_used": float(last.used) if last and self._open else 0.0}

    def stuck(self) -> bool:
        """Whether answers wait and nothing has happened for too long."""
        return bool(self._open) and time.monotonic() - self._moved > STUCK

    # ------------------------------------------------------------------------------------- what vLLM calls
    def __call__(self, vllm_config: Any, engine_index: int = 0) -> "Steps":
        """vLLM asks for a logger and is given this one."""
        return self

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        """The numbers of one step."""
        before, self._moved = self._moved, time.monotonic()
        if scheduler_stats is None:
            return
        self._last = _step(scheduler_stats, iteration_stats, self._moved - before, self.room)
        self.watch(self._last)

    def log_engine_initialized(self) -> None:
        """vLLM has started."""

    def log(self) -> None:
        """vLLM would have its numbers printed; our metrics have them."""


def _nobody(step: Step) -> None:
    pass


def _step(scheduler: Any, iteration: Any, seconds: float, room: int) -> Step:
    """Source of the fields: `SchedulerStats` and `IterationStats` in vllm/v1/metrics/stats.py, 0.32 and 0.33."""
    prefixes = scheduler.prefix_cache_stats
    return Step(
        seconds=seconds,
        prompt_tokens=iteration.prompt_token_stats.computed if iteration else 0,
        answer_tokens=iteration.num_generation_tokens if iteration else 0,
        running=scheduler.num_running_reqs,
        waiting=scheduler.num_waiting_reqs + scheduler.num_skipped_waiting_reqs,
        used=round(scheduler.kv_cache_usage * room),
        kept=0,  # vLLM counts what it keeps as free
        room=room,
        looked_up=prefixes.queries,
        found=prefixes.hits,
        queued=tuple(each.queued_time for each in iteration.finished_requests) if iteration else (),
        put_back=iteration.num_preempted_reqs if iteration else 0,
    )
