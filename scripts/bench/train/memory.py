"""The memory estimate against real steps on this machine's CPU: predicted and measured peak of a training process.

    python scripts/bench/train/memory.py --out memory.json

Each case is a process of its own. It makes a LLaMA of the named shape with random weights, does two optimiser steps
of two passes, and reports the highest resident memory beyond what it had before there was a model.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SHAPES = {  # hidden size, of the feed-forward part, layers, heads, vocabulary
    "deep": (512, 1376, 8, 8, 8000),
    "wide": (1024, 2752, 2, 16, 32_000),
}
CASES = [
    ("deep", 512, ["--gradient_checkpointing", "0"]),
    ("deep", 2048, ["--gradient_checkpointing", "0"]),
    ("deep", 2048, ["--gradient_checkpointing", "1"]),
    ("deep", 2048, ["--gradient_checkpointing", "2"]),
    ("deep", 1024, ["--gradient_checkpointing", "0", "--dtype", "bfloat16"]),
    ("deep", 1024, ["--gradient_checkpointing", "0", "--lora.kind", "lora"]),
    ("wide", 1024, ["--gradient_checkpointing", "0"]),
    ("wide", 1024, ["--gradient_checkpointing", "1"]),
]
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
"""For glibc: give memory back at once, so that what is resident is what is in use."""
MIB = 2**20


def main() -> None:
    """Run the cases, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--cases", type=int, nargs="*", default=range(len(CASES)), help="numbers of the cases to run")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.one is not None:
        print(json.dumps(measure(*CASES[words.one])))
        return
    rows = [_in_own_process(number) for number in words.cases]
    print(f"{'shape':<6} {'tokens':>6}  {'settings':<52} {'predicted':>9} {'measured':>9} {'ratio':>6}")
    for row in rows:
        ratio = row["predicted"] / row["measured"]
        print(f"{row['shape']:<6} {row['tokens']:>6}  {row['settings']:<52} {row['predicted']:>7.0f} M "
              f"{row['measured']:>7.0f} M {ratio:>6.2f}")  # fmt: skip
    if words.out:
        words.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _in_own_process(number: int) -> dict[str, Any]:
    found = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, "--one", str(number)], check=True, capture_output=True, text=True,
        env={**os.environ, **ALLOCATOR},
    )  # fmt: skip
    row: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return row


def measure(shape: str, tokens: int, words: list[str]) -> dict[str, Any]:
    """One case: MiB as predicted, and as the process took."""
    from transformers import LlamaConfig

    from vicuna.config import load
    from vicuna.hardware import Device
    from vicuna.train.config import TrainConfig
    from vicuna.train.forecast import Load, forecast

    config = load(TrainConfig, ["--model.max_length", str(tokens), *words])
    with tempfile.TemporaryDirectory() as folder:
        hidden, inner, layers, heads, vocabulary = SHAPES[shape]
        settings = LlamaConfig(
            hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
            vocab_size=vocabulary, tie_word_embeddings=False, architectures=["LlamaForCausalLM"],
        )  # fmt: skip
        settings.save_pretrained(folder)
        expected = forecast(config, Path(folder), Load(0, 0, 0, 0, 0, 0), 1, Device("cpu", 0)).memory
    took = _train(settings, config, tokens)
    return {
        "shape": shape, "tokens": tokens, "settings": " ".join(words), "predicted": expected.total / MIB,
        "measured": took / MIB, "moment": expected.moment,
    }  # fmt: skip


def _train(settings: Any, config: Any, tokens: int) -> int:
    """Peak bytes of two steps beyond what the process had before there was a model."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    from vicuna.train import attention
    from vicuna.train.batch import make_batch
    from vicuna.train.dataset import Sample
    from vicuna.train.loop import train_step
    from vicuna.train.lora import adapter_weights, add_adapter
    from vicuna.train.model import Objective, Precision, decoder_layers
    from vicuna.train.optim import make_optimizer
    from vicuna.train.parallel import World

    draw = np.random.default_rng(0)
    sizes = [tokens // 2, tokens // 4, tokens - tokens // 2 - tokens // 4]
    samples = [Sample(str(n), draw.integers(0, 8000, n).astype(np.int32), np.ones(n, np.bool_)) for n in sizes]
    dtype = getattr(torch, "float32" if config.dtype == "auto" else config.dtype)
    precision = Precision(torch.device("cpu"), dtype)
    torch.randn(64, 64, requires_grad=True).mm(
        torch.randn(64, 64)
    ).sum().backward()  # what torch loads when it first works
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32 if config.lora.kind == "none" else dtype)
    if config.lora.kind != "none":
        add_adapter(model, config.lora)
        parameters = dict(model.named_parameters())
        for name, values in adapter_weights(model, 0):
            parameters[name].data.copy_(values)
    attention.install(model, attention.choose("auto", settings, precision.device, dtype))
    if config.gradient_checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        for number, layer in enumerate(decoder_layers(model)):
            layer.gradient_checkpointing = number % config.gradient_checkpointing == 0
    objective, optimizer = Objective(model, precision).train(), make_optimizer(model, config.optim)
    for _ in range(2):
        batches = [make_batch(samples, "cpu"), make_batch(samples, "cpu")]
        train_step(objective, optimizer, batches, sum(len(each.targets) for each in batches), 1.0, World())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


if __name__ == "__main__":
    main()
