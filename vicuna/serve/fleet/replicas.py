"""Who serves a model: its workers, the versions that they serve, and those that have room, in order.

The fleet alone changes these tables. What costs time with the number of workers happens when one comes or goes; what is
done for every request takes a few steps whatever their number.
"""

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter

from vicuna.errors import VicunaError
from vicuna.serve.protocol import ServedModel

DERIVED = 12
"""Characters of a checkpoint's hash that stand for the version where nobody gave it a label."""
_rank = attrgetter("rank")
_age = attrgetter("started", "id")


class JoinRefused(VicunaError):
    """A worker may not join as it is."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Worker:
    """A member of the fleet; the fleet alone changes it."""

    id: str
    address: str = ""
    engine: str = ""
    models: Mapping[str, ServedModel] = field(default_factory=dict)
    capacity: int = 1
    started: float = 0.0
    expires: float = 0.0
    in_flight: int = 0
    """Answers that this controller waits for."""
    elsewhere: int = 0
    """Answers that other controllers had there at its last heartbeat."""
    draining: bool = False
    suspended: bool = False
    retry_at: float = 0.0
    """When a suspended worker is probed."""
    full_until: float = 0.0
    """Until when it is left alone after it said that it has no room."""
    failures: int = 0
    last_failure: str = ""
    answered: int = 0
    load: Mapping[str, float] = field(default_factory=dict)
    """What its engine says about itself."""
    turn: int = 0
    """When it was last chosen, as a number that grows: equally full workers take turns."""
    rank: tuple[float, int] | None = None
    """Its place in the rankings (fullness, turn); None while it is in none."""
    replicas: tuple["Replicas", ...] = ()
    """Where it is a member: one entry for each of its models; none when it has left."""

    @property
    def fullness(self) -> float:
        """Answers that it computes as a share of its capacity; above 1 when other controllers sent more."""
        return (self.in_flight + self.elsewhere) / self.capacity

    @property
    def trusted(self) -> bool:
        """Whether it gets new work at all."""
        return not (self.suspended or self.draining)

    def place(self, now: float) -> None:
        """Take its place among the replicas, after anything about it changed; one that has left has none."""
        for replicas in self.replicas:
            if self.trusted:
                replicas.trusted[self.id] = self
            else:
                replicas.trusted.pop(self.id, None)
        room = self.in_flight < self.capacity and self.full_until <= now < self.expires
        self._move((self.fullness, self.turn) if self.replicas and self.trusted and room else None)

    def leave(self) -> None:
        """Give up its places; what it has in flight may finish."""
        self._move(None)
        for replicas in self.replicas:
            del replicas.members[self.id]
            replicas.trusted.pop(self.id, None)
        self.replicas = ()

    def _move(self, rank: tuple[float, int] | None) -> None:
        if rank == self.rank:
            return
        if self.rank is not None:
            for replicas in self.replicas:
                replicas.ranking.remove(self)
        self.rank = rank
        if rank is not None:
            for replicas in self.replicas:
                replicas.ranking.add(self)


class Ranking:
    """Workers with room for one more answer, the least full first."""

    def __init__(self, workers: Iterable[Worker] = ()) -> None:
        self._workers = list(workers)
        self.largest = 1
        """No worker here has a larger capacity."""

    def __len__(self) -> int:
        return len(self._workers)

    def __getitem__(self, index: int) -> Worker:
        return self._workers[index]

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers)

    def __contains__(self, worker: Worker) -> bool:
        if worker.rank is None:
            return False
        index = bisect_left(self._workers, worker.rank, key=_rank)
        return index < len(self._workers) and self._workers[index] is worker

    def add(self, worker: Worker) -> None:
        """Put a worker where its rank belongs."""
        insort(self._workers, worker, key=_rank)

    def remove(self, worker: Worker) -> None:
        """Take a worker out; its rank is still the one with which it was added."""
        del self._workers[bisect_left(self._workers, worker.rank, key=_rank)]


class Replicas:
    """The workers that serve one version of a model: the same weights and the same template."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.members: dict[str, Worker] = {}
        self.trusted: dict[str, Worker] = {}
        """Neither suspended nor draining, however busy."""
        self.ranking = Ranking()
        self.standing: list[Worker] = []
        """All that are not draining. A worker that is suspended is one of them: a hiccup is no upgrade."""
        self.oldest: Worker | None = None
        """Of those that stand."""
        self.labels: tuple[str, ...] = ()
        self.names: tuple[str, ...] = (name,)
        """Under which requests for these workers wait: an answer that is continued may have come by the bare name."""
        self.features: set[frozenset[str]] = set()
        """What its workers can do; mostly all can do the same."""

    def recount(self) -> None:
        """Work out what follows from who is a member and who drains."""
        members = self.members.values()
        self.standing = [worker for worker in members if not worker.draining]
        self.oldest = min(self.standing, key=_age, default=None)
        self.labels = tuple(sorted({worker.models[self.name].version for worker in self.standing} - {""}))
        self.features = {worker.models[self.name].features for worker in members}
        self.ranking.largest = max((worker.capacity for worker in members), default=1)

    def able(self, needs: frozenset[str], avoid: Collection[str]) -> Ranking:
        """Those with room that can do what is needed and need not be avoided."""
        same = all(needs <= features for features in self.features)
        if same and self.members.keys().isdisjoint(avoid):
            return self.ranking
        found = Ranking(w for w in self.ranking if w.id not in avoid and needs <= w.models[self.name].features)
        found.largest = self.ranking.largest
        return found


class Versions:
    """All versions of the model of one name, and which of them each way of asking leads to."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._versions: dict[tuple[str, str], Replicas] = {}
        self.routes: dict[str, Replicas] = {}
        """By `name` the active version, by `name@label` that version."""
        self.listing: dict[str, ServedModel] = {}
        """What people are shown of the routes."""

    def __bool__(self) -> bool:
        return bool(self._versions)

    def of(self, model: ServedModel) -> Replicas | None:
        """The workers that serve exactly this version."""
        return self._versions.get(_hashes(model))

    def add(self, worker: Worker) -> Replicas:
        """Make a worker a member of its version."""
        hashes = _hashes(worker.models[self._name])
        replicas = self._versions.setdefault(hashes, Replicas(self._name))
        replicas.members[worker.id] = worker
        return replicas

    def refuse_mixing(self, model: ServedModel, aside: Collection[str], now: float) -> None:
        """Make sure that a worker may serve this version beside those that are served.

        Args:
            model: what the worker wants to serve.
            aside: ids of workers that do not count, because it takes their place.
            now: workers whose lease has ended by then do not count either.

        Raises:
            JoinRefused: nothing would tell it apart from another version.
        """
        known, other = False, None
        for replicas in self._versions.values():
            worker = next((w for w in replicas.standing if w.expires > now and w.id not in aside), None)
            if worker is None:
                continue
            if worker.models[self._name].same_version(model):
                known = True
            elif model.version in replicas.labels:
                raise _no_mixing(model, worker)
            else:
                other = worker
        if other is not None and not known and not model.version:
            raise _no_mixing(model, other)

    def recount(self) -> None:
        """Work out the routes anew, after a worker came, went or drains.

        The active version is that of the oldest worker that does not drain, so that all controllers agree on it; it
        changes when no worker of the old one is older than every worker of the new one.
        """
        self._versions = {hashes: replicas for hashes, replicas in self._versions.items() if replicas.members}
        for replicas in self._versions.values():
            replicas.recount()
            replicas.names = (self._name,)
        oldest = sorted((r.oldest for r in self._versions.values() if r.oldest is not None), key=_age)
        self.routes, self.listing = {}, {}
        for worker in oldest:
            model = worker.models[self._name]
            replicas = self._versions[_hashes(model)]
            self.routes.setdefault(self._name, replicas)
            self.listing.setdefault(self._name, model)
            for label in replicas.labels or (model.checkpoint_hash[:DERIVED],):
                route = f"{self._name}@{label}"
                if not label or route in self.routes:
                    continue
                self.routes[route] = replicas
                replicas.names += (route,)
                if replicas.labels or len(oldest) > 1:
                    self.listing[route] = model


def _hashes(model: ServedModel) -> tuple[str, str]:
    return model.checkpoint_hash, model.template_hash


def _no_mixing(model: ServedModel, other: Worker) -> JoinRefused:
    theirs = other.models[model.name]
    what = "weights" if theirs.checkpoint_hash != model.checkpoint_hash else "a prompt template"
    label = f"another label than {model.version!r}" if model.version else "a label"
    return JoinRefused(
        f"the worker at {other.address} serves {model.name!r} with {what} of another hash; to have both until this one "
        f"takes over, give this one {label} (--version); to keep them apart, another name (--names); to replace that "
        "one, drain it first (python -m vicuna.serve drain)"
    )
