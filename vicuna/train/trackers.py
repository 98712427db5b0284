"""Trackers that follow a run, by accelerate: TensorBoard or Weights & Biases."""

import importlib
import importlib.util
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vicuna.errors import ConfigError
from vicuna.files import read_text, write_text
from vicuna.train.config import TrackConfig


class Tracker:
    """Passes numbers on to whoever follows the run; to nobody by default."""

    def __init__(self, listener: Any = None) -> None:
        self._listener = listener  # an accelerate.tracking.GeneralTracker

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers of one step, by name."""
        if self._listener:
            self._listener.log(dict(values), step=step)

    def close(self) -> None:
        """Hand over what is still on its way."""
        if self._listener:
            self._listener.finish()


def check(kind: str) -> None:
    """Before anything is loaded: is the tracker that was asked for installed?

    Raises:
        ConfigError: it is not.
    """
    if kind in ("tensorboard", "wandb") and not _installed(kind):
        raise ConfigError(f"track.tracker is {kind}, which is not installed: pip install {kind}; or leave it at auto")


def open_tracker(config: TrackConfig, out: Path, settings: Mapping[str, Any], done: int) -> Tracker:
    """The tracker that the settings name, going on where an earlier start of the run ended.

    Args:
        config: which one.
        out: the run's folder. TensorBoard's files are in its `tensorboard` folder; `wandb.id` names the run at wandb,
            which is one run for all starts.
        settings: the run's settings, told as hyper-parameters.
        done: optimiser steps done; what TensorBoard was told of later ones is taken back.

    Raises:
        ConfigError: it is not installed, or does not start.
    """
    check(config.tracker)
    kind = config.tracker
    if kind == "auto":
        kind = "tensorboard" if _installed("tensorboard") else "none"
    if kind == "none":
        return Tracker()
    from accelerate import PartialState

    PartialState()  # accelerate's trackers log through it
    if kind == "tensorboard":
        return Tracker(_tensorboard(out, done, leaves(settings)))
    return Tracker(_wandb(config.project, out, leaves(settings)))


def _tensorboard(out: Path, done: int, settings: Mapping[str, Any]) -> Any:
    from accelerate.tracking import TensorBoardTracker

    first = not (out / "tensorboard").exists()
    listener = TensorBoardTracker("tensorboard", out, purge_step=done + 1)
    listener.start()
    if first:  # each time would make another line in TensorBoard's table
        listener.store_init_configuration(settings)
    return listener


def _wandb(project: str, out: Path, settings: Mapping[str, Any]) -> Any:
    from accelerate.tracking import WandBTracker

    wandb: Any = importlib.import_module("wandb")  # typed only where it is installed
    place = out / "wandb.id"
    if not place.exists():
        write_text(place, secrets.token_hex(8))
    listener = WandBTracker(project, id=read_text(place).strip(), resume="allow", name=out.name, dir=str(out))
    try:
        listener.start()
    except wandb.Error as error:
        raise ConfigError(f"wandb does not start ({error}); log in with `wandb login`, set WANDB_MODE=offline, "
                          "or use another --track.tracker") from error  # fmt: skip
    listener.store_init_configuration(settings)
    return listener


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of the settings by their dotted names, lists as text."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= leaves(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value if isinstance(value, bool | int | float | str) else str(value)
    return found
