"""The training loop: a step that reads like the maths, and what happens between steps."""

import contextlib
import math
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from vicuna.errors import VicunaError
from vicuna.train.batch import Batch
from vicuna.train.checkpoint import Checkpoints, Position
from vicuna.train.feed import Feed
from vicuna.train.interval import Cadence
from vicuna.train.metrics import HeldOut, Progress, Step
from vicuna.train.model import Objective
from vicuna.train.optim import set_learning_rate
from vicuna.train.parallel import World, sum_gradients

ECHO = 1.0
"""Seconds after the first signal within which others mean the same."""


class Diverged(VicunaError):
    """The loss or the gradient is not a finite number."""


class Stopped(VicunaError):
    """The run was told to stop and has saved where it stands."""

    label = ""  # nothing went wrong

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_status = 128 + number  # as shells count it


def train_step(
    objective: Objective, optimizer: torch.optim.Optimizer, batches: Iterable[Batch], targets: int, max_norm: float,
    world: World,
) -> tuple[float, float]:  # fmt: skip
    """One optimiser step: the loss is the mean over every target token of every pass on every rank.

    Args:
        objective: batch → sum of -log p over its targets.
        optimizer: moves the weights.
        batches: this rank's passes.
        targets: number of target tokens in the passes of all ranks.
        max_norm: gradients are scaled down to this global norm.
        world: the ranks.

    Returns:
        (loss in nats, global gradient norm before clipping), the same on every rank. Where one of them is not finite,
        the weights were left as they were.
    """
    total = torch.zeros((), device=world.device)
    averaged = world.size if objective.is_sharded else 1  # FSDP takes the mean of the ranks' gradients; undo it
    for batch in batches:
        loss = objective(batch)
        (loss * averaged / targets).backward()
        total += loss.detach()
    learning = [each for each in objective.parameters() if each.requires_grad]
    if not objective.is_sharded:
        sum_gradients(learning, world)
    norm = torch.nn.utils.clip_grad_norm_(learning, max_norm)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    (mean,) = world.sum([float(total) / targets])
    if math.isfinite(mean) and math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad()
    return mean, float(norm)


@torch.no_grad()
def held_out_loss(objective: Objective, feed: Feed, world: World) -> float:
    """Mean over every target token of a feed's steps, in nats."""
    objective.eval()
    total = torch.zeros((), device=world.device)
    for step in range(len(feed)):
        for batch in feed.batches(step):
            total += objective(batch)
    objective.train()
    (summed,) = world.sum([float(total)])
    return summed / sum(feed.targets(step) for step in range(len(feed)))


@dataclass(frozen=True)
class Loop:
    """The steps of a run, with what is done between them."""

    objective: Objective
    optimizer: torch.optim.Optimizer
    feed: Feed
    rate_of: Callable[[int], float]
    """Step (from 0) → learning rate."""
    max_norm: float
    """Gradients are scaled down to this global norm."""
    checkpoints: Checkpoints
    cadence: Cadence
    """When a checkpoint is due."""
    progress: Progress | None
    """On rank 0, which speaks for all."""
    held_out: Feed | None
    """What the held-out loss is taken on."""
    held_out_every: int
    """Steps between held-out losses."""
    world: World

    def run(self, position: Position) -> None:
        """Train from `position`, which moves on, to the end of the feed.

        Raises:
            Diverged: with the step and its samples; the weights are those of the step before.
            Stopped: SIGTERM or SIGINT came to any rank; the step was finished and a checkpoint written.
        """
        self.objective.train()
        with stop_signals() as stop:
            while position.step < len(self.feed):
                self._step(position)
                last = position.step == len(self.feed)
                if self.held_out and (last or position.step % self.held_out_every == 0):
                    self._hold_out(position)
                (number,) = self.world.max([stop.number])
                if number and not last:
                    self._stop(position, int(number))
                if self.cadence.due(position.step, last):
                    self._save(position, last)

    def _step(self, position: Position) -> None:
        began, at = time.perf_counter(), position.step
        targets, rate = self.feed.targets(at), self.rate_of(at)
        set_learning_rate(self.optimizer, rate)
        loss, norm = train_step(
            self.objective, self.optimizer, self.feed.batches(at), targets, self.max_norm, self.world
        )  # fmt: skip
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._diverged(at, loss, norm)
        seconds, tokens = time.perf_counter() - began, self.feed.tokens(at)
        position.step += 1
        position.tokens += tokens
        position.targets += targets
        position.seconds += seconds
        self.cadence.ran(seconds, self.checkpoints.writing)
        if self.progress:
            squares, capacity = self.feed.squares(at), self.feed.positions(at)
            self.progress.add(Step(position.step, loss, norm, rate, tokens, targets, squares, capacity, seconds))

    def _diverged(self, at: int, loss: float, norm: float) -> Diverged:
        names = self.feed.names(at)
        some = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        kept = self.checkpoints.complete()
        last = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
        return Diverged(f"step {at + 1}: loss {loss}, gradient norm {norm} (samples {some}); {last}; "
                        "lower --optim.lr or look at these samples")  # fmt: skip

    def _save(self, position: Position, last: bool) -> None:
        self.checkpoints.save(position, self.objective, self.optimizer)
        if last:
            return
        said = self.cadence.saved(position.step, self.checkpoints.blocked, self.checkpoints.written)
        if said and self.world.is_main:
            print(said, file=sys.stderr, flush=True)

    def _hold_out(self, position: Position) -> None:
        assert self.held_out is not None
        began = time.perf_counter()
        loss = held_out_loss(self.objective, self.held_out, self.world)
        if self.progress:
            targets = sum(self.held_out.targets(step) for step in range(len(self.held_out)))
            self.progress.add_held_out(HeldOut(position.step, loss, targets, time.perf_counter() - began))

    def _stop(self, position: Position, number: int) -> None:
        self.checkpoints.save(position, self.objective, self.optimizer)
        self.checkpoints.finish()
        said = f"stopped after step {position.step} of {len(self.feed)}; start again to go on from there"
        raise Stopped(said, number)


class _Flag:
    number = 0  # of the signal that came


@contextlib.contextmanager
def stop_signals() -> Iterator[_Flag]:
    """Turn SIGTERM and SIGINT into a flag that is read between steps; a second wish acts at once.

    What comes again within `ECHO` is the same wish: a service manager and the launcher may both pass it on.
    """
    flag, first = _Flag(), math.inf
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, _: Any) -> None:
        nonlocal first
        first = min(first, time.monotonic())
        if time.monotonic() > first + ECHO:
            signal.signal(number, before[signal.Signals(number)])
            signal.raise_signal(number)
        flag.number = number

    for each in before:
        signal.signal(each, note)
    try:
        yield flag
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
