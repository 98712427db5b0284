"""The optimiser and its learning rate, a pure function of the step."""

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


def make_optimizer(model: Any, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW over the parameters that learn; norms and biases (vectors) do not decay.

    Args:
        model: its parameters may be split over the ranks.
        config: kind, peak rate and decay. With adamw8bit the input embedding keeps float32 moments, without which
            8 bits are not stable (section 2.3 of their paper).

    Raises:
        ConfigError: adamw8bit without the package bitsandbytes.
    """
    learnt = [each for each in model.parameters() if each.requires_grad]
    groups = [
        {"params": [each for each in learnt if each.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [each for each in learnt if each.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]  # an adapter has no vectors
    betas = (config.beta1, config.beta2)
    if config.name == "adamw8bit":
        from vicuna.train.adamw8bit import AdamW8bit

        return AdamW8bit(groups, config.lr, betas, full=[model.get_input_embeddings().weight])
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` in the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate
