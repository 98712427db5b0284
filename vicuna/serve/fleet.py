"""The fleet as a table of leases. Pure: no network, no tasks, and the clock is handed in.

Reading never changes anything. What changes the table are the named events: join, heartbeat, leave, dispatch, release,
failed, probe results, and the passing of a lease in `expire`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from vicuna.errors import VicunaError
from vicuna.serve.protocol import Heartbeat, Registration, ServedModel

FIRST_SUSPENSION = 0.5
LONGEST_SUSPENSION = 30.0
PATIENCE = 3


class JoinRefused(VicunaError):
    """A worker may not join as it is."""


@dataclass(slots=True, eq=False)
class Worker:
    """A member of the fleet; the fleet alone changes it."""

    id: str
    address: str
    engine: str
    models: Mapping[str, ServedModel]
    capacity: int
    expires: float
    in_flight: int = 0
    draining: bool = False
    suspended: bool = False
    retry_at: float = 0.0
    failures: int = 0
    last_failure: str = ""
    answered: int = 0
    load: Mapping[str, float] = field(default_factory=dict)

    @property
    def fullness(self) -> float:
        """Answers in flight as a share of the capacity."""
        return self.in_flight / self.capacity


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """The right to send one answer's work to one worker; given back exactly once."""

    worker: Worker
    model: ServedModel


class Fleet:
    """Who serves what, who is busy, who is trusted."""

    def __init__(self, lease: float, clock: Callable[[], float]) -> None:
        self._lease = lease
        self._clock = clock
        self._workers: dict[str, Worker] = {}
        self._by_model: dict[str, dict[str, Worker]] = {}
        self._open: set[Ticket] = set()
        self._seen: set[str] = set()

    # --------------------------------------------------------------------------------------- events
    def join(self, registration: Registration) -> Worker:
        """Take a worker in, or renew it; one that comes back at the same address takes its old entry's place.

        Raises:
            JoinRefused: a living worker serves a model of the same name with other weights or another template.
        """
        now = self._clock()
        models = {model.name: model for model in registration.models}
        for other in self._workers.values():
            same_place = other.id == registration.worker_id or other.address == registration.address
            if other.expires > now and not same_place:
                _refuse_other_version(other, models)
        for other in list(self._workers.values()):
            if other.address == registration.address and other.id != registration.worker_id:
                self._remove(other)
        worker = self._workers.get(registration.worker_id)
        in_flight = 0
        if worker is not None:
            in_flight = worker.in_flight
            self._unlist(worker)
        else:
            worker = Worker(registration.worker_id, "", "", {}, 1, 0.0)
        worker.address, worker.engine, worker.models = registration.address, registration.engine, models
        worker.capacity, worker.expires, worker.in_flight = registration.capacity, now + self._lease, in_flight
        worker.draining, worker.suspended, worker.failures = False, False, 0
        self._workers[worker.id] = worker
        for name in models:
            self._by_model.setdefault(name, {})[worker.id] = worker
            self._seen.add(name)
        return worker

    def heartbeat(self, beat: Heartbeat) -> bool:
        """Renew a lease; False when the worker is not (or no longer) known and has to register."""
        worker = self._workers.get(beat.worker_id)
        if worker is None or worker.expires <= self._clock():
            return False
        worker.expires = self._clock() + self._lease
        worker.draining, worker.load = beat.draining, beat.load
        return True

    def leave(self, worker_id: str) -> bool:
        """Take a worker off the list; what it has in flight may finish. False when it was not on it."""
        worker = self._workers.get(worker_id)
        if worker is None:
            return False
        self._remove(worker)
        return True

    def expire(self) -> list[Worker]:
        """Remove every worker whose lease has run out, and return them."""
        now = self._clock()
        gone = [worker for worker in self._workers.values() if worker.expires <= now]
        for worker in gone:
            self._remove(worker)
        return gone

    def dispatch(self, name: str, avoid: Collection[str] = (), version: ServedModel | None = None) -> Ticket | None:
        """Choose the worker that is least full and count one answer in flight on it.

        Args:
            name: the model's name.
            avoid: ids of workers that must not be chosen.
            version: only workers with exactly these hashes (for an answer that is continued).

        Returns:
            A ticket that must be released exactly once, or None when nobody can take the work now.
        """
        now, best = self._clock(), None
        for worker in self._by_model.get(name, {}).values():
            if worker.in_flight >= worker.capacity or worker.id in avoid or not _trusted(worker, now):
                continue
            if version is not None and not _same_version(worker.models[name], version):
                continue
            if best is None or worker.fullness < best.fullness:
                best = worker
        if best is None:
            return None
        best.in_flight += 1
        members = self._by_model[name]
        members[best.id] = members.pop(best.id)  # equally full workers take turns
        ticket = Ticket(best, best.models[name])
        self._open.add(ticket)
        return ticket

    def release(self, ticket: Ticket, answered: bool = False) -> None:
        """Give a ticket back.

        Raises:
            ValueError: it was given back already.
        """
        if ticket not in self._open:
            raise ValueError(f"the ticket for {ticket.worker.id} was released already")
        self._open.remove(ticket)
        ticket.worker.in_flight -= 1
        if answered:
            ticket.worker.answered += 1
            ticket.worker.failures = 0

    def failed(self, worker: Worker, reason: str, certain: bool = True) -> None:
        """Stop using a worker at once; the pause doubles with every failure in a row.

        A failure that may be the request's fault (`certain` is false) counts only from the third in a row on: one odd
        request must not take a worker away from everybody.
        """
        worker.failures += 1
        worker.last_failure = reason
        if not certain and worker.failures < PATIENCE:
            return
        worker.suspended = True
        pause = min(LONGEST_SUSPENSION, FIRST_SUSPENSION * 2 ** min(worker.failures - 1, 10))
        worker.retry_at = self._clock() + pause

    def full(self, worker: Worker) -> None:
        """A worker said that it has all the work that it can do, from other controllers too."""

    def restore(self, worker: Worker) -> None:
        """A probe found the worker well again."""
        worker.suspended = False

    # --------------------------------------------------------------------------------------- reading
    def due_for_probe(self) -> list[Worker]:
        """Suspended workers whose pause is over."""
        now = self._clock()
        return [w for w in self._workers.values() if w.suspended and w.retry_at <= now and w.expires > now]

    def models(self) -> dict[str, ServedModel]:
        """What is served now, by name: every model with a worker whose lease runs, busy or not."""
        now = self._clock()
        served: dict[str, ServedModel] = {}
        for name in sorted(self._by_model):
            for worker in self._by_model[name].values():
                if worker.expires > now and not worker.draining:
                    served[name] = worker.models[name]
                    break
        return served

    def can_serve(self, name: str, avoid: Collection[str] = (), version: ServedModel | None = None) -> bool:
        """Whether some trusted worker serves the model, however busy it is."""
        now = self._clock()
        return any(
            worker.id not in avoid
            and _trusted(worker, now)
            and (version is None or _same_version(worker.models[name], version))
            for worker in self._by_model.get(name, {}).values()
        )

    def has_seen(self, name: str) -> bool:
        """Whether the model was ever served in this fleet's life."""
        return name in self._seen

    def workers(self) -> list[Worker]:
        """Everyone on the list, in order of address."""
        return sorted(self._workers.values(), key=lambda worker: worker.address)

    def get(self, worker_id: str) -> Worker | None:
        """The worker of that id."""
        return self._workers.get(worker_id)

    @property
    def in_flight(self) -> int:
        """Tickets that are out."""
        return len(self._open)

    def state(self, worker: Worker) -> str:
        """One word for what the fleet thinks of a worker."""
        if worker.expires <= self._clock():
            return "expired"
        if worker.draining:
            return "draining"
        return "suspended" if worker.suspended else "live"

    # --------------------------------------------------------------------------------------- inside
    def _remove(self, worker: Worker) -> None:
        self._unlist(worker)
        del self._workers[worker.id]

    def _unlist(self, worker: Worker) -> None:
        for name in worker.models:
            members = self._by_model[name]
            del members[worker.id]
            if not members:
                del self._by_model[name]


def _trusted(worker: Worker, now: float) -> bool:
    return worker.expires > now and not worker.suspended and not worker.draining


def _same_version(one: ServedModel, other: ServedModel) -> bool:
    return one.checkpoint_hash == other.checkpoint_hash and one.template_hash == other.template_hash


def _refuse_other_version(other: Worker, models: Mapping[str, ServedModel]) -> None:
    for name, model in models.items():
        theirs = other.models.get(name)
        if theirs is None or _same_version(theirs, model):
            continue
        what = "weights" if theirs.checkpoint_hash != model.checkpoint_hash else "a prompt template"
        raise JoinRefused(
            f"the worker at {other.address} serves {name!r} with {what} of another hash; "
            f"serve this one under another name (--names), or stop that worker first"
        )
