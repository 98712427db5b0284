"""The fleet as a table of leases. Pure: no network, no tasks, and the clock is handed in.

Reading never changes anything. What changes the table are the named events: join, heartbeat, leave, drain, dispatch,
release, full, failed, unwell, restore, and the passing of leases in `expire`.
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from weakref import WeakValueDictionary

from vicuna.serve.fleet.ask import Ask
from vicuna.serve.fleet.policies import LeastLoaded, Policy
from vicuna.serve.fleet.replicas import JoinRefused, Replicas, Versions, Worker
from vicuna.serve.protocol import BEATS_PER_LEASE, Heartbeat, Registration, ServedModel

__all__ = ["Fleet", "JoinRefused", "Ticket", "Worker"]

FIRST_SUSPENSION = 0.5
LONGEST_SUSPENSION = 30.0
LOOK_AGAIN = 1.0
"""Seconds between two probes of a worker that is not well."""
PATIENCE = 3
"""Failures in a row from which on it is the worker's fault, not the requests'."""
HEARTBEATS = 200.0
"""Most heartbeats a second of all workers together; each takes about as long as a request."""
FULL = 0.25
"""Seconds that a worker which said that it is full is left alone, unless a heartbeat comes sooner."""
RESUME = frozenset({"resume"})


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """The right to send one answer's work to one worker; given back exactly once."""

    worker: Worker
    model: ServedModel


class Fleet:
    """Who serves what, who is busy, who is trusted."""

    def __init__(self, lease: float, clock: Callable[[], float], policy: Policy | None = None) -> None:
        self.policy = policy or LeastLoaded()
        self.answered = 0
        """Answers that were finished, ever."""
        self._lease = lease
        self._clock = clock
        self._workers: OrderedDict[str, Worker] = OrderedDict()  # in the order in which their leases end
        self._known: WeakValueDictionary[str, Worker] = WeakValueDictionary()  # also those that left with tickets out
        self._full: OrderedDict[str, Worker] = OrderedDict()  # in the order in which they are tried again
        self._models: dict[str, Versions] = {}
        self._open: set[Ticket] = set()
        self._seen: set[str] = set()
        self._turns = 0

    @property
    def pause(self) -> float:
        """Seconds that each worker should leave between two heartbeats, so that all together are not too many."""
        return len(self._workers) / HEARTBEATS

    @property
    def lease(self) -> float:
        """Seconds from a heartbeat to the end of its worker's lease; longer where heartbeats have to be rare."""
        return max(self._lease, BEATS_PER_LEASE * self.pause)

    # --------------------------------------------------------------------------------------- events
    def join(self, registration: Registration) -> Worker:
        """Take a worker in, or renew it; one that comes back at the same address takes its old entry's place.

        Raises:
            JoinRefused: other workers serve the same name with other weights or another template, and the label does
                not tell the two versions apart.
        """
        now = self._clock()
        replaced = [
            worker
            for worker in self._workers.values()
            if worker.id == registration.worker_id or worker.address == registration.address
        ]
        for model in registration.models:
            if model.name in self._models:
                self._models[model.name].refuse_mixing(model, {worker.id for worker in replaced}, now)
        self._remove(replaced)
        worker = self._known.setdefault(registration.worker_id, Worker(registration.worker_id))
        worker.address, worker.engine = registration.address, registration.engine
        worker.models = {model.name: model for model in registration.models}
        worker.capacity, worker.started = registration.capacity, registration.started
        worker.expires, worker.full_until, worker.elsewhere = now + self.lease, 0.0, 0
        worker.draining, worker.suspended, worker.failures = False, False, 0
        self._add(worker, now)
        return worker

    def heartbeat(self, beat: Heartbeat) -> bool:
        """Renew a lease; False when the worker is not (or no longer) known and has to register."""
        now = self._clock()
        worker = self._workers.get(beat.worker_id)
        if worker is None or worker.expires <= now:
            return False
        worker.expires, worker.full_until = now + self.lease, 0.0
        self._workers.move_to_end(worker.id)
        worker.load = beat.load
        worker.elsewhere = max(0, beat.running - worker.in_flight)
        if beat.draining:
            self.drain(worker.id)
        worker.place(now)
        return True

    def leave(self, worker_id: str) -> bool:
        """Take a worker off the list; what it has in flight may finish. False when it was not on it."""
        worker = self._workers.get(worker_id)
        if worker is None:
            return False
        self._remove([worker])
        return True

    def drain(self, worker_id: str) -> bool:
        """Send a worker nothing new until it registers again. False when it is not on the list."""
        worker = self._workers.get(worker_id)
        if worker is None:
            return False
        if not worker.draining:
            worker.draining = True
            worker.place(self._clock())
            self._recount(worker.models)
        return True

    def expire(self) -> list[Worker]:
        """Remove every worker whose lease has run out, and return them."""
        gone = self._lapsed(self._clock())
        self._remove(gone)
        return gone

    def dispatch(self, ask: Ask, avoid: Collection[str] = (), version: ServedModel | None = None) -> Ticket | None:
        """Choose a worker with room, by the policy, and count one answer in flight on it.

        Args:
            ask: the model, and what its worker has to be able to do.
            avoid: ids of workers that must not be chosen.
            version: for an answer that is continued: only workers with exactly these hashes that can do that.

        Returns:
            A ticket that must be released exactly once, or None when nobody can take the work now.
        """
        now = self._clock()
        self._let_time_pass(now)
        replicas = self._find(ask, version)
        if replicas is None:
            return None
        ranking = replicas.able(_needs(ask, version), avoid)
        if not ranking:
            return None
        worker = self.policy.choose(ask, ranking)
        worker.in_flight += 1
        self._take_turn(worker)
        worker.place(now)
        ticket = Ticket(worker, worker.models[replicas.name])
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
            self.answered += 1
        ticket.worker.place(self._clock())

    def full(self, worker: Worker) -> None:
        """A worker said that it has all the work that it can do, from other controllers too; that is no failure."""
        now = self._clock()
        worker.full_until = now + FULL
        self._full[worker.id] = worker
        self._full.move_to_end(worker.id)
        worker.place(now)

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
        worker.place(self._clock())

    def unwell(self, worker: Worker, reason: str) -> None:
        """A probe found a suspended worker as bad as before; that is no new failure, and it is looked at again soon."""
        worker.last_failure = reason
        worker.retry_at = self._clock() + LOOK_AGAIN

    def restore(self, worker: Worker) -> None:
        """A probe found the worker well again."""
        worker.suspended = False
        worker.place(self._clock())

    # --------------------------------------------------------------------------------------- reading
    def models(self) -> dict[str, ServedModel]:
        """What is served now, by the name to ask for: every model with a worker that does not drain, busy or not.

        A bare name stands for the active version; versions with a label, and all where there are several, are listed
        as `name@label` too.
        """
        return {route: model for _, each in sorted(self._models.items()) for route, model in each.listing.items()}

    def can_serve(self, ask: Ask, avoid: Collection[str] = (), version: ServedModel | None = None) -> bool:
        """Whether some trusted worker could do the work, however busy it is."""
        replicas, needs, now = self._find(ask, version), _needs(ask, version), self._clock()
        return replicas is not None and any(
            worker.expires > now and worker.id not in avoid and needs <= worker.models[replicas.name].features
            for worker in replicas.trusted.values()
        )

    def lacks(self, ask: Ask) -> frozenset[str]:
        """What even the ablest worker of the model cannot do; empty when one can do all, or when there is none."""
        replicas = self._find(ask, None)
        features = replicas.features if replicas is not None else ()
        return min((ask.needs - each for each in features), key=len, default=frozenset())

    def has_seen(self, name: str) -> bool:
        """Whether a model was ever served under that name in this fleet's life."""
        return name in self._seen

    def names_of(self, worker: Worker) -> tuple[str, ...]:
        """All names, with and without a label, whose requests the worker may get."""
        return tuple(name for replicas in worker.replicas for name in replicas.names)

    def workers(self) -> list[Worker]:
        """Everyone on the list, in order of address."""
        return sorted(self._workers.values(), key=lambda worker: worker.address)

    def get(self, worker_id: str) -> Worker | None:
        """The worker of that id."""
        return self._workers.get(worker_id)

    def due_for_probe(self) -> list[Worker]:
        """Suspended workers whose pause is over."""
        now = self._clock()
        return [w for w in self._workers.values() if w.suspended and w.retry_at <= now and w.expires > now]

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
    def _find(self, ask: Ask, version: ServedModel | None) -> Replicas | None:
        versions = self._models.get(ask.model.partition("@")[0])
        if versions is None:
            return None
        return versions.routes.get(ask.model) if version is None else versions.of(version)

    def _add(self, worker: Worker, now: float) -> None:
        self._workers[worker.id] = worker
        worker.replicas = tuple(self._models.setdefault(name, Versions(name)).add(worker) for name in worker.models)
        self._recount(worker.models)
        self._take_turn(worker)
        worker.place(now)

    def _remove(self, workers: Iterable[Worker]) -> None:
        names: set[str] = set()
        for worker in workers:
            del self._workers[worker.id]
            worker.leave()
            names.update(worker.models)
        self._recount(names)

    def _take_turn(self, worker: Worker) -> None:
        """Put a worker behind those that are as full as it."""
        self._turns += 1
        worker.turn = self._turns

    def _recount(self, names: Iterable[str]) -> None:
        for name in names:
            versions = self._models[name]
            versions.recount()
            self._seen.update(versions.routes)
            if not versions:
                del self._models[name]

    def _let_time_pass(self, now: float) -> None:
        """Take out workers whose lease has ended, and let in those whose pause after being full is over."""
        for worker in self._lapsed(now):
            worker.place(now)
        while self._full and next(iter(self._full.values())).full_until <= now:
            self._full.popitem(last=False)[1].place(now)

    def _lapsed(self, now: float) -> list[Worker]:
        return list(itertools.takewhile(lambda worker: worker.expires <= now, self._workers.values()))


def _needs(ask: Ask, version: ServedModel | None) -> frozenset[str]:
    return ask.needs if version is None else ask.needs | RESUME
