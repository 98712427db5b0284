"""What only all conversations together can decide: who is a duplicate of whom, and which ids must change.

Works on columns of numbers that the blocks left on disk: never on texts, and never on all columns at once. Each task
takes some bands (or the exact keys) and, where even one column is too large, only the hashes of one remainder.
"""

import functools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from vicuna.data import dedup, near
from vicuna.data.config import DedupConfig
from vicuna.data.engine import Engine
from vicuna.data.parts import Array, read_bytes, read_part
from vicuna.data.steps import ALIVE, ID, KEY_HIGH, KEY_LOW, LENGTH, Verdict, Work

MOST = 64 << 20
"""Bytes of columns that one task holds at once, about."""
SHOWN = 5
"""Clusters that the report shows."""


@dataclass(frozen=True)
class Chats:
    """All chats of a run as rows of columns, block after block."""

    work: Work
    counts: tuple[int, ...]
    """Chats in each block."""

    @property
    def total(self) -> int:
        """How many chats there are."""
        return sum(self.counts)

    @functools.cached_property
    def starts(self) -> Array:
        """Row of each block's first chat; int64, one longer than the blocks."""
        return np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])

    def column(self, number: int, rows: Array | None = None) -> Array:
        """One of the numbers that `steps.clean` noted, of all chats or of some rows in rising order."""
        return self._gathered(lambda block: read_part(self.work.cleaned(block), "columns")[number], rows)

    def band(self, number: int) -> Array:
        """One band's hashes of all chats."""
        return self._gathered(lambda block: read_part(self.work.cleaned(block), f"band{number}"), None)

    def signatures(self, rows: Array) -> Array:
        """MinHash signatures of some rows in rising order; (rows, K)."""
        return self._gathered(lambda block: read_part(self.work.cleaned(block), "signatures"), rows)

    def ids(self, rows: Array) -> list[str]:
        """Ids of some rows in rising order."""
        found: list[str] = []
        for block, places in self.by_block(rows):
            names = json.loads(read_bytes(self.work.cleaned(block), "ids"))
            found += [names[at] for at in places]
        return found

    def by_block(self, rows: Array) -> Iterator[tuple[int, Array]]:
        """Blocks that hold any of these rows (in rising order), and the rows' places in them."""
        owners = np.searchsorted(self.starts, rows, side="right") - 1
        for mine in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(owners)) + 1):
            if len(mine):
                block = int(owners[mine[0]])
                yield block, rows[mine] - self.starts[block]

    def _gathered(self, read: Any, rows: Array | None) -> Array:
        if rows is None:
            parts = [read(block) for block in range(len(self.counts))]
        else:
            parts = [read(block)[places] for block, places in self.by_block(rows)]
        return np.concatenate(parts) if parts else np.zeros(0, np.uint64)


class Task(NamedTuple):
    """A part of the search for pairs that can be done by itself."""

    bands: tuple[int, ...]
    """Which bands to look at; none means the exact keys."""
    part: int
    """Only hashes that leave this remainder ..."""
    parts: int
    """... when divided by this."""


class Pairs(NamedTuple):
    """Rows that are duplicates of each other; each (m,)."""

    first: Array
    second: Array
    exact: bool


@dataclass
class Decision:
    """What was decided, and the figures for the report."""

    verdicts: dict[int, list[Verdict]] = field(default_factory=dict)
    """Block → verdicts about its chats."""
    sizes: Counter[int] = field(default_factory=Counter)
    """Conversations in a cluster of near-duplicates → clusters."""
    shown: list[list[str]] = field(default_factory=list)
    """The largest clusters: the ids in them, the one that stays first."""

    def facts(self) -> dict[str, Any]:
        """The figures for the manifest."""
        return {"near_duplicate_clusters": {str(size): n for size, n in sorted(self.sizes.items())}}


def decide(chats: Chats, config: DedupConfig, engine: Engine) -> Decision:
    """Find duplicates and repeated ids among all chats; `Decision.verdicts` says what follows for each block.

    Of a cluster the longest chat stays, then the one with the lowest id, then the first.
    """
    decision = Decision()
    alive = chats.column(ALIVE).astype(bool)
    if config.enabled:
        with engine.map(functools.partial(search, chats=chats, config=config), tasks(chats, config)) as found:
            pairs = list(found)
        _settle(pairs, chats, alive, decision)
    _rename(chats, alive, decision)
    return decision


def tasks(chats: Chats, config: DedupConfig) -> list[Task]:
    """The search in pieces of about `MOST` bytes of columns."""
    size = 8 * max(chats.total, 1)
    parts = -(-size // MOST)
    together = max(1, MOST // size)
    found = [Task((), part, parts) for part in range(parts)] if config.exact else []
    if config.near:
        numbers = range(near.band_count(config.threshold))
        for at in range(0, len(numbers), together):
            found += [Task(tuple(numbers[at : at + together]), part, parts) for part in range(parts)]
    return found


def search(task: Task, chats: Chats, config: DedupConfig) -> Pairs:
    """The pairs of duplicates that one task finds."""
    alive = chats.column(ALIVE).astype(bool)
    if not task.bands:
        low = chats.column(KEY_LOW)
        rows = _share(low, alive, task)
        groups = dedup.groups(low[rows], chats.column(KEY_HIGH)[rows])
        return Pairs(rows[groups[:, 0]], rows[groups[:, 1]], True)
    found = [np.zeros((0, 2), np.int64)]
    for number in task.bands:
        hashes = chats.band(number)
        rows = _share(hashes, alive, task)
        found.append(rows[near.candidates(hashes[rows])])
    pairs = np.unique(np.concatenate(found), axis=0)
    rows = np.unique(pairs)
    signatures = chats.signatures(rows)
    local = near.verified(np.searchsorted(rows, pairs), signatures, config.threshold, config.reworded)
    return Pairs(rows[local[:, 0]], rows[local[:, 1]], False)


def _share(hashes: Array, alive: Array, task: Task) -> Array:
    """Rows that still have rounds and whose hash is this task's."""
    mine = alive if task.parts == 1 else alive & (hashes % np.uint64(task.parts) == task.part)
    return np.flatnonzero(mine)


def _settle(pairs: Sequence[Pairs], chats: Chats, alive: Array, decision: Decision) -> None:
    """Join pairs to clusters, choose the chat of each that stays, and give verdicts about the others."""
    edges = np.concatenate([np.stack([each.first, each.second]) for each in pairs], axis=1)
    exact = np.concatenate([np.full(len(each.first), each.exact) for each in pairs])
    rows, ends = np.unique(edges, return_inverse=True)
    if not len(rows):
        return
    ends = ends.reshape(edges.shape).T
    equal, labels = near.clusters(ends[exact], len(rows)), near.clusters(ends, len(rows))
    lengths, ids = chats.column(LENGTH, rows), chats.ids(rows)
    order = np.argsort(labels, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        best = min(members, key=lambda at: (-int(lengths[at]), ids[at], at))
        others = [at for at in members if at != best]
        for at in others:
            reason = "exact duplicate" if equal[at] == equal[best] else "near-duplicate"
            _give(decision, chats, int(rows[at]), reason, ids[best])
        alive[rows[others]] = False
        distinct = len(set(equal[members].tolist()))
        if distinct > 1:
            decision.sizes[distinct] += 1
            decision.shown.append([ids[best], *(ids[at] for at in others)])
    decision.shown = sorted(decision.shown, key=len, reverse=True)[:SHOWN]


def _give(decision: Decision, chats: Chats, row: int, reason: str, detail: str) -> None:
    block = int(np.searchsorted(chats.starts, row, side="right")) - 1
    verdict = Verdict(row - int(chats.starts[block]), reason, detail)
    decision.verdicts.setdefault(block, []).append(verdict)


def _rename(chats: Chats, alive: Array, decision: Decision) -> None:
    """Of the chats that stay under one id, the second becomes `~2`, the third `~3`, ..."""
    rows = np.flatnonzero(alive)
    hashes = chats.column(ID)[rows]
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    for at in np.flatnonzero(hashes[1:] == hashes[:-1]) + 1:
        start = int(np.searchsorted(hashes, hashes[at]))
        _give(decision, chats, int(rows[order[at]]), "", f"~{at - start + 1}")
