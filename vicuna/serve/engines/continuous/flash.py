"""Attention to the paged cache on a CUDA GPU: one call of torch's flash attention with a table of blocks."""

import inspect
from functools import cache

import torch

from vicuna.serve.engines.continuous.ragged import Ragged

BLOCK = 256
"""Tokens of a block: flash attention 2, which torch has built in, reads pages of multiples of this."""
WIDEST = 256
"""Largest head that the kernel computes."""


@cache
def _reads_tables() -> bool:
    """Whether this torch's kernel can read a paged cache (2.12 and newer can)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return "block_table" in inspect.signature(varlen_attn).parameters


def usable(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel is there for this device and dtype."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16) or not _reads_tables():
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


class FlashPool:
    """The keys and values of one layer, for all blocks, (tokens, heads, size)."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, tokens: int) -> None:
        """As a StretchPool's; sizes of keys and values must be the same."""
        self.keys = keys.new_zeros(tokens, keys.shape[1], keys.shape[3])
        self.values = values.new_zeros(tokens, values.shape[1], values.shape[3])

    @staticmethod
    def holds(keys: torch.Tensor, values: torch.Tensor) -> bool:
        """Whether the kernel computes heads like these."""
        return keys.shape[3] == values.shape[3] <= WIDEST

    def write(self, places: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store (1, heads, n, size) at (n,) places."""
        self.keys.index_copy_(0, places, keys[0].transpose(0, 1))
        self.values.index_copy_(0, places, values[0].transpose(0, 1))

    def wipe(self, first: int, tokens: int) -> None:
        """Set tokens to zero."""
        self.keys[first : first + tokens] = 0
        self.values[first : first + tokens] = 0

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token's keys and values."""
        return sum(each.element_size() * each.shape[1] * each.shape[2] for each in (self.keys, self.values))

    def attend(self, query: torch.Tensor, ragged: Ragged, window: int | None, scale: float) -> torch.Tensor:
        """As a StretchPool's."""
        from torch.nn.attention.varlen import varlen_attn

        table = ragged.table
        shape = (-1, ragged.block, *self.keys.shape[1:])
        seen = varlen_attn(
            query[0].transpose(0, 1).contiguous(),
            self.keys.view(shape),
            self.values.view(shape),
            table.offsets,
            None,
            table.most,
            table.longest,
            scale=scale,
            window_size=(-1 if window is None else window - 1, 0),
            enable_gqa=query.shape[1] != self.keys.shape[1],
            seqused_k=table.lengths,
            block_table=table.blocks,
        )
        assert isinstance(seen, torch.Tensor)  # it is a pair only where more is asked for
        return seen[None]
