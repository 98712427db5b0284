"""`python -m vicuna.data`: the data commands."""

import sys

from vicuna.command import Command, dispatch

COMMANDS = {
    "clean": Command("vicuna.data.commands:clean", "shared chats → training conversations, ledger and report"),
    "split": Command("vicuna.data.commands:split", "cut cleaned conversations to a context length"),
    "stats": Command("vicuna.data.tools.stats:command", "count rounds, lengths, languages, models and sources"),
    "inspect": Command("vicuna.data.tools.inspect:command", "show one conversation as text, prompt, tokens and mask"),
    "sample": Command("vicuna.data.tools.sample:command", "draw conversations at random, reproducibly"),
    "split-train-test": Command(
        "vicuna.data.tools.split_train_test:command", "a training and a test set without near-duplicates across"
    ),
    "merge": Command("vicuna.data.tools.merge:command", "several files as one dataset with unique ids"),
    "convert": Command("vicuna.data.tools.convert:command", "another layout or format: messages, sharegpt, Parquet"),
    "extract": Command("vicuna.data.tools.extract:command", "the conversations of a model, language or length"),
    "identity": Command("vicuna.data.tools.identity:command", "conversations in which a model says who it is"),
    "fingerprint": Command("vicuna.data.fingerprint:command", "evaluation questions → hashes that recognise them"),
    "corpus": Command("vicuna.data.corpus.command:command", "write the sample corpus of raw pages"),
}


def main(argv: list[str]) -> int:
    """Run one data command; returns the exit status."""
    return dispatch("python -m vicuna.data", "Turn shared chats into training conversations.", COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
