"""The smallest real checkpoints: two layers, a tokenizer trained here, random weights."""

from pathlib import Path
from typing import Any

TEXT = [
    "A chat between a curious user and an artificial intelligence assistant.",
    "The quick brown fox jumps over the lazy dog. How are you today? I am fine, thank you!",
    "USER: Hello! ASSISTANT: Hi! naïve café 你好 🙂 Größe",
]


def tokenizer() -> Any:
    """A byte-level BPE tokenizer with BOS and EOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    backend.train_from_iterator(TEXT * 3, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def model(kind: str = "llama", vocabulary: int = 400, seed: int = 0, context: int = 512) -> Any:
    """A tiny model with random weights, in float64 so that equal computations do not differ in an argmax.

    Windows are shorter than most prompts of the tests.
    """
    import torch
    import transformers

    torch.manual_seed(seed)
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": context,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
        "initializer_range": 0.5,
    }
    grouped = shape | {"num_key_value_heads": 2}
    name, settings = {
        "llama": ("Llama", grouped),
        "mistral": ("Mistral", grouped | {"sliding_window": 16}),
        "qwen2": ("Qwen2", grouped | {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1}),
        "qwen3": ("Qwen3", grouped | {"head_dim": 16}),
        "neox": ("GPTNeoX", shape),
        "gemma2": ("Gemma2", grouped | {"head_dim": 8}),
        "gpt_oss": ("GptOss", grouped | {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1}),
        "mamba": ("Mamba", {"vocab_size": vocabulary, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    }[kind]
    made: Any = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**settings))
    return made.double().eval()


def checkpoint(folder: Path, seed: int = 0, context: int = 512) -> Path:
    """A folder with weights and tokenizer, as training would leave it (but for the manifest)."""
    words = tokenizer()
    model(vocabulary=len(words), seed=seed, context=context).float().save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
