"""Runs of the tiny world: in this process, or as processes of their own."""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from vicuna.config import from_dict
from vicuna.train.config import TrainConfig
from vicuna.train.metrics import METRICS, read_steps
from vicuna.train.run import main


def settings(world: Path, out: Path, **more: Any) -> dict[str, Any]:
    """A run of two passes with a checkpoint every third step; groups in `more` are merged into it."""
    tree: dict[str, Any] = {
        "out": str(out),
        "model": {"path": str(world / "init"), "template": "vicuna_v1.1", "max_length": 256},
        "data": {"path": str(world / "chats.jsonl"), "cache": str(world / "tokens")},
        "optim": {"lr": 5e-3},
        "batch": {"tokens": 256, "bins": 2, "epochs": 2},
        "checkpoint": {"every": 3},
        "track": {"tracker": "none"},
        "gradient_checkpointing": 0,
        "threads": 1,
    }
    for key, value in more.items():
        tree[key] = {**tree.get(key, {}), **value} if isinstance(value, dict) else value
    return tree


def train(world: Path, out: Path, **more: Any) -> None:
    """The run in this process, on one rank."""
    main(from_dict(TrainConfig, settings(world, out, **more), "a test"))


def words(world: Path, out: Path, **more: Any) -> list[str]:
    """The run as a command."""
    flags = []
    for key, value in settings(world, out, **more).items():
        inner = {f"{key}.{name}": each for name, each in value.items()} if isinstance(value, dict) else {key: value}
        flags += [word for name, each in inner.items() for word in (f"--{name}", str(each))]
    return [sys.executable, "-m", "vicuna.train", *flags]


def start(world: Path, out: Path, limit: int = resource.RLIM_INFINITY, **more: Any) -> subprocess.Popen[str]:
    """The run as a process of its own, which may write files of at most `limit` bytes."""
    return subprocess.Popen(
        words(world, out, **more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip


def wait_for_steps(child: subprocess.Popen[str], out: Path, count: int, seconds: float = 120) -> None:
    """Return when a run has done so many steps, or has ended."""
    log, deadline = out / METRICS, time.monotonic() + seconds
    while child.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.read_text().count("\n") >= count:
            return
        time.sleep(0.002)
    assert child.poll() is not None, f"{out} did not get to step {count} in {seconds} s"


def losses(out: Path) -> list[tuple[int, float, float]]:
    """Step, loss and gradient norm of each row."""
    return [(row.step, row.loss, row.grad_norm) for row in read_steps(out / METRICS)]


def weights(out: Path) -> dict[str, torch.Tensor]:
    """The trained model's tensors, by name."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted((out / "model").glob("*.safetensors")):
        found |= load_file(path)
    return found


def same_weights(one: Path, other: Path, **tolerance: float) -> bool:
    """Whether two trained models are equal, bit by bit or within a tolerance."""
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    if tolerance:
        return all(torch.allclose(ours[name], theirs[name], **tolerance) for name in theirs)
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


def position(folder: Path) -> dict[str, Any]:
    """Where a stored checkpoint stands."""
    found: dict[str, Any] = json.loads((folder / "position.json").read_text())
    return found
