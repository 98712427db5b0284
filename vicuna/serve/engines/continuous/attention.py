"""Attention of a ragged batch to the paged cache, as one of transformers' attention functions.

transformers' models call the function with the new tokens' queries, keys and values. It writes keys and values into the
cache and lets each row look where the batch says. On a CPU each look is one call of torch's flash attention on a view
of the cache, nothing is copied or padded; the looks of a row are joined by their log-sum-exp, as in Flash-Decoding
(Dao et al. 2023). On a GPU it is one call of torch's flash attention with a table of blocks.
"""

from collections.abc import Iterable
from typing import Any

import torch
from transformers import AttentionInterface

from vicuna.errors import InputError
from vicuna.serve.engines.continuous.ragged import Look, Ragged

NAME = "vicuna_ragged"
"""Of the function at transformers' interface."""
_REFUSED = {"softcap": "soft-capped scores", "s_aux": "attention sinks", "position_bias": "position biases"}


class Pool:
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


class Pools:
    """All layers; each is made when it is first written to, in the shape that the model gives."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._layers: dict[int, Pool] = {}

    def layer(self, index: int, keys: torch.Tensor, values: torch.Tensor) -> Pool:
        """The layer's pool."""
        found = self._layers.get(index)
        if found is None:
            found = self._layers[index] = Pool(keys, values, self.tokens)
        return found

    def wipe(self, blocks: Iterable[int], size: int) -> None:
        """Set blocks of so many tokens to zero."""
        for block in blocks:
            for pool in self._layers.values():
                pool.keys[:, block * size : (block + 1) * size] = 0
                pool.values[:, block * size : (block + 1) * size] = 0

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token's keys and values in all layers that were written to."""
        tensors = [each for pool in self._layers.values() for each in (pool.keys, pool.values)]
        return sum(each.element_size() * each.shape[0] * each.shape[2] for each in tensors)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    *,
    scaling: float | None = None,
    ragged: Ragged | None = None,
    pools: Pools | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' interface: (1, heads, N, size) each; returns (1, N, heads, size).

    Raises:
        InputError: the model wants a kind of attention that this function does not compute.
    """
    if ragged is None or pools is None:
        raise InputError(f"{type(module).__name__} does not pass its batch on to attention, so it cannot be batched")
    for name, what in _REFUSED.items():
        if options.get(name) is not None:
            raise InputError(f"the engine `transformers` does not compute {what}, which this model needs")
    pool = pools.layer(module.layer_idx, key, value)
    pool.write(ragged.places, key, value)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _look_around(query[0], pool, ragged, sliding_window, scale).transpose(0, 1)[None], None


def _look_around(query: torch.Tensor, pool: Pool, ragged: Ragged, window: int | None, scale: float) -> torch.Tensor:
    """(heads, N, size)."""
    rounds = ragged.looks(window).rounds
    heads, tokens, _ = query.shape
    size = pool.values.shape[-1]
    seen = query.new_zeros(len(rounds), heads, tokens, size)
    weight = query.new_full((len(rounds), heads, tokens), -torch.inf, dtype=torch.float32)
    for level, looks in enumerate(rounds):
        for look in looks:
            seen[level][:, look.rows], weight[level][:, look.rows] = _look(query[:, look.rows], pool, look, scale)
    if len(rounds) == 1:
        return seen[0]
    share = torch.softmax(weight, 0).to(query.dtype)
    return (share[..., None] * seen).sum(0)


def _look(query: torch.Tensor, pool: Pool, look: Look, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """What rows see in their stretches, (heads, count, size), and the log-sum-exp of their scores, (heads, count)."""
    heads, count, _ = query.shape
    keys, values = _stretches(pool.keys, look), _stretches(pool.values, look)
    shared = keys.shape[1]
    # Query heads that share a key head are further rows that look at the same.
    if look.step:
        rows = query.transpose(0, 1).reshape(count, shared, heads // shared, -1)
        out, weight = _flash(rows, keys, values, look.mask, scale)
        return out.reshape(count, heads, -1).transpose(0, 1), weight.reshape(count, heads).T
    mask = None if look.mask is None else look.mask.repeat(heads // shared, 1)[None, None]
    rows = query.reshape(1, shared, heads // shared * count, -1)
    out, weight = _flash(rows, keys, values, mask, scale)
    return out.reshape(heads, count, -1), weight.reshape(heads, count)


def _stretches(pool: torch.Tensor, look: Look) -> torch.Tensor:
    """(stretches, heads, tokens, size), a view."""
    heads, _, size = pool.shape
    stretches = look.count if look.step else 1
    shape, strides = (stretches, heads, look.size, size), (look.step * size, pool.stride(0), size, 1)
    return pool.as_strided(shape, strides, look.first * size)


def _flash(
    rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention and log-sum-exp of (n, heads, rows, size) to (n, heads, tokens, size)."""
    if keys.shape[-1] == values.shape[-1] and rows.device.type == "cpu":
        out: tuple[torch.Tensor, torch.Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            rows, keys, values, attn_mask=mask, scale=scale
        )
        return out
    scores = (rows @ keys.transpose(-1, -2)).float() * scale
    scores = scores if mask is None else scores + mask
    weight = scores.logsumexp(-1)
    return torch.exp(scores - weight[..., None]).to(values.dtype) @ values, weight


def install(model: Any) -> None:
    """Let the model's attention be computed here.

    Raises:
        InputError: the model has attention of its own that cannot be replaced.
    """
    if not getattr(model, "_supports_attention_backend", False):
        raise InputError(f"the engine `transformers` cannot batch {type(model).__name__}: its attention is its own")
    AttentionInterface.register(NAME, attend)
    model.set_attn_implementation(NAME)
