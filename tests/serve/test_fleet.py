"""The fleet's table: random histories keep its promises."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from vicuna.serve.fleet import Fleet, JoinRefused, Ticket
from vicuna.serve.protocol import Heartbeat, Registration, ServedModel

LEASE = 5.0


def registration(worker: str, models: dict[str, str], capacity: int = 2, port: int | None = None) -> Registration:
    served = [ServedModel(name=name, checkpoint_hash=version, max_length=10) for name, version in models.items()]
    address = f"http://127.0.0.1:{port if port is not None else 1000 + int(worker[1:])}"
    return Registration(worker_id=worker, address=address, models=served, capacity=capacity)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


WORKERS = st.sampled_from([f"w{i}" for i in range(5)])
NAMES = st.sampled_from(["a", "b"])
VERSIONS = st.dictionaries(NAMES, st.sampled_from(["v1", "v2"]), min_size=1)


class History(RuleBasedStateMachine):
    """Anything may happen to a fleet in any order; the clock may also jump far."""

    @initialize()
    def begin(self) -> None:
        self.clock = Clock()
        self.fleet = Fleet(LEASE, self.clock)
        self.tickets: list[Ticket] = []

    @rule(worker=WORKERS, models=VERSIONS, capacity=st.integers(1, 3), port=st.none() | st.integers(1000, 1002))
    def join(self, worker: str, models: dict[str, str], capacity: int, port: int | None) -> None:
        living = {w.id: w for w in self.fleet.workers() if self.fleet.state(w) != "expired"}
        asked = registration(worker, models, capacity, port)
        try:
            self.fleet.join(asked)
        except JoinRefused:
            others = [w for w in living.values() if w.id != worker and w.address != asked.address]
            assert any(
                name in w.models and w.models[name].checkpoint_hash != version
                for w in others
                for name, version in models.items()
            )

    @rule(worker=WORKERS, draining=st.booleans())
    def heartbeat(self, worker: str, draining: bool) -> None:
        known = self.fleet.get(worker)
        alive = known is not None and self.fleet.state(known) != "expired"
        assert self.fleet.heartbeat(Heartbeat(worker_id=worker, draining=draining)) == alive

    @rule(worker=WORKERS)
    def leave(self, worker: str) -> None:
        self.fleet.leave(worker)
        assert self.fleet.get(worker) is None

    @rule(seconds=st.sampled_from([0.1, 1.0, 4.9, 5.0, 1000.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def expire(self) -> None:
        for worker in self.fleet.expire():
            assert worker.expires <= self.clock.now

    @rule(name=NAMES, avoid=st.sets(WORKERS, max_size=2))
    def dispatch(self, name: str, avoid: set[str]) -> None:
        free = [
            w
            for w in self.fleet.workers()
            if name in w.models and self.fleet.state(w) == "live" and w.id not in avoid and w.in_flight < w.capacity
        ]
        least = min((w.fullness for w in free), default=None)
        ticket = self.fleet.dispatch(name, avoid)
        assert (ticket is None) == (not free)
        if ticket is not None:
            assert ticket.worker in free
            assert (ticket.worker.in_flight - 1) / ticket.worker.capacity == least
            self.tickets.append(ticket)

    @rule(data=st.data(), answered=st.booleans())
    def release(self, data: Any, answered: bool) -> None:
        if self.tickets:
            ticket = self.tickets.pop(data.draw(st.integers(0, len(self.tickets) - 1)))
            self.fleet.release(ticket, answered)
            with pytest.raises(ValueError, match="already"):
                self.fleet.release(ticket)

    @rule(worker=WORKERS, certain=st.booleans())
    def fail(self, worker: str, certain: bool) -> None:
        known = self.fleet.get(worker)
        if known is not None:
            self.fleet.failed(known, "a reason", certain)
            assert known.suspended or not certain

    @rule()
    def probe(self) -> None:
        for worker in self.fleet.due_for_probe():
            self.fleet.restore(worker)
            assert not worker.suspended

    @invariant()
    def in_flight_is_what_is_out(self) -> None:
        if not hasattr(self, "fleet"):
            return
        assert self.fleet.in_flight == len(self.tickets)
        for worker in self.fleet.workers():
            assert worker.in_flight == sum(ticket.worker is worker for ticket in self.tickets)

    @invariant()
    def reading_changes_nothing(self) -> None:
        if not hasattr(self, "fleet"):
            return

        def everything() -> Any:
            rows = [(w.id, w.in_flight, w.expires, w.suspended, w.draining) for w in self.fleet.workers()]
            return rows, sorted(self.fleet.models().items(), key=lambda each: each[0]), self.fleet.in_flight

        before = everything()
        self.fleet.can_serve("a")
        self.fleet.has_seen("b")
        self.fleet.due_for_probe()
        assert everything() == before

    @invariant()
    def one_name_is_one_version(self) -> None:
        if not hasattr(self, "fleet"):
            return
        for name in ("a", "b"):
            living = [w for w in self.fleet.workers() if name in w.models and self.fleet.state(w) != "expired"]
            assert len({w.models[name].checkpoint_hash for w in living}) <= 1

    def teardown(self) -> None:
        for ticket in self.tickets:
            self.fleet.release(ticket)
        assert self.fleet.in_flight == 0
        assert all(worker.in_flight == 0 for worker in self.fleet.workers())


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def fleet_of(*registrations: Registration) -> tuple[Fleet, Clock]:
    clock = Clock()
    fleet = Fleet(LEASE, clock)
    for each in registrations:
        fleet.join(each)
    return fleet, clock


def test_work_goes_to_the_worker_that_is_least_full() -> None:
    fleet, _ = fleet_of(registration("w1", {"a": "v"}, capacity=1), registration("w2", {"a": "v"}, capacity=4))
    chosen = [ticket.worker.id if (ticket := fleet.dispatch("a")) else None for _ in range(6)]
    assert sorted(filter(None, chosen)) == ["w1", "w2", "w2", "w2", "w2"]
    assert chosen[-1] is None


def test_equal_workers_take_turns() -> None:
    fleet, _ = fleet_of(*(registration(f"w{i}", {"a": "v"}) for i in range(3)))
    chosen = []
    for _ in range(6):
        ticket = fleet.dispatch("a")
        assert ticket is not None
        chosen.append(ticket.worker.id)
        fleet.release(ticket)
    assert sorted(chosen) == ["w0", "w0", "w1", "w1", "w2", "w2"]


def test_other_weights_under_the_same_name_are_refused_with_the_reason() -> None:
    fleet, clock = fleet_of(registration("w1", {"a": "v1"}))
    with pytest.raises(JoinRefused, match=r"127\.0\.0\.1:1001 serves 'a' with weights of another hash"):
        fleet.join(registration("w2", {"a": "v2"}))
    clock.now += LEASE  # the other's lease has run out
    fleet.expire()
    fleet.join(registration("w2", {"a": "v2"}))


def test_a_worker_that_fails_is_paused_longer_each_time_until_it_answers() -> None:
    fleet, clock = fleet_of(registration("w1", {"a": "v"}))
    worker = fleet.get("w1")
    assert worker is not None
    pauses = []
    for _ in range(4):
        fleet.failed(worker, "x")
        pauses.append(worker.retry_at - clock.now)
        assert fleet.dispatch("a") is None
        fleet.restore(worker)
    assert pauses == [0.5, 1.0, 2.0, 4.0]
    ticket = fleet.dispatch("a")
    assert ticket is not None
    fleet.release(ticket, answered=True)
    assert worker.failures == 0


def test_failures_that_may_be_the_requests_fault_count_from_the_third_on() -> None:
    fleet, _ = fleet_of(registration("w1", {"a": "v"}))
    worker = fleet.get("w1")
    assert worker is not None
    states = []
    for _ in range(3):
        fleet.failed(worker, "x", certain=False)
        states.append(fleet.state(worker))
    assert states == ["live", "live", "suspended"]
