"""What a rank computes in each step: its share of the plan's bins, as batches."""

from collections.abc import Iterator

import numpy as np

from vicuna.train.batch import Batch, make_batch
from vicuna.train.dataset import Dataset
from vicuna.train.packing import Plan
from vicuna.train.parallel import World


class Feed:
    """The batches of one rank, step by step."""

    def __init__(self, dataset: Dataset, plan: Plan, capacity: int, world: World, *, blocks: bool = False) -> None:
        """
        Args:
            dataset: where the samples are.
            plan: the bins of each step, the same on every rank.
            capacity: positions of a bin.
            world: the ranks that share the bins.
            blocks: whether the attention's kernel needs block masks.
        """
        self._dataset, self._plan, self._capacity, self._world = dataset, plan, capacity, world
        self._blocks = blocks

    def __len__(self) -> int:
        return len(self._plan)

    def batches(self, step: int) -> Iterator[Batch]:
        """This rank's passes of a step; where the bins do not come out even, the last may be empty."""
        for samples in self._plan.passes(step, self._world.rank, self._world.size):
            bin_of = [] if samples is None else [self._dataset[int(i)] for i in samples]
            yield make_batch(bin_of, self._world.device, blocks=self._blocks)

    def targets(self, step: int) -> int:
        """Target tokens of a step on all ranks."""
        return int(self._dataset.targets[self._plan.samples(step)].sum())

    def tokens(self, step: int) -> int:
        """Tokens of a step on all ranks."""
        return int(self._dataset.lengths[self._plan.samples(step)].sum())

    def squares(self, step: int) -> int:
        """Sum of the squared lengths of a step's samples on all ranks: what attention costs."""
        lengths = self._dataset.lengths[self._plan.samples(step)].astype(np.int64)
        return int((lengths**2).sum())

    def positions(self, step: int) -> int:
        """Positions of the step's bins on all ranks, used or not."""
        return self._capacity * len(self._plan[step])

    def names(self, step: int) -> list[str]:
        """Ids of a step's samples on all ranks."""
        return [self._dataset[int(i)].id for i in self._plan.samples(step)]
