"""A frozen base model in 4 bits (QLoRA), of which every rank holds a whole copy."""

import importlib.util
import logging
from pathlib import Path
from typing import Any

import torch

from vicuna.errors import ConfigError
from vicuna.models.load import load_model


def quiet_bitsandbytes() -> None:
    """No warning at its import, which peft does too, of a missing kernel that only generating on a CPU would use."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def bitsandbytes(setting: str) -> Any:
    """The package bitsandbytes.

    Args:
        setting: what asks for it, with its value, such as "lora.kind qlora".

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(f"{setting} needs the package bitsandbytes; install it with: pip install bitsandbytes")
    quiet_bitsandbytes()
    import bitsandbytes

    return bitsandbytes


def load_in_4bit(path: str | Path, dtype: torch.dtype, device: torch.device, model_config: Any) -> Any:
    """The causal language model in a folder, its linear layers in 4 bits, all of it frozen.

    The 4 bits are NF4 with doubly quantised scales; embeddings, norms and the output matrix stay in `dtype`.

    Args:
        path: a model folder.
        dtype: what products are computed in.
        device: where this rank computes.
        model_config: transformers' configuration of the model, with scaled positions if it has them.

    Raises:
        ConfigError: bitsandbytes is not installed.
        InputError, IncompleteError: the folder's model cannot be read.

    Source: Dettmers et al. 2023, QLoRA, arXiv 2305.14314, section 3.
    """
    bitsandbytes("lora.kind qlora")
    from transformers import BitsAndBytesConfig

    four = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    model = load_model(
        path, dtype, device, config=model_config, quantization_config=four, device_map={"": device}
    )  # fmt: skip
    for module in model.modules():
        # On some CPUs a pass in evaluation mode would repack the weights for good, and no backward pass reads that.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model.requires_grad_(False)
