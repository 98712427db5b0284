"""A bin of samples as the tensors of one forward pass."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vicuna.train.dataset import Sample


@dataclass(frozen=True)
class Segments:
    """Where the samples of a pass begin and end, in the forms that kernels ask for."""

    lengths: tuple[int, ...]
    """Tokens of each sample, adding up to T."""
    starts: torch.Tensor
    """Where each sample begins, and T; int32 on the device of the pass, shape (samples + 1,)."""
    longest: int
    """The largest of the lengths."""
    blocks: Any = None
    """FlexAttention's block mask for them, where the kernel asks for one."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str, *, blocks: bool = False) -> "Segments":
        """The samples of these lengths, end to end.

        Args:
            lengths: of each sample, at least 1.
            device: of the pass.
            blocks: whether to make the block mask.
        """
        starts = _moved(np.array([0, *itertools.accumulate(lengths)], np.int32), device)
        mask = _block_mask(lengths, device) if blocks else None
        return cls(tuple(lengths), starts, max(lengths), mask)


@dataclass(frozen=True)
class Batch:
    """Samples end to end, without padding."""

    tokens: torch.Tensor
    """Token ids, shape (1, T)."""
    positions: torch.Tensor
    """Position of each token in its own sample, shape (1, T)."""
    segments: Segments
    """Where the samples begin and end."""
    before: torch.Tensor
    """Indices of the tokens that stand before a target, shape (N,)."""
    targets: torch.Tensor
    """The target tokens, shape (N,)."""


def make_batch(samples: Sequence[Sample], device: torch.device | str, *, blocks: bool = False) -> Batch:
    """Join samples. A sample's first token has nothing before it, so it is never a target.

    Args:
        samples: of one bin. None at all gives the empty pass, one token without a target: sharded weights are gathered
            by all ranks together, so that a rank without a bin has to take part in the pass.
        device: of the pass.
        blocks: whether the attention kernel asks for FlexAttention's block mask.
    """
    lengths = [len(sample.ids) for sample in samples] or [1]
    ids = np.concatenate([sample.ids for sample in samples] or [np.zeros(1, np.int32)]).astype(np.int64)
    is_target = np.concatenate([sample.is_target for sample in samples] or [np.zeros(1, np.bool_)])
    is_target[np.cumsum([0, *lengths[:-1]])] = False
    (at,) = np.nonzero(is_target)
    positions = np.concatenate([np.arange(n) for n in lengths])
    return Batch(
        tokens=_moved(ids, device)[None],
        positions=_moved(positions, device)[None],
        segments=Segments.of(lengths, device, blocks=blocks),
        before=_moved(at - 1, device),
        targets=_moved(ids[at], device),
    )


def _moved(array: npt.NDArray[Any], device: torch.device | str) -> torch.Tensor:
    """The array on a device. From pageable memory the copy would wait until the GPU has done all its work."""
    tensor, on_gpu = torch.from_numpy(array), torch.device(device).type == "cuda"
    return tensor.pin_memory().to(device, non_blocking=True) if on_gpu else tensor.to(device)


def _block_mask(lengths: Sequence[int], device: torch.device | str) -> Any:
    """Which blocks of (query, key) hold a pair of the same sample with the key not after the query."""
    from torch.nn.attention.flex_attention import create_block_mask

    sample_of = _moved(np.repeat(np.arange(len(lengths)), lengths), device)

    def sees(_: torch.Tensor, __: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (query >= key) & (sample_of[query] == sample_of[key])

    return create_block_mask(sees, None, None, sum(lengths), sum(lengths), device=str(device))
