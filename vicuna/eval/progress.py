"""A progress bar on standard error for steps of many calls; a plain line where nobody watches."""

import sys
from types import TracebackType
from typing import Any


class Progress:
    """Shows one step at a time. Use as a context manager."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        self._live = sys.stderr.isatty()
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not self._live,
        )
        self._task: Any = None

    def start(self, step: str, total: int, done: int) -> None:
        """Begin a step of `total` calls, `done` of which are known from an earlier run."""
        known = f" ({done} known from before)" if done else ""
        if not self._live:
            print(f"{step}: {total - done} to ask{known}", file=sys.stderr)
        self._task = self._bar.add_task(step + known, total=total, completed=done)

    def step(self) -> None:
        """One call of the current step is done."""
        if self._task is not None:
            self._bar.advance(self._task)

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
