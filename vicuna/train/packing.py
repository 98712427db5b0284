"""Whole samples into bins of equal capacity, so that hardly a position is wasted and no sample is cut."""

import bisect
import math
import random
from collections.abc import Sequence

WINDOW = 4096
"""Samples that are packed together; large enough for a good fit, small enough to mix."""


def pack(lengths: Sequence[int], capacity: int, seed: int, epoch: int) -> list[list[int]]:
    """One epoch's bins: every sample in exactly one, in an order that depends on seed and epoch only.

    Samples are shuffled, taken in windows, fitted best-fit-decreasing within each window, and the bins of a window
    are shuffled again, since fitting sorts them by length.

    Args:
        lengths: tokens in each sample, each at most `capacity`.
        capacity: most tokens in a bin.
        seed: the run's seed.
        epoch: counts from 0.

    Returns:
        Bins as lists of sample indices.
    """
    shuffle = random.Random(f"{seed}:{epoch}")
    order = list(range(len(lengths)))
    shuffle.shuffle(order)
    bins: list[list[int]] = []
    for start in range(0, len(order), WINDOW):
        window = order[start : start + WINDOW]
        fitted = best_fit_decreasing([lengths[i] for i in window], capacity)
        shuffle.shuffle(fitted)
        for each in fitted:
            shuffle.shuffle(each)
            bins.append([window[i] for i in each])
    return bins


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Longest first, each into the fullest bin that still takes it; a new bin where none does.

    Raises:
        ValueError: a length exceeds the capacity.
    """
    bins: list[list[int]] = []
    space: list[tuple[int, int]] = []  # (tokens left, bin), sorted
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if lengths[i] > capacity:
            raise ValueError(f"sample {i} has {lengths[i]} tokens and a bin holds {capacity}")
        at = bisect.bisect_left(space, (lengths[i], -1))
        if at == len(space):
            bins.append([i])
            left, which = capacity - lengths[i], len(bins) - 1
        else:
            left, which = space.pop(at)
            bins[which].append(i)
            left -= lengths[i]
        bisect.insort(space, (left, which))
    return bins


def fill(lengths: Sequence[int], bins: Sequence[Sequence[int]], capacity: int) -> float:
    """Share of all positions of the bins that hold a token."""
    return sum(lengths[i] for each in bins for i in each) / (capacity * max(1, len(bins)))


def plan(
    lengths: Sequence[int], capacity: int, seed: int, epochs: float, accumulation: int, max_steps: int = 0
) -> list[list[list[int]]]:
    """The whole run's data, fixed before it starts, so that the step's number is the data position.

    Args:
        lengths: tokens in each sample, each at most `capacity`.
        capacity: most tokens of one forward pass.
        seed: the run's seed.
        epochs: passes over the data; of a part of a pass the first bins are taken.
        accumulation: bins to one optimiser step; the run's last step may have fewer.
        max_steps: at most so many steps; 0 is no limit.

    Returns:
        For each step its bins, each a list of sample indices.
    """
    bins: list[list[int]] = []
    for epoch in range(math.ceil(epochs)):
        packed = pack(lengths, capacity, seed, epoch)
        bins += packed[: math.ceil(len(packed) * min(1.0, epochs - epoch))]
    steps = [bins[i : i + accumulation] for i in range(0, len(bins), accumulation)]
    return steps[:max_steps] if max_steps else steps
