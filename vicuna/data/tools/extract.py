"""`python -m vicuna.data extract`: the conversations of a model, a language, a length, or a list of ids."""

import fnmatch
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from vicuna.command import run
from vicuna.conversation import Conversation, Message
from vicuna.data.config import OutputConfig
from vicuna.data.tools import outputs
from vicuna.data.tools.inputs import Inputs
from vicuna.data.tools.keys import piece_id
from vicuna.data.tools.languages import teller
from vicuna.data.tools.tally import model_of, rounds
from vicuna.errors import InputError
from vicuna.files import read_text

Test = Callable[[Conversation], bool]
_NAMED = 5
"""Ids that an error names."""


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """Pick conversations; one that is written meets every condition that is given."""

    inputs: tuple[str, ...] = field(metadata={"positional": "IN"})
    """Folders that `clean` wrote, or conversation files of any kind that it reads."""
    out: str
    """A file (.jsonl, .jsonl.zst, .parquet), or a new folder. Conversations stay in input order."""
    model: tuple[str, ...] = ()
    """Answered by one of these models, as the record's `model` says; any letter case, * and ? are wildcards."""
    unnamed: bool = False
    """With model: conversations that name no model, too."""
    language: tuple[str, ...] = ()
    """In one of these languages (ISO 639-1 codes such as en), told from the prose; what cannot be told is left out."""
    min_rounds: int = 0
    """At least this many rounds (questions with their answers)."""
    max_rounds: int | None = None
    """At most this many rounds."""
    single_round: Literal["first", "only"] | None = None
    """first: of each conversation that meets the other conditions its first round; only: conversations of one round."""
    ids: str = ""
    """File with one id in each line; an id stands for all pieces of its conversation (`abc` for `abc_0`, `abc_4`)."""
    output: OutputConfig = field(default_factory=OutputConfig)

    def __post_init__(self) -> None:
        outputs.need_inputs(self.inputs)
        outputs.check_out(self.out, self.output)
        if wrong := [code for code in self.language if not re.fullmatch(r"[a-z]{2,3}", code)]:
            raise ValueError(f"language holds ISO 639 codes such as en; got {wrong[0]!r}")
        if self.unnamed and not self.model:
            raise ValueError("unnamed adds conversations to those of a model; give model, too")
        if self.min_rounds < 0:
            raise ValueError(f"min_rounds is 0 or more; got {self.min_rounds}")
        if self.max_rounds is not None and self.max_rounds < max(self.min_rounds, 1):
            raise ValueError(f"max_rounds is at least 1 and not below min_rounds; got {self.max_rounds}")
        given = (self.model, self.language, self.min_rounds, self.max_rounds, self.single_round, self.ids)
        if not any(given):
            raise ValueError("nothing says what to extract: give model, language, min_rounds, max_rounds, single_round "
                             "or ids")  # fmt: skip


def command(argv: list[str]) -> int:
    """The command line."""
    return run(ExtractConfig, main, argv, prog="python -m vicuna.data extract")


def main(config: ExtractConfig) -> None:
    """Write what meets the conditions.

    Raises:
        InputError: nothing does, or an id of the list is nowhere.
    """
    wanted = Wanted.read(config.ids) if config.ids else None
    tests = conditions(config)
    if wanted:
        tests.insert(0, wanted)  # first, because it must see everything

    def extract(inputs: Inputs, write: outputs.Write, facts: dict[str, Any]) -> None:
        facts |= {"conversations_in": 0, "left_out": 0}
        for conversation in inputs.conversations("searched"):
            facts["conversations_in"] += 1
            if all(test(conversation) for test in tests):
                write(first_round(conversation) if config.single_round == "first" else conversation)
            else:
                facts["left_out"] += 1
        if wanted:
            wanted.check_all_found()
        if facts["left_out"] == facts["conversations_in"]:
            raise InputError(f"none of {facts['conversations_in']:,} conversations meets the conditions")

    if facts := outputs.make("extract", config, extract):
        print(f"{config.out}: {facts['conversations']:,} of {facts['conversations_in']:,} conversations")


def conditions(config: ExtractConfig) -> list[Test]:
    """What a conversation must meet, but for the list of ids; the slow test comes last."""
    tests: list[Test] = []
    if config.model:
        names = [name.casefold() for name in config.model]
        tests.append(lambda each: _is_model(model_of(each), names, config.unnamed))
    least, most = config.min_rounds, 1 if config.single_round == "only" else config.max_rounds
    if least or most is not None:
        tests.append(lambda each: least <= _rounds(each) <= (_rounds(each) if most is None else most))
    if config.language:
        tell = teller()
        tests.append(lambda each: tell(each) in config.language)
    return tests


def _is_model(name: str, wanted: list[str], unnamed: bool) -> bool:
    if not name:
        return unnamed
    return any(fnmatch.fnmatchcase(name.casefold(), pattern) for pattern in wanted)


def _rounds(conversation: Conversation) -> int:
    return rounds([message.role for message in conversation.messages])


def first_round(conversation: Conversation) -> Conversation:
    """The conversation up to where its second round begins; a system message stays."""
    taken: list[Message] = []
    for message in conversation.messages:
        if message.role == "user" and taken and taken[-1].role == "assistant":
            break
        taken.append(message)
    return replace(conversation, messages=tuple(taken))


class Wanted:
    """The ids of a list, and which of them were met."""

    def __init__(self, ids: list[str]) -> None:
        self._missing = dict.fromkeys(ids)
        self._ids = frozenset(ids)

    @classmethod
    def read(cls, path: str) -> "Wanted":
        """The ids in a file, one in each line.

        Raises:
            InputError: the file cannot be read or holds no id.
        """
        ids = [line.strip() for line in read_text(path).splitlines() if line.strip()]
        if not ids:
            raise InputError(f"--ids {path} holds no ids; it has one in each line")
        return cls(ids)

    def __call__(self, conversation: Conversation) -> bool:
        for name in (conversation.id, piece_id(conversation.id).stem):
            if name in self._ids:
                self._missing.pop(name, None)
                return True
        return False

    def check_all_found(self) -> None:
        """Raise unless every id was met."""
        if self._missing:
            names = ", ".join(list(self._missing)[:_NAMED]) + (", ..." if len(self._missing) > _NAMED else "")
            raise InputError(f"{len(self._missing)} of {len(self._ids)} ids are in no input: {names}")
