"""The line in front of the fleet: who waits, for how long, in which order, and who is sent away."""

import asyncio
from collections import Counter
from collections.abc import Collection, Coroutine
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicuna.serve.config import LimitsConfig
from vicuna.serve.faults import Fault
from vicuna.serve.fleet.ask import Ask
from vicuna.serve.fleet.dispatch import Dispatcher
from vicuna.serve.fleet.table import Fleet, Ticket
from vicuna.serve.protocol import Registration, ServedModel

LIMITS = LimitsConfig(gap=1.5, queue=4, queue_wait=60.0)


class Clock:
    """Time that stands still until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class CountingFleet(Fleet):
    """A fleet that counts how often it was asked for a ticket."""

    asked = 0

    def dispatch(self, ask: Ask, avoid: Collection[str] = (), version: ServedModel | None = None) -> Ticket | None:
        self.asked += 1
        return super().dispatch(ask, avoid, version)


class Stage:
    """A fleet, its dispatcher, and the answers that wait there."""

    def __init__(self, limits: LimitsConfig = LIMITS) -> None:
        self.clock = Clock()
        self.fleet = CountingFleet(lease=1e9, clock=self.clock)
        self.dispatcher = Dispatcher(self.fleet, limits, self.clock)
        self.clock.now += limits.gap  # the process has started long ago
        self.tasks: list[asyncio.Task[Ticket]] = []

    def join(
        self, worker: str, *models: str, capacity: int = 1, features: Collection[str] = ("chat", "resume")
    ) -> None:
        """A worker comes."""
        served = [
            ServedModel(name=name, checkpoint_hash="c", max_length=9, features=frozenset(features))
            for name in models or ("m",)
        ]
        address = f"http://127.0.0.1:{1000 + int(worker[1:])}"
        self.fleet.join(Registration(worker_id=worker, address=address, models=served, capacity=capacity))
        self.dispatcher.wake()

    async def ask(self, ask: Ask | str = "", **more: Any) -> "asyncio.Task[Ticket]":
        """Somebody asks; their task has waited for its turn when this returns."""
        ask = Ask("m", key=ask) if isinstance(ask, str) else ask
        task = asyncio.ensure_future(self.dispatcher.acquire(ask, **more))
        self.tasks.append(task)
        await settle()
        return task

    async def hold(self, model: str = "m") -> Ticket:
        """Take a place that is free."""
        ticket = self.fleet.dispatch(Ask(model))
        assert ticket is not None
        return ticket

    async def release(self, ticket: Ticket) -> None:
        """Give a ticket back, and let who gets it notice."""
        self.dispatcher.release(ticket, answered=True)
        await settle()

    async def pass_time(self, seconds: float) -> None:
        """The clock goes on and the watch comes by."""
        self.clock.now += seconds
        self.dispatcher.tick()
        await settle()

    async def serve_all(self, ticket: Ticket) -> list["asyncio.Task[Ticket]"]:
        """Release ticket after ticket; the tasks in the order in which they were served."""
        order: list[asyncio.Task[Ticket]] = []
        while True:
            await self.release(ticket)
            now_served = [task for task in self.tasks if task not in order and is_served(task)]
            if not now_served:
                return order
            (task,) = now_served  # one place, so one at a time
            order.append(task)
            ticket = task.result()


async def settle() -> None:
    """Let every task run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


def is_served(task: "asyncio.Task[Ticket]") -> bool:
    """Whether it has got a ticket."""
    return task.done() and not task.cancelled() and task.exception() is None


def fault_of(task: "asyncio.Task[Ticket]") -> Fault:
    """Why it was sent away."""
    assert task.done()
    error = task.exception()
    assert isinstance(error, Fault)
    return error


def play(scene: Coroutine[Any, Any, None]) -> None:
    """Run a scene in a loop of its own."""
    asyncio.run(scene)


# ------------------------------------------------------------------------------------------- order
@given(
    arrivals=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(-1, 1)), min_size=1, max_size=25),
    gone=st.sets(st.integers(0, 24), max_size=8),
)
def test_the_urgent_come_first_and_within_one_urgency_keys_take_turns(
    arrivals: list[tuple[str, int]], gone: set[int]
) -> None:
    async def scene() -> None:
        stage = Stage(replace(LIMITS, queue=100))
        stage.join("w1")
        ticket = await stage.hold()
        for key, priority in arrivals:
            await stage.ask(Ask("m", key=key, priority=priority))
        for index in gone:
            if index < len(arrivals):
                stage.tasks[index].cancel()
        await settle()
        left = Counter(arrival for index, arrival in enumerate(arrivals) if index not in gone)
        served: Counter[tuple[str, int]] = Counter()
        last: dict[tuple[str, int], int] = {}
        order = [stage.tasks.index(task) for task in await stage.serve_all(ticket)]
        assert sorted(order) == sorted(set(range(len(arrivals))) - gone)  # nobody is lost
        for index in order:
            key, priority = arrival = arrivals[index]
            assert priority == min(other for (_, other), count in left.items() if count)
            assert index > last.get(arrival, -1)  # first come, first served within a key
            last[arrival] = index
            left[arrival] -= 1
            served[arrival] += 1
            waiting = [other for other, count in left.items() if count and other[1] == priority]
            assert all(served[arrival] - served[other] <= 1 for other in waiting)
        assert stage.dispatcher.waiting == {}
        assert stage.fleet.in_flight == 0

    play(scene())


def test_a_key_that_comes_later_does_not_wait_behind_all_of_a_greedy_one() -> None:
    async def scene() -> None:
        stage = Stage(replace(LIMITS, queue=100))
        stage.join("w1")
        ticket = await stage.hold()
        for _ in range(20):
            await stage.ask("greedy")
        modest = await stage.ask("modest")
        order = await stage.serve_all(ticket)
        assert order.index(modest) <= 1

    play(scene())


def test_models_that_share_a_worker_take_turns() -> None:
    async def scene() -> None:
        stage = Stage(replace(LIMITS, queue=100))
        stage.join("w1", "m", "n")
        ticket = await stage.hold()
        for name in "mmmnnn":
            await stage.ask(Ask(name))
        names = [task.result().model.name for task in await stage.serve_all(ticket)]
        assert sorted(names) == sorted("mmmnnn")
        assert all(one != other for one, other in zip(names, names[1:], strict=False))

    play(scene())


def test_an_answer_that_had_a_worker_before_goes_first_and_into_a_full_line() -> None:
    async def scene() -> None:
        stage = Stage()
        stage.join("w1")
        ticket = await stage.hold()
        waiting = [await stage.ask(Ask("m", priority=-5)) for _ in range(LIMITS.queue)]
        again = [
            await stage.ask(avoid={"w9"}),
            await stage.ask(version=ticket.model),
            await stage.ask(again=True),
        ]
        assert fault_of(await stage.ask()).status == 429
        assert stage.dispatcher.waiting == {"m": LIMITS.queue + 3}
        again.pop().cancel()
        await settle()
        assert fault_of(await stage.ask()).status == 429  # that one had no place of those that are counted
        assert await stage.serve_all(ticket) == again + waiting

    play(scene())


def test_who_waits_for_something_rare_holds_up_nobody_behind() -> None:
    async def scene() -> None:
        stage = Stage()
        stage.join("w1", features=("chat", "tools"))
        stage.join("w2", features=("chat",))
        able, plain = await stage.hold(), await stage.hold()
        if able.worker.id != "w1":
            able, plain = plain, able
        tools = await stage.ask(Ask("m", needs=frozenset({"tools"})))
        avoids = await stage.ask(avoid={"w2"})
        usual = await stage.ask()
        await stage.release(plain)
        assert is_served(usual)
        assert usual.result().worker.id == "w2"
        assert not tools.done()
        await stage.release(able)
        assert is_served(avoids)  # it had a worker before
        await stage.release(avoids.result())
        assert is_served(tools)
        assert tools.result().worker.id == "w1"

    play(scene())


def test_a_newcomer_who_can_be_served_at_once_does_not_wait_behind_those_who_cannot() -> None:
    async def scene() -> None:
        stage = Stage()
        stage.join("w1", features=("chat", "tools"))
        await stage.hold()
        tools = await stage.ask(Ask("m", needs=frozenset({"tools"})))
        stage.join("w2", features=("chat",))
        assert not tools.done()
        assert is_served(await stage.ask())

    play(scene())


def test_nobody_overtakes_a_waiter_of_the_same_kind() -> None:
    async def scene() -> None:
        stage = Stage()
        stage.join("w1")
        ticket = await stage.hold()
        first = await stage.ask("a")
        stage.fleet.release(ticket)  # a place is free and the line has not been told yet
        second = await stage.ask("b")
        assert not second.done()
        await stage.pass_time(0.1)
        assert is_served(first)
        assert not second.done()

    play(scene())


def test_a_release_costs_the_same_however_many_wait() -> None:
    async def scene() -> None:
        stage = Stage(replace(LIMITS, queue=1000))
        stage.join("w1")
        ticket = await stage.hold()
        await stage.ask("key0")
        stage.fleet.asked = 0
        for index in range(500):
            await stage.ask(f"key{index % 7}")
        assert stage.fleet.asked == 0  # who comes behind others like them need not try
        await stage.release(ticket)
        assert stage.fleet.asked <= 2  # one ticket, and one look for another

    play(scene())


# ------------------------------------------------------------------------------------------- a full line
@given(arrivals=st.lists(st.sampled_from("aaabbc"), max_size=40), queue=st.integers(1, 8))
def test_a_full_line_is_shared_fairly_between_the_keys(arrivals: list[str], queue: int) -> None:
    async def scene() -> None:
        stage = Stage(replace(LIMITS, queue=queue))
        stage.join("w1")
        ticket = await stage.hold()
        for key in arrivals:
            await stage.ask(key)
            assert stage.dispatcher.waiting["m"] <= queue
        shares = Counter(key for key, task in zip(arrivals, stage.tasks, strict=True) if not task.done())
        sent_away = {key for key, task in zip(arrivals, stage.tasks, strict=True) if task.done()}
        assert shares.total() == min(queue, len(arrivals))
        assert all(shares[key] >= max(shares.values()) - 1 for key in sent_away)
        for task in stage.tasks:
            assert not task.done() or fault_of(task).status == 429
        assert len(await stage.serve_all(ticket)) == shares.total()
        assert stage.fleet.in_flight == 0

    play(scene())


def test_the_newest_and_least_urgent_request_of_the_greediest_key_makes_room() -> None:
    async def scene() -> None:
        stage = Stage()
        stage.join("w1")
        await stage.hold()
        first, batch, batch_too, urgent = [
            await stage.ask(Ask("m", key="greedy", priority=priority)) for priority in (0, 5, 5, -1)
        ]
        modest = await stage.ask("modest")
        fault = fault_of(batch_too)
        assert (fault.status, fault.code) == (429, "rate_limit_exceeded")
        assert not any(task.done() for task in (first, batch, urgent, modest))
        more_urgent = await stage.ask(Ask("m", key="greedy"))
        assert fault_of(batch).status == 429
        assert not more_urgent.done()
        assert fault_of(await stage.ask(Ask("m", key="greedy"))).status == 429

    play(scene())


def test_retry_after_is_the_time_that_the_line_needs_at_its_pace() -> None:
    async def scene() -> None:
        stage = Stage(replace(LIMITS, queue=20))
        stage.join("w1")
        ticket = await stage.hold()
        for _ in range(20):
            await stage.ask()
        for _ in range(100):  # two answers a second
            stage.clock.now += 0.5
            stage.dispatcher.release(ticket)
            await settle()
            ticket = next(task for task in stage.tasks if is_served(task)).result()
            stage.tasks = [task for task in stage.tasks if not task.done()]
            await stage.ask()
        fault = fault_of(await stage.ask())
        assert fault.retry_after == pytest.approx(10, rel=0.1)
        stage.clock.now += 1e6
        assert fault_of(await stage.ask()).retry_after == 60

    play(scene())


# ------------------------------------------------------------------------------------------- waiting too long
def test_a_deadline_that_passes_ends_the_wait_and_one_that_has_passed_begins_none() -> None:
    async def scene() -> None:
        stage = Stage()
        stage.join("w1")
        late = await stage.ask(Ask("m", deadline=stage.clock.now))
        assert (fault_of(late).status, fault_of(late).code) == (504, "timeout")
        ticket = await stage.hold()
        hurried = await stage.ask(Ask("m", deadline=stage.clock.now + 2))
        patient = await stage.ask()
        await stage.pass_time(1.9)
        assert not hurried.done()
        stage.clock.now += 0.1
        await stage.release(ticket)  # before the watch has come by
        assert fault_of(hurried).status == 504
        assert is_served(patient)
        short = await stage.ask(Ask("m", deadline=stage.clock.now + 1))
        await stage.pass_time(1)
        assert fault_of(short).status == 504

    play(scene())


def test_who_waits_too_long_for_a_busy_worker_is_sent_away_with_429() -> None:
    async def scene() -> None:
        stage = Stage()
        stage.join("w1")
        await stage.hold()
        task = await stage.ask()
        await stage.pass_time(LIMITS.queue_wait)
        assert not task.done()
        await stage.pass_time(0.1)
        fault = fault_of(task)
        assert fault.status == 429
        assert fault.retry_after == 60
        assert stage.dispatcher.waiting == {}

    play(scene())


def test_an_answer_that_full_workers_refuse_again_and_again_waits_no_longer_than_others() -> None:
    async def scene() -> None:
        stage = Stage()
        stage.join("w1", capacity=2)
        began = stage.clock()
        stage.clock.now += LIMITS.queue_wait
        ticket = await stage.dispatcher.acquire(Ask("m"), again=True, since=began)
        stage.fleet.full(ticket.worker)
        stage.dispatcher.release(ticket)
        task = asyncio.create_task(stage.dispatcher.acquire(Ask("m"), again=True, since=began))
        await settle()
        await stage.pass_time(0.1)
        assert fault_of(task).status == 429

    play(scene())


def test_a_model_whose_workers_are_away_is_waited_for_and_served_when_one_comes_back() -> None:
    async def scene() -> None:
        stage = Stage()
        stage.join("w1")
        stage.fleet.leave("w1")
        lucky = await stage.ask()
        await stage.pass_time(LIMITS.gap - 0.1)
        stage.join("w2")
        await settle()
        assert is_served(lucky)
        stage.fleet.leave("w2")
        unlucky = await stage.ask()
        await stage.pass_time(0)
        await stage.pass_time(LIMITS.gap)
        assert (fault_of(unlucky).status, fault_of(unlucky).code) == (503, "no_worker")

    play(scene())


def test_the_wait_for_workers_begins_anew_when_one_was_there_meanwhile() -> None:
    async def scene() -> None:
        stage = Stage()
        stage.join("w1")
        await stage.hold()
        task = await stage.ask()
        for _ in range(3):
            stage.fleet.leave("w1")
            await stage.pass_time(0.1)
            await stage.pass_time(LIMITS.gap - 0.1)
            stage.join("w1")  # with the answer from before still in flight
            await stage.pass_time(0.1)
            assert not task.done()

    play(scene())


def test_an_unknown_model_is_waited_for_only_just_after_the_start() -> None:
    async def scene() -> None:
        stage = Stage()
        assert fault_of(await stage.ask(Ask("nobody"))).status == 404
        young = Stage()
        young.clock.now -= LIMITS.gap  # just started
        early, other = await young.ask(), await young.ask(Ask("n"))
        young.join("w1", "m")
        await settle()
        assert is_served(early)
        await young.pass_time(0.1)
        await young.pass_time(LIMITS.gap)
        assert fault_of(other).status == 404
        assert "Served now: m" in str(fault_of(other))

    play(scene())


def test_what_no_worker_of_the_model_can_do_is_refused_at_once_in_words() -> None:
    async def scene() -> None:
        stage = Stage()
        stage.join("w1", features=("chat", "logprobs"))
        await stage.hold()
        fault = fault_of(await stage.ask(Ask("m", needs=frozenset({"chat", "tools"}))))
        assert (fault.status, fault.code, fault.param) == (400, "unsupported_parameter", "tools")
        assert str(fault) == "the model 'm' cannot call tools"
        both = fault_of(await stage.ask(Ask("m", needs=frozenset({"images", "embeddings"}))))
        assert str(both) == "the model 'm' cannot embed text or read messages with parts that are not text"
        assert not (await stage.ask(Ask("m", needs=frozenset({"chat", "logprobs"})))).done()

    play(scene())


# ------------------------------------------------------------------------------------------- giving up and ending
def test_a_client_that_leaves_in_the_moment_of_its_turn_gives_the_ticket_to_the_next() -> None:
    async def scene() -> None:
        stage = Stage()
        stage.join("w1")
        ticket = await stage.hold()
        first, second = await stage.ask(), await stage.ask()
        stage.dispatcher.release(ticket)
        first.cancel()  # the ticket is its own already, and it does not know
        await settle()
        assert first.cancelled()
        assert is_served(second)
        assert stage.fleet.in_flight == 1

    play(scene())


def test_a_client_that_left_is_passed_over_even_before_its_task_has_noticed() -> None:
    async def scene() -> None:
        stage = Stage()
        stage.join("w1")
        ticket = await stage.hold()
        first, second = await stage.ask(), await stage.ask()
        first.cancel()
        stage.dispatcher.release(ticket)
        await settle()
        assert first.cancelled()
        assert is_served(second)
        assert stage.dispatcher.waiting == {}

    play(scene())


def test_after_the_end_everybody_is_told_that_the_service_stops() -> None:
    async def scene() -> None:
        stage = Stage()
        stage.join("w1")
        ticket = await stage.hold()
        waiting = [await stage.ask(key) for key in "aab"]
        stage.dispatcher.close()
        await settle()
        waiting.append(await stage.ask())
        assert [(fault_of(task).status, fault_of(task).code) for task in waiting] == [(503, "stopping")] * 4
        await stage.release(ticket)
        assert stage.fleet.in_flight == 0
        assert stage.dispatcher.waiting == {}

    play(scene())


# ------------------------------------------------------------------------------------------- anything in any order
STEP = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from("abc"), st.integers(0, 2), st.sampled_from([0.5, 5.0, float("inf")])),
    st.tuples(st.just("again"), st.sampled_from("abc"), st.sampled_from(["w1", "w2"])),
    st.tuples(st.just("release"), st.integers(0, 20)),
    st.tuples(st.just("cancel"), st.integers(0, 60)),
    st.tuples(st.just("time"), st.sampled_from([0.0, 0.1, 1.0, 2.0, 100.0])),
    st.tuples(st.just("join"), st.sampled_from(["w1", "w2"]), st.integers(1, 3)),
    st.tuples(st.just("leave"), st.sampled_from(["w1", "w2"])),
)


@given(steps=st.lists(STEP, max_size=60))
def test_whatever_happens_everybody_gets_one_end_and_every_place_comes_back(steps: list[tuple[Any, ...]]) -> None:
    async def scene() -> None:
        stage = Stage()
        stage.join("w1", capacity=2)
        held: list[Ticket] = []
        for name, *with_ in steps:
            if name == "ask":
                key, priority, seconds = with_
                await stage.ask(Ask("m", key=key, priority=priority, deadline=stage.clock.now + seconds))
            elif name == "again":
                await stage.ask(with_[0], avoid={with_[1]})
            elif name == "release" and held:
                await stage.release(held.pop(with_[0] % len(held)))
            elif name == "cancel" and stage.tasks:
                stage.tasks[with_[0] % len(stage.tasks)].cancel()
            elif name == "time":
                await stage.pass_time(with_[0])
            elif name == "join":
                stage.join(with_[0], capacity=with_[1])
            elif name == "leave":
                stage.fleet.leave(with_[0])
            await settle()
            held += [task.result() for task in stage.tasks if is_served(task) and task.result() not in held]
            stage.tasks = [task for task in stage.tasks if not task.done()]
            assert stage.dispatcher.waiting.get("m", 0) == len(stage.tasks)
            assert stage.fleet.in_flight == len(held)
        for ticket in held:
            stage.dispatcher.release(ticket)
        await stage.pass_time(0)
        await stage.pass_time(1000)
        await stage.pass_time(1000)
        for task in stage.tasks:
            assert task.done()
            if is_served(task):
                stage.dispatcher.release(task.result())
        await stage.pass_time(0)
        assert stage.dispatcher.waiting == {}

    play(scene())
