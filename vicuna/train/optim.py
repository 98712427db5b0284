"""AdamW and its learning rate, a pure function of the step."""

import math
from typing import Any

import torch

from vicuna.train.config import OptimConfig


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Learning rate of a step.

    Args:
        config: peak, warm-up share, shape and final share.
        step: counts from 0.
        steps: optimiser steps of the whole run.
    """
    warmup = round(config.warmup * steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    done = (step - warmup) / (steps - warmup)  # `final` would be the step after the last: with 0 no step is wasted
    share = (1 + math.cos(math.pi * done)) / 2 if config.schedule == "cosine" else 1 - done
    return config.lr * (config.final + (1 - config.final) * share)


def make_optimizer(model: Any, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over all trainable parameters; norms and biases (vectors) do not decay."""
    parameters = [each for each in model.parameters() if each.requires_grad]
    groups = [
        {"params": [each for each in parameters if each.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [each for each in parameters if each.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` in the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate
