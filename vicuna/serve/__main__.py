"""`python -m vicuna.serve COMMAND`: the serving stage from the command line."""

import sys

from vicuna import lifeline
from vicuna.command import Command, dispatch

COMMANDS = {
    "controller": Command("vicuna.serve.controller:command", "Keep the fleet and answer the OpenAI-compatible API."),
    "worker": Command("vicuna.serve.worker:command", "Load a model and answer for it in one or more fleets."),
    "web": Command("vicuna.serve.web.command:command", "Serve the chat page."),
    "drain": Command("vicuna.serve.drain:command", "Take workers out of the fleet without losing an answer."),
    "key": Command("vicuna.serve.access.keys:command", "Make, list and withdraw API keys."),
    "secret": Command("vicuna.serve.net.secret:command", "Make a fleet's secret."),
    "up": Command("vicuna.serve.up:command", "Run a whole stack on this machine from one file."),
}


def main(argv: list[str] | None = None) -> int:
    """Run one of the serving commands and return its exit status."""
    lifeline.watch()
    words = sys.argv[1:] if argv is None else argv
    return dispatch("python -m vicuna.serve", "Serve chatbots to programs and people.", COMMANDS, words)


if __name__ == "__main__":
    sys.exit(main())
