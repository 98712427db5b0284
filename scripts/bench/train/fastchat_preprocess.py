"""FastChat's own `preprocess` over a file of conversations (run with FastChat's environment).

    python fastchat_preprocess.py CHATS.jsonl TOKENIZER [--slow] [--labels OUT.json]

Prints one line of JSON: conversations, CPU seconds of `preprocess` alone (no imports, no reading), peak memory, and the
number of its mismatch warnings. With --labels, the tokens, labels and character offsets of each conversation are kept.
"""

import argparse
import contextlib
import io
import json
import resource
import time
from typing import Any


def loaded(folder: str, fast: bool) -> Any:
    """The tokenizer as FastChat's trainer loads it, with what `preprocess` needs where the tokenizer has none."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=fast, model_max_length=2048, padding_side="right")
    if tokenizer.unk_token is not None:
        tokenizer.pad_token = tokenizer.unk_token
    elif tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    if not hasattr(tokenizer, "legacy"):
        tokenizer.legacy = True  # else an AttributeError at the second turn
    return tokenizer


def main() -> None:
    """Preprocess, and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chats")
    parser.add_argument("tokenizer")
    parser.add_argument("--slow", action="store_true", help="the tokenizer in Python, FastChat's default")
    parser.add_argument("--labels", help="file for tokens, labels and offsets")
    options = parser.parse_args()

    import torch
    from fastchat.conversation import get_conv_template
    from fastchat.train.train import preprocess

    torch.set_num_threads(1)
    tokenizer = loaded(options.tokenizer, not options.slow)
    with open(options.chats, encoding="utf-8") as file:
        chats = [json.loads(line)["conversations"] for line in file]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        preprocess(chats[:2], tokenizer)
        said.truncate(0)
        started = time.process_time()
        made = preprocess(chats, tokenizer)
        seconds = time.process_time() - started
    if options.labels:
        _keep(options.labels, chats, tokenizer, made, get_conv_template("vicuna_v1.1"))
    print(json.dumps({
        "conversations": len(chats), "cpu": seconds, "mismatches": said.getvalue().count("tokenization mismatch"),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }))  # fmt: skip


def _keep(path: str, chats: list[Any], tokenizer: Any, made: Any, template: Any) -> None:
    """Tokens and labels without padding, and where each token stands in the prompt."""
    rows = []
    for chat, ids, labels in zip(chats, made["input_ids"].tolist(), made["labels"].tolist(), strict=True):
        template.messages = []
        for turn in chat:
            template.append_message(template.roles[turn["from"] == "gpt"], turn["value"])
        prompt = template.get_prompt()
        placed = tokenizer(prompt, return_offsets_mapping=True, truncation=True, max_length=2048)
        size = len(placed.input_ids)
        assert placed.input_ids == ids[:size]
        rows.append({"prompt": prompt, "offsets": placed.offset_mapping, "learnt": [n != -100 for n in labels[:size]]})
    with open(path, "w", encoding="utf-8") as file:
        json.dump(rows, file)


if __name__ == "__main__":
    main()
