"""What a run took: time, GPU hours, money and energy, over all its starts."""

from collections.abc import Sequence
from dataclasses import dataclass

from vicuna.hardware import find_gpu, find_price
from vicuna.train.metrics import Row, Start


@dataclass(frozen=True)
class Expense:
    """All of it from each start's beginning to its last step, so steps that were lost count too."""

    by_start: list[float]
    """Wall seconds of each start."""
    in_steps: float
    """Share of the time that went into steps which were kept."""
    mfu: float | None
    """Model FLOPs utilisation in the steps; None where a device's peak is not known."""
    gpu_hours: float | None
    """None where it ran on CPUs."""
    dollars: float | None
    """None where no price is known."""
    price: str
    """For people: what an hour was taken to cost."""
    kwh: float | None
    """Of the GPUs alone, as if they always took all that they may; None where that is not known."""

    @property
    def seconds(self) -> float:
        """Wall time."""
        return sum(self.by_start)


def expense(rows: Sequence[Row], starts: Sequence[Start], price: float) -> Expense:
    """Add up a run.

    Args:
        rows: its steps, at least one.
        starts: at least one.
        price: US dollars for an hour of one GPU; 0 takes the list price on demand of each start's device.
    """
    ends = [*(start.ended for start in starts[1:]), rows[-1].time]
    seconds = [max(0.0, end - start.began) for start, end in zip(starts, ends, strict=True)]
    hours = [each * start.ranks / 3600 for each, start in zip(seconds, starts, strict=True)]
    gpus = [find_gpu(start.device) for start in starts]
    listed = [find_price(start.device, spot=False) for start in starts]
    rates = [price or (each.usd if each else None) for each in listed]
    on_gpus = all(start.device != "cpu" for start in starts)
    where = f" ({listed[-1].where}, {listed[-1].date})" if listed[-1] and not price else ""
    return Expense(
        by_start=seconds,
        in_steps=min(1.0, sum(row.seconds for row in rows) / max(sum(seconds), 1e-9)),
        mfu=_mfu(rows, starts),
        gpu_hours=sum(hours) if on_gpus else None,
        dollars=_total(hours, rates) if on_gpus else None,
        price=f"at ${rates[-1]:.2f} per GPU hour{where}" if rates[-1] else "",
        kwh=_total(hours, [gpu.watts / 1000 if gpu and gpu.watts else None for gpu in gpus]),
    )


def _total(hours: Sequence[float], rates: Sequence[float | None]) -> float | None:
    """Hours times their rates; None where a rate is not known."""
    parts = [hour * rate for hour, rate in zip(hours, rates, strict=True) if rate is not None]
    return sum(parts) if len(parts) == len(hours) else None


def _mfu(rows: Sequence[Row], starts: Sequence[Start]) -> float | None:
    """FLOP that were done as a share of what each step's devices could have done in its time."""
    possible = 0.0
    for row in rows:
        start = next(each for each in reversed(starts) if each.done < row.step)
        if start.peak is None:
            return None
        possible += start.peak * row.seconds
    return sum(row.flops for row in rows) / possible
