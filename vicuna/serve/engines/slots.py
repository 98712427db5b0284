"""The key-value cache of a batch whose rows begin, grow and end on their own.

Row b holds one answer's keys and values at places 0, 1, 2, ... of its own. Rows 0 to R-1 are in use; when a row ends,
the last one is copied into its place, so the rows in use are always one view and attention reads them without a copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

_STEP = 256
"""Places by which the cache grows."""


@dataclass
class Write:
    """Where the next forward pass puts its keys and values."""

    rows: torch.Tensor
    """(n,) row of each sequence of the batch."""
    starts: torch.Tensor
    """(n,) place of its first new token."""
    tokens: int
    """New tokens per sequence."""
    first_row: int
    """The batch is rows `first_row` to `first_row + n - 1` when it reads."""
    reach: int
    """Places that attention looks at; 0: only the new tokens themselves, and the rows may be any."""


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, (rows, heads, places, size)."""

    is_croppable = False

    def __init__(self, cache: "SlotCache") -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate for what the cache says it needs."""
        rows, places = self._cache.rows, self._cache.places
        self.keys = key_states.new_zeros(rows, key_states.shape[1], places, key_states.shape[3])
        self.values = value_states.new_zeros(rows, value_states.shape[1], places, value_states.shape[3])
        self.is_initialized = True

    def grow(self, rows: int, places: int) -> None:
        """Make room; what is there stays."""
        if not self.is_initialized:
            return
        self.keys = _grown(self.keys, rows, places)
        self.values = _grown(self.values, rows, places)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new tokens; return what attention is to read."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self.keys, self.values
        assert keys is not None
        assert values is not None
        write = self._cache.write
        if write.tokens == 1:
            keys[write.rows, :, write.starts] = key_states[:, :, 0]
            values[write.rows, :, write.starts] = value_states[:, :, 0]
        else:
            places = write.starts[:, None] + torch.arange(write.tokens, device=keys.device)  # (n, tokens)
            keys[write.rows[:, None], :, places] = key_states.transpose(1, 2)
            values[write.rows[:, None], :, places] = value_states.transpose(1, 2)
        if write.reach == 0:
            return key_states, value_states
        read = slice(write.first_row, write.first_row + len(write.rows))
        return keys[read, :, : write.reach], values[read, :, : write.reach]

    def move(self, source: int, target: int, places: int) -> None:
        """Copy a row's first places to another row."""
        if self.is_initialized:
            assert self.keys is not None
            assert self.values is not None
            self.keys[target, :, :places] = self.keys[source, :, :places]
            self.values[target, :, :places] = self.values[source, :, :places]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that attention sees, and the place of the first."""
        return self._cache.write.reach or query_length, 0

    def get_seq_length(self) -> int:
        """Places before the new tokens; rows differ, and positions are always given, so this is only a bound."""
        return max(0, self._cache.write.reach - self._cache.write.tokens)

    def get_max_length(self) -> int:
        """The most places that a row may have."""
        return self._cache.limit


class SlotCache(Cache):
    """All layers. It grows as it is needed, up to `rows_limit` rows of `limit` places."""

    def __init__(self, layers: int, rows_limit: int, limit: int) -> None:
        self.limit = limit
        self.rows_limit = rows_limit
        self.rows = min(4, rows_limit)
        self.places = min(_STEP, limit)
        self.write = Write(torch.zeros(0), torch.zeros(0), 1, 0, 0)
        super().__init__(layers=[SlotLayer(self) for _ in range(layers)])

    def reserve(self, rows: int, places: int) -> None:
        """Make sure that so many rows of so many places exist."""
        rows = self.rows if rows <= self.rows else min(self.rows_limit, max(rows, 2 * self.rows))
        if places > self.places:
            places = min(self.limit, -(-max(places, self.places + self.places // 2) // _STEP) * _STEP)
        else:
            places = self.places
        if (rows, places) != (self.rows, self.places):
            for layer in self.layers:
                layer.grow(rows, places)
            self.rows, self.places = rows, places

    def move(self, source: int, target: int, places: int) -> None:
        """Copy a row to another row."""
        for layer in self.layers:
            layer.move(source, target, places)


def _grown(old: torch.Tensor | None, rows: int, places: int) -> torch.Tensor:
    assert old is not None
    new = old.new_zeros(rows, old.shape[1], places, old.shape[3])
    new[: old.shape[0], :, : old.shape[2]] = old
    return new


def causal(positions: torch.Tensor, reach: int, window: int | None) -> torch.Tensor:
    """Which keys each query may see.

    Args:
        positions: (n, tokens) place of each query.
        reach: number of keys.
        window: only so many last places, for models with sliding attention.

    Returns:
        (n, 1, tokens, reach), bool.
    """
    keys = torch.arange(reach, device=positions.device)
    queries = positions[:, None, :, None]
    seen = keys <= queries
    if window is not None:
        seen &= keys > queries - window
    return seen


def layer_kinds(config: Any) -> Sequence[str]:
    """The kinds of attention in a model: "full_attention", "sliding_attention", or others that no slot can hold."""
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return sorted(set(kinds))
    return ["sliding_attention"] if getattr(config, "sliding_window", None) else ["full_attention"]
