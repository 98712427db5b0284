"""`python -m vicuna`, `vicuna`: one door to every command."""

import sys

from vicuna.command import Command, dispatch

COMMANDS = {
    "quickstart": Command("vicuna.quickstart.run:command", "see it all on a laptop: data, training, serving, judging"),
    "data": Command("vicuna.data.__main__:main", "clean shared chats and split them to the context length"),
    "train": Command("vicuna.train.__main__:main", "train a tokenizer and a base model, fine-tune on conversations"),
    "serve": Command("vicuna.serve.__main__:main", "controller, workers, web demo, or a whole local stack"),
    "chat": Command("vicuna.chat.__main__:main", "talk to a served model in the terminal"),
    "eval": Command("vicuna.eval.__main__:main", "ask models questions, judge the answers, write the report"),
}


def main(argv: list[str] | None = None) -> int:
    """The package's command line."""
    words = sys.argv[1:] if argv is None else argv
    return dispatch("python -m vicuna", "From shared chats to a judged chatbot.", COMMANDS, words)


if __name__ == "__main__":
    sys.exit(main())
