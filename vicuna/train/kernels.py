"""Kernels of attention within segments: one mathematics from several packages, each loaded only where it is tried."""

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from vicuna.train.batch import Segments


class Scores(NamedTuple):
    """What becomes of the products of queries and keys."""

    scale: float
    """Their factor."""
    dropout: float = 0.0
    """Probability of dropping an attention weight."""
    window: int | None = None
    """Tokens that a token sees, itself among them; None is all before it."""


class Kernel(Protocol):
    """Causal attention of each segment by itself."""

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, scores: Scores
    ) -> torch.Tensor:
        """
        Args:
            query: shape (1, heads, T, head size).
            key, value: shape (1, key heads, T, head size); heads is a multiple of key heads.
            segments: of T tokens.
            scores: how they are scaled, dropped and limited.

        Returns:
            Shape (1, T, heads, head size).

        Raises:
            NotImplementedError: this kernel cannot drop, or cannot limit.
        """


@dataclass(frozen=True)
class Known:
    """A kernel that may be there."""

    says: str
    """What it is."""
    load: Callable[[], Kernel]
    """Import it, or raise ImportError."""
    needs_cuda: bool = True


def sample_by_sample(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, scores: Scores
) -> torch.Tensor:
    """Exact on any device: torch's scaled-dot-product attention of one segment after the other; see `Kernel`."""
    queries, keys, values = (each.split(segments.lengths, 2) for each in (query, key, value))
    parts = zip(queries, keys, values, strict=True)
    return torch.cat([_alone(*part, scores).transpose(1, 2) for part in parts], dim=1)


def _alone(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scores: Scores) -> torch.Tensor:
    length, near = query.shape[2], None
    if scores.window is not None and scores.window < length:
        near = torch.ones(length, length, dtype=torch.bool, device=query.device).tril().triu(1 - scores.window)
    return F.scaled_dot_product_attention(
        query, key, value, near, scores.dropout,
        is_causal=near is None, scale=scores.scale, enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip


def _sdpa() -> Kernel:
    # Traced by torch.compile it would be compiled anew for each list of lengths.
    return cast(Kernel, torch.compiler.disable(sample_by_sample))


def _flash(package: str, *, drops: bool) -> Kernel:
    varlen = importlib.import_module(package).flash_attn_varlen_func

    def kernel(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, scores: Scores
    ) -> torch.Tensor:
        if scores.dropout and not drops:
            raise NotImplementedError("it has no dropout")
        options = {"dropout_p": scores.dropout} if drops else {}
        found = varlen(
            _flat(query), _flat(key), _flat(value), *_borders(segments),
            softmax_scale=scores.scale, causal=True, window_size=_before_and_after(scores), **options,
        )  # fmt: skip
        out: torch.Tensor = found[0] if isinstance(found, tuple) else found  # early releases of 3 return a pair
        return out[None]

    return kernel


def _varlen() -> Kernel:
    from torch.nn.attention.varlen import varlen_attn

    takes_groups = "enable_gqa" in inspect.signature(varlen_attn).parameters  # torch 2.11 has it not
    varlen: Callable[..., Any] = functools.partial(varlen_attn, enable_gqa=True) if takes_groups else varlen_attn

    def kernel(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, scores: Scores
    ) -> torch.Tensor:
        if scores.dropout:
            raise NotImplementedError("it has no dropout")
        groups = query.shape[1] // key.shape[1]
        if groups > 1 and not takes_groups:
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        out: torch.Tensor = varlen(
            _flat(query), _flat(key), _flat(value), *_borders(segments),
            scale=scores.scale, window_size=_before_and_after(scores),
        )  # fmt: skip
        return out[None]

    return kernel


def _flex() -> Kernel:
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Callable[..., Any] = torch.compile(flex_attention)  # uncompiled it holds all scores

    def kernel(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, scores: Scores
    ) -> torch.Tensor:
        if scores.dropout or scores.window is not None:
            raise NotImplementedError("its mask is made without a window, and it has no dropout")
        out: torch.Tensor = compiled(query, key, value, block_mask=segments.blocks, scale=scores.scale, enable_gqa=True)
        return out.transpose(1, 2)

    return kernel


def _flat(heads: torch.Tensor) -> torch.Tensor:
    """(1, heads, T, head size) → (T, heads, head size)."""
    return heads[0].transpose(0, 1)


def _borders(segments: Segments) -> tuple[torch.Tensor, torch.Tensor, int, int]:
    """Of the queries and of the keys, as flash kernels take them."""
    return segments.starts, segments.starts, segments.longest, segments.longest


def _before_and_after(scores: Scores) -> tuple[int, int]:
    """Tokens that are seen before and after a token; -1 is all."""
    return (-1 if scores.window is None else scores.window - 1), 0


KERNELS: Mapping[str, Known] = {
    "flash3": Known("FlashAttention 3", functools.partial(_flash, "flash_attn_interface", drops=False)),
    "flash2": Known("FlashAttention 2", functools.partial(_flash, "flash_attn", drops=True)),
    "varlen": Known("torch's flash kernel for samples end to end", _varlen),
    "flex": Known("torch's FlexAttention", _flex),
    "sdpa": Known("torch's scaled-dot-product attention, sample by sample", _sdpa, needs_cuda=False),
}
"""By their names in the setting `attention`, in the order of preference."""
