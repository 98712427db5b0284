"""What happens to one record: read → markdown → validity → quality → language → split. Pure, so it runs anywhere."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vicuna.conversation import ROLES, Conversation, Message, from_row
from vicuna.data import dedup, filters, language, pages
from vicuna.data.chat import Chat, Drop, Round, from_conversation
from vicuna.data.config import CleanConfig
from vicuna.data.pages import is_page
from vicuna.data.sources import Record, whole_text
from vicuna.data.split import Piece, Splitter
from vicuna.errors import InputError
from vicuna.files import sha256_text

EXAMPLE_LIMIT = 3_000
"""Characters of HTML that a before/after example of the report may have."""


@dataclass(frozen=True, slots=True)
class Example:
    """One converted message, for the report."""

    kind: str
    """What is in it: code, formula, table, list or text."""
    where: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that became of one record."""

    chat: Chat
    """The chat with the rounds that stay."""
    rounds_in: int
    """Rounds that were read; a record without rounds counts as one."""
    drops: list[Drop] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    key: bytes = b""
    """Equal for equal conversations."""
    language: str = ""
    languages_known: bool = False
    """Whether the language stage saw the chat."""
    record_hash: str = ""
    """SHA-256 of a record without rounds."""
    mapped: Mapping[str, int] = field(default_factory=dict)
    """Community role name → how many turns had it."""
    example: Example | None = None


def process(record: Record, config: CleanConfig, splitter: Splitter | None) -> Outcome:
    """Take one record through all stages that need no other record (deduplication does)."""
    if record.problem:
        return _unreadable(record, record.problem, record.text_hash)
    try:
        raw = from_row(record.row, record.file + record.position)
    except InputError as error:
        return _unreadable(record, str(error).removeprefix(f"{record.file}{record.position}: "), _row_hash(record.row))
    chat = from_conversation(_storable(raw), record.file, record.position)
    if not chat.rounds:
        return _unreadable(record, "no turns", _row_hash(record.row), raw.id)
    rounds_in = len(chat.rounds)
    converted = _converted(chat, config)
    example = _example(chat, converted)
    kept, drops = filters.valid(converted, config.validity)
    kept, more = filters.good(kept, config.quality)
    judged = bool(kept.rounds)
    (kept, foreign), code = language.kept(kept, config.language)
    drops = drops + more + foreign
    pieces: list[Piece] = []
    key = dedup.key(kept) if kept.rounds and config.dedup.exact else b""
    if kept.rounds and splitter:
        pieces, more = splitter(kept)
        drops = drops + more
    elif kept.rounds:
        pieces = [Piece(kept.conversation(), None)]
    return Outcome(kept, rounds_in, drops, pieces, key, code, judged, mapped=_mapped(record.row), example=example)


def _unreadable(record: Record, problem: str, text_hash: str, chat_id: str = "") -> Outcome:
    where = record.file + record.position
    chat = Chat(id=chat_id or where, file=record.file, position=record.position, source=where, rounds=())
    reason = "no turns" if problem == "no turns" else "file breaks off" if record.damaged else "malformed record"
    detail = "" if problem == reason else problem
    return Outcome(chat, 1, [Drop("read", reason, detail)], record_hash=text_hash)


def _row_hash(row: Any) -> str:
    return sha256_text(json.dumps(row, ensure_ascii=False, sort_keys=True))


def _storable(raw: Conversation) -> Conversation:
    messages = tuple(Message(each.role, whole_text(each.content)) for each in raw.messages)
    return replace(raw, id=whole_text(raw.id), messages=messages)


def _converted(chat: Chat, config: CleanConfig) -> Chat:
    system = pages.to_text(chat.system, "user", config.markdown) if chat.system is not None else None
    rounds = []
    for each in chat.rounds:
        users = tuple(pages.to_text(text, "user", config.markdown) for text in each.users)
        answers = tuple(pages.to_text(text, "assistant", config.markdown) for text in each.answers)
        rounds.append(Round(each.index, users, answers, each.text_hash))
    return replace(chat, system=system, rounds=tuple(rounds))


def _mapped(row: Any) -> dict[str, int]:
    """Which role names were other than our own and ShareGPT's."""
    names: dict[str, int] = {}
    for turn in row.get("conversations") or row.get("messages") or ():
        name = str(turn.get("from", turn.get("role")))
        if name not in ("system", "user", "assistant", "human", "gpt") and name.lower() in ROLES:
            names[name] = names.get(name, 0) + 1
    return names


def _example(before: Chat, after: Chat) -> Example | None:
    for old, new in zip(before.rounds, after.rounds, strict=True):
        for raw, text in zip(old.answers, new.answers, strict=True):
            if raw != text and len(raw) <= EXAMPLE_LIMIT and is_page(raw, "assistant"):
                kinds = {"katex": "formula", "<pre": "code", "<table": "table", "<ol": "list", "<ul": "list"}
                kind = next((name for mark, name in kinds.items() if mark in raw), "text")
                return Example(kind, f"{before.file}{before.position} round {old.index}", raw, text)
    return None
