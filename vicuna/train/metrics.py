"""What a run tells while it works: one row for each step in `metrics.jsonl`, and a line of progress."""

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from vicuna.files import AppendLog, read_jsonl, replacing


@dataclass(frozen=True)
class Step:
    """One optimiser step."""

    step: int
    """Counts from 1."""
    loss: float
    """Mean over the step's target tokens, in nats."""
    grad_norm: float
    """Global norm of the gradient before it was scaled down."""
    lr: float
    """Learning rate."""
    tokens: int
    """Tokens seen."""
    targets: int
    """Target tokens among them."""
    capacity: int
    """Positions that the step's bins had; tokens / capacity is the fill."""
    seconds: float
    """Wall time."""


class Progress:
    """Writes each step's row and, now and then, a line for people."""

    def __init__(
        self, path: Path, done: int, total: int, every: int, flops_per_token: float, peak: float | None
    ) -> None:
        """Go on after `done` steps.

        Args:
            path: metrics.jsonl; rows after step `done` (of a start that was killed) are removed.
            done, total: optimiser steps.
            every: steps between lines.
            flops_per_token: forward and backward work, in FLOP.
            peak: the device's peak rate in FLOP/s, or None where it is not known.
        """
        _keep_rows(path, done)
        self._log = AppendLog(path)
        self._total, self._every, self._flops, self._peak = total, every, flops_per_token, peak
        self._recent: list[Step] = []
        self._done = done
        self._started = time.perf_counter()

    def add(self, step: Step) -> None:
        """Record a step."""
        self._log.append(asdict(step))
        self._recent.append(step)
        if step.step % self._every == 0 or step.step == self._total:
            self._show(step)
            self._recent = []

    def _show(self, step: Step) -> None:
        seconds = sum(each.seconds for each in self._recent)
        tokens = sum(each.tokens for each in self._recent)
        targets = sum(each.targets for each in self._recent)
        loss = sum(each.loss * each.targets for each in self._recent) / targets
        left = (time.perf_counter() - self._started) / (step.step - self._done) * (self._total - step.step)
        parts = [
            f"step {step.step}/{self._total}",
            f"loss {loss:.4f}",
            f"lr {step.lr:.2e}",
            f"{targets / seconds:,.0f} target tokens/s",
            f"{tokens / seconds:,.0f} tokens/s",
            f"fill {tokens / sum(each.capacity for each in self._recent):.1%}",
        ]
        if self._peak:
            parts.append(f"MFU {tokens / seconds * self._flops / self._peak:.1%}")
        parts.append(f"{_duration(left)} left")
        print("  ".join(parts), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Close the file."""
        self._log.close()


def read_steps(path: Path) -> list[Step]:
    """The rows of metrics.jsonl."""
    return [Step(**row) for _, row in read_jsonl(path)]


def _keep_rows(path: Path, done: int) -> None:
    if not path.exists():
        return
    AppendLog(path).close()  # cuts a torn last line
    lines = [line for line, row in zip(path.read_text().splitlines(), read_jsonl(path), strict=True)
             if row[1]["step"] <= done]  # fmt: skip
    with replacing(path) as file:
        file.writelines(line + "\n" for line in lines)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
