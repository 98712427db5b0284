"""A LLaMA with random weights, as an ordinary checkpoint folder."""

from typing import Any

from vicuna import manifest
from vicuna.config import to_dict
from vicuna.models.load import checkpoint_hash, load_tokenizer, quiet_transformers
from vicuna.train.config import InitConfig
from vicuna.train.figures import count

PLACES = ("tokenizer", "out")
"""Settings that are no part of what is made: the tokenizer's content hash stands for its path."""


def main(config: InitConfig) -> None:
    """Write config, weights and tokenizer; finished work with the same settings is kept, other work is not touched."""
    parents = {"tokenizer": checkpoint_hash(config.tokenizer)}
    identity = {key: value for key, value in to_dict(config).items() if key not in PLACES}
    if manifest.matches(config.out, "checkpoint", parents, identity):
        print(f"{config.out} is made already")
        return
    facts: dict[str, Any] = {}
    with manifest.making(config.out, "checkpoint", parents=parents, config=identity, facts=facts) as part:
        tokenizer = load_tokenizer(config.tokenizer)
        model = _model(config, tokenizer)
        facts["parameters"] = model.num_parameters()
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
    print(f"LLaMA of {count(facts['parameters'])} random weights in {config.out}")


def _model(config: InitConfig, tokenizer: Any) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    quiet_transformers()
    torch.manual_seed(config.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=config.hidden, num_hidden_layers=config.layers,
            num_attention_heads=config.heads, num_key_value_heads=config.heads, intermediate_size=config.intermediate,
            max_position_embeddings=config.max_length, tie_word_embeddings=config.tie,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
