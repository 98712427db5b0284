"""The fleet's table: leases, turns, suspensions, and versions that are never mixed."""

import gc

import pytest
from fleet_kit import ABLE, LEASE, Clock, chosen, fleet_of, registration, served, take

from vicuna.serve.fleet.ask import Ask
from vicuna.serve.fleet.table import Fleet, JoinRefused, Worker
from vicuna.serve.protocol import Heartbeat


def member(fleet: Fleet, name: str) -> Worker:
    worker = fleet.get(name)
    assert worker is not None
    return worker


# ------------------------------------------------------------------------------------------- whose turn it is
def test_work_goes_to_the_worker_that_is_least_full_and_never_above_its_capacity() -> None:
    fleet, _ = fleet_of(registration("w1", capacity=1), registration("w2", capacity=4))
    assert sorted(chosen(fleet, times=5)) == ["w1", "w2", "w2", "w2", "w2"]
    assert fleet.dispatch(Ask("a")) is None


def test_equal_workers_take_turns() -> None:
    fleet, _ = fleet_of(*(registration(f"w{i}") for i in range(3)))
    order = []
    for _ in range(6):
        ticket = take(fleet)
        order.append(ticket.worker.id)
        fleet.release(ticket)
    assert order == ["w0", "w1", "w2", "w0", "w1", "w2"]


def test_work_that_other_controllers_sent_counts_as_load() -> None:
    fleet, _ = fleet_of(registration("w1", capacity=8), registration("w2", capacity=8))
    mine = take(fleet)
    assert mine.worker.id == "w1"
    fleet.heartbeat(Heartbeat(worker_id="w1", running=1))  # that one is ours
    fleet.heartbeat(Heartbeat(worker_id="w2", running=4))
    assert (member(fleet, "w1").elsewhere, member(fleet, "w2").elsewhere) == (0, 4)
    assert chosen(fleet, times=3) == ["w1"] * 3
    fleet.heartbeat(Heartbeat(worker_id="w2", running=0))  # before what we sent has arrived there
    assert member(fleet, "w2").elsewhere == 0
    assert chosen(fleet) == ["w2"]


def test_a_worker_that_says_it_is_full_is_left_alone_until_its_heartbeat_or_a_quarter_second() -> None:
    fleet, clock = fleet_of(registration("w1"))
    worker = member(fleet, "w1")
    fleet.full(worker)
    assert fleet.dispatch(Ask("a")) is None
    assert fleet.can_serve(Ask("a"))
    assert fleet.state(worker) == "live"
    assert worker.failures == 0
    clock.now += 0.25
    fleet.release(take(fleet))
    fleet.full(worker)
    fleet.heartbeat(Heartbeat(worker_id="w1"))
    take(fleet)


def test_a_worker_that_is_full_again_keeps_no_other_one_waiting() -> None:
    fleet, clock = fleet_of(registration("w1"), registration("w2"))
    for name in ("w1", "w2", "w1"):
        fleet.full(member(fleet, name))
        clock.now += 0.1
    clock.now += 0.1
    assert chosen(fleet, times=2) == ["w2", "w2"]
    assert fleet.dispatch(Ask("a")) is None


def test_a_worker_with_several_models_is_as_full_under_each_name() -> None:
    fleet, _ = fleet_of(registration("w1", served("a"), served("b"), capacity=1), registration("w2", served("b")))
    take(fleet, "a")
    assert chosen(fleet, "b", times=2) == ["w2", "w2"]
    assert fleet.dispatch(Ask("a")) is None
    assert fleet.dispatch(Ask("b")) is None


# ------------------------------------------------------------------------------------------- leases and tickets
def test_a_ticket_is_given_back_once() -> None:
    fleet, _ = fleet_of(registration("w1"))
    ticket = take(fleet)
    fleet.release(ticket, answered=True)
    with pytest.raises(ValueError, match="already"):
        fleet.release(ticket)
    assert (fleet.in_flight, ticket.worker.in_flight, ticket.worker.answered, fleet.answered) == (0, 0, 1, 1)


def test_a_worker_whose_lease_ends_gets_nothing_even_before_anybody_looks() -> None:
    fleet, clock = fleet_of(registration("w1"))
    clock.now += LEASE
    assert fleet.dispatch(Ask("a")) is None
    assert not fleet.can_serve(Ask("a"))
    assert list(fleet.models()) == ["a"]  # reading and dispatching take nothing off the list
    assert not fleet.heartbeat(Heartbeat(worker_id="w1"))
    assert [worker.id for worker in fleet.expire()] == ["w1"]
    assert fleet.models() == {}
    assert fleet.has_seen("a")
    assert not fleet.has_seen("b")


def test_leases_end_by_the_last_heartbeat_not_by_who_joined_first() -> None:
    fleet, clock = fleet_of(registration("w1"), registration("w2"))
    clock.now += 3
    fleet.heartbeat(Heartbeat(worker_id="w1"))
    clock.now += 3
    assert [worker.id for worker in fleet.expire()] == ["w2"]
    assert chosen(fleet) == ["w1"]


def test_a_worker_that_comes_back_still_has_what_it_had_in_flight() -> None:
    fleet, clock = fleet_of(registration("w1", capacity=2))
    old = [take(fleet), take(fleet)]
    clock.now += LEASE
    fleet.expire()
    fleet.join(registration("w1", capacity=2))
    assert fleet.dispatch(Ask("a")) is None
    fleet.release(old.pop())
    new = take(fleet)
    fleet.leave("w1")
    for ticket in (*old, new):
        fleet.release(ticket)
    fleet.join(registration("w1"))
    assert member(fleet, "w1").in_flight == 0 == fleet.in_flight


def test_a_worker_that_left_is_remembered_only_while_a_ticket_is_out() -> None:
    fleet, _ = fleet_of(registration("w1"))
    fleet.release(take(fleet), answered=True)
    fleet.leave("w1")
    gc.collect()
    fleet.join(registration("w1"))
    assert member(fleet, "w1").answered == 0


def test_a_new_worker_at_an_old_address_takes_the_old_ones_place() -> None:
    fleet, _ = fleet_of(registration("w1", port=7), registration("w2", port=7))
    assert [worker.id for worker in fleet.workers()] == ["w2"]


# ------------------------------------------------------------------------------------------- failures
def test_a_worker_that_fails_is_paused_longer_each_time_until_it_answers() -> None:
    fleet, clock = fleet_of(registration("w1"))
    worker = member(fleet, "w1")
    pauses = []
    for _ in range(4):
        fleet.failed(worker, "x")
        pauses.append(worker.retry_at - clock.now)
        fleet.heartbeat(Heartbeat(worker_id="w1"))  # a sign of life does not prove that it can answer
        assert fleet.dispatch(Ask("a")) is None
        assert not fleet.can_serve(Ask("a"))
        fleet.restore(worker)
    assert pauses == [0.5, 1.0, 2.0, 4.0]
    fleet.release(take(fleet), answered=True)
    assert worker.failures == 0


def test_a_probe_that_fails_puts_the_next_one_off_by_a_second_and_no_more() -> None:
    fleet, clock = fleet_of(registration("w1"))
    worker = member(fleet, "w1")
    fleet.failed(worker, "x")
    for _ in range(20):
        clock.now += 1.0
        fleet.heartbeat(Heartbeat(worker_id="w1"))
        assert fleet.due_for_probe() == [worker]
        fleet.unwell(worker, "no answer")
        assert fleet.due_for_probe() == []
    assert (worker.failures, worker.last_failure) == (1, "no answer")


def test_failures_that_may_be_the_requests_fault_count_from_the_third_on() -> None:
    fleet, _ = fleet_of(registration("w1"))
    worker = member(fleet, "w1")
    states = []
    for _ in range(3):
        fleet.failed(worker, "x", certain=False)
        states.append(fleet.state(worker))
    assert states == ["live", "live", "suspended"]


def test_a_worker_that_registers_again_is_trusted_again() -> None:
    fleet, _ = fleet_of(registration("w1"))
    fleet.failed(member(fleet, "w1"), "x")
    fleet.join(registration("w1"))
    assert fleet.state(take(fleet).worker) == "live"
    assert member(fleet, "w1").failures == 0


def test_what_is_said_about_a_worker_that_has_left_changes_nothing() -> None:
    fleet, _ = fleet_of(registration("w1"))
    worker = member(fleet, "w1")
    fleet.leave("w1")
    fleet.failed(worker, "x")
    fleet.restore(worker)
    fleet.full(worker)
    assert fleet.dispatch(Ask("a")) is None
    assert not any((fleet.heartbeat(Heartbeat(worker_id="w1")), fleet.leave("w1"), fleet.drain("w1")))
    assert fleet.models() == {}
    assert fleet.due_for_probe() == []


# ------------------------------------------------------------------------------------------- what workers can do
def test_only_workers_that_can_do_what_is_needed_are_chosen() -> None:
    tools = served(features=ABLE | {"tools"})
    fleet, _ = fleet_of(registration("w1"), registration("w2", tools, capacity=1))
    ask = Ask("a", needs=frozenset({"tools"}))
    assert chosen(fleet, ask) == ["w2"]
    assert fleet.dispatch(ask) is None
    assert fleet.can_serve(ask)
    assert fleet.lacks(ask) == frozenset()
    assert fleet.lacks(Ask("a", needs=frozenset({"tools", "images"}))) == {"images"}
    assert fleet.lacks(Ask("nobody", needs=frozenset({"images"}))) == frozenset()


def test_an_answer_goes_on_only_with_the_same_weights_and_an_engine_that_can_continue() -> None:
    fleet, _ = fleet_of(
        registration("w1", served(weights="v1")),
        registration("w2", served(weights="v1", features=frozenset({"chat"})), capacity=9),
        registration("w3", served(weights="v2", label="new"), capacity=9),
        registration("w4", served(weights="v1")),
    )
    begun = served(weights="v1")
    assert {take(fleet, "a", "w1", version=begun).worker.id for _ in range(2)} == {"w4"}
    assert fleet.dispatch(Ask("a"), ["w1"], begun) is None
    fleet.drain("w1")
    assert not fleet.can_serve(Ask("a"), ["w4"], begun)


# ------------------------------------------------------------------------------------------- versions
def test_other_weights_without_a_label_are_refused_with_the_ways_out() -> None:
    fleet, clock = fleet_of(registration("w1", served(weights="v1")))
    with pytest.raises(JoinRefused, match=r"127\.0\.0\.1:1001 serves 'a' with weights of another hash") as refusal:
        fleet.join(registration("w2", served(weights="v2")))
    assert all(way in str(refusal.value) for way in ("--version", "--names", "drain"))
    clock.now += LEASE  # the other's lease has run out
    fleet.join(registration("w2", served(weights="v2")))


def test_a_label_that_another_version_has_is_refused() -> None:
    fleet, _ = fleet_of(registration("w1", served(weights="v1", label="x")))
    with pytest.raises(JoinRefused, match="another label than 'x'"):
        fleet.join(registration("w2", served(weights="v2", label="x")))


def test_another_template_is_another_version() -> None:
    fleet, _ = fleet_of(registration("w1"))
    other = served().model_copy(update={"template_hash": "t"})
    with pytest.raises(JoinRefused, match="a prompt template of another hash"):
        fleet.join(registration("w2", other))


def test_a_worker_that_drains_stands_in_nobodys_way() -> None:
    fleet, _ = fleet_of(registration("w1", served(weights="v1")))
    fleet.drain("w1")
    fleet.join(registration("w2", served(weights="v2")))
    assert take(fleet).model.checkpoint_hash == "v2"


def test_a_bare_name_changes_to_the_new_version_when_the_last_old_worker_drains() -> None:
    fleet, _ = fleet_of(
        registration("w1", served(weights="old" * 8), started=1),
        registration("w2", served(weights="old" * 8), started=2),
        registration("w3", served(weights="new", label="v2"), started=3, capacity=99),
    )
    assert set(fleet.models()) == {"a", "a@oldoldoldold", "a@v2"}
    assert set(chosen(fleet, times=2)) == {"w1", "w2"}
    assert chosen(fleet, "a@v2") == ["w3"]
    assert chosen(fleet, "a@oldoldoldold") == ["w1"]
    fleet.drain("w1")
    fleet.failed(member(fleet, "w2"), "a hiccup")
    assert fleet.dispatch(Ask("a")) is None  # still the old version's, which comes back
    fleet.restore(member(fleet, "w2"))
    assert chosen(fleet) == ["w2"]
    fleet.heartbeat(Heartbeat(worker_id="w2", draining=True))
    assert chosen(fleet, times=2) == ["w3", "w3"]
    assert set(fleet.models()) == {"a", "a@v2"}
    assert fleet.has_seen("a@oldoldoldold")


def test_every_controller_takes_the_version_of_the_oldest_worker() -> None:
    old = registration("w2", served(weights="v1", label="old"), started=1)
    new = registration("w1", served(weights="v2", label="new"), started=2)
    for order in ((old, new), (new, old)):
        fleet, _ = fleet_of(*order)
        assert chosen(fleet) == ["w2"]


def test_replicas_may_have_labels_of_their_own_and_are_reached_by_each() -> None:
    fleet, _ = fleet_of(registration("w1", served(label="x")), registration("w2", served(label="y")))
    assert set(fleet.models()) == {"a", "a@x", "a@y"}
    assert set(chosen(fleet, "a@x", times=2)) == {"w1", "w2"}
    assert fleet.names_of(member(fleet, "w1")) == ("a", "a@x", "a@y")


def test_one_version_without_a_label_is_listed_once_but_keeps_its_pinned_name() -> None:
    fleet, _ = fleet_of(registration("w1", served(weights="0123456789abcdef")))
    assert list(fleet.models()) == ["a"]
    assert chosen(fleet, "a@0123456789ab") == ["w1"]


def test_draining_lasts_until_the_worker_registers_again() -> None:
    fleet, _ = fleet_of(registration("w1"))
    fleet.drain("w1")
    fleet.heartbeat(Heartbeat(worker_id="w1", draining=False))
    assert fleet.state(member(fleet, "w1")) == "draining"
    assert fleet.models() == {}
    fleet.join(registration("w1"))
    take(fleet)


def test_in_a_large_fleet_heartbeats_are_rarer_and_leases_longer() -> None:
    fleet = Fleet(5.0, Clock())
    assert (fleet.pause, fleet.lease) == (0.0, 5.0)
    for number in range(1_000):
        fleet.join(registration(f"w-{number}"))
    assert fleet.pause == 5.0
    assert fleet.lease == 15.0
