"""What training computes: floating-point operations by direction and by what causes them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Rates:
    """Floating-point operations of one direction of a pass."""

    token: float
    """For each token: the matrices of the layers."""
    square: float
    """For each squared length of a sample: causal attention in all layers."""
    target: float
    """For each target token: the output matrix."""

    def of(self, tokens: float, squares: float, targets: float) -> float:
        """Operations for so many tokens, squared lengths and targets."""
        return self.token * tokens + self.square * squares + self.target * targets


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of training, a product and a sum being two."""

    forward: Rates
    backward: Rates
    again: Rates
    """Recomputed forward passes; no part of model FLOPs, by which utilisation (MFU) is measured."""

    def model(self, tokens: float, squares: float, targets: float) -> float:
        """What the model asks for: forward and backward."""
        return self.forward.of(tokens, squares, targets) + self.backward.of(tokens, squares, targets)

    def hardware(self, tokens: float, squares: float, targets: float) -> float:
        """What is computed: with recomputation."""
        return self.model(tokens, squares, targets) + self.again.of(tokens, squares, targets)


def flops(model: Any, layers: Sequence[nn.Module], recompute: int) -> Flops:
    """Floating-point operations of training.

    A token costs 2 for each weight of the layers' matrices forward, 2 backward for its own gradient, and 2 more where
    the matrix learns (Kaplan et al. 2020, Scaling Laws, section 2.1). Causal attention of n tokens multiplies n²/2
    pairs of queries and keys, and of weights and values: 2 n² times the width of all heads forward and twice that
    backward, in each layer (Chowdhery et al. 2022, PaLM, appendix B, has the same without the causal half). Only
    positions before targets pass the output matrix. Embeddings, norms and the optimiser count nothing.

    Args:
        model: a causal language model of the transformer kind, on any device, with the `requires_grad` of training.
        layers: its decoder layers.
        recompute: every so many-th layer is computed again; 0 is none.
    """
    settings, head = model.config.get_text_config(), model.get_output_embeddings().weight
    matrices = [each for layer in layers for each in layer.parameters() if each.ndim > 1]
    heads = settings.num_attention_heads
    width = heads * (getattr(settings, "head_dim", None) or settings.hidden_size // heads)
    forward = Rates(2 * _used(matrices, settings), 2.0 * width * len(layers), 2.0 * head.numel())
    learnt = 2 * _used([each for each in matrices if each.requires_grad], settings)
    backward = Rates(forward.token + learnt, 2 * forward.square, forward.target * (2 if head.requires_grad else 1))
    share = math.ceil(len(layers) / recompute) / len(layers) if recompute else 0.0
    return Flops(forward, backward, Rates(share * forward.token, share * forward.square, 0.0))


def _used(matrices: Sequence[torch.Tensor], settings: Any) -> float:
    """Elements that a token meets: all of a matrix, and of a stack of experts those that it is sent to."""
    return sum(each.numel() * (settings.num_experts_per_tok / len(each) if each.ndim > 2 else 1.0) for each in matrices)
