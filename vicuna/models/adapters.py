"""LoRA adapters for a model that is loaded and stays as it is.

A worker serves several adapters of one model, so their additions are kept apart from its weights. An adapter that does
not fit in every part is refused: computed in part, it would answer like nothing that was ever trained.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vicuna import manifest
from vicuna.errors import IncompleteError, InputError
from vicuna.models import load
from vicuna.models.adapter_folder import MERGE, SETTINGS, Settings, read_halves, read_settings
from vicuna.models.quantized import quiet_bitsandbytes

ALL = "all-linear"
"""How peft calls every linear layer but the output matrix."""


@dataclass(frozen=True, eq=False)
class Low:
    """A low-rank addition to a linear layer: for inputs x, scale · (x downᵀ) upᵀ is added to its outputs.

    Source: Hu et al. 2021, LoRA, arXiv 2106.09685, section 4.1.
    """

    down: torch.Tensor
    """(rank, inputs); peft's A."""
    up: torch.Tensor
    """(outputs, rank); peft's B."""
    scale: float


@dataclass(frozen=True, eq=False)
class Adapter:
    """Additions to linear layers of one model."""

    hash: str
    """Content hash of its folder."""
    layers: Mapping[str, Low]
    """By the name of the model's module; on its device and in its dtype."""


def load_adapter(path: str | Path, model: Any, *, checkpoint_hash: str, template_hash: str) -> Adapter:
    """The adapter in a folder.

    Args:
        path: folder with adapter_config.json and adapter_model.safetensors (or .bin).
        model: the base model, its weights quantised or not.
        checkpoint_hash: of the base model's folder.
        template_hash: of the template that prompts are made with.

    Raises:
        InputError: there is no such adapter, it is not plain LoRA, it does not fit the model, or it was trained on
            another one or with another template.
        IncompleteError: the folder's files are not those of its manifest, or tensors are missing.
    """
    check_origin(path, checkpoint_hash=checkpoint_hash, template_hash=template_hash)
    digest = adapter_hash(path)
    settings, halves = read_settings(Path(path)), read_halves(Path(path))
    linear = {name: each for name, each in model.named_modules() if hasattr(each, "in_features")}  # quantised ones too
    _refuse_layers(path, model, linear, halves)
    _need_targets(path, settings, model, linear, halves)
    layers = {}
    for name, (down, up) in halves.items():
        _check_shapes(path, name, linear[name], settings.rank_of(name), down, up)
        dtype = _dtype(linear[name], model)
        low = Low(down.to(model.device, dtype), up.to(model.device, dtype), settings.scale_of(name))
        if not (low.down.isfinite().all() and low.up.isfinite().all()):
            raise InputError(f"{path}: the tensors of {name} hold numbers that are not finite in {dtype}")
        layers[name] = low
    return Adapter(digest, layers)


def adapter_hash(path: str | Path) -> str:
    """The content hash of an adapter's folder.

    Raises:
        InputError: there is no such folder.
        IncompleteError: it is not as its manifest says.
    """
    load.need_folder(path, "an adapter")
    return load.checkpoint_hash(path)


def served_hash(base: str, *, adapter: str = "", quantize: str = "") -> str:
    """One hash for all that decides what a served model computes; workers of equal hash stand in for each other.

    Args:
        base: of the checkpoint.
        adapter: of the adapter on it; empty for none.
        quantize: what its weights were stored in while loading; empty for nothing.
    """
    if not adapter and not quantize:
        return base
    return hashlib.sha256(f"{base}\nadapter {adapter}\nquantize {quantize}\n".encode()).hexdigest()


def check_origin(path: str | Path, *, checkpoint_hash: str, template_hash: str) -> None:
    """Raise if the adapter's manifest names another base model or another template; one from elsewhere has none.

    Args:
        path: the adapter's folder.
        checkpoint_hash, template_hash: as for `load_adapter`.

    Raises:
        InputError: it does, or there is no such folder.
        IncompleteError: the manifest is damaged.
    """
    load.need_folder(path, "an adapter")
    found = manifest.find(path)
    if found is None:
        return
    if found.kind != "adapter":
        raise InputError(f"{path} is of kind {found.kind}, not an adapter; serve it as a model")
    for what, trained, served in (
        ("base model", found.parents.get("base"), checkpoint_hash),
        (f"template {found.facts.get('template')}", found.facts.get("template_hash"), template_hash),
    ):
        if trained and trained != served:
            raise InputError(
                f"{path} was trained with the {what} of hash {trained[:12]}, and this worker's has {served[:12]}"
            )


def _refuse_layers(path: str | Path, model: Any, linear: Mapping[str, nn.Module], halves: Mapping[str, Any]) -> None:
    """Raise for layers that the model does not have, and for those that see only some of a step's tokens."""
    if odd := sorted(set(halves) - set(linear)):
        raise InputError(
            f"{path} is for another model: this one has no linear layer {odd[0]}, nor {len(odd) - 1} more of "
            f"{len(halves)}"
        )
    head = model.get_output_embeddings()
    for name in halves:
        if linear[name] is head or "experts" in name.split("."):
            raise InputError(
                f"{path}: additions to the output matrix and to experts are not served, and this adapter has one to "
                f"{name}; {MERGE}"
            )


def _need_targets(
    path: str | Path, settings: Settings, model: Any, linear: Mapping[str, nn.Module], halves: Mapping[str, Any]
) -> None:
    """Raise unless every layer that the settings name has an addition; which ones they name, peft decides."""
    targets = settings.targets.target_modules
    if targets is None:
        return
    if targets == ALL:
        head = model.get_output_embeddings()
        wanted = {name for name, each in linear.items() if each is not head}
    else:
        quiet_bitsandbytes()
        from peft.tuners.tuners_utils import check_target_module_exists

        with load.readable(f"{path}/{SETTINGS}: its target_modules cannot be used"):
            wanted = {name for name in linear if check_target_module_exists(settings.targets, name)}
    if lost := sorted(wanted - set(halves)):
        raise IncompleteError(
            f"{path}: {len(lost)} layers that {SETTINGS} names have no tensors, e.g. {lost[0]}; fetch or make the "
            "adapter again"
        )


def _check_shapes(
    path: str | Path, name: str, layer: nn.Module, rank: int, down: torch.Tensor, up: torch.Tensor
) -> None:
    """Raise unless both halves have the shapes that the settings and the layer ask for."""
    shapes, wanted = [list(down.shape), list(up.shape)], [[rank, layer.in_features], [layer.out_features, rank]]
    if shapes != wanted:
        raise InputError(
            f"{path}: the halves of {name} have shapes {shapes[0]} and {shapes[1]}; its rank and the model ask for "
            f"{wanted[0]} and {wanted[1]}"
        )


def _dtype(layer: nn.Module, model: Any) -> torch.dtype:
    """What a layer computes in: its weights' type, or the model's where they are quantised."""
    weight = getattr(layer, "weight", None)
    if isinstance(weight, torch.Tensor) and weight.is_floating_point() and weight.itemsize > 1:
        return weight.dtype
    dtype: torch.dtype = model.dtype
    return dtype
