"""`python -m vicuna.data split-train-test`: two datasets that share no conversation, not even nearly."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vicuna.command import run
from vicuna.conversation import Conversation
from vicuna.data.config import OutputConfig
from vicuna.data.tools import outputs
from vicuna.data.tools.groups import joined, near_labels, together
from vicuna.data.tools.inputs import Inputs
from vicuna.data.tools.keys import draw_key, piece_id
from vicuna.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.int64]

SIDES = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class SplitTrainTestConfig:
    """Split conversations into a training and a test set; near-duplicates and pieces of one conversation stay together.

    Takes about 1 kB of memory for each conversation.
    """

    inputs: tuple[str, ...] = field(metadata={"positional": "IN"})
    """Folders that `clean` wrote, or conversation files."""
    out: str
    """Folder for the dataset folders train and test."""
    share: float = 0.99
    """Share of the conversations that are for training, between 0 and 1."""
    threshold: float = 0.7
    """Conversations whose word shingles are at least this similar (Jaccard, 0 to 1) go to the same side."""
    seed: int = 0
    """Another seed draws another test set."""
    output: OutputConfig = field(default_factory=OutputConfig)

    def __post_init__(self) -> None:
        outputs.need_inputs(self.inputs)
        outputs.check_out(self.out, self.output)
        if outputs.file_format(self.out):
            raise ValueError(f"out is a folder, because two datasets come out; got {self.out}")
        if not 0 < self.share < 1:
            raise ValueError(f"share is between 0 and 1; got {self.share}")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold is a similarity above 0 and at most 1; got {self.threshold}")


def command(argv: list[str]) -> int:
    """The command line."""
    return run(SplitTrainTestConfig, main, argv, prog="python -m vicuna.data split-train-test")


def main(config: SplitTrainTestConfig) -> None:
    """Write both sets, or those that are not there already."""
    inputs = Inputs.find(config.inputs)
    parents, settings = inputs.parents(), outputs.identity("split-train-test", config)
    places = {side: str(Path(config.out) / side) for side in SIDES}
    missing = [side for side in SIDES if not outputs.is_made(places[side], parents, settings | {"side": side})]
    if not missing:
        print(f"{' and '.join(places.values())} are made already")
        return
    for side in missing:
        outputs.check_place(places[side], inputs)
    groups, keys = _groups(inputs, config)
    is_test = drawn(groups, keys, config.share)
    flags = inputs.have_flags()
    facts: dict[str, dict[str, Any]] = {side: {} for side in SIDES}
    with ExitStack() as stack:
        writes: dict[str, outputs.Write] = {side: lambda _: None for side in SIDES}
        for side in missing:
            made = outputs.writing(places[side], config.output, parents, settings | {"side": side}, facts[side], flags)
            writes[side] = stack.enter_context(made)
        for row, conversation in enumerate(inputs.conversations("split")):
            writes["test" if is_test[row] else "train"](conversation)
    tests = int(is_test.sum())
    print(f"{config.out}: {len(groups) - tests:,} conversations in train, {tests:,} in test")
    print(f"{len(groups) - len(set(groups.tolist())):,} are pieces or near-duplicates of another one and went with it")


def _groups(inputs: Inputs, config: SplitTrainTestConfig) -> "tuple[Rows, npt.NDArray[np.uint64]]":
    """For each conversation, in input order: which group it must stay with, and its random number."""
    import numpy as np

    keys: list[int] = []
    stems: list[int] = []
    turns: list[int] = []

    def texts() -> Iterator[str]:
        for conversation in inputs.conversations("compared"):
            piece = piece_id(conversation.id)
            keys.append(draw_key(conversation, config.seed))
            stems.append(_number(piece.stem))
            turns.append(-1 if piece.turn is None else piece.turn)
            yield _text(conversation)

    near = near_labels(texts(), config.threshold)
    if len(keys) < 2:
        raise InputError(f"there is nothing to split: {len(keys)} conversations")
    pieces = together(np.array(stems, dtype=np.uint64), np.array(turns, dtype=np.int64))
    return joined(near, pieces), np.array(keys, dtype=np.uint64)


def _text(conversation: Conversation) -> str:
    return "\n".join(message.content for message in conversation.messages)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def drawn(groups: "Rows", keys: "npt.NDArray[np.uint64]", share: float) -> "npt.NDArray[np.bool_]":
    """Which conversations are for testing: whole groups in random order, as many as fit.

    Args:
        groups: labels 0, 1, ... of those that must stay together, shape (n,).
        keys: a random number for each conversation, shape (n,); the smallest of a group is the group's.
        share: of all conversations, those for training.

    Raises:
        InputError: no group is small enough for the test set.
    """
    import numpy as np

    count = int(groups.max()) + 1
    smallest = np.full(count, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(smallest, groups, keys)
    sizes = np.bincount(groups, minlength=count)
    room = wanted = min(max(1, len(groups) - round(share * len(groups))), len(groups) - 1)
    in_test = np.zeros(count, dtype=bool)
    for group in np.argsort(smallest, kind="stable"):
        if sizes[group] <= room and room:
            in_test[group] = True
            room -= int(sizes[group])
    if not in_test.any():
        raise InputError(
            f"all {len(groups)} conversations are pieces or near-duplicates of each other in groups of more than "
            f"{wanted}, so none can be set apart for the test; raise --threshold or lower --share"
        )
    return np.asarray(in_test[groups], dtype=np.bool_)
