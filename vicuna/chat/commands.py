"""What a line that begins with a slash does."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from vicuna.chat.session import Session
from vicuna.config import SamplingConfig, from_dict
from vicuna.errors import InputError


@dataclass(frozen=True)
class Outcome:
    """What follows from a command."""

    text: str = ""
    """To be shown."""
    ask: bool = False
    """The open question is to be answered."""
    line: str = ""
    """To be put on the input line, for the person to change."""
    leave: bool = False


@dataclass(frozen=True)
class Command:
    """A command and its line of help."""

    usage: str
    help: str
    run: Callable[[Session, str], Outcome]


def execute(session: Session, line: str) -> Outcome:
    """Do what a line such as `/model NAME` says.

    Raises:
        InputError: there is no such command, or its argument is missing or wrong.
        ConfigError: a setting that does not exist, or cannot have this value.
        ServiceError: the service did not give what was asked for.
    """
    name, _, argument = line[1:].strip().partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        raise InputError(f"there is no command /{name}; /help lists them")
    return command.run(session, argument.strip())


def _help(session: Session, argument: str) -> Outcome:
    width = max(len(command.usage) for command in COMMANDS.values())
    rows = [f"{command.usage:<{width}}  {command.help}" for command in COMMANDS.values()]
    keys = "Alt-Enter begins a new line, as Enter does between ``` and ```; Ctrl-C stops an answer, Ctrl-D leaves."
    return Outcome("\n".join([*rows, keys, "A question that begins with / is written with two."]))


def _models(session: Session, argument: str) -> Outcome:
    rows = []
    for served in session.service.models():
        mark = "*" if served.name == session.model else " "
        rows.append(f"{mark} {served.name}" + (f"  ({served.context} tokens)" if served.context else ""))
    return Outcome("\n".join(rows) or f"nothing is served at {session.service.base_url} now")


def _model(session: Session, argument: str) -> Outcome:
    if not argument:
        return Outcome(session.model)
    names = [served.name for served in session.service.models()]
    if argument.partition("@")[0] not in names and argument not in names:
        raise InputError(f"{argument!r} is not served; served now: {', '.join(names) or 'nothing'}")
    session.model = argument
    return Outcome(f"talking to {argument}")


def _system(session: Session, argument: str) -> Outcome:
    if argument:
        session.system = argument
    return Outcome(session.system or "no system prompt")


def _retry(session: Session, argument: str) -> Outcome:
    session.reopen()
    return Outcome(ask=True)


def _edit(session: Session, argument: str) -> Outcome:
    question = session.question
    if question is None:
        raise InputError("nothing was asked yet")
    if not argument:
        return Outcome(line=f"/edit {question}")
    session.undo()
    session.ask(argument)
    return Outcome(ask=True)


def _undo(session: Session, argument: str) -> Outcome:
    session.undo()
    return Outcome("the last question is forgotten")


def _clear(session: Session, argument: str) -> Outcome:
    session.clear()
    return Outcome("everything said is forgotten")


def _history(session: Session, argument: str) -> Outcome:
    said = [f"{message.role}: {message.content}" for message in session.messages]
    return Outcome("\n\n".join(said) or "nothing was said yet")


def _save(session: Session, argument: str) -> Outcome:
    path = _path(argument)
    session.save(path)
    return Outcome(f"saved to {path}")


def _load(session: Session, argument: str) -> Outcome:
    path = _path(argument)
    count = session.load(path)
    which = f"the last of {count} conversations" if count > 1 else "one conversation"
    return Outcome(f"{which}: {len(session.turns)} messages")


def _path(argument: str) -> Path:
    if not argument:
        raise InputError("which file? /save FILE, /load FILE")
    return Path(argument).expanduser()


def _params(session: Session, argument: str) -> Outcome:
    if argument:
        changes = dict(_change(word) for word in argument.split())
        session.sampling = from_dict(SamplingConfig, dataclasses.asdict(session.sampling) | changes, "/params")
    values = dataclasses.asdict(session.sampling)
    return Outcome("\n".join(f"{name}={'null' if value is None else value}" for name, value in values.items()))


def _change(word: str) -> tuple[str, object]:
    name, equals, value = word.partition("=")
    if not equals:
        raise InputError(f"settings are changed by name=value, such as temperature=0.2; got {word!r}")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"{name} cannot be {value!r}") from error


def _tokens(session: Session, argument: str) -> Outcome:
    last, served = session.last, session.served()
    if last is None or not last.prompt_tokens:
        return Outcome("no answer was counted yet")
    used = last.prompt_tokens + last.tokens
    room = f" of {served.context}" if served and served.context else ""
    rate = f"{last.tokens / last.seconds:.1f} a second" if last.seconds else ""
    by = f", by {' → '.join(last.workers)}" if last.workers else ""
    return Outcome(
        f"context: {used}{room} tokens ({last.prompt_tokens} in the prompt, {last.tokens} in the answer; {rate}{by})"
    )


def _quit(session: Session, argument: str) -> Outcome:
    return Outcome(leave=True)


COMMANDS: Mapping[str, Command] = {
    command.usage.split()[0][1:]: command
    for command in (
        Command("/help", "this list", _help),
        Command("/models", "what is served; * is the one you talk to", _models),
        Command("/model [NAME]", "talk to another model", _model),
        Command("/system [TEXT]", "show or set the system prompt", _system),
        Command("/retry", "ask the last question again", _retry),
        Command("/edit [TEXT]", "change the last question and ask it again", _edit),
        Command("/undo", "forget the last question and its answer", _undo),
        Command("/clear", "forget everything said", _clear),
        Command("/history", "show everything said", _history),
        Command("/save FILE", "write the conversation to a file", _save),
        Command("/load FILE", "go on with a conversation from a file", _load),
        Command("/params [NAME=VALUE ...]", "show or change how tokens are chosen", _params),
        Command("/tokens", "how much of the context is used", _tokens),
        Command("/quit", "leave", _quit),
    )
}
"""By name, in the order of /help."""
