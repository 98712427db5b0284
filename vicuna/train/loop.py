"""The training loop: a step that reads like the maths, and what happens between steps."""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vicuna.errors import VicunaError
from vicuna.train.batch import Batch
from vicuna.train.checkpoint import Position
from vicuna.train.loss import target_loss
from vicuna.train.metrics import Step
from vicuna.train.optim import set_learning_rate


class Diverged(VicunaError):
    """The loss or the gradient is not a finite number."""


class Stopped(VicunaError):
    """The run was told to stop and has saved where it stands."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_status = 128 + number  # as shells count it


@dataclass(frozen=True)
class Precision:
    """How forward and backward compute; weights and the optimiser stay float32."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> torch.autocast:
        """The context of the forward pass."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)


def train_step(
    model: Any, optimizer: torch.optim.Optimizer, batches: Sequence[Batch], max_norm: float, precision: Precision
) -> tuple[float, float]:
    """One optimiser step: the loss is the mean over every target token of every batch.

    Returns:
        (loss in nats, global gradient norm before clipping).
    """
    n = sum(len(batch.targets) for batch in batches)
    total = torch.zeros((), device=precision.device)
    for batch in batches:
        with precision.autocast():
            hidden = model.base_model(
                input_ids=batch.tokens, position_ids=batch.positions, segments=batch.segments, use_cache=False
            ).last_hidden_state  # (1, T, D)
            loss = target_loss(hidden[0, batch.before], batch.targets, model.get_output_embeddings())
        (loss / n).backward()
        total += loss.detach()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    optimizer.zero_grad()
    return float(total) / n, float(norm)


def train(
    model: Any,
    optimizer: torch.optim.Optimizer,
    steps: int,
    batches_of: Callable[[int], list[Batch]],
    rate_of: Callable[[int], float],
    position: Position,
    *,
    max_norm: float,
    capacity: int,
    precision: Precision,
    after: Callable[[Step], None],
    save: Callable[[], object],
    save_every: int,
) -> None:
    """Run the steps from `position` to the end.

    Args:
        model, optimizer: changed in place, like `position`.
        steps: optimiser steps of the whole run.
        batches_of: step (from 0) → its batches.
        rate_of: step (from 0) → learning rate.
        position: where the run stands.
        max_norm: gradients are scaled down to this global norm.
        capacity: positions of one batch, for the fill.
        precision: device and dtype of the computation.
        after: told of each step.
        save: writes a checkpoint.
        save_every: steps between checkpoints; 0 writes none.

    Raises:
        Diverged: with the step and its samples; the weights on disk are those of the last checkpoint.
        Stopped: SIGTERM or SIGINT came; the step was finished and a checkpoint written.
    """
    model.train()
    with stop_signals() as stop:
        while position.step < steps:
            began = time.perf_counter()
            batches, rate = batches_of(position.step), rate_of(position.step)
            set_learning_rate(optimizer, rate)
            loss, norm = train_step(model, optimizer, batches, max_norm, precision)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                names = ", ".join(name for batch in batches for name in batch.names[:4])
                raise Diverged(f"step {position.step + 1}: loss {loss}, gradient norm {norm} (samples {names}, ...); "
                               "lower --optim.lr or look at these samples")  # fmt: skip
            step = _count(position, batches, loss, norm, rate, capacity, time.perf_counter() - began)
            after(step)
            last = position.step == steps
            if stop.number and not last:
                save()
                said = f"stopped after step {position.step} of {steps}; start again to go on from there"
                raise Stopped(said, stop.number)
            if save_every and position.step % save_every == 0 and not last:
                save()


def _count(
    position: Position, batches: Sequence[Batch], loss: float, norm: float, rate: float, capacity: int, seconds: float
) -> Step:
    """Move the position on by one step and describe the step."""
    tokens = sum(batch.tokens.numel() for batch in batches)
    targets = sum(len(batch.targets) for batch in batches)
    position.step += 1
    position.tokens += tokens
    position.targets += targets
    position.seconds += seconds
    return Step(position.step, loss, norm, rate, tokens, targets, capacity * len(batches), seconds)


class _Flag:
    number = 0  # of the signal that came


@contextlib.contextmanager
def stop_signals() -> Iterator[_Flag]:
    """Turn SIGTERM and SIGINT into a flag that is read between steps; a second signal acts at once."""
    flag = _Flag()
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, _: Any) -> None:
        flag.number = number
        signal.signal(number, before[signal.Signals(number)])

    for each in before:
        signal.signal(each, note)
    try:
        yield flag
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
