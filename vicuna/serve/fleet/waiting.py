"""The line of those who wait for one model: who is next, and who has to go when it is full.

Answers that had a worker before come first, then the more urgent ones. Within one urgency the keys take turns, and what
one key asked for is served in the order in which it came.
"""

import asyncio
from bisect import insort
from collections import Counter, OrderedDict, deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from vicuna.serve.fleet.ask import Ask
from vicuna.serve.fleet.table import Ticket
from vicuna.serve.protocol import ServedModel

T = TypeVar("T")
Kind = tuple[frozenset[str], frozenset[str], tuple[str, str] | None]
"""What a request needs, which workers it avoids, and the hashes that it is bound to: the fleet has a place for all
of one kind, or for none of them."""
Urgency = tuple[bool, int]
"""The lower, the sooner: false for answers that had a worker before, then the request's priority."""
REMEMBERED = 64
"""Services from which the pace is estimated."""


@dataclass(slots=True, eq=False)
class Waiter:
    """One answer that waits for a worker."""

    ask: Ask
    avoid: frozenset[str]
    version: ServedModel | None
    again: bool
    """It had a worker before, so it was let in already: it goes before the others and is never turned away."""
    future: "asyncio.Future[Ticket]"
    since: float
    absent_since: float | None = None
    """Since when no worker has been there that could serve it, however busy."""
    kind: Kind = field(init=False)
    urgency: Urgency = field(init=False)

    def __post_init__(self) -> None:
        version = self.version
        hashes = None if version is None else (version.checkpoint_hash, version.template_hash)
        self.kind = (self.ask.needs, self.avoid, hashes)
        self.urgency = (not self.again, self.ask.priority)


class Line:
    """Who waits for one model. Everything but `next` past kinds that nobody can serve takes constant time."""

    def __init__(self, now: float) -> None:
        self._keys: dict[Urgency, OrderedDict[str, OrderedDict[Waiter, None]]] = {}
        self._urgencies: list[Urgency] = []
        self._kinds: Counter[Kind] = Counter()
        self._shares: Counter[str] = Counter()
        self._served = deque([now], maxlen=REMEMBERED)  # when; first of all the line's own beginning

    def __len__(self) -> int:
        return self._kinds.total()

    def __iter__(self) -> Iterator[Waiter]:
        for urgency in self._urgencies:
            for queue in self._keys[urgency].values():
                yield from queue

    @property
    def counted(self) -> int:
        """How many wait that can be turned away."""
        return self._shares.total()

    def has_kind(self, kind: Kind) -> bool:
        """Whether somebody waits who can be served whenever this kind can."""
        return kind in self._kinds

    def join(self, waiter: Waiter) -> None:
        """Stand at the end of the own key's requests."""
        keys = self._keys.get(waiter.urgency)
        if keys is None:
            keys = self._keys[waiter.urgency] = OrderedDict()
            insort(self._urgencies, waiter.urgency)
        keys.setdefault(waiter.ask.key, OrderedDict())[waiter] = None
        self._kinds[waiter.kind] += 1
        if not waiter.again:
            self._shares[waiter.ask.key] += 1

    def leave(self, waiter: Waiter) -> None:
        """Go out of the line, from wherever one stands; nothing happens to who has left already."""
        keys = self._keys.get(waiter.urgency)
        queue = keys.get(waiter.ask.key) if keys else None
        if not keys or queue is None or waiter not in queue:
            return
        del queue[waiter]
        _count_down(self._kinds, waiter.kind)
        if not waiter.again:
            _count_down(self._shares, waiter.ask.key)
        if not queue:
            del keys[waiter.ask.key]
        if not keys:
            del self._keys[waiter.urgency]
            self._urgencies.remove(waiter.urgency)

    def served(self, waiter: Waiter, now: float) -> None:
        """Go out with a ticket: it is the next key's turn."""
        self.leave(waiter)
        self._served.append(now)
        keys = self._keys.get(waiter.urgency)
        if keys is not None and waiter.ask.key in keys:
            keys.move_to_end(waiter.ask.key)

    def next(self, refused: Collection[Kind]) -> Waiter | None:
        """Whose turn it is, but for the kinds that nobody can serve now."""
        if all(kind in refused for kind in self._kinds):
            return None
        return next((waiter for waiter in self if waiter.kind not in refused), None)

    def gives_way(self, ask: Ask) -> Waiter | None:
        """Who has to go so that a newcomer fits into a full line; None: nobody, so the newcomer goes.

        The newest and least urgent request of the key with the most goes, if the newcomer's key has fewer even with the
        newcomer, or if it is the same key and the newcomer is more urgent.
        """
        greediest = max(self._shares, key=lambda key: (self._shares[key], key == ask.key))
        last = self._newest(greediest)
        fewer = self._shares[ask.key] + 1 < self._shares[greediest]
        more_urgent = greediest == ask.key and ask.priority < last.ask.priority
        return last if fewer or more_urgent else None

    def _newest(self, key: str) -> Waiter:
        urgency = next(each for each in reversed(self._urgencies) if key in self._keys[each])
        return next(reversed(self._keys[urgency][key]))

    def wait(self, now: float) -> float:
        """Seconds until everybody who waits now is served, at the pace of late; before the first service, as if it
        were now."""
        return len(self) * (now - self._served[0]) / len(self._served)


def _count_down(counter: Counter[T], what: T) -> None:
    counter[what] -= 1
    if not counter[what]:
        del counter[what]
