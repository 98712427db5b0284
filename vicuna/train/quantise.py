"""A frozen base model in 4 bits (QLoRA), of which every rank holds a whole copy."""

from pathlib import Path
from typing import Any

import torch

from vicuna.models.load import load_model
from vicuna.models.quantized import bitsandbytes


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
    model = load_model(path, dtype, device, quantize="nf4", config=model_config)
    for module in model.modules():
        # On some CPUs a pass in evaluation mode would repack the weights for good, and no backward pass reads that.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model.requires_grad_(False)
