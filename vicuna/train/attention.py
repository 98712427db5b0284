"""Attention within samples only: packed neighbours never see each other, on any device that has SDPA."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

NAME = "vicuna_segments"


def install(model: Any) -> None:
    """Make `model` attend within the segments that each call names as `segments=[length, ...]`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, segment_attention)
    model.set_attn_implementation(NAME)


def segment_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segments: list[int],
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of each segment by itself.

    Args:
        module: the model's attention layer.
        query: shape (1, heads, T, head size).
        key, value: shape (1, key heads, T, head size).
        attention_mask: not used; segments say it all.
        segments: lengths, adding up to T.
        scaling: factor of the scores; None is one over the root of the head size.
        dropout: probability of dropping an attention weight in training.

    Returns:
        Shape (1, T, heads, head size), and None for the weights that SDPA does not give.
    """
    grouped = query.shape[1] != key.shape[1]
    parts = [
        F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, dropout_p=dropout if module.training else 0.0, enable_gqa=grouped
        )
        for q, k, v in zip(query.split(segments, 2), key.split(segments, 2), value.split(segments, 2), strict=True)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None
