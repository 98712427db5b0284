"""What only all conversations together can decide: who is a duplicate of whom, and which ids must change.

Works on columns of numbers that the blocks left on disk: never on texts, and never on a whole column in one place. Each
task takes some of the hashes (ids, exact keys, bands) and, where even one is too large, those of one remainder only.
"""

import functools
import json
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from vicuna.data import dedup, near
from vicuna.data.config import DedupConfig
from vicuna.data.engine import Engine
from vicuna.data.parts import read_bytes, read_part, read_parts
from vicuna.data.shingles import Array
from vicuna.data.steps import ALIVE, ID, KEY_HIGH, KEY_LOW, LENGTH, Verdict, Work

MOST = 64 << 20
"""Bytes of hashes that one task holds at once, about."""
PAIRS = 1 << 15
"""Pairs whose signatures are in memory at once."""
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

    def share(self, task: "Task") -> list[tuple[Array, Array]]:
        """For each of the task's hashes: the rows that it looks at, rising, and their hashes."""
        found: list[list[tuple[Array, Array]]] = [[] for _ in task.hashes]
        for block in np.flatnonzero(self.counts).tolist():
            bands = [name for name in task.hashes if name not in _COLUMN]
            columns, *rest = read_parts(self.work.cleaned(block), ("columns", *bands))
            alive = columns[ALIVE] > 0
            for at, name in enumerate(task.hashes):
                hashes = columns[_COLUMN[name]] if name in _COLUMN else rest[bands.index(name)]
                places = np.flatnonzero(alive & (hashes % np.uint64(task.parts) == task.part))
                found[at].append((places + self.starts[block], hashes[places]))
        return [(_joined([rows for rows, _ in each]), _joined([hashes for _, hashes in each])) for each in found]

    def column(self, number: int, rows: Array) -> Array:
        """One of the numbers that `steps.clean` noted, of some rows in rising order."""
        return self._gathered(lambda block: read_part(self.work.cleaned(block), "columns")[number], rows)

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

    def _gathered(self, read: Callable[[int], Array], rows: Array) -> Array:
        return _joined([read(block)[places] for block, places in self.by_block(rows)])


def _joined(parts: list[Array]) -> Array:
    return np.concatenate(parts) if parts else np.zeros(0, np.uint64)


_COLUMN = {"id": ID, "key": KEY_LOW}
"""Hashes that are a row of the part `columns`; bands are parts by themselves."""


class Task(NamedTuple):
    """A part of the search for pairs that can be done by itself."""

    kind: Literal["id", "exact", "near"]
    hashes: tuple[str, ...]
    """Which to look at: `id`, `key`, or `band0`, `band1`, ..."""
    part: int
    """Only hashes that leave this remainder ..."""
    parts: int
    """... when divided by this."""


class Pairs(NamedTuple):
    """Rows that have the same id, or are duplicates of each other."""

    kind: str
    """As in `Task`."""
    rows: Array
    """int64 (m, 2), the smaller row first; each member of a group of equals stands with the first of it."""


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


def decide(chats: Chats, config: DedupConfig, engine: Engine, taken: Container[str] = ()) -> Decision:
    """Find duplicates and repeated ids among all chats; `Decision.verdicts` says what follows for each block.

    Of a cluster the longest chat stays, then the one with the lowest id, then the first.

    Args:
        taken: ids that no chat may get because another has them, at least all that end like `~2`.
    """
    decision = Decision()
    with engine.map(functools.partial(search, chats=chats, config=config), tasks(chats, config)) as found:
        pairs = list(found)
    dropped = _settle([each for each in pairs if each.kind != "id"], chats, decision)
    same = np.concatenate([each.rows for each in pairs if each.kind == "id"])
    _rename(np.setdiff1d(same, dropped), chats, decision, taken)
    return decision


def tasks(chats: Chats, config: DedupConfig) -> list[Task]:
    """The search in pieces of about `MOST` bytes of hashes."""
    size = 8 * max(chats.total, 1)
    parts = -(-size // MOST)
    together = max(1, MOST // size)
    wanted: list[tuple[Literal["id", "exact", "near"], tuple[str, ...]]] = [("id", ("id",))]
    if config.enabled and config.exact:
        wanted.append(("exact", ("key",)))
    if config.enabled and config.near:
        bands = [f"band{number}" for number in range(near.band_count(config.threshold))]
        wanted += [("near", tuple(bands[at : at + together])) for at in range(0, len(bands), together)]
    return [Task(kind, hashes, part, parts) for kind, hashes in wanted for part in range(parts)]


def search(task: Task, chats: Chats, config: DedupConfig) -> Pairs:
    """The pairs of duplicates, or of chats with one id, that one task finds."""
    shares = chats.share(task)
    if task.kind == "near":
        found = [rows[near.candidates(hashes)] for rows, hashes in shares]
        return Pairs("near", _verified(np.unique(np.concatenate(found), axis=0), chats, config))
    ((rows, hashes),) = shares
    other = hashes if task.kind == "id" else chats.column(KEY_HIGH, rows)
    return Pairs(task.kind, rows[dedup.groups(hashes, other)])


def _verified(pairs: Array, chats: Chats, config: DedupConfig) -> Array:
    """The pairs of rows that are near-duplicates by their signatures."""
    kept = [np.zeros((0, 2), np.int64)]
    for at in range(0, len(pairs), PAIRS):
        some = pairs[at : at + PAIRS]
        rows = np.unique(some)
        places = np.searchsorted(rows, some)
        kept.append(rows[near.verified(places, chats.signatures(rows), config.threshold, config.reworded)])
    return np.concatenate(kept)


def _settle(pairs: Sequence[Pairs], chats: Chats, decision: Decision) -> Array:
    """Join pairs to clusters, choose which chat of each stays, give verdicts about the others; returns their rows."""
    edges = np.concatenate([np.zeros((0, 2), np.int64), *(each.rows for each in pairs)])
    rows, ends = np.unique(edges, return_inverse=True)
    if not len(rows):
        return rows
    exact = np.repeat([each.kind == "exact" for each in pairs], [len(each.rows) for each in pairs])
    ends = ends.reshape(edges.shape)
    equal, labels = near.clusters(ends[exact], len(rows)), near.clusters(ends, len(rows))
    lengths, ids = chats.column(LENGTH, rows), chats.ids(rows)
    order = np.argsort(labels, kind="stable")
    stays = np.zeros(len(rows), bool)
    for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        best = min(members, key=lambda at: (-int(lengths[at]), ids[at], at))
        stays[best] = True
        others = [at for at in members if at != best]
        for at in others:
            reason = "exact duplicate" if equal[at] == equal[best] else "near-duplicate"
            _give(decision, chats, int(rows[at]), reason, ids[best])
        distinct = len(set(equal[members].tolist()))
        if distinct > 1:
            decision.sizes[distinct] += 1
            decision.shown = sorted([*decision.shown, [ids[best], *(ids[at] for at in others)]], key=_larger)[:SHOWN]
    return rows[~stays]


def _larger(cluster: Sequence[str]) -> int:
    return -len(cluster)


def _give(decision: Decision, chats: Chats, row: int, reason: str, detail: str) -> None:
    block = int(np.searchsorted(chats.starts, row, side="right")) - 1
    verdict = Verdict(row - int(chats.starts[block]), reason, detail)
    decision.verdicts.setdefault(block, []).append(verdict)


def _rename(rows: Array, chats: Chats, decision: Decision, taken: Container[str]) -> None:
    """Of the chats that stay under one id, the second becomes `~2`, the third `~3`, ..., or the next that is not taken.

    Args:
        rows: of chats that stay and whose ids others have or had too, rising.
    """
    last: dict[str, int] = {}
    for row, name in zip(rows.tolist(), chats.ids(rows), strict=True):
        number = last.get(name, 0) + 1
        while number > 1 and f"{name}~{number}" in taken:
            number += 1
        last[name] = number
        if number > 1:
            _give(decision, chats, row, "", f"~{number}")
