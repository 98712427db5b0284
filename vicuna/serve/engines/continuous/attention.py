"""Attention of a ragged batch to the paged cache, as one of transformers' attention functions.

transformers' models call the function with the new tokens' queries, keys and values. It writes keys and values into the
cache's pool of that layer and lets each row look where the batch says.
"""

from collections.abc import Iterable
from typing import Any

import torch

from vicuna.errors import InputError
from vicuna.serve.engines.continuous import flash
from vicuna.serve.engines.continuous.cache import BLOCK
from vicuna.serve.engines.continuous.flash import FlashPool
from vicuna.serve.engines.continuous.ragged import Ragged
from vicuna.serve.engines.continuous.stretches import StretchPool

NAME = "vicuna_ragged"
"""Of the function at transformers' interface."""
_REFUSED = {"softcap": "soft-capped scores", "s_aux": "attention sinks", "position_bias": "position biases"}
Pool = StretchPool | FlashPool


def block_size(device: torch.device, dtype: torch.dtype) -> int:
    """Tokens of a block of the cache."""
    return flash.BLOCK if flash.usable(device, dtype) else BLOCK


class Pools:
    """The keys and values of all layers; each layer's are made when it first computes, in the shape that it gives."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._layers: dict[int, Pool] = {}

    def layer(self, index: int, keys: torch.Tensor, values: torch.Tensor) -> Pool:
        """The layer's pool."""
        found = self._layers.get(index)
        if found is None:
            kernel = flash.usable(keys.device, keys.dtype) and FlashPool.holds(keys, values)
            found = self._layers[index] = (FlashPool if kernel else StretchPool)(keys, values, self.tokens)
        return found

    def wipe(self, blocks: Iterable[int], size: int) -> None:
        """Set blocks of so many tokens to zero."""
        with torch.inference_mode():  # in which the tensors were made
            for block in blocks:
                for pool in self._layers.values():
                    pool.wipe(block * size, size)

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token's keys and values in all layers that have computed."""
        return sum(pool.bytes_per_token for pool in self._layers.values())


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
    if attention_mask is not None:
        raise InputError("the engine `transformers` does not compute masks of a model's own, which this model needs")
    pool = pools.layer(module.layer_idx, key, value)
    pool.write(ragged.places, key, value)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return pool.attend(query, ragged, sliding_window, scale).contiguous(), None  # some models take views of it
