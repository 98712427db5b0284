"""Which worker gets the next request, of those that have room: the dispatch policies."""

import itertools
import random
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Protocol

from vicuna.serve.config import FleetConfig
from vicuna.serve.fleet.ask import Ask
from vicuna.serve.fleet.replicas import Ranking, Worker
from vicuna.serve.protocol import Job

DRAWS = 32
"""Quick tries to draw by capacity, before everybody's is added up."""
BEGINNINGS = 256
"""Most beginnings of a prompt that are looked at; what comes behind them does not choose the worker."""
CHARACTERS = 256
"""A beginning ends after so many characters of a long text ..."""
TOKENS = 64
"""... or after so many token ids."""
REMEMBERED = 65_536
"""Most beginnings whose workers are remembered."""
HOLDERS = 4
"""Most workers that are remembered for one beginning."""


class Policy(Protocol):
    """Chooses a worker."""

    uses_prefix: bool
    """Whether `Ask.chain` has to be filled."""

    def choose(self, ask: Ask, ranking: Ranking) -> Worker:
        """The worker for a request: one of `ranking`, which has at least one, the least full first."""


class LeastLoaded(Policy):
    """The worker with the smallest share of its capacity in use; equal ones take turns."""

    uses_prefix = False

    def choose(self, ask: Ask, ranking: Ranking) -> Worker:
        return ranking[0]


class PowerOfTwo(Policy):
    """The less full of two workers drawn at random.

    Several controllers that see old numbers do not all rush to the same worker (Mitzenmacher 2001, "The Power of Two
    Choices in Randomized Load Balancing").
    """

    uses_prefix = False

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, ask: Ask, ranking: Ranking) -> Worker:
        first = self._rng.randrange(len(ranking))
        if len(ranking) == 1:
            return ranking[first]
        second = self._rng.randrange(len(ranking) - 1)
        second += second >= first  # two different ones
        return ranking[min(first, second)]


class Lottery(Policy):
    """A worker drawn at random, each as often as its capacity is large."""

    uses_prefix = False

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, ask: Ask, ranking: Ranking) -> Worker:
        for _ in range(DRAWS):  # any worker, kept with odds of its capacity: the same draw without adding all up
            worker = ranking[self._rng.randrange(len(ranking))]
            if self._rng.random() * ranking.largest < worker.capacity:
                return worker
        workers = list(ranking)
        return self._rng.choices(workers, [worker.capacity for worker in workers])[0]


class PrefixAffinity(Policy):
    """The worker that has computed the longest beginning of the prompt, as its cache may still hold it.

    A worker that is fuller than the least full one by more than `slack` (a share of a capacity) is passed over, and a
    prompt with no known beginning goes to the least full one.
    """

    uses_prefix = True

    def __init__(self, slack: float, remembered: int = REMEMBERED) -> None:
        self._slack = slack
        self._remembered = remembered
        self._holders: OrderedDict[int, tuple[Worker, ...]] = OrderedDict()

    def choose(self, ask: Ask, ranking: Ranking) -> Worker:
        worker = self._holder(ask, ranking) or ranking[0]
        for beginning in ask.chain:
            self._learn(beginning, worker)
        while len(self._holders) > self._remembered:
            self._holders.popitem(last=False)
        return worker

    def _holder(self, ask: Ask, ranking: Ranking) -> Worker | None:
        fullest = ranking[0].fullness + self._slack
        for beginning in reversed(ask.chain):
            holders = self._holders.get(beginning, ())
            usable = [each for each in holders if each.fullness <= fullest and each in ranking]
            if usable:
                return min(usable, key=lambda each: each.fullness)
        return None

    def _learn(self, beginning: int, worker: Worker) -> None:
        holders = self._holders.pop(beginning, ())
        if not holders or holders[0] is not worker:
            # One that has left is in no ranking any more, and goes from here when others push it out.
            holders = (worker, *(each for each in holders if each is not worker))[:HOLDERS]
        self._holders[beginning] = holders


def make(config: FleetConfig) -> Policy:
    """The policy that the settings name."""
    match config.policy:
        case "least_loaded":
            return LeastLoaded()
        case "power_of_two":
            return PowerOfTwo(random.Random())
        case "lottery":
            return Lottery(random.Random())
        case "prefix":
            return PrefixAffinity(config.slack)


def chain(job: Job) -> tuple[int, ...]:
    """Hashes of a prompt's beginnings, the shortest first: two prompts share as many as their texts begin alike.

    A beginning ends with a message, and within long texts at regular places. At most BEGINNINGS are looked at, so a
    prompt of megabytes costs no more than one of some pages. The hashes hold for one name of a model, and in this
    process only.
    """
    hashes: list[int] = []
    last = hash(job.model)
    for piece, ends in itertools.islice(_pieces(job), BEGINNINGS):
        last = hash((last, piece))
        if ends:
            hashes.append(last)
    return tuple(hashes)


def _pieces(job: Job) -> Iterator[tuple[Hashable, bool]]:
    """What the prompt consists of, and whether a beginning ends behind each piece."""
    for at in range(0, len(job.tokens or ()), TOKENS):
        yield (job.tokens or ())[at : at + TOKENS], True
    for at in range(0, len(job.prompt or ""), CHARACTERS):
        yield (job.prompt or "")[at : at + CHARACTERS], True
    for turn in job.messages or ():
        for at in range(0, len(turn.content) or 1, CHARACTERS):
            block = turn.content[at : at + CHARACTERS]
            # Everybody's chats may begin with the same few words of a system prompt; those are no conversation yet.
            yield (turn.role, block), len(block) == CHARACTERS or turn.role != "system"
