"""The books: what came in, what went into the samples, what was dropped and why. They must balance."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import orjson

from vicuna.data.outcome import Example, Outcome
from vicuna.data.split import Piece
from vicuna.errors import VicunaError

EXAMPLES = 4
"""Before/after examples of each kind."""


class UnbalancedError(VicunaError):
    """Rounds were lost or counted twice: a bug, and the output must not be used."""


@dataclass
class Books:
    """Running counts of one run, each counted where the thing itself passes by; the books of blocks add up."""

    conversations_in: int = 0
    conversations_kept: int = 0
    """Input conversations of which at least one round was kept."""
    samples: int = 0
    truncated: int = 0
    """Samples whose answer was cut to fit."""
    rounds_in: int = 0
    rounds_kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """`stage: reason` → rounds."""
    languages: Counter[str] = field(default_factory=Counter)
    """ISO 639-1 code → conversations that reached the language stage; "" is too little prose to tell."""
    read: Counter[str] = field(default_factory=Counter)
    """File → rounds that it held."""
    kept: Counter[str] = field(default_factory=Counter)
    """File → rounds of it in samples."""
    roles: Counter[str] = field(default_factory=Counter)
    """Community role name → turns that had it and were mapped."""
    replaced: Counter[str] = field(default_factory=Counter)
    """Kind of personal data → placeholders that took its place."""
    tokens: Counter[int] = field(default_factory=Counter)
    """Length in tokens → samples, where it was counted."""
    examples: list[Example] = field(default_factory=list)
    """Messages before and after, a few of each kind."""

    def count(self, outcome: Outcome, pieces: Sequence[Piece]) -> None:
        """Enter one record that has passed all stages."""
        rounds = sum(piece.rounds for piece in pieces)
        self.conversations_in += 1
        self.conversations_kept += bool(pieces)
        self.samples += len(pieces)
        self.truncated += sum(piece.truncated for piece in pieces)
        self.rounds_in += outcome.rounds_in
        self.rounds_kept += rounds
        self.dropped.update(f"{drop.stage}: {drop.reason}" for drop in outcome.drops)
        self.read[outcome.chat.file] += outcome.rounds_in
        self.kept[outcome.chat.file] += rounds
        self.roles.update(outcome.mapped)
        self.replaced.update(outcome.replaced)
        self.tokens.update(piece.tokens for piece in pieces if piece.tokens is not None)
        if outcome.language is not None:
            self.languages[outcome.language] += 1
        self._show(outcome.example)

    def add(self, other: "Books") -> None:
        """Take the counts of the books of a later block in."""
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, Counter):
                mine.update(theirs)  # in place: a sum of two counters is a copy, of ever more files
            elif each.name != "examples":
                setattr(self, each.name, mine + theirs)
        for example in other.examples:
            self._show(example)

    def _show(self, example: Example | None) -> None:
        if example and sum(each.kind == example.kind for each in self.examples) < EXAMPLES:
            self.examples.append(example)

    def to_json(self) -> bytes:
        """The books of one block, for `from_json`."""
        return orjson.dumps(self, option=orjson.OPT_NON_STR_KEYS)

    @classmethod
    def from_json(cls, data: bytes) -> "Books":
        """The books that `to_json` wrote."""
        row = orjson.loads(data)
        for each in fields(cls):
            if each.type is not int and each.name != "examples":
                row[each.name] = Counter(row[each.name])
        row["tokens"] = Counter({int(length): n for length, n in row["tokens"].items()})
        row["examples"] = [Example(**example) for example in row["examples"]]
        return cls(**row)

    @property
    def rounds_dropped(self) -> int:
        """Rounds in the ledger."""
        return sum(self.dropped.values())

    def balance(self) -> None:
        """Raise unless every round that came in was kept or is in the ledger."""
        if self.rounds_in != self.rounds_kept + self.rounds_dropped:
            raise UnbalancedError(
                f"{self.rounds_in} rounds came in, but {self.rounds_kept} were kept and {self.rounds_dropped} dropped; "
                "nothing was finished; please report this with the input"
            )

    def facts(self) -> dict[str, Any]:
        """The counts for the manifest."""
        return {
            "conversations_in": self.conversations_in,
            "conversations_kept": self.conversations_kept,
            "samples": self.samples,
            "samples_truncated": self.truncated,
            "rounds_in": self.rounds_in,
            "rounds_kept": self.rounds_kept,
            "rounds_dropped": self.rounds_dropped,
            "dropped": dict(sorted(self.dropped.items())),
            "languages": {code or "unknown": n for code, n in sorted(self.languages.items())},
            "roles_mapped": dict(sorted(self.roles.items())),
            "personal_data_replaced": dict(sorted(self.replaced.items())),
            "tokens": sum(length * n for length, n in self.tokens.items()) if self.tokens else None,
        }


def to_lines(outcome: Outcome) -> bytes:
    """The lines of the ledger for one record: its dropped rounds in their order (or the record, if it has none)."""
    chat = outcome.chat
    lines = []
    for drop in sorted(outcome.drops, key=lambda each: each.round.index if each.round else 0):
        row = {
            "id": chat.id,
            "round": None if drop.round is None else drop.round.index,
            "stage": drop.stage,
            "reason": drop.reason,
            "detail": drop.detail,
            "sha256": outcome.record_hash if drop.round is None else drop.round.text_hash,
            "source": chat.file,
            "position": chat.position,
        }
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(lines).encode()
