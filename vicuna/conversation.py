"""Conversations: the one form in which chats pass from stage to stage, and the JSON Lines files that hold them."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from vicuna.errors import InputError
from vicuna.files import read_jsonl, replacing, surrogate

Role = Literal["system", "user", "assistant"]
Layout = Literal["messages", "sharegpt"]

ROLES: Mapping[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "model": "assistant",
}  # fmt: skip
"""What community files call the roles (in any letter case) → what we call them."""

_SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: who speaks, and the text exactly as it is (markdown, any characters, possibly empty)."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in order, with an identity and where they came from."""

    id: str
    messages: tuple[Message, ...]
    source: str = ""
    """The file (and place in it) that the conversation was read from."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of the record, kept as they are."""

    @property
    def system(self) -> str | None:
        """The text of a leading system message, or None. An empty system message is not None."""
        first = self.messages[0] if self.messages else None
        return first.content if first and first.role == "system" else None

    @property
    def turns(self) -> tuple[Message, ...]:
        """The messages without a leading system message."""
        return self.messages[1:] if self.system is not None else self.messages

    def rounds(self) -> list[tuple[Message, Message]]:
        """The (user, assistant) pairs of a valid conversation, in order.

        Raises:
            ValueError: the turns do not alternate user, assistant, ...; `problems` says why.
        """
        turns = self.turns
        pairs = list(zip(turns[::2], turns[1::2], strict=False))
        if len(turns) % 2 or any((a.role, b.role) != ("user", "assistant") for a, b in pairs):
            raise ValueError(f"conversation {self.id}: {'; '.join(problems(self))}")
        return pairs


def problems(conversation: Conversation) -> list[str]:
    """Why a conversation cannot be trained on as it is; an empty list means that it is valid.

    Valid: an optional system message, then user and assistant in turn, the user first and the assistant last, and no
    message that holds only white space.
    """
    found = []
    turns = conversation.turns
    if not turns:
        return ["it has no turns"]
    if turns[0].role != "user":
        found.append(f"it starts with {turns[0].role}, not user")
    for before, after in zip(turns, turns[1:], strict=False):
        if after.role == "system":
            found.append("it has a system message after the first turn")
        elif before.role == after.role:
            found.append(f"two {after.role} messages follow each other")
    if turns[-1].role != "assistant":
        found.append(f"it ends with {turns[-1].role}, not assistant")
    empty = [message.role for message in turns if not message.content.strip()]
    found += [f"{'an' if role == 'assistant' else 'a'} {role} message is empty" for role in empty]
    return list(dict.fromkeys(found))


def from_row(row: Mapping[str, Any], where: str) -> Conversation:
    """Read one record of a conversation file.

    Args:
        row: {"id", "messages": [{"role", "content"}]} or ShareGPT's {"id", "conversations": [{"from", "value"}]}.
        where: file and position; names the record in errors, and is the conversation's id and source where it has
            none (or null).

    Raises:
        InputError: neither layout, an unknown role, text that is not a string, an id or source that is neither text
            nor a number, metadata that is not an object.
    """
    if isinstance(row.get("messages"), list):
        key, role_key, text_key = "messages", "role", "content"
    elif isinstance(row.get("conversations"), list):
        key, role_key, text_key = "conversations", "from", "value"
    else:
        raise InputError(f"{where}: a record needs a list under `messages` or `conversations`; it has: {list(row)[:8]}")
    turns = row[key]
    messages = tuple(_message(turn, role_key, text_key, f"{where}: {key}[{i}]") for i, turn in enumerate(turns))
    rest = {name: value for name, value in row.items() if name not in (key, "id", "source", "metadata")}
    metadata = {} if row.get("metadata") is None else row["metadata"]
    if not isinstance(metadata, Mapping):
        raise InputError(f"{where}: `metadata` is an object; got a {type(metadata).__name__}")
    return Conversation(
        id=_label(row, "id", where),
        messages=messages,
        source=_label(row, "source", where),
        metadata={**rest, **metadata},
    )


def _label(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if value is None:
        return where
    if not isinstance(value, str | int | float):
        raise InputError(f"{where}: `{key}` is text or a number; got a {type(value).__name__}")
    return str(value)


def _message(turn: Any, role_key: str, text_key: str, where: str) -> Message:
    if not isinstance(turn, Mapping) or not isinstance(turn.get(text_key), str):
        raise InputError(f"{where}: a turn needs text under `{text_key}`")
    role = ROLES.get(str(turn.get(role_key)).lower())
    if role is None:
        raise InputError(f"{where}: unknown role {turn.get(role_key)!r}; known: {', '.join(ROLES)}")
    return Message(role, turn[text_key])


def to_row(conversation: Conversation, layout: Layout = "messages") -> dict[str, Any]:
    """The record that `from_row` reads back to an equal conversation.

    `messages` is what OpenAI, TRL and Axolotl read; `sharegpt` what FastChat, Axolotl and LLaMA-Factory read.
    """
    if layout not in get_args(Layout):
        raise ValueError(f"layout is one of {', '.join(get_args(Layout))}; got {layout!r}")
    turns: list[dict[str, str]] = []
    for message in conversation.messages:
        if layout == "messages":
            turns.append({"role": message.role, "content": message.content})
        else:
            turns.append({"from": _SHAREGPT[message.role], "value": message.content})
    row: dict[str, Any] = {"id": conversation.id}
    row["messages" if layout == "messages" else "conversations"] = turns
    if conversation.source:
        row["source"] = conversation.source
    if conversation.metadata:
        row["metadata"] = dict(conversation.metadata)
    return row


def to_line(conversation: Conversation, layout: Layout = "messages") -> str:
    """One line of a conversation file, with its line end."""
    return json.dumps(to_row(conversation, layout), ensure_ascii=False) + "\n"


def read_conversations(path: str | Path) -> Iterator[Conversation]:
    """Stream the conversations of a JSON Lines file, either layout.

    Raises:
        InputError: the file cannot be read, or a record is malformed or holds what is not Unicode, which no tokenizer
            takes (file and line are named).
    """
    for number, row in read_jsonl(path):
        found = from_row(row, f"{path}:{number}")
        for text in (found.id, found.source, *(message.content for message in found.messages)):
            if half := surrogate(text):
                raise InputError(f"{path}:{number}: its text holds {half}; clean it with vicuna.data first")
        yield found


def write_conversations(path: str | Path, conversations: Iterable[Conversation], layout: Layout = "messages") -> int:
    """Write a JSON Lines file, whole or not at all; returns how many conversations it holds."""
    count = 0
    with replacing(path) as file:
        for conversation in conversations:
            file.write(to_line(conversation, layout))
            count += 1
    return count
