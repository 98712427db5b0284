"""`python -m vicuna.data merge`: several files and folders as one dataset in which every id is unique."""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from vicuna.command import run
from vicuna.conversation import Conversation
from vicuna.data.config import OutputConfig
from vicuna.data.tools import outputs
from vicuna.data.tools.inputs import Inputs
from vicuna.data.tools.keys import content_key, piece_id

_NAMED = 5
"""Ids that the summary names."""


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """Put several files and folders together; ids become unique, and what is there twice is left out and reported."""

    inputs: tuple[str, ...] = field(metadata={"positional": "IN"})
    """Folders that `clean` wrote, or conversation files, in the order that the output shall have."""
    out: str
    """A file (.jsonl, .jsonl.zst, .parquet), or a new folder."""
    repeats: bool = False
    """Keep conversations whose id and messages are those of an earlier one, under a new id."""
    output: OutputConfig = field(default_factory=OutputConfig)

    def __post_init__(self) -> None:
        outputs.need_inputs(self.inputs)
        outputs.check_out(self.out, self.output)


def command(argv: list[str]) -> int:
    """The command line."""
    return run(MergeConfig, main, argv, prog="python -m vicuna.data merge")


def main(config: MergeConfig) -> None:
    """Write the merged dataset, or say that it is there already."""
    ids = Ids()

    def merge(inputs: Inputs, write: outputs.Write, facts: dict[str, Any]) -> None:
        for conversation in inputs.conversations("merged"):
            if not ids.is_repeat(conversation) or config.repeats:
                write(replace(conversation, id=ids.unique(conversation)))
        facts |= ids.facts()

    if facts := outputs.make("merge", config, merge):
        print(f"{config.out}: {facts['conversations']:,} conversations from {facts['files']:,} files")
        _show(ids, config)


def _show(ids: "Ids", config: MergeConfig) -> None:
    if ids.repeated:
        names = ", ".join(list(ids.repeated)[:_NAMED]) + (", ..." if len(ids.repeated) > _NAMED else "")
        fate = "kept under new ids" if config.repeats else "left out"
        print(f"{ids.repeated.total():,} with the id and the messages of an earlier one, {fate}: {names}")
    if ids.renamed:
        print(f"{ids.renamed:,} with the id of an earlier one got a new id")
    if ids.same_messages:
        print(
            f"{ids.same_messages:,} with the messages of an earlier one under another id are kept; `clean` drops them"
        )


class Ids:
    """The ids and contents so far; takes about 300 bytes for each conversation."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}
        self._seen: set[tuple[str, int]] = set()
        self._contents: set[int] = set()
        self.repeated: Counter[str] = Counter()
        """Id → conversations with this id and the messages of an earlier one."""
        self.renamed = 0
        self.same_messages = 0
        """Conversations with the messages of an earlier one under another id."""

    def is_repeat(self, conversation: Conversation) -> bool:
        """Whether an earlier conversation had this id and these messages."""
        content = content_key(conversation)
        both = (conversation.id, content)
        if both in self._seen:
            self.repeated[conversation.id] += 1
            return True
        self.same_messages += content in self._contents
        self._seen.add(both)
        self._contents.add(content)
        return False

    def unique(self, conversation: Conversation) -> str:
        """An id that no conversation has yet: its own, or with `~2`, `~3`, ... (`abc~2_4` for a piece `abc_4`)."""
        name = conversation.id
        if name in self._taken:
            stem, tail = piece_id(name)
            number = self._next.get(name, 2)
            while (name := f"{stem}~{number}{tail}") in self._taken:
                number += 1
            self._next[conversation.id] = number + 1
            self.renamed += 1
        self._taken.add(name)
        return name

    def facts(self) -> dict[str, int]:
        """The counts for the manifest."""
        return {"repeated": self.repeated.total(), "renamed": self.renamed, "same_messages": self.same_messages}
