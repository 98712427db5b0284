"""llama.cpp's server over a LLaMA in float32; runs in the environment of xllamacpp. Not run by hand: engine.py does.

    python engine_llama.py MODEL FILE.gguf --port 8001 --parallel 32

The file is made where there is none. Names of tensors and settings are those of llama.cpp's own converter
(convert_hf_to_gguf.py), which rotary positions are paired in another way than transformers pairs them.
"""

import argparse
import json
import signal
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import xllamacpp
from safetensors.numpy import load_file

LAYER = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
REST = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def convert(folder: Path, path: Path) -> None:
    """Write the model in `folder` as a GGUF file."""
    settings = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(str(path), "llama")
    heads = settings["num_attention_heads"]
    writer.add_context_length(settings["max_position_embeddings"])
    writer.add_embedding_length(settings["hidden_size"])
    writer.add_feed_forward_length(settings["intermediate_size"])
    writer.add_block_count(settings["num_hidden_layers"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(settings["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(settings["rms_norm_eps"])
    writer.add_rope_dimension_count(settings["hidden_size"] // heads)
    writer.add_rope_freq_base(settings["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(settings["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_tokenizer(writer, folder, settings)
    for name, tensor in load_file(folder / "model.safetensors").items():
        writer.add_tensor(*_converted(name.removesuffix(".weight"), tensor.astype(np.float32), heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, folder: Path, settings: dict[str, Any]) -> None:
    words = json.loads((folder / "tokenizer.json").read_text())
    vocabulary: dict[str, int] = words["model"]["vocab"]
    special = {each["content"] for each in words["added_tokens"]}
    names = sorted(vocabulary, key=vocabulary.__getitem__)
    kinds = [gguf.TokenType.CONTROL if name in special else gguf.TokenType.NORMAL for name in names]
    writer.add_tokenizer_model("gpt2")  # byte-level BPE
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    writer.add_token_merges(
        [merge if isinstance(merge, str) else " ".join(merge) for merge in words["model"]["merges"]]
    )
    writer.add_bos_token_id(settings["bos_token_id"])
    writer.add_eos_token_id(settings["eos_token_id"])
    writer.add_pad_token_id(settings["pad_token_id"])
    writer.add_add_bos_token(False)
    writer.add_chat_template(json.loads((folder / "tokenizer_config.json").read_text())["chat_template"])


def _converted(name: str, tensor: np.ndarray, heads: int) -> tuple[str, np.ndarray]:
    if name in REST:
        return f"{REST[name]}.weight", tensor
    number, _, part = name.removeprefix("model.layers.").partition(".")
    if part in ("self_attn.q_proj", "self_attn.k_proj"):  # first and second half of each head → pairs of neighbours
        halves = tensor.reshape(heads, 2, -1, tensor.shape[1])
        tensor = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(tensor.shape)
    return f"blk.{number}.{LAYER[part]}.weight", tensor


def serve(path: Path, port: int, parallel: int, context: int) -> Any:
    """Start the server; it runs in threads of this process until it is dropped."""
    wanted = xllamacpp.CommonParams()
    wanted.model.path = str(path)
    wanted.hostnames = ["127.0.0.1"]
    wanted.port = port
    wanted.n_parallel = parallel
    wanted.n_ctx = context * parallel
    wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = 1
    wanted.cache_ram_mib = 0  # else it copies what a slot held before every new prompt
    return xllamacpp.Server(wanted)


def main() -> None:
    """Convert and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("path", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--parallel", type=int, default=32)
    parser.add_argument("--context", type=int, default=4096, help="tokens of each of them")
    options = parser.parse_args()
    if not options.path.exists():
        convert(options.folder, options.path)
    server = serve(options.path, options.port, options.parallel, options.context)
    print(f"listens at {server.listening_address}", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
