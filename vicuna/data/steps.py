"""The steps of a run over its blocks, each a function from files to a file, so that any engine can run them.

A step whose file is there already has been done before, perhaps by a run that was killed, and is not done again.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vicuna.data import dedup, near, outcome, stages, writers
from vicuna.data.chat import Chat, Drop
from vicuna.data.config import CleanConfig
from vicuna.data.ledger import EXAMPLES, Books, to_lines
from vicuna.data.outcome import Outcome
from vicuna.data.parts import read_bytes, write_parts
from vicuna.data.shingles import Array
from vicuna.data.sources.cuts import records
from vicuna.data.sources.record import Block
from vicuna.data.split import Piece

MOST_RECORDS = 1024
"""Records of a block, however small they are."""
KEY_LOW, KEY_HIGH, ID, LENGTH, ALIVE, COLUMNS = range(6)
"""Rows of the part `columns`, 64-bit numbers of each chat: exact key, hash of the id, characters, are rounds left."""
_NUMBERED = re.compile(r"~\d+\Z")


@dataclass(frozen=True)
class Work:
    """The folder in which a run keeps what its steps have finished."""

    folder: Path

    def cleaned(self, block: int) -> Path:
        """What `clean` leaves of a block."""
        return self.folder / "cleaned" / f"{block:06d}.npz"

    def finished(self, block: int) -> Path:
        """What `finish` leaves of a block."""
        return self.folder / "finished" / f"{block:06d}.npz"

    @property
    def spool(self) -> Path:
        """Where compressed inputs are unpacked to."""
        return self.folder / "spool"


class Cleaned(NamedTuple):
    """What the run has to know of a cleaned block."""

    chats: int
    damaged: list[str]
    """Places where an input broke off."""
    numbered: list[str]
    """Ids that end like those which tell chats of one id apart."""


class Verdict(NamedTuple):
    """What was decided about a chat because of other chats."""

    chat: int
    """Its place in the block."""
    reason: str
    """Why it is dropped; "" for one that stays and gets another id."""
    detail: str
    """The chat that stays in its place, or the ending that makes its id unique."""


class Finished(NamedTuple):
    """What the run has to know of a finished block."""

    samples: int
    context: bool
    """Some turn is there for context only and not to be learnt."""


# ------------------------------------------------------------------------------------------------ first step
def clean(item: tuple[int, Block], config: CleanConfig, work: Work) -> Cleaned:
    """Take a block's records through the stages before `dedup`, and note what finding duplicates needs."""
    number, block = item
    path = work.cleaned(number)
    if not path.exists():
        names = stages.before_dedup(config)
        outcomes, signatures, damaged = [], [], []
        for record in records(block):
            if record.damaged:
                damaged.append(f"{record.file}{record.position}: {record.problem}")
            found = stages.begin(record)
            stages.advance(found, names, config)
            outcomes.append(found)
            if config.dedup.enabled and config.dedup.near:  # at once, while `decontaminate`'s words are still known
                signatures.append(near.signature(found.chat) if found.chat.rounds else near.NOTHING)
        _few_examples(outcomes)
        ids = [each.chat.id for each in outcomes]
        facts = Cleaned(len(outcomes), damaged, [name for name in ids if _NUMBERED.search(name)])
        lines = b"".join(map(outcome.to_line, outcomes))
        arrays = _columns([each.chat for each in outcomes], config) | _bands(signatures, config)
        texts = {"facts": json.dumps(facts._asdict()).encode(), "ids": json.dumps(ids).encode(), "outcomes": lines}
        write_parts(path, {**texts, **arrays})
    return Cleaned(**json.loads(read_bytes(path, "facts")))


def _few_examples(outcomes: Sequence[Outcome]) -> None:
    """Leave the first examples of each kind only."""
    seen: dict[str, int] = {}
    for each in outcomes:
        if each.example:
            seen[each.example.kind] = seen.get(each.example.kind, 0) + 1
            if seen[each.example.kind] > EXAMPLES:
                each.example = None


def _columns(chats: Sequence[Chat], config: CleanConfig) -> dict[str, Array]:
    columns = np.zeros((COLUMNS, len(chats)), np.uint64)
    for at, chat in enumerate(chats):
        columns[ID, at] = dedup.id_hash(chat.id)
        columns[LENGTH, at] = sum(len(each.user) + len(each.answer) for each in chat.rounds)
        columns[ALIVE, at] = bool(chat.rounds)
        if config.dedup.enabled and config.dedup.exact:
            columns[KEY_LOW : KEY_HIGH + 1, at] = np.frombuffer(dedup.key(chat), "<u8")
    return {"columns": columns}


def _bands(signatures: Sequence[Array], config: CleanConfig) -> dict[str, Array]:
    if not signatures:
        return {}
    rows = np.stack(signatures)
    bands = near.bands(rows, config.dedup.threshold)
    return {"signatures": rows} | {f"band{number}": np.ascontiguousarray(band) for number, band in enumerate(bands.T)}


# ------------------------------------------------------------------------------------------------ second step
def finish(item: tuple[int, Sequence[Verdict]], config: CleanConfig, work: Work) -> Finished:
    """Drop a block's duplicates, take what is left through the other stages, and write samples, ledger and books."""
    number, verdicts = item
    path = work.finished(number)
    if not path.exists():
        books, samples, ledger, context = Books(), list[bytes](), list[bytes](), False
        by_chat = {each.chat: each for each in verdicts}
        for at, line in enumerate(read_bytes(work.cleaned(number), "outcomes").splitlines()):
            found = outcome.from_line(line)
            pieces = _finished(found, by_chat.get(at), config)
            books.count(found, pieces)
            ledger.append(to_lines(found))
            context |= any(not turn.train for piece in pieces for turn in piece.conversation.messages)
            samples += [writers.line(each.conversation, config.output.layout) for each in pieces]
        facts = json.dumps(Finished(len(samples), context)._asdict()).encode()
        parts = {"samples": b"".join(samples), "ledger": b"".join(ledger), "books": books.to_json(), "facts": facts}
        write_parts(path, parts)
    return Finished(**json.loads(read_bytes(path, "facts")))


def _finished(found: Outcome, verdict: Verdict | None, config: CleanConfig) -> list[Piece]:
    chat = found.chat
    if verdict and verdict.reason:
        dropped = [Drop("dedup", verdict.reason, verdict.detail, each) for each in chat.rounds]
        found.keep((chat.with_rounds(()), dropped))
    stages.advance(found, stages.after_dedup(config), config)
    if verdict and not verdict.reason:
        old, found.chat = found.chat, found.chat.renamed(found.chat.id + verdict.detail)
        pieces = stages.cut(found, config)
        found.chat = old  # the ledger names records as they were read
        return pieces
    return stages.cut(found, config)


# ------------------------------------------------------------------------------------------------ last step
class Shard(NamedTuple):
    """One file of the output and the samples that belong in it."""

    path: Path
    slices: tuple[tuple[int, int, int], ...]
    """(block, first sample, end) in order."""


def shards(counts: Sequence[int], config: CleanConfig, folder: Path) -> list[Shard]:
    """Which samples go into which file: `output.shard` in each, in order, whatever the blocks are.

    Args:
        counts: samples of each block.
    """
    size, found = config.output.shard, []
    slices: list[tuple[int, int, int]] = []
    room = size
    for block, count in enumerate(counts):
        start = 0
        while start < count:
            taken = min(room, count - start)
            slices.append((block, start, start + taken))
            start, room = start + taken, room - taken
            if not room:
                found.append(tuple(slices))
                slices, room = [], size
    if slices or not found:
        found.append(tuple(slices))
    ending = config.output.format
    return [Shard(folder / f"{number:05d}.{ending}", each) for number, each in enumerate(found)]


def write(shard: Shard, config: CleanConfig, work: Work, context: bool) -> None:
    """Write one file of conversations; with `context` every turn says whether it is to be learnt."""
    with writers.open_shard(shard.path, config.output.format, config.output.layout, context) as file:
        for block, start, end in shard.slices:
            lines = read_bytes(work.finished(block), "samples").splitlines(keepends=True)
            file.write_lines(lines[start:end])
