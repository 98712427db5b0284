"""The books: what came in, what went into the samples, what was dropped and why. They must balance."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import IO, Any

from vicuna.data.chat import Chat, Drop
from vicuna.errors import VicunaError


class UnbalancedError(VicunaError):
    """Rounds were lost or counted twice: a bug, and the output must not be used."""


@dataclass
class Books:
    """Running counts of one run, each counted where the thing itself passes by."""

    conversations_in: int = 0
    conversations_kept: int = 0
    """Input conversations of which at least one round was kept."""
    samples: int = 0
    truncated: int = 0
    """Samples whose answer was cut to fit."""
    rounds_in: int = 0
    rounds_kept: int = 0
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(stage, reason) → rounds."""
    languages: Counter[str] = field(default_factory=Counter)
    """ISO 639-1 code → conversations that reached the language stage; "" is too little prose to tell."""
    sources: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(file, "in" | "kept") → rounds."""
    roles: Counter[str] = field(default_factory=Counter)
    """Community role name → turns that had it and were mapped."""
    tokens: list[int] = field(default_factory=list)
    """Length of each sample, where it was counted."""

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
            "dropped": {f"{stage}: {reason}": n for (stage, reason), n in sorted(self.dropped.items())},
            "languages": {code or "unknown": n for code, n in sorted(self.languages.items())},
            "roles_mapped": dict(sorted(self.roles.items())),
            "tokens": sum(self.tokens) if self.tokens else None,
        }


def write_drop(file: IO[str], chat: Chat, drop: Drop, record_hash: str) -> None:
    """Add one line to the ledger file.

    Args:
        file: open ledger file.
        chat: whose round it is.
        drop: the round (or the record, if it has no rounds) and the reason.
        record_hash: SHA-256 of a record without rounds.
    """

    row = {
        "id": chat.id,
        "round": None if drop.round is None else drop.round.index,
        "stage": drop.stage,
        "reason": drop.reason,
        "detail": drop.detail,
        "sha256": record_hash if drop.round is None else drop.round.text_hash,
        "source": chat.file,
        "position": chat.position,
    }
    file.write(json.dumps(row, ensure_ascii=False) + "\n")
