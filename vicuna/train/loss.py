"""The loss: cross-entropy summed over target tokens, with logits for no other position."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch.utils.checkpoint import checkpoint

LOGITS = 2**25
"""Most logits held at once, rows times vocabulary; beyond it rows go in chunks that are computed again backwards."""


def target_loss(hidden: torch.Tensor, targets: torch.Tensor, head: Any) -> torch.Tensor:
    """Sum of -log p(target) over the given positions, in float32.

    Args:
        hidden: last hidden states at the positions before each target, shape (N, D).
        targets: token ids to predict, shape (N,).
        head: the module that turns hidden states into logits, (N, D) → (N, V).

    Returns:
        A scalar. Divide by the number of targets of the whole optimiser step for the mean.
    """
    rows = max(1, LOGITS // head.weight.shape[0])
    if len(hidden) <= rows:
        return _chunk(hidden, targets, head)
    total = hidden.new_zeros((), dtype=torch.float32)
    for h, t in zip(hidden.split(rows), targets.split(rows), strict=True):
        total = total + checkpoint(_chunk, h, t, head, use_reentrant=False)
    return total


def _chunk(hidden: torch.Tensor, targets: torch.Tensor, head: Any) -> torch.Tensor:
    return F.cross_entropy(head(hidden).float(), targets, reduction="sum")
