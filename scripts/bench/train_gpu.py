"""The bars of training on one GPU, in one command of less than eight minutes that needs no network and no checkpoint.

    python scripts/bench/train_gpu.py                       # on a free H200; torch, transformers, accelerate, numpy
    python scripts/bench/train_gpu.py --device cpu --tiny   # only shows that it works

Random weights of the named shapes are made on the device and learn random samples whose lengths are like those of shared
chats. Each part is a process of its own with a share of the time; one that fails or takes too long says so, and the others
go on. Prints the tables for docs/benchmarks.md, writes $OUT/train_gpu.json (or --json), and ends with status 1 where a
bar is missed or was not measured.
"""

import argparse
import contextlib
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vicuna.hardware import peak_flops
from vicuna.models.flops import flops
from vicuna.train import attention, loss, packing
from vicuna.train import model as building
from vicuna.train.batch import Segments, make_batch
from vicuna.train.config import CheckpointConfig, OptimConfig, TrainConfig
from vicuna.train.dataset import Sample
from vicuna.train.kernels import KERNELS, Scores
from vicuna.train.loop import train_step
from vicuna.train.optim import make_optimizer
from vicuna.train.parallel import World, joined

SHAPES: dict[str, dict[str, int]] = {
    # LLaMA 7B (Touvron et al. 2023, table 2)
    "7b": {"vocab_size": 32_000, "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 11_008,
           "num_attention_heads": 32, "num_key_value_heads": 32},
    # the layers of Llama 3.2 1B, with LLaMA's vocabulary
    "1b": {"vocab_size": 32_000, "hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192,
           "num_attention_heads": 32, "num_key_value_heads": 8},
    "tiny": {"vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128,
             "num_attention_heads": 4, "num_key_value_heads": 2},
}  # fmt: skip
LONGEST = 2048
"""Tokens of the longest sample, and positions of a padded one."""
PARTS = ("ours-7b", "padded-7b", "flattened-7b", "ours-1b", "kernels", "compiled-7b", "padded-1b", "flattened-1b")
"""In the order of what they are needed for."""
TIMED = 2
"""Optimiser steps that are timed, after one that is not."""


@dataclass(frozen=True)
class Row:
    """What one way of training did."""

    part: str
    way: str
    target_tokens_per_second: float
    tokens_per_second: float
    positions_per_second: float
    mfu: float | None
    """Of the mathematics of real tokens, without padding and without what is computed again; None off the GPU table."""
    peak_gb: float | None
    """Most memory of the GPU, in 10^9 bytes."""
    loss: float


class Meter:
    """Times steps and counts what is in them."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self._work = flops(model, building.decoder_layers(model), 0)
        self._device = device
        self._counts: list[tuple[int, int, int, int]] = []
        self._marks: list[float] = []
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def mark(self) -> None:
        """A step begins here, or the last one ends."""
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        self._marks.append(time.perf_counter())

    def count(self, samples: Sequence[Sample], positions: int) -> None:
        """These samples are a part of the step that began last."""
        lengths = [len(each.ids) for each in samples]
        targets = sum(int(each.is_target[1:].sum()) for each in samples)
        self._counts.append((len(self._marks), sum(lengths), sum(n * n for n in lengths), targets, positions))  # type: ignore[arg-type]

    def row(self, part: str, way: str, value: float) -> Row:
        """The rates of all steps but the first."""
        seconds = self._marks[-1] - self._marks[1]
        tokens, squares, targets, positions = (
            sum(each[i] for each in self._counts if 1 < each[0] < len(self._marks)) for i in range(1, 5)
        )
        cuda = self._device.type == "cuda"
        peak = peak_flops(torch.cuda.get_device_name()) if cuda else None
        mfu = self._work.model(tokens, squares, targets) / seconds / peak if peak else None
        memory = torch.cuda.max_memory_allocated() / 1e9 if cuda else None
        return Row(part, way, targets / seconds, tokens / seconds, positions / seconds, mfu, memory, value)
