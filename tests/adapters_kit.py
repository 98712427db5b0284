"""LoRA adapters as the library peft makes them, with random halves, as if they had learnt something."""

import copy
from pathlib import Path
from typing import Any

import torch

from vicuna.models.quantized import quiet_bitsandbytes


def adapted(base: Any, seed: int, **options: Any) -> Any:
    """A copy of the model with an adapter around it."""
    quiet_bitsandbytes()
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": "all-linear"} | options)
    made = get_peft_model(copy.deepcopy(base), config).eval()
    draw = torch.Generator().manual_seed(seed)
    for name, value in made.named_parameters():
        if "lora_" in name:
            value.data.copy_(torch.randn(value.shape, generator=draw) * 0.1)
    return made


def store(base: Any, folder: Path, seed: int, **options: Any) -> Path:
    """A folder with such an adapter."""
    adapted(base, seed, **options).save_pretrained(folder)
    return folder
