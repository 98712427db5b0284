"""When a checkpoint is due: every so many steps, or as often as its cost and the expected preemptions make worth it."""

import math
import statistics
from collections import deque
from dataclasses import dataclass

from vicuna.train.config import CheckpointConfig
from vicuna.train.parallel import World

FIRST = 5
"""Steps of a start before its first checkpoint under `auto`; it shows what one costs."""
RECENT = 50
"""Undisturbed steps whose median is the time of a step."""
WORTH_SAYING = 1.25
"""An interval is told again when it has changed by this factor."""


@dataclass(frozen=True)
class Interval:
    """How often to save, and why."""

    steps: int
    why: str


def interval(cost: float, written: float, step: float, mtbf: float) -> Interval:
    """The interval that loses the least time: to saving, and to steps that are done again after a preemption.

    Args:
        cost: seconds of training that one checkpoint takes.
        written: seconds until it is complete; the next one does not start before.
        step: seconds of a step.
        mtbf: mean seconds between preemptions.

    Returns:
        √(2 · cost · mtbf), at least `written` and at most `mtbf`, in whole steps.

    Source: Young, "A first order approximation to the optimum checkpoint interval", 1974. The terms of higher order
    (Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", 2006) change it by less than
    `cost`, and where a checkpoint costs as much as is expected to be lost, Daly's interval is `mtbf`.
    """
    best = min(math.sqrt(2 * cost * mtbf), mtbf)
    steps = max(1, round(best / step), math.ceil(written / step))
    why = (
        f"a checkpoint every {steps:,} steps ({_duration(steps * step)}): it takes {_duration(cost)} of training, and "
        f"a preemption is expected every {mtbf / 3600:g} h; √(2 × {_duration(cost)} × {mtbf:,.0f} s) = "
        f"{_duration(best)} (Young)"
    )
    return Interval(steps, why + (f"; one is written in {_duration(written)}" if written > best else ""))


class Cadence:
    """Which steps end with a checkpoint; the same on every rank.

    The loop tells it of every step (`ran`) and of every checkpoint that was due (`saved`).
    """

    def __init__(self, config: CheckpointConfig, world: World, done: int) -> None:
        """Start after `done` steps."""
        self._every, self._mtbf, self._world = config.every, config.mtbf * 3600, world
        self._next = done + FIRST
        self._told = 0
        self._alone: deque[float] = deque(maxlen=RECENT)  # seconds of steps
        self._beside: list[float] = []  # and of those during which the last checkpoint was written

    def due(self, step: int, last: bool) -> bool:
        """Whether a checkpoint follows this step (from 1); with any at all, one follows the last step.

        So a kill while the model is written, or a disk that is too full for it, costs no training.
        """
        if not self._every:
            return False
        return last or (step >= self._next if self._every == "auto" else step % self._every == 0)

    def ran(self, seconds: float, writing: bool) -> None:
        """A step took so long, and a checkpoint was written beside it, or not."""
        (self._beside if writing else self._alone).append(seconds)

    def saved(self, step: int, blocked: float, written: float) -> str:
        """A checkpoint was begun after this step; under `auto`, plan the next one. All ranks call it together.

        Args:
            step: counts from 1.
            blocked: seconds that training stood for it.
            written: seconds until the one before was complete; 0 where there was none.

        Returns:
            what to tell people; "" where nothing has changed much.
        """
        if self._every != "auto":
            return ""
        usual = statistics.median(self._alone or self._beside)
        slower = sum(each - usual for each in self._beside)  # they share the processor, the bus and the disk
        self._beside = []
        blocked, slower, written, usual = self._world.max([blocked, max(0.0, slower), written, usual])
        found = interval(blocked + slower, written, usual, self._mtbf)
        self._next = step + found.steps
        if self._told and 1 / WORTH_SAYING < found.steps / self._told < WORTH_SAYING:
            return ""
        self._told = found.steps
        return found.why


def _duration(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
