"""The loss: cross-entropy summed over target tokens, with logits for no other position and never for all at once."""

import functools
import importlib.util
import re
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch.utils.checkpoint import checkpoint

from vicuna.errors import InputError

LOGITS = {"cpu": 2**24, "cuda": 2**26}
"""Most logits held at once, rows times vocabulary. On a CPU more saves no time (scripts/bench/train/linear_ce.py); a GPU
likes large products, and has a quarter of a gigabyte for them."""
_CHANGED = re.compile(r"logits?_scal|logits?_soft_?cap|lm_head_multiplier|output_multiplier")
"""Settings of models whose logits are not just the output matrix times the hidden state."""


def check_logits(config: Any) -> None:
    """Refuse a model that changes its logits after the output matrix (Gemma 2, Cohere, Granite), which is not done here.

    Args:
        config: transformers' settings of the model.

    Raises:
        InputError: names the setting.
    """
    for name, value in config.get_text_config().to_dict().items():
        if _CHANGED.search(name) and value not in (None, 1, False):
            raise InputError(
                f"the model's config has {name} = {value}: its logits or attention scores are scaled or capped, which is "
                "not built; train another base model"
            )


def target_loss(hidden: torch.Tensor, targets: torch.Tensor, head: Any) -> torch.Tensor:
    """Sum of -log p(target) over the given positions, in float32.

    Args:
        hidden: last hidden states at the positions before each target, shape (N, D); N may be 0.
        targets: token ids to predict, shape (N,).
        head: the module that turns hidden states into logits, (N, D) → (N, V). Of a plain `nn.Linear` the weights are
            used directly, by liger's kernel where it is installed for CUDA; any other (an adapter, 4 bits) is called.

    Returns:
        A scalar. Divide by the number of targets of the whole optimiser step for the mean.
    """
    if getattr(head.forward, "__func__", None) is not torch.nn.Linear.forward:
        return _by_calling(hidden, targets, head)
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    if kind == "cuda" and len(hidden) and (liger := _liger()):
        return liger(hidden.to(dtype), head.weight.to(dtype), targets, head.bias, reduction="sum").float()
    rows = _rows(head.weight.shape[0], kind)
    with torch.autocast(kind, enabled=False):
        loss: torch.Tensor = LinearCrossEntropy.apply(
            hidden.to(dtype), head.weight, head.bias, targets, rows, torch.is_grad_enabled()
        )
    return loss


class LinearCrossEntropy(torch.autograd.Function):
    """Cross-entropy of a linear layer's outputs, summed, a few rows at a time.

    The gradient of softmax is known as soon as the logits are, so it is formed with them, in the forward pass, and no
    logits are kept or computed twice. What the backward pass gets is the gradients of hidden states and weights, which
    it multiplies by the gradient of the loss.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        rows: int,
        learning: bool,
    ) -> torch.Tensor:
        """
        Args:
            ctx: autograd's.
            hidden: shape (N, D); its dtype is that of the products. Softmax and sums are float32 or wider.
            weight: shape (V, D), of any dtype.
            bias: shape (V,), or None.
            targets: shape (N,).
            rows: most rows of logits at once.
            learning: whether a backward pass may come.
        """
        wide = torch.promote_types(hidden.dtype, torch.float32)
        matrix, offset = weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)
        total = hidden.new_zeros((), dtype=wide)
        wanted = [learning and need for need in ctx.needs_input_grad[:3]]
        of_hidden = torch.empty_like(hidden) if wanted[0] else None
        of_weight = torch.zeros_like(weight, dtype=wide) if wanted[1] else None
        of_bias = torch.zeros_like(bias, dtype=wide) if bias is not None and wanted[2] else None
        begin = 0
        for some, target in zip(_split(hidden, rows), _split(targets, rows), strict=True):
            logp = torch.log_softmax(F.linear(some, matrix, offset), dim=-1, dtype=wide)
            total -= logp.gather(1, target[:, None]).sum()
            if any(wanted):
                slope = logp.exp_()  # of the loss by the logits: softmax minus one at the target
                slope.scatter_add_(1, target[:, None], slope.new_full((), -1.0).expand(len(target), 1))
                slope = slope.to(hidden.dtype)
                end = begin + len(some)
                if of_hidden is not None:
                    torch.mm(slope, matrix, out=of_hidden[begin:end])
                if of_weight is not None:
                    _add_product(of_weight, slope.t(), some)
                if of_bias is not None:
                    of_bias += slope.sum(0, dtype=wide)
                begin = end
        kept = (of_hidden, of_weight, of_bias)
        ctx.save_for_backward(*(each if each is None else each.to(like.dtype)
                                for each, like in zip(kept, (hidden, weight, bias), strict=True)))  # fmt: skip
        return total

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """In place: a second backward pass through the same loss is an error of autograd's."""
        of_hidden, of_weight, of_bias = (each if each is None else each.mul_(slope) for each in ctx.saved_tensors)
        return of_hidden, of_weight, of_bias, None, None, None
