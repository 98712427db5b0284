"""A bin of samples as the tensors of one forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vicuna.train.dataset import Sample


@dataclass(frozen=True)
class Batch:
    """Samples end to end, without padding."""

    tokens: torch.Tensor
    """Token ids, shape (1, T)."""
    positions: torch.Tensor
    """Position of each token in its own sample, shape (1, T)."""
    segments: list[int]
    """Lengths of the samples, adding up to T."""
    before: torch.Tensor
    """Indices of the tokens that stand before a target, shape (N,)."""
    targets: torch.Tensor
    """The target tokens, shape (N,)."""
    names: list[str]
    """Ids of the samples."""


def make_batch(samples: Sequence[Sample], device: torch.device | str) -> Batch:
    """Join samples. A sample's first token has nothing before it, so it is never a target."""
    lengths = [len(sample.ids) for sample in samples]
    ids = np.concatenate([sample.ids for sample in samples]).astype(np.int64)
    is_target = np.concatenate([sample.is_target for sample in samples])
    is_target[np.cumsum([0, *lengths[:-1]])] = False
    (at,) = np.nonzero(is_target)
    positions = np.concatenate([np.arange(n) for n in lengths])
    return Batch(
        tokens=torch.from_numpy(ids)[None].to(device),
        positions=torch.from_numpy(positions)[None].to(device),
        segments=lengths,
        before=torch.from_numpy(at - 1).to(device),
        targets=torch.from_numpy(ids[at]).to(device),
        names=[sample.id for sample in samples],
    )
