"""One forward pass over tokens of many answers, laid end to end without padding, and where each of them looks.

A `Span` is the next tokens of one answer: the last one of an answer under way, or a piece of a prompt. The spans of a
step make one row of tokens. Every layer that works token by token takes the row as it is; only attention must know
which tokens belong together, and finds that in the `Ragged` batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from vicuna.serve.engines.continuous.cache import Chain

SHARED = 64
"""Tokens that answers must have in common for their attention to them to be computed together."""
TILE = 128
"""Rows of a prompt that look together: the first of more would look in vain at what is there for the last."""
PADDED = 1.5
"""How many times their own tokens answers may look at together, the shorter ones in vain, to be computed in one go."""


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens of one answer that are computed in this step."""

    ids: Sequence[int]
    start: int
    """Place of the first of them in the answer's own tokens."""
    chain: Chain
    """Holds room for all of them."""

    @property
    def end(self) -> int:
        """Place behind the last."""
        return self.start + len(self.ids)


@dataclass(frozen=True, slots=True)
class Look:
    """Rows of the batch that look at stretches of the cache, each at its own or all at one."""

    rows: slice | torch.Tensor
    """Which tokens of the batch."""
    count: int
    """How many."""
    first: int
    """First token of the (first) stretch in the cache."""
    size: int
    """Tokens of each stretch."""
    mask: torch.Tensor | None
    """Added to the scores; (count, size), or (1, stretches, 1, size); None: every row sees all of its stretch."""
    step: int = 0
    """Tokens from one row's stretch to the next one's; 0: all look at the same."""


@dataclass(frozen=True, slots=True)
class Table:
    """The same for a kernel that reads tables of blocks; int32, n spans."""

    offsets: torch.Tensor
    """(n + 1,) where each span's rows begin."""
    lengths: torch.Tensor
    """(n,) tokens that each answer has in the cache after this step."""
    blocks: torch.Tensor
    """(n, most blocks) the answers' blocks in order."""
    most: int
    """Rows of the longest span."""
    longest: int
    """Tokens of the longest answer."""


@dataclass
class Ragged:
    """The tokens of one step."""

    spans: Sequence[Span]
    block: int
    """Tokens of a block of the cache."""
    room: int
    """Tokens of the whole cache."""
    device: torch.device
    dtype: torch.dtype
    _looks: dict[int | None, list[list[Look]]] = field(default_factory=dict)

    @cached_property
    def offsets(self) -> list[int]:
        """Where each span begins in the row of tokens, and where the last one ends."""
        made = [0]
        for span in self.spans:
            made.append(made[-1] + len(span.ids))
        return made

    @cached_property
    def ids(self) -> torch.Tensor:
        """(1, N) token ids."""
        return self._row([token for span in self.spans for token in span.ids])

    @cached_property
    def positions(self) -> torch.Tensor:
        """(1, N) place of each token in its answer."""
        return self._row([place for span in self.spans for place in range(span.start, span.end)])

    @cached_property
    def places(self) -> torch.Tensor:
        """(N,) where in the cache each token's key and value go."""
        size = self.block
        return self._row(
            [
                span.chain.blocks[place // size] * size + place % size
                for span in self.spans
                for place in range(span.start, span.end)
            ]
        )[0]

    @cached_property
    def table(self) -> Table:
        """Where the rows look, for a kernel that reads tables of blocks."""
        used = [span.chain.blocks[: -(-span.end // self.block)] for span in self.spans]
        widest = max(map(len, used))
        lengths = [span.end for span in self.spans]

        def tensor(values: list[Any]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.int32, device=self.device)

        return Table(
            offsets=tensor(self.offsets),
            lengths=tensor(lengths),
            blocks=tensor([blocks + [0] * (widest - len(blocks)) for blocks in used]),
            most=max(len(span.ids) for span in self.spans),
            longest=max(lengths),
        )

    def lasts(self, which: Sequence[int]) -> torch.Tensor:
        """The rows of the last tokens of some spans."""
        return self._row([self.offsets[index + 1] - 1 for index in which])[0]

    def _row(self, values: list[int]) -> torch.Tensor:
        return torch.tensor([values], dtype=torch.long, device=self.device)

    # ------------------------------------------------------------------------------------- where each token looks
    def looks(self, window: int | None) -> list[list[Look]]:
        """Where the rows look in a layer, in rounds; a row has at most one look in each.

        With a window, a token sees only itself and the window - 1 tokens before it.
        """
        found = self._looks.get(window)
        if found is None:
            found = self._looks[window] = list(self._rounds(window))
        return found

    def _rounds(self, window: int | None) -> Iterator[list[Look]]:
        rounds: list[list[Look]] = []
        done = [0] * len(self.spans)  # tokens of each answer that a common look has covered
        if window is None:
            for group, count in self._common():
                common = self._rows([self.offsets[index] for index in group])
                for level, (_, first, size) in enumerate(_runs(self.spans[group[0]].chain, self.block, 0, count)):
                    _at(rounds, level).append(Look(common, len(group), first, size, None))
                for index in group:
                    done[index] = count
        depth = len(rounds)
        for index, span in enumerate(self.spans):
            for start in range(span.start, span.end, TILE):
                end = min(start + TILE, span.end)
                row = self.offsets[index] + start - span.start
                begin = max(done[index], 0 if window is None else start + 1 - window)
                runs = _runs(span.chain, self.block, begin, end)
                for level, (place, first, size) in enumerate(runs, depth if done[index] else 0):
                    mask = self._mask(start, end, place, size, window)
                    _at(rounds, level).append(Look(slice(row, row + end - start), end - start, first, size, mask))
        for looks in rounds:
            yield self._together(looks)

    def _together(self, looks: list[Look]) -> list[Look]:
        """The looks of single rows at stretches that lie at even distances become one."""
        single = sorted((look for look in looks if look.count == 1 and look.mask is None), key=lambda look: look.first)
        if len(single) < 2:
            return looks
        made = [look for look in looks if look.count > 1 or look.mask is not None]
        group = single[:1]
        for look in single[1:]:
            if not self._fits(group, look):
                made.append(self._joined(group))
                group = []
            group.append(look)
        return [*made, self._joined(group)]

    def _fits(self, group: list[Look], look: Look) -> bool:
        if not group:
            return True
        step = look.first - group[-1].first
        if len(group) > 1 and step != group[1].first - group[0].first:
            return False
        longest = max(each.size for each in (*group, look))
        real = sum(each.size for each in (*group, look))
        return step > 0 and look.first + longest <= self.room and longest * (len(group) + 1) <= PADDED * real

    def _joined(self, group: list[Look]) -> Look:
        if len(group) == 1:
            return group[0]
        sizes = [look.size for look in group]
        longest = max(sizes)
        mask = None
        if min(sizes) < longest:
            beyond = torch.arange(longest, device=self.device) >= torch.tensor(sizes, device=self.device)[:, None]
            mask = self._hide(beyond)[None, :, None]
        return Look(
            self._rows([_row_of(look) for look in group]),
            len(group),
            group[0].first,
            longest,
            mask,
            group[1].first - group[0].first,
        )

    def _hide(self, hidden: torch.Tensor) -> torch.Tensor:
        """What is added to scores to hide some; a row that sees nothing must not become "not a number": joined with
        its other looks, this one counts nothing."""
        lowest = torch.finfo(self.dtype).min / 2
        return torch.zeros(hidden.shape, dtype=self.dtype, device=self.device).masked_fill_(hidden, lowest)

    def _common(self) -> Iterator[tuple[list[int], int]]:
        """Answers under way that begin with the same blocks, and how many tokens that is."""
        groups: dict[int, list[int]] = {}
        for index, span in enumerate(self.spans):
            if len(span.ids) == 1 and span.start >= SHARED:
                groups.setdefault(span.chain.blocks[0], []).append(index)
        for group in groups.values():
            if len(group) > 1:
                tables = [self.spans[index].chain.blocks for index in group]
                most = min(self.spans[index].start for index in group) // self.block
                shared = most
                for table in tables[1:]:
                    shared = next((i for i in range(shared) if table[i] != tables[0][i]), shared)
                if shared * self.block >= SHARED:
                    yield group, shared * self.block

    def _rows(self, rows: list[int]) -> slice | torch.Tensor:
        """These rows of the batch; a slice, which costs less to read and to write, where it can be."""
        if rows == list(range(rows[0], rows[0] + len(rows))):
            return slice(rows[0], rows[0] + len(rows))
        return torch.tensor(rows, device=self.device)

    def _mask(self, start: int, end: int, place: int, size: int, window: int | None) -> torch.Tensor | None:
        """What an answer's tokens from `start` to `end` see of a stretch that holds its tokens from `place` on."""
        late = place + size > start + 1
        early = window is not None and place <= end - 1 - window
        if (not late and not early) or (end - start == 1 and not early):
            return None
        keys = torch.arange(place, place + size, device=self.device)[None]
        queries = torch.arange(start, end, device=self.device)[:, None]
        seen = keys <= queries
        if window is not None:
            seen &= keys > queries - window
        return self._hide(~seen)


def _row_of(look: Look) -> int:
    return look.rows.start if isinstance(look.rows, slice) else int(look.rows[0])


def _at(rounds: list[list[Look]], level: int) -> list[Look]:
    while len(rounds) <= level:
        rounds.append([])
    return rounds[level]


def _runs(chain: Chain, block: int, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """A chain's tokens from `begin` to `end` as stretches: (place in the chain, place in the cache, tokens)."""
    place = begin
    blocks = chain.blocks
    while place < end:
        index = place // block
        last = index
        while (last + 1) * block < end and blocks[last + 1] == blocks[last] + 1:
            last += 1
        stop = min(end, (last + 1) * block)
        yield place, blocks[index] * block + place % block, stop - place
        place = stop
