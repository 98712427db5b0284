"""`python -m vicuna.data sample`: a random draw of conversations that anybody can draw again."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from vicuna.command import run
from vicuna.conversation import Conversation
from vicuna.data.config import OutputConfig
from vicuna.data.tools import outputs
from vicuna.data.tools.inputs import Inputs
from vicuna.data.tools.keys import draw_key
from vicuna.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Draw conversations at random; which ones does not depend on how the input is cut into files, or on its order."""

    inputs: tuple[str, ...] = field(metadata={"positional": "IN"})
    """Folders that `clean` wrote, or conversation files."""
    out: str
    """A file (.jsonl, .jsonl.zst, .parquet), or a new folder. Conversations stay in input order."""
    size: int | None = None
    """How many conversations."""
    share: float | None = None
    """Or which share of them, above 0 and at most 1. A smaller draw is part of every larger one of the same inputs and
    seed."""
    seed: int = 0
    """Another seed draws others."""
    output: OutputConfig = field(default_factory=OutputConfig)

    def __post_init__(self) -> None:
        outputs.need_inputs(self.inputs)
        outputs.check_out(self.out, self.output)
        if (self.size is None) == (self.share is None):
            raise ValueError("give either size or share")
        if self.size is not None and self.size < 1:
            raise ValueError(f"size is a number of conversations, at least 1; got {self.size}")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"share is above 0 and at most 1; got {self.share}")


def command(argv: list[str]) -> int:
    """The command line."""
    return run(SampleConfig, main, argv, prog="python -m vicuna.data sample")


def main(config: SampleConfig) -> None:
    """Write the draw, or say that it is there already."""

    def draw(inputs: Inputs, write: outputs.Write, facts: dict[str, Any]) -> None:
        last = _after_last(inputs, config)
        facts["conversations_in"] = 0
        for key, conversation in _keyed(inputs, config.seed, "drawn from"):
            facts["conversations_in"] += 1
            if key < last:
                write(conversation)

    if facts := outputs.make("sample", config, draw):
        print(f"{config.out}: {facts['conversations']:,} of {facts['conversations_in']:,} conversations")


def _keyed(inputs: Inputs, seed: int, doing: str) -> Iterator[tuple[tuple[int, int], Conversation]]:
    """Each conversation with what orders the draw; the place in the input decides between equal ones only."""
    for place, conversation in enumerate(inputs.conversations(doing)):
        yield (draw_key(conversation, seed), place), conversation


def _after_last(inputs: Inputs, config: SampleConfig) -> tuple[int, int]:
    """The first key that is not drawn; takes 8 bytes of memory for each conversation.

    A share is of what is there, and no bound for keys: a draw from what an earlier one took or left is right, too.
    """
    import numpy as np

    keys = np.array(array("Q", (key for (key, _), _ in _keyed(inputs, config.seed, "counted"))), dtype=np.uint64)
    size = round((config.share or 0) * len(keys)) if config.size is None else config.size
    if size > len(keys):
        raise InputError(f"--size {size} is more than there are: {len(keys)} conversations")
    if size == 0:
        raise InputError(f"--share {config.share} of {len(keys)} conversations is none; give --size")
    last = np.partition(keys, size - 1)[size - 1]
    places = np.flatnonzero(keys == last)  # more than one where a conversation is there more than once
    return int(last), int(places[size - 1 - np.count_nonzero(keys < last)]) + 1
