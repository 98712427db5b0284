"""What a run tells while it works: rows in `metrics.jsonl`, `held_out.jsonl` and `starts.jsonl`, and lines for people.

Only rank 0 writes them. A run that was killed and started again leaves the same rows as one that never stopped, but
for times and memory: what came after the checkpoint that it goes on from is removed, because it is done again.
"""

import itertools
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from vicuna.errors import InputError
from vicuna.files import AppendLog, read_jsonl, replacing, to_json
from vicuna.hardware import GIB, peak_flops
from vicuna.train.figures import clock, size
from vicuna.train.trackers import Tracker

METRICS, HELD_OUT, STARTS = "metrics.jsonl", "held_out.jsonl", "starts.jsonl"
T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """One optimiser step, over all ranks."""

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
    squares: int
    """Sum over the samples of length squared: what attention costs."""
    capacity: int
    """Positions that the step's bins had; tokens / capacity is the fill."""
    seconds: float
    """Wall time."""


@dataclass(frozen=True)
class Row(Step):
    """A step as metrics.jsonl keeps it."""

    flops: float
    """FLOP of the model's mathematics, without what is recomputed."""
    memory: int
    """Most bytes that rank 0 held since the row before: of its GPU, or of the process where there is none."""
    time: float
    """When the step was done, in UNIX seconds."""


@dataclass(frozen=True)
class HeldOut:
    """The loss on conversations that are never learnt."""

    step: int
    """Optimiser steps done."""
    loss: float
    """Mean over the target tokens, in nats."""
    targets: int
    """Target tokens."""
    seconds: float
    """Wall time."""


@dataclass(frozen=True)
class Start:
    """One start of a run; a run that was stopped and went on has several."""

    done: int
    """Optimiser steps done before it."""
    total: int
    """Optimiser steps of the whole run."""
    ranks: int
    """Processes that train."""
    device: str
    """Name of each rank's device."""
    began: float = 0.0
    """When rank 0 was started, in UNIX seconds; not before the last step of the start before."""
    lost: int = 0
    """Steps of the start before that no checkpoint holds, so that they are done again."""
    ended: float = 0.0
    """When the start before did its last step, in UNIX seconds; 0 where it did none."""

    @property
    def peak(self) -> float | None:
        """Peak rate of all ranks in FLOP/s; None where the device is not known."""
        one = peak_flops(self.device)
        return one * self.ranks if one else None


class Progress:
    """Writes each step's row, tells the tracker, and now and then prints a line."""

    def __init__(
        self,
        folder: Path,
        start: Start,
        *,
        every: int,
        flops: Callable[[Step], float],
        memory: Callable[[], int],
        tracker: Tracker,
    ) -> None:
        """Go on after `start.done` steps; rows of later steps (of a start that was killed) are removed.

        Args:
            folder: the run's.
            start: where the run stands and what it runs on.
            every: steps between lines.
            flops: FLOP of a step. Model FLOPs utilisation is its rate as a share of the devices' peak (PaLM,
                arXiv:2204.02311, appendix B), with attention counted within samples only.
            memory: most bytes held since the last call.
            tracker: is told of each row.
        """
        earlier = read_steps(folder / METRICS)
        ended, lost = earlier[-1].time if earlier else 0.0, sum(row.step > start.done for row in earlier)
        self._start = replace(start, began=max(_process_began(), ended), lost=lost, ended=ended)
        with AppendLog(folder / STARTS) as starts:
            starts.append(asdict(self._start))
        self._rows, self._held_out = (_kept(folder / name, start.done) for name in (METRICS, HELD_OUT))
        self._every, self._flops, self._memory, self._tracker = every, flops, memory, tracker
        self._recent: list[Row] = []
        self._began = time.perf_counter()

    def add(self, step: Step) -> None:
        """Record a step."""
        row = Row(**asdict(step), flops=self._flops(step), memory=self._memory(), time=time.time())
        self._rows.append(asdict(row))
        self._tracker.log(self._tracked(row), row.step)
        self._recent.append(row)
        if row.step % self._every == 0 or row.step == self._start.total:
            self._show()
            self._recent = []

    def add_held_out(self, found: HeldOut) -> None:
        """Record a held-out loss."""
        self._held_out.append(asdict(found))
        self._tracker.log({"held_out/loss": found.loss}, found.step)
        _say(self._count(found.step), f"held-out loss {found.loss:.4f}",
             f"{found.targets:,} target tokens in {found.seconds:.1f} s")  # fmt: skip

    def close(self) -> None:
        """Close the files and the tracker."""
        self._rows.close()
        self._held_out.close()
        self._tracker.close()

    def _show(self) -> None:
        rows, last = self._recent, self._recent[-1]
        seconds, targets = sum(row.seconds for row in rows), sum(row.targets for row in rows)
        tokens = sum(row.tokens for row in rows)
        parts = [
            f"loss {sum(row.loss * row.targets for row in rows) / targets:.4f}",
            f"lr {last.lr:.2e}",
            f"{targets / seconds:,.0f} target tokens/s",
            f"{tokens / seconds:,.0f} tokens/s",
            f"fill {tokens / sum(row.capacity for row in rows):.1%}",
        ]
        if peak := self._start.peak:
            parts.append(f"MFU {sum(row.flops for row in rows) / seconds / peak:.1%}")
        memory = max(row.memory for row in rows)
        _say(self._count(last.step), *parts, size(memory), f"{clock(self._left(last.step))} left")

    def _count(self, step: int) -> str:
        return f"step {step}/{self._start.total}"

    def _left(self, step: int) -> float:
        """Seconds that the rest takes at the pace of this start, checkpoints and held-out losses included."""
        return (time.perf_counter() - self._began) / (step - self._start.done) * (self._start.total - step)

    def _tracked(self, row: Row) -> dict[str, float]:
        values = {
            "loss": row.loss, "grad_norm": row.grad_norm, "lr": row.lr, "fill": row.tokens / row.capacity,
            "target_tokens_per_second": row.targets / row.seconds, "tokens_per_second": row.tokens / row.seconds,
            "memory_gib": row.memory / GIB,
        }  # fmt: skip
        if peak := self._start.peak:
            values["mfu"] = row.flops / row.seconds / peak
        return {f"train/{name}": value for name, value in values.items()}


def peak_memory(device: Any) -> int:
    """Most bytes held on a CUDA device since the last call, or by this process ever where `device` is a CPU."""
    if device.type == "cuda":
        import torch  # not at the top: the report reads rows without it

        most = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return int(most)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def read_steps(path: Path) -> list[Row]:
    """The rows of metrics.jsonl; none where there is no such file."""
    return _read(path, Row)


def read_held_out(path: Path) -> list[HeldOut]:
    """The rows of held_out.jsonl; none where there is no such file."""
    return _read(path, HeldOut)


def read_starts(path: Path) -> list[Start]:
    """The rows of starts.jsonl; none where there is no such file."""
    return _read(path, Start)


def _read(path: Path, cls: type[T]) -> list[T]:
    if not path.exists():
        return []
    whole = path.read_bytes().count(b"\n")  # a last line without its end is being written, or its writer was killed
    rows = []
    for number, row in itertools.islice(read_jsonl(path), whole):
        try:
            rows.append(cls(**row))
        except TypeError as error:
            raise InputError(f"{path}:{number}: not a row that this version writes: {error}") from error
    return rows


def _kept(path: Path, done: int) -> AppendLog:
    """The log without its rows after step `done`, open for more."""
    AppendLog(path).close()  # cuts a torn last line
    kept = [row for _, row in read_jsonl(path) if row["step"] <= done]
    with replacing(path) as file:
        file.writelines(to_json(row) + "\n" for row in kept)
    return AppendLog(path)


def _process_began() -> float:
    import psutil

    return float(psutil.Process().create_time())


def _say(*parts: str) -> None:
    print("  ".join(parts), file=sys.stderr, flush=True)
