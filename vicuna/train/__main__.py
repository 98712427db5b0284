"""`python -m vicuna.train`: fine-tune; `tokenizer` and `init` make what a base model starts from."""

import sys

from vicuna.command import Command, dispatch

PROG = "python -m vicuna.train"
COMMANDS = {
    "run": Command("vicuna.train.run:command", "train or fine-tune a model (what happens without a command too)"),
    "tokenizer": Command("vicuna.train.tokenizer:command", "train a BPE tokenizer on conversations"),
    "init": Command("vicuna.train.init:command", "make a LLaMA with random weights"),
}


def main(argv: list[str] | None = None) -> int:
    """The stage's command line; settings without a command mean `run`."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] not in COMMANDS:
        words = ["run", *words]
    return dispatch(PROG, "Fine-tune a base model on cleaned conversations.", COMMANDS, words)


if __name__ == "__main__":
    sys.exit(main())
