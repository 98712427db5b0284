"""Questions from a keyboard or a pipe, answers to the screen."""

import contextlib
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from vicuna.chat.commands import COMMANDS, execute
from vicuna.chat.session import Session
from vicuna.config import SamplingConfig
from vicuna.errors import InputError, VicunaError

FENCE = "```"


def printable(text: str) -> str:
    """The text without control characters, but for line ends and tabs: whatever a model says, it cannot move the
    cursor, colour the screen, or type on the keyboard."""
    return "".join(char for char in text if char in "\n\t" or unicodedata.category(char) != "Cc")


def show(text: str) -> None:
    """Write to standard output at once."""
    sys.stdout.write(printable(text))
    sys.stdout.flush()


# ---------------------------------------------------------------------------------------- one line's work
def respond(session: Session, line: str, note: Callable[[str], None]) -> str | None:
    """Do what a line asks for and show what comes of it.

    Args:
        session: the conversation.
        line: a question, or a command with its slash; a question that begins with a slash begins with two.
        note: shows a remark that is not part of an answer.

    Returns:
        What to put on the next input line, usually nothing; None to leave.

    Raises:
        VicunaError: why it could not be done.
    """
    if line.startswith("/") and not line.startswith("//"):
        outcome = execute(session, line)
        if outcome.text:
            show(outcome.text + "\n")
        if outcome.leave:
            return None
        if not outcome.ask:
            return outcome.line
    else:
        session.ask(line.removeprefix("/"))
    _answer(session, note)
    return ""


def _answer(session: Session, note: Callable[[str], None]) -> None:
    ended = True
    try:
        for piece in session.answer():
            show(piece)
            ended = piece.endswith("\n")
    finally:
        if not ended:
            show("\n")
    if session.last is not None and session.last.finish == "length":
        note("cut at the token limit; /params max_tokens=... sets it, /tokens shows the context")


# ---------------------------------------------------------------------------------------- a pipe
def pipe(session: Session, lines: Iterable[bytes]) -> None:
    """Answer one question per line until the lines or the first error end it.

    Raises:
        VicunaError: a question could not be answered; the line's number is named.
    """
    for number, raw in enumerate(lines, 1):
        try:
            line = raw.decode().strip()
        except UnicodeDecodeError as error:
            raise InputError(f"line {number} of the input is not UTF-8") from error
        if not line:
            continue
        try:
            more = respond(session, line, _to_stderr)
        except VicunaError as error:
            raise type(error)(f"line {number}: {error}") from error
        if more is None:
            return
        if more:
            raise InputError(f"line {number}: without a terminal, /edit needs the new question behind it")


def _to_stderr(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


# ---------------------------------------------------------------------------------------- a keyboard
def converse(session: Session) -> None:
    """Answer what is typed until Ctrl-D or /quit."""
    prompt = _prompt(session)
    show(f"Talking to {session.model} at {session.service.base_url}. /help lists the commands.\n")
    line: str | None = ""
    while line is not None:
        try:
            typed = prompt.prompt(lambda: [("", f"{printable(session.model)}> ")], default=line).strip()
        except KeyboardInterrupt:  # drops the line, as in a shell
            line = ""
            continue
        except EOFError:
            return
        line = _once(session, typed) if typed else ""


def _once(session: Session, typed: str) -> str | None:
    try:
        return respond(session, typed, _remark)
    except KeyboardInterrupt:
        _remark("stopped")
    except VicunaError as error:
        show(f"error: {error}\n")
    return ""


def _remark(text: str) -> None:
    show(f"[{text}]\n")


def _prompt(session: Session) -> PromptSession[str]:
    history: History = InMemoryHistory()
    try:
        history = FileHistory(_history_file())
    except OSError as error:
        _remark(f"what you type is not remembered: {error}")
    return PromptSession(
        history=history,
        completer=_Completer(session),
        key_bindings=_keys(),
        multiline=True,
        reserve_space_for_menu=4,
    )


def _history_file() -> str:
    """Where questions are remembered; only their owner may read it. Place: the XDG base directory specification."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    path = Path(state) / "vicuna" / "chat_history"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    return str(path)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if in_fence(buffer.text):
            buffer.newline()
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.newline()

    return keys


def in_fence(text: str) -> bool:
    """Whether a block of code was begun and not ended, so that Enter belongs to it."""
    return sum(line.lstrip().startswith(FENCE) for line in text.split("\n")) % 2 == 1


class _Completer(Completer):
    """Completes commands and what they take."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        """What may stand where the cursor is."""
        before = document.text_before_cursor
        if not before.startswith("/") or "\n" in before:
            return
        name, space, argument = before[1:].partition(" ")
        if not space:
            yield from _beginning(name, COMMANDS)
        elif name in ("save", "load"):
            yield from self._paths.get_completions(Document(argument), complete_event)
        elif name == "params":
            last = argument.split(" ")[-1]
            yield from _beginning(last, [f"{field.name}=" for field in fields(SamplingConfig)])
        elif name == "model" and complete_event.completion_requested:  # Tab: this asks the service
            with contextlib.suppress(VicunaError):  # no list, nothing to complete
                yield from _beginning(argument, [served.name for served in self._session.service.models()])


def _beginning(typed: str, words: Iterable[str]) -> Iterator[Completion]:
    return (Completion(word, -len(typed)) for word in words if word.startswith(typed))
