"""Attention to the paged cache in plain torch operations: stretch by stretch, on any device.

On a CPU each look is one call of torch's flash attention on a view of the cache; nothing is copied, and padded only
where that is cheaper than another call. The looks of a row are joined by their log-sum-exp, as in Flash-Decoding
(https://pytorch.org/blog/flash-decoding/, 2023).
"""

import torch

from vicuna.serve.engines.continuous.ragged import Look, Ragged


class StretchPool:
    """The keys and values of one layer, for all blocks."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, tokens: int) -> None:
        """
        Args:
            keys: (1, heads, n, size) an example of the layer's keys.
            values: likewise; its size may differ.
            tokens: how many tokens are held.
        """
        # Heads first: a head's keys of one stretch lie side by side, which halves the time of long looks on a CPU.
        self.keys = keys.new_zeros(keys.shape[1], tokens, keys.shape[3])
        self.values = values.new_zeros(values.shape[1], tokens, values.shape[3])

    def write(self, places: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store (1, heads, n, size) at (n,) places."""
        self.keys.index_copy_(1, places, keys[0])
        self.values.index_copy_(1, places, values[0])

    def wipe(self, first: int, tokens: int) -> None:
        """Set tokens to zero."""
        self.keys[:, first : first + tokens] = 0
        self.values[:, first : first + tokens] = 0

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token's keys and values."""
        return sum(each.element_size() * each.shape[0] * each.shape[2] for each in (self.keys, self.values))

    def attend(self, query: torch.Tensor, ragged: Ragged, window: int | None, scale: float) -> torch.Tensor:
        """What each row of the batch sees.

        Args:
            query: (1, heads, N, size).
            ragged: where each row looks.
            window: how many tokens back it sees, itself included; None: all.
            scale: of the scores.

        Returns:
            (1, N, heads, size of the values).
        """
        rounds = ragged.looks(window)
        _, heads, tokens, _ = query.shape
        if len(rounds) == len(rounds[0]) == 1 and isinstance(rounds[0][0].rows, slice):  # all rows, in their order
            return self._look(query[0], rounds[0][0], scale)[0][None].transpose(1, 2)
        seen = query.new_zeros(len(rounds), heads, tokens, self.values.shape[-1])
        weight = query.new_full((len(rounds), heads, tokens), -torch.inf, dtype=_precise(query.dtype))
        for level, looks in enumerate(rounds):
            for look in looks:
                # Not seen[level, :, rows]: a number and a tensor among the indices would move the rows to the front.
                found = self._look(query[0][:, look.rows], look, scale)
                seen[level][:, look.rows], weight[level][:, look.rows] = found
        if len(rounds) > 1:
            share = torch.softmax(weight, 0).to(query.dtype)
            seen = (share[..., None] * seen).sum(0, keepdim=True)
        return seen.transpose(1, 2)

    def _look(self, query: torch.Tensor, look: Look, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """What rows see in their stretches, (heads, count, size), and their scores' log-sum-exp, (heads, count)."""
        heads, count, _ = query.shape
        keys, values = _stretches(self.keys, look), _stretches(self.values, look)
        shared = keys.shape[0]
        # Query heads that share a key head are further rows that look at the same, but where a mask had to be copied.
        if look.step:
            rows = query.reshape(shared, heads // shared, count, -1).transpose(1, 2)
            out, weight = _flash(rows, keys, values, look.mask, scale)
            return out.transpose(1, 2).reshape(heads, count, -1), weight.transpose(1, 2).reshape(heads, count)
        apart = 1 if look.mask is None else heads // shared
        rows = query.reshape(shared, apart, heads // shared // apart * count, -1)
        keys, values = keys.expand(-1, apart, -1, -1), values.expand(-1, apart, -1, -1)
        out, weight = _flash(rows, keys, values, None if look.mask is None else look.mask[None, None], scale)
        return out.reshape(heads, count, -1), weight.reshape(heads, count)


def _stretches(pool: torch.Tensor, look: Look) -> torch.Tensor:
    """(heads, stretches, tokens, size), a view: memory is read in the order in which it lies."""
    heads, _, size = pool.shape
    stretches = look.count if look.step else 1
    shape, strides = (heads, stretches, look.size, size), (pool.stride(0), look.step * size, size, 1)
    return pool.as_strided(shape, strides, look.first * size)


def _precise(dtype: torch.dtype) -> torch.dtype:
    """What scores are kept in: float32, or what is more precise."""
    return torch.promote_types(dtype, torch.float32)


def _flash(
    rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of (heads, n, rows, size) to (heads, n, tokens, size), and the scores' log-sum-exp."""
    if keys.shape[-1] == values.shape[-1] and rows.device.type == "cpu":
        out: tuple[torch.Tensor, torch.Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            rows, keys, values, attn_mask=mask, scale=scale
        )
        return out
    scores = (rows * scale @ keys.transpose(-1, -2)).to(_precise(rows.dtype))  # scaled before float16 overflows
    scores = scores if mask is None else scores + mask
    weight = scores.logsumexp(-1)
    return torch.exp(scores - weight[..., None]).to(values.dtype) @ values, weight
