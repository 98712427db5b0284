"""The settings of a hosted model as vLLM's engine arguments. Nothing of vLLM is imported here."""

import difflib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from vicuna.errors import ConfigError, InputError
from vicuna.files import read_json
from vicuna.serve.config import AdapterConfig, HostedConfig

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks of adapters that vLLM makes room for (its `MaxLoRARanks`)."""
DTYPES = ("float32", "bfloat16", "float16")
SET_BY = {
    "model": "model.path",
    "max_model_len": "model.max_length",
    "dtype": "engine.dtype",
    "max_num_seqs": "engine.slots",
    "enable_prefix_caching": "engine.prefix_cache",
    "gpu_memory_utilization": "engine.vllm.memory",
    "tensor_parallel_size": "engine.vllm.tensor_parallel",
    "enable_lora": "adapters",
    "max_lora_rank": "adapters",
    "skip_tokenizer_init": "the worker, which has the tokenizer itself",
    "disable_log_stats": "the worker, which reads vLLM's numbers itself",
    "data_parallel_size": "the number of workers: start one for each copy of the model",
}
"""Arguments that other settings decide, and which."""


def arguments(config: HostedConfig, max_length: int, known: Collection[str]) -> dict[str, Any]:
    """vLLM's engine arguments.

    Args:
        config: the model, its adapters and the engine's settings.
        max_length: most tokens of prompt and answer together.
        known: the arguments that this vLLM has.

    Raises:
        ConfigError: `engine.vllm.arguments` names one that there is not, or that another setting decides; or a setting
            is not for vLLM.
        InputError: an adapter does not state its rank.
    """
    engine = config.engine
    if engine.quantize:
        raise ConfigError(
            "engine.quantize is for the engine transformers; vLLM quantises with engine.vllm.arguments "
            """'{"quantization": "fp8"}', and serves folders that are quantised already as they are"""
        )
    made: dict[str, Any] = {
        "model": config.model.path,
        "skip_tokenizer_init": True,
        "max_model_len": max_length,
        "dtype": _dtype(engine.dtype),
        "enable_prefix_caching": engine.prefix_cache,
        "gpu_memory_utilization": engine.vllm.memory,
        "tensor_parallel_size": engine.vllm.tensor_parallel,
        "disable_log_stats": True,
    }
    if engine.slots:
        made["max_num_seqs"] = engine.slots
    if config.adapters:
        made |= {"enable_lora": True, "max_loras": len(config.adapters), "max_lora_rank": _room(config.adapters)}
    return made | _more(engine.vllm.arguments, known)


def _more(text: str, known: Collection[str]) -> dict[str, Any]:
    """The arguments that the operator gives beside our settings."""
    given: dict[str, Any] = json.loads(text or "{}")
    for name in given:
        if name in SET_BY:
            raise ConfigError(f"engine.vllm.arguments: {name} is decided by {SET_BY[name]}; leave it out")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"engine.vllm.arguments: this vLLM has no engine argument {name}{hint}")
    return given


def _dtype(name: str) -> str:
    """As the engine `transformers` chooses it on a GPU, so that the two give the same answers."""
    if name == "auto":
        return "bfloat16"
    if name not in DTYPES:
        raise ConfigError(f"engine.dtype is {', '.join(DTYPES)} or auto; got {name!r}")
    return name


def _room(adapters: Collection[AdapterConfig]) -> int:
    """The smallest rank that vLLM makes room for and that all adapters fit into."""
    highest, path = max((_rank(adapter.path), adapter.path) for adapter in adapters)
    for room in RANKS:
        if room >= highest:
            return room
    raise InputError(f"{path}: vLLM serves adapters of rank {RANKS[-1]} at most; this one has rank {highest}")


def _rank(path: str) -> int:
    place = Path(path) / "adapter_config.json"
    found = read_json(place)
    try:
        return max([int(found["r"]), *(int(rank) for rank in (found.get("rank_pattern") or {}).values())])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{place} does not state the adapter's rank (r)") from error
