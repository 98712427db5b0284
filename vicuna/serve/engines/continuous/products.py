"""The model's matrix products on a CPU, by the faster of the two libraries that torch has for them.

torch multiplies float32 matrices with MKL, which takes its slow ways on processors that are not Intel's; oneDNN, which
torch has too, does not. On an AMD EPYC with AVX-512 it is 2.0 to 2.6 times as fast for 16 to 512 rows (measured in
November 2026 with torch 2.13). Which one is faster here is measured when the model is loaded.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

ROWS = 16
"""Rows of the product that is timed: a batch of answers."""
MOST = 256
"""Rows of one product. For every number of rows that it has met oneDNN keeps a buffer of about the product's size, a
thousand of them, and a ragged batch has another number in nearly every step: so only a few numbers are used."""
FEW = 8
"""The numbers are 1, multiples of this up to its square, and multiples of four times this."""
TRIES = 7
WORTH = 1.15
"""How many times as fast it has to be."""


class PackedLinear(nn.Module):
    """A linear layer whose weight is laid out for oneDNN; it computes what `nn.Linear` does."""

    def __init__(self, linear: nn.Linear, keep: bool) -> None:
        """
        Args:
            linear: float32, on a CPU.
            keep: keep the weight as it is too, for single rows: oneDNN begins slowly, which small layers feel.
        """
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self.weight = linear.weight if keep else None
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(..., in_features) to (..., out_features)."""
        flat = rows.reshape(-1, self.in_features)
        count = len(flat)
        if self.weight is not None and count == 1:
            out = nn.functional.linear(flat, self.weight, self.bias)
        elif count == _even(count) <= MOST:
            out = self._product(flat)
        else:
            out = flat.new_empty(count, self.out_features)
            for start in range(0, count, MOST):
                piece = flat[start : start + MOST]
                more = _even(len(piece)) - len(piece)
                padded = nn.functional.pad(piece, (0, 0, 0, more)) if more else piece
                out[start : start + MOST] = self._product(padded)[: len(piece)]
        return out.view(*rows.shape[:-1], self.out_features)

    def _product(self, rows: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._packed, self.bias, "none", [], "")
        return out


def _even(count: int) -> int:
    """So many rows with padding."""
    step = 1 if count == 1 else FEW if count <= FEW**2 else FEW * 4
    return -(-count // step) * step


def speed_up(model: Any) -> float:
    """Give the model's linear layers to oneDNN where that is faster.

    Args:
        model: on any device; only float32 layers on a CPU are touched. LoRA adapters must be loaded before.

    Returns:
        How many times as fast the largest product is for it; 1.0 where everything stays as it is.
    """
    found = [(name, each) for name, each in model.named_modules() if _suits(each)]
    if not found or not torch.backends.mkldnn.is_available():
        return 1.0
    largest = max((each for _, each in found), key=lambda linear: linear.weight.numel())
    keep: dict[torch.Size, bool] = {}
    with torch.inference_mode():
        gain = _gain(largest, ROWS)
        if gain < WORTH:
            return 1.0
        for name, linear in found:
            shape = linear.weight.shape
            if shape not in keep:
                keep[shape] = _gain(linear, 1) < 1
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, PackedLinear(linear, keep[shape]))
    return gain


def _suits(module: nn.Module) -> bool:
    # Not its subclasses: quantised layers compute in their own way.
    return type(module) is nn.Linear and module.weight.dtype == torch.float32 and module.weight.device.type == "cpu"


def _gain(linear: nn.Linear, count: int) -> float:
    """How many times as fast oneDNN multiplies so many rows."""
    rows = torch.randn(count, linear.in_features)
    packed = PackedLinear(linear, keep=False)
    return _seconds(lambda: linear(rows)) / _seconds(lambda: packed(rows))


def _seconds(compute: Callable[[], object]) -> float:
    """The best of some tries: what disturbs makes it only slower."""
    compute()
    times = []
    for _ in range(TRIES):
        began = time.perf_counter()
        compute()
        times.append(time.perf_counter() - began)
    return min(times)
