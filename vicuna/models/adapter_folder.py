"""What a folder in the format of the library peft holds of a LoRA adapter; whatever is not plain LoRA is refused."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from vicuna.errors import IncompleteError, InputError
from vicuna.files import read_json
from vicuna.models.load import readable

if TYPE_CHECKING:
    import torch

SETTINGS, SAFE, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
"""File names as peft reads them."""
MERGE = "merge it into its base model with peft's merge_and_unload and serve that"
"""The way out for adapters that cannot be served."""
_HALF = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<half>[AB])\.weight")
"""How peft names the tensors of an addition, in a file."""
_KNOWN = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform",
    "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_core", "peft_type", "peft_version",
    "qalora_group_size", "r", "rank_pattern", "revision", "target_modules", "task_type", "use_rslora",
}  # fmt: skip
"""Settings that are read here, that only matter in training, or that do nothing without another one. Any other that is
set changes what an adapter computes, for all that is known here."""
_BEGINNINGS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")
"""Ways to begin an adapter (`init_lora_weights`) that leave the base model's weights as they are."""


@dataclass(frozen=True)
class Settings:
    """What decides the additions beside their tensors."""

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    """For layers whose names end with a pattern: another rank."""
    alphas: Mapping[str, float]
    is_rooted: bool
    """Divide by the root of the rank."""
    targets: SimpleNamespace
    """Which layers have additions, in peft's words: target_modules (None where that was left to peft), ..."""

    def rank_of(self, layer: str) -> int:
        """The rank of a layer's addition."""
        return int(_matching(self.ranks, layer, self.rank))

    def scale_of(self, layer: str) -> float:
        """The factor of a layer's addition; the root is that of Kalajdzievski 2023, rsLoRA, arXiv 2312.03732."""
        rank = self.rank_of(layer)
        return _matching(self.alphas, layer, self.alpha) / (rank**0.5 if self.is_rooted else rank)


def _matching(patterns: Mapping[str, float], layer: str, otherwise: float) -> float:
    """The value of the first pattern that matches; peft's own `get_pattern_key` (peft/utils/other.py) decides alike."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", layer)), otherwise)


def read_settings(path: Path) -> Settings:
    """The settings in an adapter's folder.

    Raises:
        InputError: there are none that can be read, or they are not those of plain LoRA.
    """
    place = path / SETTINGS
    found = read_json(place)
    if not isinstance(found, dict) or "peft_type" not in found:
        raise InputError(f"{place} holds no settings of an adapter")
    _refuse_others(place, found)
    try:
        return _parsed(found)
    except KeyError as error:
        raise InputError(f"{place} has no {error.args[0]}") from error
    except (TypeError, ValueError, AttributeError, re.error) as error:
        raise InputError(f"{place}: its r, lora_alpha or patterns cannot be used: {error}") from error


def _parsed(found: Mapping[str, Any]) -> Settings:
    ranks = {re.compile(key).pattern: int(value) for key, value in (found.get("rank_pattern") or {}).items()}
    alphas = {re.compile(key).pattern: float(value) for key, value in (found.get("alpha_pattern") or {}).items()}
    rank = int(found["r"])
    if (least := min([rank, *ranks.values()])) < 1:
        raise ValueError(f"a rank is at least 1; got {least}")
    where = ("exclude_modules", "layers_to_transform", "layers_pattern")
    targets = SimpleNamespace(target_modules=found["target_modules"], **{name: found.get(name) for name in where})
    return Settings(rank, float(found["lora_alpha"]), ranks, alphas, bool(found.get("use_rslora")), targets)


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
        name = min(odd)
        raise InputError(f"{place}: only plain LoRA is served, and {name} is {str(odd[name])[:100]}; {MERGE}")


def read_halves(path: Path) -> "dict[str, tuple[torch.Tensor, torch.Tensor]]":
    """The tensors in an adapter's folder: name of a layer → peft's A (rank, inputs) and B (outputs, rank).

    Raises:
        InputError: there are none that can be read, or one is not a half of an addition to a linear layer.
        IncompleteError: a half is missing.
    """
    halves: dict[str, dict[str, Any]] = {"A": {}, "B": {}}
    for name, tensor in _read_tensors(path).items():
        found = _HALF.fullmatch(name)
        if found is None:
            raise InputError(f"{path}: only plain LoRA of linear layers is served, and the tensor {name} is none")
        halves[found["half"]][found["layer"]] = tensor
    if alone := sorted(set(halves["A"]) ^ set(halves["B"])):
        lost = "B" if alone[0] in halves["A"] else "A"
        raise IncompleteError(f"{path}: {alone[0]}.lora_{lost}.weight is missing; fetch or make the adapter again")
    if not halves["A"]:
        raise InputError(f"{path}: the adapter has no tensors")
    return {name: (halves["A"][name], halves["B"][name]) for name in sorted(halves["A"])}


def _read_tensors(path: Path) -> "dict[str, torch.Tensor]":
    """The file's tensors by name, in main memory."""
    with readable(f"{path} holds no weights of an adapter that can be read"):
        if (path / SAFE).is_file():
            from safetensors.torch import load_file

            return load_file(path / SAFE)
        if (path / PICKLED).is_file():
            import torch

            found: dict[str, torch.Tensor] = torch.load(path / PICKLED, map_location="cpu", weights_only=True)
            return found
    raise InputError(f"{path} holds no weights of an adapter ({SAFE} or {PICKLED})")
