"""What became of one record so far, and its form as a line of JSON between two steps."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from vicuna.data.chat import Chat, Drop, Round


@dataclass(frozen=True, slots=True)
class Example:
    """One converted message, for the report."""

    kind: str
    """What is in it: code, formula, table, list or text."""
    where: str
    before: str
    after: str


@dataclass(slots=True, kw_only=True)
class Outcome:
    """All that became of one record; the stages change it in turn."""

    chat: Chat
    """The chat with the rounds that stay."""
    rounds_in: int
    """Rounds that were read; a record without rounds counts as one."""
    drops: list[Drop] = field(default_factory=list)
    record_hash: str = ""
    """SHA-256 of a record without rounds."""
    language: str | None = None
    """ISO 639 code, "" for too little prose to tell, None where the language stage did not see the chat."""
    mapped: Mapping[str, int] = field(default_factory=dict)
    """Community role name → how many turns had it."""
    replaced: Mapping[str, int] = field(default_factory=dict)
    """Kind of personal data → how many placeholders took its place."""
    example: Example | None = None

    def keep(self, result: tuple[Chat, list[Drop]]) -> None:
        """Take over what a stage left and what it dropped."""
        self.chat, drops = result
        self.drops += drops


def to_line(outcome: Outcome) -> bytes:
    """One line of JSON; of dropped rounds only the place and the hash stay."""
    drops = [replace(each, round=each.round and replace(each.round, users=(), answers=())) for each in outcome.drops]
    return orjson.dumps(replace(outcome, drops=drops), option=orjson.OPT_APPEND_NEWLINE)


def from_line(line: bytes) -> Outcome:
    """The outcome that `to_line` wrote."""
    row = orjson.loads(line)
    chat = row["chat"]
    row["chat"] = Chat(**{**chat, "rounds": tuple(map(_round, chat["rounds"]))})
    row["drops"] = [Drop(**{**each, "round": each["round"] and _round(each["round"])}) for each in row["drops"]]
    row["example"] = row["example"] and Example(**row["example"])
    return Outcome(**row)


def _round(row: Mapping[str, Any]) -> Round:
    return Round(**{**row, "users": tuple(row["users"]), "answers": tuple(row["answers"])})
