"""Whole samples into bins of equal capacity, so that hardly a position is wasted and no sample is cut."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Lengths = npt.NDArray[np.int32]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Plan:
    """The whole run's data, fixed before it starts, so that the step's number is the data position.

    A step is so many bins over all ranks, whatever the number of ranks; it is taken whole or not at all. So no bin
    reaches across a checkpoint, and none across the end of an epoch.
    """

    order: Indices
    """Samples of all bins, end to end."""
    ends: Indices
    """Where each bin ends in `order`."""
    costs: npt.NDArray[np.float64]
    """Of each bin, for sharing bins out evenly."""
    bins: int
    """Bins in a step; the last step may have fewer."""
    fill: float
    """Share of the bins' positions that hold a token."""

    def __len__(self) -> int:
        return math.ceil(len(self.ends) / self.bins)

    def __getitem__(self, step: int) -> list[Indices]:
        """The samples of each of a step's bins."""
        first = self._first(step)
        starts = [0, *self.ends[first : first + self.bins]] if first == 0 else self.ends[first - 1 : first + self.bins]
        return [self.order[start:end] for start, end in zip(starts[:-1], starts[1:], strict=True)]

    def samples(self, step: int) -> Indices:
        """The samples of all of a step's bins."""
        return np.concatenate(self[step])

    def passes(self, step: int, rank: int, ranks: int) -> list[Indices | None]:
        """What one rank does of a step: the samples of each of its bins; None where only other ranks have one."""
        first = self._first(step)
        share = share_out(self.costs[first : first + self.bins], rank, ranks)
        bins = self[step]
        return [None if which is None else bins[which] for which in share]

    def _first(self, step: int) -> int:
        if not 0 <= step < len(self):
            raise IndexError(f"there is no step {step}; there are {len(self)}")
        return step * self.bins


def plan(
    lengths: Lengths, capacity: int, bins: int, seed: int, epochs: float = 1.0, max_steps: int = 0, width: int = 4096
) -> Plan:
    """Pack every epoch's samples by themselves, and take the bins in order.

    Args:
        lengths: tokens in each sample, each at most `capacity`; shape (N,).
        capacity: most tokens of a bin.
        bins: bins to one optimiser step, over all ranks.
        seed: the run's seed.
        epochs: passes over the data; of a part of a pass the first bins are taken.
        max_steps: at most so many steps; 0 is no limit.
        width: of the model's residual stream, which decides what a token costs beside a pair of tokens.

    Raises:
        ValueError: a sample exceeds the capacity.
    """
    orders: list[Indices] = []
    sizes: list[Indices] = []
    wanted = max_steps * bins if max_steps else math.inf
    for epoch in range(math.ceil(epochs)):
        order, count = pack(lengths, capacity, seed, epoch)
        taken = int(min(math.ceil(len(count) * min(1.0, epochs - epoch)), wanted))
        wanted -= taken
        orders.append(order[: count[:taken].sum()])
        sizes.append(count[:taken])
    order, ends = np.concatenate(orders), np.cumsum(np.concatenate(sizes))
    each = lengths[order].astype(np.float64)
    starts = ends - np.concatenate(sizes)
    tokens, pairs = (np.add.reduceat(values, starts) if len(starts) else values for values in (each, each**2))
    # Floating-point operations of a decoder layer of this width, per 2 * width: 12 * width a token, and one a pair.
    costs = 12.0 * width * tokens + pairs
    return Plan(order, ends, costs, bins, float(tokens.sum()) / (capacity * max(1, len(ends))))


def pack(lengths: Lengths, capacity: int, seed: int, epoch: int) -> tuple[Indices, Indices]:
    """One epoch's bins: every sample in exactly one, in an order that depends on seed and epoch only.

    Longest first, each sample goes into the fullest bin that still takes it (best-fit-decreasing); which of equally
    long ones comes first is drawn, and so is the order of the bins and of the samples in them.

    Returns:
        The samples of all bins end to end, and how many each bin has.

    Raises:
        ValueError: a sample exceeds the capacity.
    """
    draw = np.random.PCG64([seed, epoch])  # numpy keeps the raw numbers of its generators as they are for ever
    drawn = draw.random_raw(len(lengths))
    which, count = best_fit(lengths, np.lexsort((drawn, -lengths)), capacity)
    place = np.empty(count, np.int64)
    place[np.argsort(draw.random_raw(count), kind="stable")] = np.arange(count)
    order = np.lexsort((drawn, place[which]))
    return order, np.bincount(place[which], minlength=count)


def best_fit(lengths: Lengths, order: Indices, capacity: int) -> tuple[Indices, int]:
    """The bin of each sample, taken in this order: the fullest that still takes it; a new one where none does.

    Returns:
        A number for each sample, and how many bins there are.

    Raises:
        ValueError: a sample exceeds the capacity.
    """
    if len(lengths) and lengths.max() > capacity:
        raise ValueError(f"sample {lengths.argmax()} has {lengths.max()} tokens, and a bin holds {capacity}")
    which = [0] * len(lengths)
    with_space: list[list[int]] = [[] for _ in range(capacity + 1)]
    some = 0  # bit n is set where there is a bin with space for n tokens and no more
    count = 0
    for sample, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        if fits := some >> length:
            left = (fits & -fits).bit_length() - 1
            space = left + length
            chosen = with_space[space].pop()
            if not with_space[space]:
                some ^= 1 << space
        else:
            chosen, count, left = count, count + 1, capacity - length
        which[sample] = chosen
        if not with_space[left]:
            some |= 1 << left
        with_space[left].append(chosen)
    return np.array(which, np.int64), count


def share_out(costs: npt.NDArray[np.float64], rank: int, ranks: int) -> list[int | None]:
    """Which of a step's bins one rank takes, pass by pass; None where there is none left for it.

    Ranks wait for each other in every pass, so bins that cost alike meet in one. The dearest come first: what does not
    fit into memory shows at once.
    """
    order = np.argsort(-costs, kind="stable").tolist()
    passes = math.ceil(len(order) / ranks)
    return [order[at] if (at := i * ranks + rank) < len(order) else None for i in range(passes)]
