"""Train a tokenizer with LLaMA's own settings, and write it in both forms that LLaMA checkpoints have.

    python llama_tokenizer.py TEXT OUT [SIZE]      (needs sentencepiece and transformers 4: FastChat's environment)

`tokenizer.model` is what FastChat reads (`use_fast=False`), `tokenizer.json` what everybody else does. Same tokens.
"""

import json
import os
import sys
from pathlib import Path

VOCABULARY = 16_000


def main() -> None:
    """Train and write; the configuration comes last."""
    import sentencepiece  # type: ignore[import-not-found]
    from transformers import LlamaTokenizerFast

    text, out = Path(sys.argv[1]), Path(sys.argv[2])
    size = int(sys.argv[3]) if len(sys.argv) > 3 else VOCABULARY
    out.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(out / "tokenizer"), vocab_size=size, model_type="bpe",
        byte_fallback=True, character_coverage=0.9995, normalization_rule_name="identity",
        remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=os.cpu_count(), max_sentence_length=20_000,
        input_sentence_size=200_000, minloglevel=2,
    )  # fmt: skip
    LlamaTokenizerFast(vocab_file=str(out / "tokenizer.model"), legacy=True, add_prefix_space=True).save_pretrained(out)
    path = out / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {"tokenizer_class": "LlamaTokenizer", "legacy": True, "model_max_length": 2048}
    path.write_text(json.dumps(settings, indent=1), encoding="utf-8")
    (out / "tokenizer.vocab").unlink()


if __name__ == "__main__":
    main()
