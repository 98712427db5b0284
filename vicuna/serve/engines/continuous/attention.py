"""Attention of a ragged batch to the paged cache, as one of transformers' attention functions.

transformers' models call the function with the new tokens' queries, keys and values. It writes keys and values into the
cache and lets each row look where the batch says. On a CPU each look is one call of torch's flash attention on a view
of the cache, nothing is copied or padded; the looks of a row are joined by their log-sum-exp, as in Flash-Decoding
(Dao et al. 2023). On a GPU it is one call of torch's flash attention with a table of blocks.
"""

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


def _look_around(
    query: torch.Tensor, pool: Pool, ragged: Ragged, window: int | None, scale: float
) -> torch.Tensor:
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
    """What rows see in one stretch, (heads, count, size), and the log-sum-exp of their scores, (heads, count)."""
    keys = pool.keys[:, look.first : look.first + look.size]
    values = pool.values[:, look.first : look.first + look.size]
    heads, groups = query.shape[0], query.shape[0] // keys.shape[0]
    # Query heads that share a key head are further rows that look at the same.
    rows = query.reshape(keys.shape[0], groups * look.count, -1)
    mask = look.mask if look.mask is None or groups == 1 else look.mask.repeat(groups, 1)
    if keys.shape[-1] == values.shape[-1] and query.device.type == "cpu":
        out, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            rows[None], keys[None], values[None], attn_mask=None if mask is None else mask[None, None], scale=scale
        )
        out, weight = out[0], weight[0]
    else:
        scores = (rows @ keys.transpose(1, 2)).float() * scale
        scores = scores if mask is None else scores + mask
        weight = scores.logsumexp(-1)
        out = torch.exp(scores - weight[..., None]).to(values.dtype) @ values
    return out.reshape(heads, look.count, -1), weight.reshape(heads, look.count)


def install(model: Any) -> None:
    """Let the model's attention be computed here.

    Raises:
        InputError: the model has attention of its own that cannot be replaced.
    """
    if not getattr(model, "_supports_attention_backend", False):
        raise InputError(f"the engine `transformers` cannot batch {type(model).__name__}: its attention is its own")
    AttentionInterface.register(NAME, attend)
    model.set_attn_implementation(NAME)
