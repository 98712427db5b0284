"""A LLaMA with random weights, as an ordinary checkpoint folder."""

from vicuna import manifest
from vicuna.config import to_dict
from vicuna.models.load import checkpoint_hash, load_tokenizer, quiet_transformers
from vicuna.train.config import InitConfig


def main(config: InitConfig) -> None:
    """Write config, weights and tokenizer; finished work with the same settings is kept."""
    tokenizer = load_tokenizer(config.tokenizer)
    parents = {"tokenizer": checkpoint_hash(config.tokenizer)}
    if manifest.matches(config.out, "checkpoint", parents, to_dict(config)):
        print(f"{config.out} is made already")
        return

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    quiet_transformers()
    torch.manual_seed(config.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=config.hidden, num_hidden_layers=config.layers,
            num_attention_heads=config.heads, num_key_value_heads=config.heads, intermediate_size=config.intermediate,
            max_position_embeddings=config.max_length, tie_word_embeddings=config.tie,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    model.save_pretrained(config.out)
    tokenizer.save_pretrained(config.out)
    facts = {"parameters": model.num_parameters()}
    manifest.write(config.out, "checkpoint", parents=parents, config=to_dict(config), facts=facts)
    print(f"LLaMA of {model.num_parameters() / 1e6:.1f} million random weights in {config.out}")
