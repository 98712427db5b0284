"""The loss: cross-entropy summed over target tokens, with logits for no other position and never for all at once."""

import functools
import importlib
import importlib.util
import re
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch.utils.checkpoint import checkpoint

from vicuna.errors import InputError

LOGITS = {"cpu": 2**22, "cuda": 2**26}
"""Most logits held at once, rows times vocabulary. More save no time on a CPU (scripts/bench/train/linear_ce.py); a GPU
likes large products, and has a quarter of a gigabyte for them."""
BLOCK = 4096
"""Words whose gradient is computed at once where it has to be widened."""
_CHANGED = re.compile(r"logits?_scal|logits?_soft_?cap|lm_head_multiplier|output_multiplier")
"""Settings of models whose logits are not just the output matrix times the hidden state."""


def check_logits(config: Any) -> None:
    """Refuse a model that scales or caps its scores or logits (Gemma 2, Cohere, Granite), which is not done here.

    Args:
        config: transformers' settings of the model.

    Raises:
        InputError: names the setting.
    """
    for name, value in config.get_text_config().to_dict().items():
        if _CHANGED.search(name) and value not in (None, 1, False):
            raise InputError(
                f"the model's config has {name} = {value}: its logits or its attention's scores are scaled or capped, "
                "which is not built; take another base model"
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
    kind = hidden.device.type
    rows = max(1, LOGITS[kind] // head.weight.shape[0])
    if getattr(head.forward, "__func__", None) is not torch.nn.Linear.forward:
        return _by_calling(hidden, targets, head, rows)
    if torch.is_autocast_enabled(kind):
        hidden = hidden.to(torch.get_autocast_dtype(kind))
    with torch.autocast(kind, enabled=False):
        if kind == "cuda" and len(hidden) and (liger := _liger()):
            return liger(hidden, head.weight.to(hidden.dtype), targets, head.bias).float()
        loss: torch.Tensor = LinearCrossEntropy.apply(
            hidden, head.weight, head.bias, targets, rows, torch.is_grad_enabled()
        )
    return loss


class LinearCrossEntropy(torch.autograd.Function):
    """Cross-entropy of a linear layer's outputs, summed, a few rows at a time.

    The gradient of the loss by the logits is known as soon as they are: softmax, minus one at the target. So it is used
    at once, in the forward pass, and no logits are kept or computed twice. What waits for the backward pass are the
    gradients of hidden states and weights, to be multiplied by the gradient of the loss.
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
            hidden: shape (N, D); products are computed in its dtype, softmax and sums in float32 or wider.
            weight: shape (V, D), of any dtype.
            bias: shape (V,), or None.
            targets: shape (N,).
            rows: most rows of logits at once.
            learning: whether a backward pass may come.
        """
        wide = torch.promote_types(hidden.dtype, torch.float32)
        matrix, offset = weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)
        by_hidden, by_weight, by_bias = (learning and need for need in ctx.needs_input_grad[:3])
        parts = _parts(len(hidden), rows)
        of_hidden = torch.empty_like(hidden) if by_hidden else None
        of_weight = torch.zeros_like(weight, dtype=wide) if by_weight and len(parts) > 1 else None
        of_bias = None
        total = hidden.new_zeros((), dtype=wide)
        for part in parts:
            logp = torch.log_softmax(F.linear(hidden[part], matrix, offset), dim=-1, dtype=wide)
            total -= logp.gather(1, targets[part, None]).sum()
            slope = _slope(logp, targets[part]).to(hidden.dtype) if learning else logp
            if of_hidden is not None:
                torch.mm(slope, matrix, out=of_hidden[part])
            if by_weight:
                of_weight = _plus(of_weight, slope.t(), hidden[part])
            if by_bias:
                of_bias = slope.sum(0, dtype=wide) + (0 if of_bias is None else of_bias)
            del logp, slope  # before the next logits are made
        ctx.gradients = of_hidden, _as(of_weight, weight), _as(of_bias, bias)
        return total

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """In place and once, so that the gradients are never there twice."""
        if ctx.gradients is None:
            raise RuntimeError("the gradients of this loss were given away by an earlier backward pass")
        gradients, ctx.gradients = ctx.gradients, None
        return *(each if each is None else each.mul_(slope) for each in gradients), None, None, None


def _parts(count: int, most: int) -> list[slice]:
    """Cuts `count` rows into equal parts of at most `most`; no rows are one part of none."""
    number = max(1, -(-count // most))
    return [slice(count * i // number, count * (i + 1) // number) for i in range(number)]


def _slope(logp: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Gradient of -sum log p(target) by the logits, in the place of `logp`."""
    slope = logp.exp_()
    return slope.scatter_add_(1, targets[:, None], slope.new_full((len(targets), 1), -1.0))


def _plus(total: torch.Tensor | None, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """total + left @ right, in the place of `total`."""
    if total is None:
        return left @ right
    if total.dtype == left.dtype:
        return total.addmm_(left, right)
    for some, its in zip(total.split(BLOCK), left.split(BLOCK), strict=True):  # the product is never there as a whole
        some += its @ right
    return total


def _as(gradient: torch.Tensor | None, parameter: torch.Tensor | None) -> torch.Tensor | None:
    return None if gradient is None or parameter is None else gradient.to(parameter.dtype)


def _by_calling(hidden: torch.Tensor, targets: torch.Tensor, head: Any, rows: int) -> torch.Tensor:
    """The loss through a head of any kind, whose logits are computed again in the backward pass."""

    def part(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(head(hidden).float(), targets, reduction="sum")

    total = hidden.new_zeros((), dtype=torch.float32)
    for each in _parts(len(hidden), rows):
        total = total + checkpoint(part, hidden[each], targets[each], use_reentrant=False)
    return total


@functools.cache
def _liger() -> Callable[..., torch.Tensor] | None:
    """The fused kernel of the package liger-kernel, or None where it is not installed."""
    if importlib.util.find_spec("liger_kernel") is None:
        return None
    functional = importlib.import_module("liger_kernel.transformers.functional")
    return functools.partial(functional.liger_fused_linear_cross_entropy, reduction="sum", accum_dtype=torch.float32)
