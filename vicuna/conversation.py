"""Conversations: the one form in which chats pass from stage to stage, and the JSON Lines files that hold them."""

import contextlib
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
    "model": "assistant", "bot": "assistant", "chatbot": "assistant", "ai": "assistant", "prompter": "user",
}  # fmt: skip
"""What community files call the roles (in any letter case) → what we call them."""

_SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: who speaks, and the text exactly as it is (markdown, any characters, possibly empty)."""

    role: Role
    content: str
    train: bool = True
    """Whether training learns it; means something for the assistant only, whose words are what training learns."""


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
        row: {"id", "messages": [{"role", "content"}]} or ShareGPT's {"id", "conversations": [{"from", "value"}]}; a
            turn that is not to be learnt has `"train": false` (as Axolotl has it) or `"weight": 0` (as OpenAI's
            fine-tuning files have it).
        where: file and position; names the record in errors, and is the conversation's id and source where it has
            none (or null).

    Raises:
        InputError: neither layout, an unknown role, text that is not a string, `train` or `weight` with another value,
            an id or source that is neither text nor a number, metadata that is not an object.
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
    metadata = _metadata(row.get("metadata"), where)
    return Conversation(
        id=_label(row, "id", where),
        messages=messages,
        source=_label(row, "source", where),
        metadata={**rest, **metadata},
    )


def _metadata(given: Any, where: str) -> Mapping[str, Any]:
    """The object that `metadata` is, or that it holds as text."""
    found = {} if given is None else given
    if isinstance(given, str):
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(given)
    if not isinstance(found, Mapping):
        raise InputError(f"{where}: `metadata` is an object; got a {type(given).__name__}")
    return found


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
    return Message(role, turn[text_key], _learnt(turn, where))


def _learnt(turn: Mapping[str, Any], where: str) -> bool:
    train, weight = turn.get("train"), turn.get("weight")
    if train is not None and not isinstance(train, bool):
        raise InputError(f"{where}: `train` is true or false; got {train!r}")
    if weight not in (None, 0, 1):
        raise InputError(f"{where}: `weight` is 0 or 1; got {weight!r}")
    return train is not False and weight != 0


def to_row(conversation: Conversation, layout: Layout = "messages") -> dict[str, Any]:
    """The record that `from_row` reads back to an equal conversation.

    All records have the same keys, and metadata is an object written as text: loaders that learn the columns from the
    first records (Hugging Face datasets) fail at objects whose keys differ from one record to the next.
    `messages` is what OpenAI, TRL and Axolotl read; `sharegpt` what FastChat, Axolotl and LLaMA-Factory read. A turn
    that is not to be learnt has `"train": false`, others have no such key.
    """
    if layout not in get_args(Layout):
        raise ValueError(f"layout is one of {', '.join(get_args(Layout))}; got {layout!r}")
    turns: list[dict[str, str | bool]] = []
    for message in conversation.messages:
        if layout == "messages":
            turns.append({"role": message.role, "content": message.content})
        else:
            turns.append({"from": _SHAREGPT[message.role], "value": message.content})
        if not message.train:
            turns[-1]["train"] = False
    row: dict[str, Any] = {"id": conversation.id}
    row["messages" if layout == "messages" else "conversations"] = turns
    row["source"] = conversation.source
    row["metadata"] = json.dumps(dict(conversation.metadata), ensure_ascii=False)
    return row


def to_line(conversation: Conversation, layout: Layout = "messages") -> str:
    """One line of a conversation file, with its line end."""
    return json.dumps(to_row(conversation, layout), ensure_ascii=False) + "\n"


def read_conversations(path: str | Path) -> Iterator[Conversation]:
    """Stream the conversations of a file, either layout: JSON Lines (plain or zstd), or Parquet (`*.parquet`).

    Raises:
        InputError: the file cannot be read, or a record is malformed or holds what is not Unicode, which no tokenizer
            takes (file and line are named).
    """
    for where, row in _table(path) if str(path).endswith(".parquet") else _rows(path):
        found = from_row(row, where)
        for text in (found.id, found.source, *(message.content for message in found.messages)):
            if half := surrogate(text):
                raise InputError(f"{where}: its text holds {half}; clean it with vicuna.data first")
        yield found


def _rows(path: str | Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, row in read_jsonl(path):
        yield f"{path}:{number}", row


def _table(path: str | Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows of a Parquet file, by their number from 0; columns that a row leaves empty are as if they were not there."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    yield f"{path}[{number}]", {name: value for name, value in row.items() if value is not None}
                    number += 1
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"cannot read {path}: {' '.join(str(error).split())}") from error


def write_conversations(path: str | Path, conversations: Iterable[Conversation], layout: Layout = "messages") -> int:
    """Write a JSON Lines file, whole or not at all; returns how many conversations it holds."""
    count = 0
    with replacing(path) as file:
        for conversation in conversations:
            file.write(to_line(conversation, layout))
            count += 1
    return count
