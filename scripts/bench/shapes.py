"""The sizes of the LLaMA models that the benchmarks on a GPU make. Not run by hand."""

SHAPES: dict[str, dict[str, int]] = {
    # LLaMA 7B (Touvron et al. 2023, table 2)
    "7b": {"vocab_size": 32_000, "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 11_008,
           "num_attention_heads": 32, "num_key_value_heads": 32},
    # the layers of Llama 3.2 1B, with LLaMA's vocabulary
    "1b": {"vocab_size": 32_000, "hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192,
           "num_attention_heads": 32, "num_key_value_heads": 8},
    "tiny": {"vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128,
             "num_attention_heads": 4, "num_key_value_heads": 2},
}  # fmt: skip
