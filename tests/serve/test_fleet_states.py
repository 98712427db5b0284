"""Anything may happen to a fleet and to those who wait for it, in any order: no request is lost or served twice."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakValueDictionary

from fleet_kit import ABLE, LEASE, Clock, registration, served
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vicuna.serve.config import LimitsConfig
from vicuna.serve.faults import Fault
from vicuna.serve.fleet.ask import Ask
from vicuna.serve.fleet.dispatch import Dispatcher
from vicuna.serve.fleet.policies import LeastLoaded, Lottery, Policy, PowerOfTwo, PrefixAffinity
from vicuna.serve.fleet.table import Fleet, JoinRefused, Ticket, Worker
from vicuna.serve.protocol import Heartbeat, ServedModel

LIMITS = LimitsConfig(lease=LEASE, queue=4, queue_wait=8.0, gap=1.5)
POLICIES: list[Callable[[], Policy]] = [
    LeastLoaded,
    lambda: PowerOfTwo(random.Random(0)),
    lambda: Lottery(random.Random(0)),
    lambda: PrefixAffinity(slack=0.5),
]
WORKERS = st.sampled_from([f"w{i}" for i in range(4)])
MODELS = st.lists(
    st.builds(
        served,
        st.sampled_from(["a", "a", "b"]),
        st.sampled_from(["v1", "v1", "v2"]),
        st.sampled_from(["", "x", "y"]),
        st.sampled_from([ABLE, ABLE, ABLE | {"tools"}, frozenset({"chat"})]),
    ),
    min_size=1,
    max_size=2,
    unique_by=lambda model: model.name,
)
ASKS = st.builds(
    Ask,
    model=st.sampled_from(["a", "a", "a", "a", "b", "a@x", "a@v1", "b@y"]),
    needs=st.sampled_from([frozenset(), frozenset(), frozenset(), frozenset({"tools"})]),
    chain=st.sampled_from([(), (1,), (1, 2)]),
    key=st.sampled_from(["k1", "k2"]),
    priority=st.integers(0, 1),
)
CAPACITIES = st.sampled_from([1, 1, 2, 3])
PORTS = st.sampled_from([0, 0, 0, 0, 2000])
PATIENCE = st.sampled_from([0.0, 0.2, 3.0, *[float("inf")] * 5])
WHICH = st.integers(0, 99)


@dataclass(eq=False)
class Request:
    """Somebody's request, as it waits, is served, fails over, and ends."""

    ask: Ask
    avoid: set[str] = field(default_factory=set)
    version: ServedModel | None = None
    task: "asyncio.Task[Ticket] | None" = None
    ticket: Ticket | None = None
    ends: list[str] = field(default_factory=list)


class History(RuleBasedStateMachine):
    """Workers join, leave, crash and hang; clocks jump; clients give up. The machine plays all of them."""

    @initialize(policy=st.sampled_from(POLICIES))
    def begin(self, policy: Callable[[], Policy]) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.fleet = Fleet(LEASE, self.clock, policy())
        self.dispatcher = Dispatcher(self.fleet, LIMITS, self.clock)
        self.requests: list[Request] = []
        self.listed: set[str] = set()
        self.may_vanish = False
        for worker in ("w0", "w1"):
            self.fleet.join(registration(worker, served(weights="v1"), capacity=1, started=2))

    # --------------------------------------------------------------------------------------- workers
    @rule(worker=WORKERS, models=MODELS, capacity=CAPACITIES, started=st.integers(0, 3), port=PORTS)
    def join(self, worker: str, models: list[ServedModel], capacity: int, started: int, port: int) -> None:
        asked = registration(worker, *models, capacity=capacity, started=started, port=port)
        others = [w for w in self.standing() if w.id != worker and w.address != asked.address]
        theirs = {m: [w.models[m.name] for w in others if m.name in w.models] for m in models}
        unlike = [m for m in models if not all(m.same_version(other) for other in theirs[m])]
        before = snapshot(self.fleet)
        try:
            self.fleet.join(asked)
        except JoinRefused:
            assert unlike
            assert snapshot(self.fleet) == before
            return
        assert all(m.version or any(m.same_version(other) for other in theirs[m]) for m in unlike)
        self.may_vanish = True
        self.dispatcher.wake()
        self.settle()

    @rule(worker=WORKERS, draining=st.sampled_from([False, False, False, True]), running=st.integers(0, 4))
    def heartbeat(self, worker: str, draining: bool, running: int) -> None:
        known = self.fleet.get(worker)
        alive = known is not None and self.fleet.state(known) != "expired"
        self.may_vanish = draining
        assert self.fleet.heartbeat(Heartbeat(worker_id=worker, draining=draining, running=running)) == alive
        assert known is None or known.elsewhere >= 0

    @rule()
    def everybody_beats(self) -> None:
        for worker in self.fleet.workers():
            self.fleet.heartbeat(Heartbeat(worker_id=worker.id, running=worker.in_flight))

    @rule(worker=WORKERS, what=st.sampled_from(["leave", "drain", "crash", "doubtful"]))
    def misfortune(self, worker: str, what: str) -> None:
        known = self.fleet.get(worker)
        if what == "leave":
            self.may_vanish = True
            assert self.fleet.leave(worker) == (known is not None)
            assert self.fleet.get(worker) is None
        elif what == "drain":
            self.may_vanish = True
            assert self.fleet.drain(worker) == (known is not None)
        elif known is not None:
            self.fleet.failed(known, "a reason", certain=what == "crash")
            assert known.suspended or what == "doubtful"

    @rule(late=st.booleans())
    def probe(self, late: bool) -> None:
        for worker in self.fleet.due_for_probe():
            if late:  # the probe's answer comes when the lease is over
                self.clock.now += LEASE
            self.fleet.restore(worker)
            assert not worker.suspended
        self.dispatcher.wake()
        self.settle()

    @rule(seconds=st.sampled_from([0.1, 0.3, 0.5, 1.0, 1.5, 4.9, 1000.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def tick(self) -> None:
        """What a controller does ten times a second."""
        self.may_vanish = True
        over = {worker.id for worker in self.fleet.workers() if self.fleet.state(worker) == "expired"}
        assert {worker.id for worker in self.fleet.expire()} == over
        self.dispatcher.tick()
        self.settle()
        waiting = [request for request in self.requests if request.task is not None]
        assert not [(each.ask, each.avoid) for each in waiting if self.usable(each)]

    # --------------------------------------------------------------------------------------- requests
    @rule(asks=st.lists(st.tuples(ASKS, PATIENCE), min_size=1, max_size=4))
    def ask(self, asks: list[tuple[Ask, float]]) -> None:
        for ask, patience in asks:
            request = Request(replace(ask, deadline=self.clock.now + patience))
            self.requests.append(request)
            self.acquire(request)

    @precondition(lambda self: self.held())
    @rule(which=WHICH, answered=st.booleans())
    def finish(self, which: int, answered: bool) -> None:
        request = self.one_of(self.held(), which)
        self.give_back(request, answered)
        request.ends.append("answered" if answered else "broken off")
        self.settle()

    @precondition(lambda self: self.held())
    @rule(which=WHICH, how=st.sampled_from(["failed", "full", "moved"]), begun=st.booleans())
    def fail_over(self, which: int, how: str, begun: bool) -> None:
        request = self.one_of(self.held(), which)
        assert request.ticket is not None
        worker, version = request.ticket.worker, request.ticket.model
        if how == "failed":
            self.fleet.failed(worker, "broke off")
        if how == "full":
            self.fleet.full(worker)
        else:
            request.avoid.add(worker.id)
        request.version = version if begun else request.version
        self.give_back(request, answered=False)
        self.acquire(request, again=True)

    @precondition(lambda self: any(request.task for request in self.requests))
    @rule(which=WHICH)
    def give_up(self, which: int) -> None:
        request = self.one_of([each for each in self.requests if each.task is not None], which)
        assert request.task is not None
        request.task.cancel()
        self.settle()

    @precondition(lambda self: self.held() and any(request.task for request in self.requests))
    @rule(which=WHICH, other=WHICH)
    def give_up_just_when_it_is_served(self, which: int, other: int) -> None:
        request = self.one_of([each for each in self.requests if each.task is not None], which)
        done = self.one_of(self.held(), other)
        self.give_back(done, answered=True)
        done.ends.append("answered")
        assert request.task is not None
        request.task.cancel()
        self.settle()

    # --------------------------------------------------------------------------------------- promises
    @invariant()
    def in_flight_is_what_is_held(self) -> None:
        held = Counter(request.ticket.worker.id for request in self.held() if request.ticket)
        assert self.fleet.in_flight == held.total()
        for worker in self.fleet.workers():
            assert worker.in_flight == held[worker.id]

    @invariant()
    def who_waits_is_in_line(self) -> None:
        assert sum(self.dispatcher.waiting.values()) == sum(request.task is not None for request in self.requests)
        for request in self.requests:
            assert len(request.ends) + (request.task is not None) + (request.ticket is not None) == 1

    @invariant()
    def reading_changes_nothing(self) -> None:
        before = snapshot(self.fleet)
        for name in ("a", "b", "a@x", "nobody"):
            self.fleet.can_serve(Ask(name), ["w1"])
            self.fleet.can_serve(Ask(name), (), served("a", "v1"))
            self.fleet.lacks(Ask(name, needs=frozenset({"images"})))
            self.fleet.has_seen(name)
        for worker in self.fleet.workers():
            self.fleet.get(worker.id)
            self.fleet.state(worker)
            self.fleet.names_of(worker)
        self.fleet.models()
        self.fleet.due_for_probe()
        assert snapshot(self.fleet) == before

    @invariant()
    def what_is_listed_vanishes_only_with_its_workers(self) -> None:
        names = set(self.fleet.models())
        assert self.may_vanish or names >= self.listed
        assert {name for name in names if "@" not in name} == {
            name for worker in self.fleet.workers() if not worker.draining for name in worker.models
        }
        self.listed, self.may_vanish = names, False

    @invariant()
    def labels_tell_versions_apart(self) -> None:
        labels = {
            (model.name, model.version, model.checkpoint_hash)
            for worker in self.standing()
            for model in worker.models.values()
            if model.version
        }
        assert len({(name, label) for name, label, _ in labels}) == len(labels)

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        for _ in range(4):
            self.clock.now += LIMITS.queue_wait
            self.tick()
        for request in self.held():
            self.give_back(request, answered=True)
            request.ends.append("answered")
            self.settle()
        assert all(len(request.ends) == 1 for request in self.requests)
        assert self.fleet.in_flight == 0
        assert self.dispatcher.waiting == {}
        assert all(worker.in_flight == 0 for worker in self.fleet.workers())
        self.loop.close()

    # --------------------------------------------------------------------------------------- the machine's own
    def held(self) -> list[Request]:
        return [request for request in self.requests if request.ticket is not None]

    def one_of(self, requests: list[Request], which: int) -> Request:
        return requests[which % len(requests)]

    def standing(self) -> list[Worker]:
        return [w for w in self.fleet.workers() if not w.draining and self.fleet.state(w) != "expired"]

    def acquire(self, request: Request, again: bool = False) -> None:
        coroutine = self.dispatcher.acquire(request.ask, frozenset(request.avoid), request.version, again=again)
        request.task = self.loop.create_task(coroutine)
        self.settle()

    def give_back(self, request: Request, answered: bool) -> None:
        assert request.ticket is not None
        ticket, request.ticket = request.ticket, None
        self.dispatcher.release(ticket, answered)

    def settle(self) -> None:
        """Let everybody who can go on do so, and note what came of it."""
        self.loop.run_until_complete(_a_moment())
        for request in self.requests:
            if request.task is not None and request.task.done():
                task, request.task = request.task, None
                self.note(request, task)

    def note(self, request: Request, task: "asyncio.Task[Ticket]") -> None:
        if task.cancelled():
            request.ends.append("cancelled")
        elif isinstance(error := task.exception(), Fault):
            request.ends.append(f"fault {error.status}")
        else:
            request.ticket = task.result()  # raises what is no Fault
            self.check_ticket(request, request.ticket)

    def check_ticket(self, request: Request, ticket: Ticket) -> None:
        worker, now = ticket.worker, self.clock.now
        assert self.fleet.state(worker) == "live"
        assert worker.id not in request.avoid
        assert worker.in_flight <= worker.capacity
        assert worker.full_until <= now < request.ask.deadline
        assert request.ask.needs <= ticket.model.features
        assert ticket.model in self.versions_for(request)

    def usable(self, request: Request) -> list[Worker]:
        """Workers that could take a request now, worked out from nothing but the list of workers."""
        name, now = request.ask.model.partition("@")[0], self.clock.now
        models = self.versions_for(request)
        return [
            w
            for w in self.fleet.workers()
            if self.fleet.state(w) == "live"
            and w.in_flight < w.capacity
            and w.full_until <= now
            and w.id not in request.avoid
            and w.models.get(name) in models
            and request.ask.needs <= w.models[name].features
        ]

    def versions_for(self, request: Request) -> list[ServedModel]:
        """What a request may be served with: one version, as each worker that has it describes it."""
        name, _, label = request.ask.model.partition("@")
        workers = [w for w in self.fleet.workers() if name in w.models and not w.draining]
        models = [w.models[name] for w in sorted(workers, key=lambda w: (w.started, w.id))]
        if request.version is not None:
            return [m for m in models if m.same_version(request.version) and "resume" in m.features]
        labelled = {m.checkpoint_hash for m in models if m.version}
        wanted = [m for m in models if m.version == label or (m.checkpoint_hash == label and label not in labelled)]
        first = (wanted if label else models)[:1]
        return [m for m in models for one in first if m.same_version(one)]


async def _a_moment() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def snapshot(value: Any, seen: dict[int, int] | None = None) -> Any:
    """Everything that an object holds, as tuples that can be compared."""
    seen = {} if seen is None else seen
    if value is None or isinstance(value, str | int | float | ServedModel):
        return value
    if id(value) in seen:
        return ("again", seen[id(value)])
    seen[id(value)] = len(seen)
    if isinstance(value, Mapping | WeakValueDictionary):
        return tuple((snapshot(key, seen), snapshot(each, seen)) for key, each in value.items())
    if isinstance(value, set | frozenset):
        return tuple(sorted(repr(each) for each in value))
    if isinstance(value, list | tuple):
        return tuple(snapshot(each, seen) for each in value)
    names = getattr(type(value), "__slots__", None) or vars(value)
    return tuple((name, snapshot(getattr(value, name), seen)) for name in names if name != "__weakref__")


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
