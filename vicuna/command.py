"""What every command shares: sub-commands that load lazily, logging, and errors as one line without a traceback."""

import importlib
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from vicuna.config import HelpShown, load
from vicuna.errors import ConfigError, VicunaError
from vicuna.settings.tree import printable
from vicuna.settings.words import asks_help

T = TypeVar("T")
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells count it (128 + SIGINT)."""


@dataclass(frozen=True)
class Command:
    """A sub-command: where its function is, and one line of help."""

    target: str
    """`package.module:function`, called with the rest of the command line; imported only when it is chosen."""
    help: str


def run(cls: type[T], main: Callable[[T], int | None], argv: Sequence[str] | None = None, prog: str = "") -> int:
    """Load the settings, run `main` with them, and return the exit status.

    A VicunaError ends as `error: ...` on standard error with its own status; Ctrl-C as status 130; a programming
    mistake keeps its traceback.
    """

    def body() -> int:
        config = load(cls, argv, prog=prog)
        start_logging()
        return main(config) or 0

    return guarded(body)


def dispatch(prog: str, summary: str, commands: Mapping[str, Command], argv: Sequence[str], *, usual: str = "") -> int:
    """Hand the command line to the sub-command that its first word names.

    Args:
        prog: how the user called us, for help and errors.
        summary: one line about the whole.
        commands: name → sub-command.
        argv: the command line without the program's name.
        usual: the command that is meant where the line begins with settings, or is empty; "" where one has to be named.
    """

    def body() -> int:
        if usual and (not argv or argv[0].startswith("-")):
            status = resolve(commands[usual].target)(list(argv))
            if asks_help(argv):
                print("\n" + _listed(prog, commands))
            return status
        if not argv or argv[0] in ("-h", "--help"):
            print(_overview(prog, summary, commands))
            return 0 if argv else 2
        if argv[0] not in commands:
            raise ConfigError(f"there is no command {argv[0]!r}; {prog} has: {', '.join(commands)}")
        return resolve(commands[argv[0]].target)(list(argv[1:]))

    return guarded(body)


def resolve(target: str) -> Callable[[list[str]], int]:
    """The function that `package.module:function` names."""
    module, function = target.split(":")
    found: Callable[[list[str]], int] = getattr(importlib.import_module(module), function)
    return found


def guarded(body: Callable[[], int]) -> int:
    """Run `body`; turn what people can cause into one line and an exit status."""
    try:
        status = _unless_shown(body)
        if sys.stdout is not None:  # None: started with its output closed
            sys.stdout.flush()  # now, while a reader that went away can still be told from a failure
        return status
    except VicunaError as error:
        print(f"{error.label}{printable(str(error))}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away (`| head`); nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _unless_shown(body: Callable[[], int]) -> int:
    try:
        return body()
    except HelpShown:
        return 0


def start_logging() -> None:
    """Log lines of the package to standard error; VICUNA_LOG sets the level (default INFO)."""
    level = os.environ.get("VICUNA_LOG", "INFO").upper()
    if level not in logging.getLevelNamesMapping():
        names = ", ".join(("DEBUG", "INFO", "WARNING", "ERROR"))
        raise ConfigError(f"VICUNA_LOG is a log level ({names}); got {level!r}")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("vicuna")
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False


def _overview(prog: str, summary: str, commands: Mapping[str, Command]) -> str:
    return "\n".join([f"usage: {prog} COMMAND ...", "", summary, "", _listed(prog, commands)])


def _listed(prog: str, commands: Mapping[str, Command]) -> str:
    width = max(map(len, commands))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in commands.items()]
    return "\n".join(["commands:", *lines, "", f"`{prog} COMMAND --help` explains each setting."])
