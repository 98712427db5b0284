"""Weights in 8 or 4 bits: made while a model is loaded, or found in its folder."""

import importlib.util
import logging
from pathlib import Path
from typing import Any

from vicuna.errors import ConfigError, InputError
from vicuna.files import read_json

KINDS = ("int8", "nf4")
"""What weights can be stored in while they are loaded."""
_CHATTER = ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions")
"""Loggers of bitsandbytes."""


def quiet_bitsandbytes() -> None:
    """No warnings of a missing kernel for CPUs (at its import, which peft does too) and, for every product with weights
    in 8 bits, that it is computed in float16."""
    for name in _CHATTER:
        logging.getLogger(name).setLevel(logging.ERROR)


def bitsandbytes(what: str) -> Any:
    """The package bitsandbytes.

    Args:
        what: needs it, such as the setting "lora.kind qlora".

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(f"{what} needs the package bitsandbytes; install it with: pip install bitsandbytes")
    quiet_bitsandbytes()
    import bitsandbytes

    return bitsandbytes


def settings(kind: str, dtype: Any) -> Any:
    """transformers' settings that store the linear layers in fewer bits while a model is loaded.

    Embeddings, norms and the output matrix stay as they are. In int8, rows of weights and tokens have a scale each, and
    inputs beyond 6 are multiplied in float16; in nf4, 64 weights have a scale, and the scales are quantised again.

    Args:
        kind: "int8" or "nf4".
        dtype: torch dtype of what is not quantised, and of nf4's products.

    Raises:
        ConfigError: no such kind, or bitsandbytes is not installed.

    Source: Dettmers et al. 2022, LLM.int8(), arXiv 2208.07339; 2023, QLoRA, arXiv 2305.14314, section 3.
    """
    if kind not in KINDS:
        raise ConfigError(f"weights can be stored in {' or '.join(KINDS)}; got {kind!r}")
    bitsandbytes(f"storing weights in {kind}")
    from transformers import BitsAndBytesConfig

    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def options(path: str | Path, stored: str, kind: str, dtype: Any, device: Any) -> dict[str, Any]:
    """What transformers' `from_pretrained` has to be told of weights that are quantised, or are to be.

    Args:
        path: the model's folder.
        stored: how its weights are quantised already (`method`).
        kind: what to store them in; empty leaves them as they are.
        dtype, device: of the loaded model. Quantised weights are made for a device and not moved afterwards.

    Raises:
        ConfigError: no such kind, or bitsandbytes is needed and not installed.
        InputError: they would be quantised twice.
    """
    if stored and kind:
        raise InputError(f"{path} holds weights quantised with {stored} already; leave engine.quantize empty")
    if stored == "bitsandbytes":
        bitsandbytes(str(path))
    if stored:
        return {"device_map": {"": device}}
    return {"device_map": {"": device}, "quantization_config": settings(kind, dtype)} if kind else {}


def keep_dtype(model: Any) -> None:
    """Have weights in 4 bits computed in the model's dtype on every CPU.

    On some, bitsandbytes repacks them at the first pass for a kernel that computes in bfloat16, whatever was asked for,
    and fails at shapes that are not made of its tiles (bitsandbytes/functional.py, `_convert_weight_packed_for_cpu`).
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            fits = module.out_features % 32 == 0 and module.in_features % 64 == 0
            module.support_avx512bf16_for_cpu = fits and str(model.dtype) == "torch.bfloat16"


def method(path: str | Path) -> str:
    """How the weights in a model's folder are quantised, in transformers' words ("bitsandbytes", "gptq", ...); "" where
    they are not, or where nothing readable says so."""
    try:
        found = read_json(Path(path) / "config.json")
    except InputError:  # which whoever loads the model words better
        return ""
    said = found.get("quantization_config") if isinstance(found, dict) else None
    if not isinstance(said, dict):
        return ""
    return str(said.get("quant_method") or "bitsandbytes")  # which was the only one when folders named none
