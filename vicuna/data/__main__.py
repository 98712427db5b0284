"""`python -m vicuna.data`: the data commands."""

import sys

from vicuna.command import Command, dispatch

COMMANDS = {
    "clean": Command("vicuna.data.pipeline:clean", "shared chats → training conversations, ledger and report"),
    "split": Command("vicuna.data.pipeline:split", "cut cleaned conversations to a context length"),
    "sample": Command("vicuna.data.sample.command:command", "write the sample corpus of raw pages"),
}


def main(argv: list[str]) -> int:
    """Run one data command; returns the exit status."""
    return dispatch("python -m vicuna.data", "Turn shared chats into training conversations.", COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
