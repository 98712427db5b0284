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


@dataclass(frozen=True)
class Work:
    """For model FLOPs utilisation: 2 FLOP forward and 4 backward for each parameter that a token passes through.

    Attention scores and recomputed activations are left out, so the figure is on the low side.
    """

    body: int
    """Parameters of the decoder layers; every token passes through them. Looking up an embedding costs nothing."""
    head: int
    """Parameters of the output matrix; only the tokens before a target pass through it."""
    peak: float | None
    """The device's peak rate in FLOP/s; None where it is not known."""

    def flops(self, tokens: int, targets: int) -> float:
        """Work of so many tokens."""
        return 6.0 * (self.body * tokens + self.head * targets)


class Progress:
    """Writes each step's row and, now and then, a line for people."""

    def __init__(self, path: Path, done: int, total: int, every: int, work: Work) -> None:
        """Go on after `done` steps.

        Args:
            path: metrics.jsonl; rows after step `done` (of a start that was killed) are removed.
            done, total: optimiser steps.
            every: steps between lines.
            work: what a token costs and what the device can do.
        """
        _keep_rows(path, done)
        self._log = AppendLog(path)
        self._total, self._every, self._work = total, every, work
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
        if self._work.peak:
            parts.append(f"MFU {self._work.flops(tokens, targets) / seconds / self._work.peak:.1%}")
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
