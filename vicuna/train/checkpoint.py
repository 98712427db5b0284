"""Checkpoints: everything that decides the next step, complete or not there at all."""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model

from vicuna import manifest
from vicuna.errors import IncompleteError, InputError
from vicuna.files import read_json, write_json

logger = logging.getLogger(__name__)


@dataclass
class Position:
    """Where a run stands."""

    step: int = 0
    """Optimiser steps done; it is the data position too, because the plan is fixed."""
    tokens: int = 0
    """Tokens seen."""
    targets: int = 0
    """Target tokens learnt."""
    seconds: float = 0.0
    """Time spent in steps, over all starts of the run."""


def save(
    folder: Path, run: Mapping[str, Any], position: Position, model: Any, optimizer: torch.optim.Optimizer, keep: int
) -> Path:
    """Write a checkpoint, read it back, and remove all but the newest `keep`.

    Args:
        folder: the run's checkpoint folder.
        run: what identifies the run (settings that decide the weights, hash of the data).
        position: where the run stands.
        model, optimizer: their states are stored.
        keep: complete checkpoints that stay.
    """
    target = folder / f"step-{position.step:08d}"
    shutil.rmtree(
        target, ignore_errors=True
    )  # of an earlier start, and not whole, or this step would not be done again
    with manifest.making(target, "training-state", config=run) as part:
        save_model(model, str(part / "model.safetensors"))
        torch.save({"optimizer": optimizer.state_dict(), "rng": _rng()}, part / "state.pt")
        write_json(part / "position.json", asdict(position))
    manifest.verify(target)
    for old in complete(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def complete(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return [each for each in sorted(folder.glob("step-*")) if manifest.is_complete(each)]


def restore(folder: Path, run: Mapping[str, Any], model: Any, optimizer: torch.optim.Optimizer) -> Position | None:
    """Load the newest checkpoint whose files are all as they were written; None where there is none.

    Raises:
        InputError: the checkpoints belong to a run with other settings or other data.
    """
    for path in reversed(complete(folder)):
        try:
            stored = manifest.verify(path).config
        except IncompleteError as error:
            logger.warning("not using %s: %s", path, error)
            continue
        if changed := _differences(stored, json.loads(json.dumps(run))):
            raise InputError(f"{folder} is of a run with another {changed[0]}; choose another --out or remove it")
        load_model(model, str(path / "model.safetensors"))
        state = torch.load(path / "state.pt", weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
        _set_rng(state["rng"])
        return Position(**read_json(path / "position.json"))
    return None


def _differences(a: Any, b: Any, prefix: str = "") -> list[str]:
    """Dotted names of the leaves in which two trees differ."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        found = []
        for key in sorted(set(a) | set(b)):
            found += _differences(a.get(key), b.get(key), f"{prefix}{key}.")
        return found
    return [] if a == b else [prefix.rstrip(".")]


def _rng() -> dict[str, Any]:
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state_all()} if torch.cuda.is_available() else {})


def _set_rng(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
