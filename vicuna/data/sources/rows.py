"""Rows of community files → conversations: which form a row has is told by its keys."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vicuna.conversation import Conversation, Message, Role
from vicuna.data.sources import exports
from vicuna.data.sources.record import whole_text
from vicuna.data.sources.turns import Row, RowError, listed, malformed, turn

OWN_NAMES = frozenset({"system", "user", "assistant", "human", "gpt"})
"""Role names that are not counted as mapped: ours and ShareGPT's."""
_IDS = ("id", "conversation_id", "conversation_hash", "conv_id", "question_id", "message_tree_id")
_PERSONAL = frozenset({"ip", "hashed_ip", "header"})
"""Keys of public chat logs that tell who asked; they are not kept."""
_NO_METADATA = frozenset({"id", "source", "metadata"}) | _PERSONAL


@dataclass(frozen=True, slots=True)
class Reading:
    """A conversation, and how it stood in its row."""

    conversation: Conversation
    form: str
    """Name of the row's form, see FORMS."""
    mapped: Mapping[str, int]
    """Role names of the community that were mapped to ours → how many turns had them."""


@dataclass(frozen=True, slots=True)
class _Found:
    messages: list[Message]
    names: list[str]
    """What the roles were called, where the row says."""
    used: frozenset[str]
    """Keys of the row that are no metadata."""
    metadata: Mapping[str, Any] | None = None
    """The form's own metadata; None keeps what is not used."""


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of row."""

    name: str
    fits: Callable[[Row], bool]
    read: Callable[[Row, str], _Found]


def conversation(row: Row, where: str) -> Conversation:
    """The conversation in a row of any known form; see `reading`."""
    return reading(row, where).conversation


def reading(row: Row, where: str) -> Reading:
    """Read one row.

    Args:
        row: an object of one of the FORMS.
        where: file and position; names the row in errors, and is the conversation's id and source where it has none.

    Returns:
        the conversation. Text that no UTF-8 file can hold is mended, and metadata is what JSON can hold: all keys that
        are not part of the form, but for addresses of people's machines.

    Raises:
        RowError: with a `reason`: "unknown form" (the message names the row's keys and the known forms), "unknown
            role", "tool turn", "image or sound", "vote", "no winner" or "malformed record".
    """
    form = _form(row)
    if form is None:
        known = ", ".join(dict.fromkeys(each.name for each in FORMS))
        raise RowError("unknown form", f"{where}: not a known form of record; it has: {list(row)[:8]}; known: {known}")
    found = form.read(row, where)
    mapped: dict[str, int] = {}
    for name in found.names:
        if name not in OWN_NAMES:
            mapped[name] = mapped.get(name, 0) + 1
    key, name = _id(row, where)
    own = found.metadata
    if own is None:
        skipped = found.used | _NO_METADATA
        own = {each: row[each] for each in row if each not in skipped and each != key}
    made = Conversation(
        id=name,
        messages=tuple(_whole(each) for each in found.messages),
        source=_source(row, where),
        metadata=_storable({**own, **_metadata(row)}),
    )
    return Reading(made, form.name, mapped)


def known(row: Any) -> bool:
    """Whether this is a row of a known form."""
    return isinstance(row, Mapping) and _form(row) is not None


def _form(row: Row) -> Form | None:
    return next((form for form in FORMS if form.fits(row)), None)


# ------------------------------------------------------------------------------------------------ what all forms have
def _id(row: Row, where: str) -> tuple[str, str]:
    """The key that holds the id, and the id."""
    key = next((key for key in _IDS if row.get(key) not in (None, "")), "")
    value = row.get(key)
    if value is None:
        state = row.get("state")
        inner = state.get("conv_id") if isinstance(state, Mapping) else None
        return "", inner if isinstance(inner, str) else where
    if not isinstance(value, str | int | float):
        raise malformed(f"{where}: `{key}` is text or a number; got a {type(value).__name__}")
    return key, whole_text(str(value))


def _source(row: Row, where: str) -> str:
    source = row.get("source")
    if source is None:
        return where
    if not isinstance(source, str | int | float):
        raise malformed(f"{where}: `source` is text or a number; got a {type(source).__name__}")
    return whole_text(str(source))


def _metadata(row: Row) -> Mapping[str, Any]:
    """What the row itself calls metadata: an object, or one written as text, as in the files that we write."""
    given = row.get("metadata")
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            return {"metadata": given}
    if isinstance(given, Mapping):
        return given
    return {} if given is None else {"metadata": given}


def _whole(message: Message) -> Message:
    text = whole_text(message.content)
    return message if text is message.content else Message(message.role, text, train=message.train)


def _storable(value: Any) -> Any:
    """The value with whole text and numbers that every JSON reader takes."""
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, Mapping):
        return {whole_text(str(name)): _storable(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(each) for each in value]
    return str(value) if isinstance(value, int) and value.bit_length() > 63 else value


# ------------------------------------------------------------------------------------------------ lists of turns
def _has_list(key: str) -> Callable[[Row], bool]:
    return lambda row: isinstance(row.get(key), list)


def _turns_under(key: str) -> Callable[[Row, str], _Found]:
    def read(row: Row, where: str) -> _Found:
        found = _turns(row[key], f"{where}: {key}")
        return _Found(_with_system(row, found.messages), found.names, frozenset({key, *_SYSTEM}))

    return read


def _turns(turns: list[Any], where: str) -> _Found:
    pairs = [turn(each, f"{where}[{number}]") for number, each in enumerate(turns)]
    return _Found([message for message, _ in pairs], [name for _, name in pairs], frozenset())


def _arena(row: Row, where: str) -> _Found:
    """The conversation that won; of a tie the first."""
    winner = row.get("winner")
    if winner not in ("model_a", "model_b", "tie"):
        raise RowError("no winner", f"{where}: two conversations of which none is good; `winner` is {winner!r}")
    side = "b" if winner == "model_b" else "a"
    found = _turns(row[f"conversation_{side}"], f"{where}: conversation_{side}")
    kept = {key: row[key] for key in ("language", "winner", "tstamp", "judge") if row.get(key) is not None}
    return replace(found, metadata={"model": row.get(f"model_{side}"), **kept})


# ------------------------------------------------------------------------------------------------ question and answer
_PAIRS = (
    ("instruction", "output"),
    ("instruction", "response"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "chosen"),
    ("question", "answer"),
    ("question", "response"),
)
"""(question, answer) as Alpaca, Dolly, TRL, OpenOrca and others call them."""
_FURTHER = ("input", "context")
"""Text that belongs to the question and stands after it."""
_SYSTEM = ("system", "system_prompt")


def _pair(keys: tuple[str, str]) -> Form:
    question, answer = keys
    used = frozenset({*keys, *_FURTHER, *_SYSTEM, "history", "rejected"})

    def fits(row: Row) -> bool:
        return isinstance(row.get(question), str | list) and isinstance(row.get(answer), str | list)

    def read(row: Row, where: str) -> _Found:
        asked = row[question]
        if isinstance(asked, str):
            further = [row[key] for key in _FURTHER if isinstance(row.get(key), str) and row[key].strip()]
            asked = "\n\n".join([asked, *further])
        ours = _side(asked, "user", f"{where}: {question}")
        theirs = _side(row[answer], "assistant", f"{where}: {answer}")
        if theirs.messages and theirs.messages[0].role != "assistant":  # it begins with the question already
            ours = _Found([], [], frozenset())
        messages = _history(row, where) + ours.messages + theirs.messages
        return _Found(_with_system(row, messages), ours.names + theirs.names, used)

    return Form(f"{question}/{answer}", fits, read)


def _history(row: Row, where: str) -> list[Message]:
    found = []
    for number, each in enumerate(listed(row.get("history"), where)):
        if not isinstance(each, list | tuple) or [type(text) for text in each] != [str, str]:
            raise malformed(f"{where}: history[{number}] is not [question, answer]")
        found += [Message("user", each[0]), Message("assistant", each[1])]
    return found


def _with_system(row: Row, messages: list[Message]) -> list[Message]:
    """The messages, after the system prompt that stands beside them."""
    prompt = next((row[key] for key in _SYSTEM if isinstance(row.get(key), str) and row[key].strip()), "")
    leads = not messages or messages[0].role != "system"
    return [Message("system", prompt), *messages] if prompt and leads else messages


def _side(value: Any, role: Role, where: str) -> _Found:
    """One side of a pair: text, or a list of turns."""
    if isinstance(value, str):
        return _Found([Message(role, value)], [], frozenset())
    return _turns(value, where)


def _alternating(row: Row, where: str) -> _Found:
    messages = [Message("assistant" if number % 2 else "user", text) for number, text in enumerate(row["data"])]
    return _Found(messages, [], frozenset({"data"}))


def _stored(read: Callable[[Row, str], tuple[list[Message], dict[str, Any]]]) -> Callable[[Row, str], _Found]:
    def found(row: Row, where: str) -> _Found:
        messages, metadata = read(row, where)
        return _Found(messages, [], frozenset(), metadata)

    return found


def _forms() -> Iterator[Form]:
    for key in ("messages", "conversations", "conversation"):
        yield Form(key, _has_list(key), _turns_under(key))
    yield Form(
        "ChatGPT export (mapping)", lambda row: isinstance(row.get("mapping"), Mapping), _stored(exports.chatgpt)
    )
    yield Form("FastChat log (state)", _is_log, _stored(exports.fastchat_log))
    yield Form("arena (conversation_a, conversation_b)", _is_arena, _arena)
    yield Form("OpenAssistant tree (prompt with replies)", _is_tree, _stored(exports.open_assistant))
    yield Form("items", _has_list("items"), _turns_under("items"))
    yield from map(_pair, _PAIRS)
    yield Form("data (texts in turn)", _is_alternating, _alternating)


def _is_log(row: Row) -> bool:
    state = row.get("state")
    return isinstance(state, Mapping) and isinstance(state.get("messages"), list)


def _is_arena(row: Row) -> bool:
    return isinstance(row.get("conversation_a"), list) and isinstance(row.get("conversation_b"), list)


def _is_tree(row: Row) -> bool:
    prompt = row.get("prompt")
    return isinstance(prompt, Mapping) and isinstance(prompt.get("replies"), list)


def _is_alternating(row: Row) -> bool:
    data = row.get("data")
    return isinstance(data, list) and bool(data) and all(isinstance(text, str) for text in data)


FORMS = tuple(_forms())
"""All forms, in the order in which a row is compared with them."""
