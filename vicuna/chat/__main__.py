"""`python -m vicuna.chat`: the terminal client from the command line."""

import os
import sys

from vicuna import command
from vicuna.chat.config import ChatConfig
from vicuna.errors import VicunaError


def talk(config: ChatConfig) -> None:
    """Talk until the person leaves, or the input ends."""
    from vicuna.chat import terminal
    from vicuna.chat.client import Service
    from vicuna.chat.session import Session

    service = Service(config.base_url, os.environ.get("VICUNA_API_KEY") or os.environ.get("OPENAI_API_KEY", ""))
    model = config.model
    if not model:
        served = service.models()
        if not served:
            raise VicunaError(f"nothing is served at {service.base_url} now")
        model = served[0].name
    session = Session(service, model, config.system, config.sampling)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    if sys.stdin.isatty() and sys.stdout.isatty():
        terminal.converse(session)
    else:
        terminal.pipe(session, sys.stdin.buffer)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return command.run(ChatConfig, talk, argv, "python -m vicuna chat")


if __name__ == "__main__":
    sys.exit(main())
