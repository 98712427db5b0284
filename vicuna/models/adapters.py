"""LoRA adapters in the format of the library peft: read without changing the model that they are for.

A worker serves several adapters of one model, so their additions are kept apart from its weights. What is not plain
LoRA on linear layers is refused: an adapter that is computed in part answers like nothing that was ever trained.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from vicuna import manifest
from vicuna.errors import IncompleteError, InputError
from vicuna.files import read_json
from vicuna.models.load import checkpoint_hash, readable

SETTINGS, SAFE, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
"""File names as peft reads them."""
_HALF = re.compile(r"(?:base_model\.model\.)?(?P<layer>.+)\.lora_(?P<half>[AB])\.weight")
"""How peft names the tensors of an addition, in a file."""
_KNOWN = frozenset(
    "peft_type task_type peft_version base_model_name_or_path revision auto_mapping inference_mode "
    "r lora_alpha rank_pattern alpha_pattern use_rslora "
    "target_modules exclude_modules layers_to_transform layers_pattern "
    "bias init_lora_weights lora_dropout loftq_config eva_config corda_config lora_ga_config velora_config "
    "megatron_core qalora_group_size ensure_weight_tying".split()
)
"""Settings that are read here, that only matter in training, or that do nothing without another one. Any other that is
set changes what an adapter computes, for all that is known here."""
_BEGINNINGS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")
"""Ways to begin an adapter (`init_lora_weights`) that leave the base model's weights as they are."""


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
    """The adapter in a folder, for a model that is loaded and stays as it is.

    Args:
        path: folder with adapter_config.json and adapter_model.safetensors (or .bin).
        model: the base model, its weights quantised or not.
        checkpoint_hash, template_hash: of the base model as it is served.

    Raises:
        InputError: there is no such adapter, it is not plain LoRA, it does not fit the model, or it was trained on
            another one or with another template.
        IncompleteError: the folder's files are not those of its manifest, or tensors are missing.
    """
    check_origin(path, checkpoint_hash=checkpoint_hash, template_hash=template_hash)
    settings = _read_settings(Path(path))
    pairs = _pairs(path, _read_tensors(Path(path)))
    _need_all_targets(path, settings, model, set(pairs))
    layers = {name: _fitted(path, name, *pair, settings, model) for name, pair in sorted(pairs.items())}
    return Adapter(adapter_hash(path), layers)


def adapter_hash(path: str | Path) -> str:
    """The content hash of an adapter's folder.

    Raises:
        InputError: there is no such folder.
        IncompleteError: it is not as its manifest says.
    """
    _need_folder(path)
    return checkpoint_hash(path)


def served_hash(base: str, *, adapter: str = "", quantize: str = "") -> str:
    """One hash for all that decides what a served model computes; workers of equal hash stand in for each other.

    Args:
        base: of the checkpoint.
        adapter: of the adapter on it; empty for none.
        quantize: into what its weights were quantised while loading; empty for nothing.
    """
    if not adapter and not quantize:
        return base
    return hashlib.sha256(f"{base}\nadapter {adapter}\nquantize {quantize}\n".encode()).hexdigest()


def check_origin(path: str | Path, *, checkpoint_hash: str, template_hash: str) -> None:
    """Raise if the adapter's manifest names another base model or another template; one from elsewhere has none.

    Args:
        path: the adapter's folder.
        checkpoint_hash, template_hash: of the base model as it is served.

    Raises:
        InputError: it does, or there is no such folder.
        IncompleteError: the manifest is damaged.
    """
    _need_folder(path)
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


def _need_folder(path: str | Path) -> None:
    if not Path(path).is_dir():
        raise InputError(f"{path} is not a folder, so there is no adapter to load")


# ----------------------------------------------------------------------------------------------- settings
@dataclass(frozen=True)
class _Settings:
    """What decides the additions."""

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    """For layers whose names match: another rank."""
    alphas: Mapping[str, float]
    is_rooted: bool
    """Divide by the root of the rank."""
    targets: SimpleNamespace
    """Which layers have additions, as peft's own function reads it."""

    def rank_of(self, name: str) -> int:
        """The rank of a layer's addition."""
        return int(_matching(self.ranks, name, self.rank))

    def scale_of(self, name: str) -> float:
        """The factor of a layer's addition; the root is that of Kalajdzievski 2023, rsLoRA, arXiv 2312.03732."""
        rank = self.rank_of(name)
        return float(_matching(self.alphas, name, self.alpha)) / (rank**0.5 if self.is_rooted else rank)


def _matching(patterns: Mapping[str, float], name: str, otherwise: float) -> float:
    """The value of the first pattern that a layer's name ends with; peft's `get_pattern_key` decides alike."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), otherwise)


def _read_settings(path: Path) -> _Settings:
    place = path / SETTINGS
    found = read_json(place)
    if not isinstance(found, dict) or "peft_type" not in found:
        raise InputError(f"{place} holds no settings of an adapter")
    _refuse_others(place, found)
    try:
        read = _Settings(
            rank=int(found["r"]),
            alpha=float(found["lora_alpha"]),
            ranks={re.compile(key).pattern: int(value) for key, value in (found.get("rank_pattern") or {}).items()},
            alphas={re.compile(key).pattern: float(value) for key, value in (found.get("alpha_pattern") or {}).items()},
            is_rooted=bool(found.get("use_rslora")),
            targets=SimpleNamespace(
                target_modules=found["target_modules"], exclude_modules=found.get("exclude_modules"),
                layers_to_transform=found.get("layers_to_transform"), layers_pattern=found.get("layers_pattern"),
            ),
        )  # fmt: skip
    except KeyError as error:
        raise InputError(f"{place} has no {error.args[0]}") from error
    except (TypeError, ValueError, AttributeError, re.error) as error:
        raise InputError(f"{place}: its r, lora_alpha or patterns cannot be read: {error}") from error
    if min(read.rank, *read.ranks.values()) < 1:
        raise InputError(f"{place}: a rank is at least 1; got {min(read.rank, *read.ranks.values())}")
    return read


def _refuse_others(place: Path, found: Mapping[str, Any]) -> None:
    """Raise for whatever is not plain LoRA."""
    if found["peft_type"] != "LORA":
        raise InputError(f"{place}: only adapters of type LORA are served; this one is of type {found['peft_type']}")
    odd = {name: value for name, value in found.items() if name not in _KNOWN and value}
    if found.get("bias", "none") != "none":
        odd["bias"] = found["bias"]
    if found.get("init_lora_weights") not in _BEGINNINGS:  # it changed the base model's weights when training began
        odd["init_lora_weights"] = found["init_lora_weights"]
    if odd:
        name, value = min(odd.items())
        raise InputError(
            f"{place}: only plain LoRA is served, and {name} is {str(value)[:100]}; merge the adapter into its base "
            "model with peft's merge_and_unload and serve that"
        )


# ----------------------------------------------------------------------------------------------- tensors
def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The file's tensors by name, in main memory."""
    with readable(f"{path} holds no weights of an adapter that can be read"):
        if (path / SAFE).is_file():
            from safetensors.torch import load_file

            return load_file(path / SAFE)
        if (path / PICKLED).is_file():
            found: dict[str, torch.Tensor] = torch.load(path / PICKLED, map_location="cpu", weights_only=True)
            return found
    raise InputError(f"{path} holds no weights of an adapter ({SAFE} or {PICKLED})")


def _pairs(path: str | Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The two halves of each layer's addition.

    Raises:
        InputError: a tensor is something else.
        IncompleteError: a half is missing.
    """
    halves: dict[str, dict[str, torch.Tensor]] = {"A": {}, "B": {}}
    for name, tensor in tensors.items():
        found = _HALF.fullmatch(name)
        if found is None:
            raise InputError(f"{path}: only plain LoRA of linear layers is served, and the tensor {name} is none")
        halves[found["half"]][found["layer"]] = tensor
    down, up = halves["A"], halves["B"]
    if alone := sorted(set(down) ^ set(up)):
        lost = "B" if alone[0] in down else "A"
        raise IncompleteError(f"{path}: {alone[0]}.lora_{lost}.weight is missing; fetch or make the adapter again")
    if not down:
        raise InputError(f"{path}: the adapter has no tensors")
    return {name: (down[name], up[name]) for name in down}


def _need_all_targets(path: str | Path, settings: _Settings, model: Any, names: set[str]) -> None:
    """Raise unless every layer that the settings name has an addition in the file.

    Source: which layers they name is decided by peft's own function.
    """
    if settings.targets.target_modules is None:  # peft would choose by the kind of the model
        return
    from vicuna.models.quantized import quiet_bitsandbytes

    quiet_bitsandbytes()
    from peft.tuners.tuners_utils import check_target_module_exists

    with readable(f"{path}/{SETTINGS}: its target_modules cannot be read"):
        wanted = {name for name, each in _linear(model) if check_target_module_exists(settings.targets, name)}
    if lost := sorted(wanted - names):
        raise IncompleteError(
            f"{path}: {len(lost)} layers that {SETTINGS} names have no tensors, e.g. {lost[0]}; fetch or make the "
            "adapter again"
        )
