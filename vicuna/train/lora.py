"""Low-rank additions to frozen linear layers: made, begun, written as an adapter, merged into the weights.

peft puts them into the model itself, without a wrapper around it: what calls the model need not know of them.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vicuna.errors import ConfigError
from vicuna.files import write_json
from vicuna.models.quantized import quiet_bitsandbytes
from vicuna.train.config import LoraConfig

ALL = "all-linear"
_BASE = ".base_layer."
_A, _B = ".lora_A.default.", ".lora_B.default."
"""How peft names a wrapped layer's own weights, and those of an adapter called "default"."""


def add_adapter(model: Any, config: LoraConfig) -> None:
    """Freeze the model and give its linear layers low-rank additions, in float32, whose values are not set yet.

    Args:
        model: a causal language model of transformers, changed in place; it may be on the meta device, and its linear
            layers may be in 4 bits.
        config: which layers, and rank.

    Raises:
        ConfigError: a target is the name of no linear layer.
    """
    quiet_bitsandbytes()
    from peft import LoraConfig as PeftConfig
    from peft import TaskType, inject_adapter_in_model

    options = PeftConfig(
        task_type=TaskType.CAUSAL_LM, r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout,
        target_modules=_targets(model, config.targets),
    )  # fmt: skip
    inject_adapter_in_model(options, model, low_cpu_mem_usage=model.device.type == "meta")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_adapter(name))
        if is_adapter(name):
            parameter.data = parameter.data.float()  # peft takes the base's dtype


def _targets(model: Any, targets: tuple[str, ...]) -> list[str]:
    """Names of the layers that get an addition, all of which there are."""
    head = model.get_output_embeddings()
    linear = [name for name, each in model.named_modules() if isinstance(each, torch.nn.Linear) and each is not head]
    kinds = sorted({name.rpartition(".")[2] for name in linear})
    for target in targets:
        if target != ALL and not any(f".{name}".endswith(f".{target}") for name in linear):
            raise ConfigError(f"lora.targets: no linear layer is called {target}; there are {', '.join(kinds)}")
    return kinds if ALL in targets else sorted(targets)


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name is part of the addition."""
    return _A in name or _B in name


def base_name(name: str) -> str:
    """The name that a parameter of the model with an adapter has in the base model's files."""
    return name.replace(_BASE, ".")


def adapter_weights(model: Any, seed: int) -> Iterator[tuple[str, torch.Tensor]]:
    """The values that an adapter begins with: A is uniform, B is zero, so the model begins as its base.

    Args:
        model: one with an adapter; its parameters may be on any device, and split over the ranks.
        seed: decides A; the values are the same on every rank.

    Yields:
        (parameter's name, whole float32 tensor in main memory), in the model's order.

    Source: peft's own default, kaiming-uniform of a = sqrt(5), i.e. ± 1 / sqrt(inputs).
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if _A in name:
            yield name, torch.nn.init.kaiming_uniform_(torch.empty(parameter.shape), math.sqrt(5), generator=generator)
        elif _B in name:
            yield name, torch.zeros(parameter.shape)


def write_adapter(
    folder: Path, model: Any, tensors: Mapping[str, torch.Tensor], base: str
) -> tuple[Path, dict[str, torch.Tensor]]:
    """Write an adapter that `peft.PeftModel.from_pretrained` puts on the base model.

    Args:
        folder: a folder that is there.
        model: one with an adapter.
        tensors: the adapter's parameters by name, each whole and in main memory.
        base: path or hub name of the base model, as the adapter shall name it.

    Returns:
        the file with the weights, and what it holds, by peft's names.
    """
    options = model.peft_config["default"].to_dict() | {"inference_mode": True, "base_model_name_or_path": base}
    write_json(
        folder / "adapter_config.json",
        {key: sorted(value) if isinstance(value, set) else value for key, value in sorted(options.items())},
    )
    path = folder / "adapter_model.safetensors"
    named = {
        f"base_model.model.{name.replace('.default.', '.')}": tensors[name].contiguous() for name in sorted(tensors)
    }
    save_file(named, path, metadata={"format": "pt"})
    return path, named


def merged(name: str, weight: torch.Tensor, adapter: Mapping[str, torch.Tensor], config: LoraConfig) -> torch.Tensor:
    """A weight with its addition, W + alpha / rank · B A, computed in float32 and rounded once.

    For QLoRA too this is the base model's own weight and not the one in 4 bits.

    Args:
        name: in the base model's files.
        weight: whole, shape (outputs, inputs), in any dtype.
        adapter: the adapter's parameters by name.
        config: its scale.

    Returns:
        a tensor of the weight's dtype; the weight itself where it has no addition.
    """
    layer = name.removesuffix(".weight")
    a, b = adapter.get(f"{layer}{_A}weight"), adapter.get(f"{layer}{_B}weight")
    if a is None or b is None or not name.endswith(".weight"):
        return weight
    return torch.addmm(weight.float(), b.float(), a.float(), alpha=config.alpha / config.rank).to(weight.dtype)
