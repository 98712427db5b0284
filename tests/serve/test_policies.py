"""The dispatch policies: who gets the next request."""

import random
from collections import Counter
from typing import get_args, get_type_hints

import pytest
from fleet_kit import chosen, fleet_of, registration, served, take
from hypothesis import given
from hypothesis import strategies as st

from vicuna.serve.config import FleetConfig
from vicuna.serve.fleet import policies
from vicuna.serve.fleet.ask import Ask
from vicuna.serve.fleet.policies import Lottery, PowerOfTwo, PrefixAffinity, chain
from vicuna.serve.fleet.table import Fleet
from vicuna.serve.protocol import Job, Turn

NAMES = get_args(get_type_hints(FleetConfig)["policy"])


def chat(*contents: str, system: str = "") -> Job:
    roles = ("user", "assistant") * len(contents)
    turns = [Turn(role="system", content=system)] if system else []
    turns += [Turn(role=role, content=content) for role, content in zip(roles, contents, strict=False)]
    return Job(id="x", model="a", messages=tuple(turns))


def asks(*contents: str, system: str = "") -> Ask:
    return Ask("a", chain=chain(chat(*contents, system=system)))


def fleet_with(policy: policies.Policy, *capacities: int) -> Fleet:
    return fleet_of(*(registration(f"w{i}", capacity=c) for i, c in enumerate(capacities)), policy=policy)[0]


# ------------------------------------------------------------------------------------------- every policy
@pytest.mark.parametrize("name", NAMES)
@given(
    capacities=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    steps=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["", "x", "y"])), max_size=40),
)
def test_every_policy_uses_all_the_room_there_is_and_no_more(
    name: str, capacities: list[int], steps: list[tuple[int, str]]
) -> None:
    fleet = fleet_with(policies.make(FleetConfig(policy=name)), *capacities)
    held = []
    for avoided, text in steps:
        avoid = {f"w{avoided}"}
        ask = asks(text) if fleet.policy.uses_prefix else Ask("a")
        ticket = fleet.dispatch(ask, avoid)
        room = [w for w in fleet.workers() if w.id not in avoid and w.in_flight < w.capacity]
        if ticket is None:
            assert not room
            if held:
                fleet.release(held.pop(0))
            continue
        assert ticket.worker.id not in avoid
        assert ticket.worker.in_flight <= ticket.worker.capacity
        held.append(ticket)


def test_two_choices_take_the_less_full_of_two_different_workers() -> None:
    fleet = fleet_with(PowerOfTwo(random.Random(1)), 8, 8)
    assert Counter(chosen(fleet, times=16)) == {"w0": 8, "w1": 8}  # of two, always the less full one
    crowd = fleet_with(PowerOfTwo(random.Random(1)), *[64] * 50)
    many = Counter(chosen(crowd, times=1000)).values()
    assert max(many) < 26
    assert len(many) == 50


@pytest.mark.parametrize("capacities", [(1, 2, 5), (1, 1, 1000)], ids=["alike", "far apart"])
def test_the_lottery_draws_by_capacity(capacities: tuple[int, ...]) -> None:
    fleet = fleet_with(Lottery(random.Random(1)), *capacities)
    draws: Counter[str] = Counter()
    for _ in range(4000):
        ticket = take(fleet)
        draws[ticket.worker.id] += 1
        fleet.release(ticket)
    for index, capacity in enumerate(capacities):
        assert draws[f"w{index}"] / 4000 == pytest.approx(capacity / sum(capacities), abs=0.03)


# ------------------------------------------------------------------------------------------- prefix affinity
def test_a_conversation_goes_on_where_it_began() -> None:
    fleet = fleet_with(PrefixAffinity(slack=0.5), 8, 8, 8)
    first = take(fleet, asks("what is a vicuna?")).worker
    fleet.release(take(fleet, asks("something else")))
    assert take(fleet, asks("what is a vicuna?", "an animal", "where?")).worker is first
    assert take(fleet, asks("what is a vicuna?", "an animal", "where?", "in Peru", "why?")).worker is first


def test_new_conversations_spread_even_under_one_short_system_prompt() -> None:
    fleet = fleet_with(PrefixAffinity(slack=0.5), 8, 8, 8, 8)
    order = [take(fleet, asks(f"question {i}", system="You are helpful.")).worker.id for i in range(8)]
    assert Counter(order) == dict.fromkeys(("w0", "w1", "w2", "w3"), 2)


def test_a_long_text_that_many_share_stays_with_those_who_have_it() -> None:
    fleet = fleet_with(PrefixAffinity(slack=0.5), 8, 8)
    book, other = "a page of the book " * 100, "of another book " * 100
    first = take(fleet, asks(book + "what happens?")).worker
    second = take(fleet, asks(other + "who is it?")).worker
    assert first is not second
    for i in range(3):
        assert take(fleet, asks(book + f"question {i}")).worker is first
        assert take(fleet, asks(other + f"question {i}")).worker is second


def test_a_worker_that_is_too_full_is_passed_over_and_its_helper_remembered() -> None:
    fleet = fleet_with(PrefixAffinity(slack=0.5), 4, 4)
    ask = asks("hot")
    assert chosen(fleet, ask, times=4) == ["w0", "w0", "w0", "w1"]  # w0 may be half a capacity ahead
    assert chosen(fleet, ask, times=2) == ["w1", "w1"]  # it knows the prompt by now, and is the less full one
    assert sorted(chosen(fleet, ask, times=2)) == ["w0", "w1"]
    assert fleet.dispatch(ask) is None


def test_a_worker_that_left_is_forgotten() -> None:
    fleet = fleet_with(PrefixAffinity(slack=9.0), 4, 4)
    ask = asks("hello")
    assert chosen(fleet, ask) == ["w0"]
    fleet.leave("w0")
    assert chosen(fleet, ask) == ["w1"]
    fleet.join(registration("w5"))
    assert chosen(fleet, ask) == ["w1"]


def test_what_is_remembered_is_bounded() -> None:
    fleet = fleet_with(PrefixAffinity(slack=9.0, remembered=4), 99, 99)
    assert chosen(fleet, asks("old")) == ["w0"]
    for i in range(4):
        take(fleet, asks(f"new {i}"))
    take(fleet, asks("new 3"))
    assert chosen(fleet, asks("old")) == ["w1"]  # nobody knows it any more: the less full one


def test_a_switch_of_versions_leaves_the_old_ones_cache_behind() -> None:
    fleet, _ = fleet_of(
        registration("w1", served(weights="v1"), started=1),
        registration("w2", served(weights="v2", label="x"), started=2),
        policy=PrefixAffinity(slack=9.0),
    )
    ask = asks("hello")
    assert chosen(fleet, ask) == ["w1"]
    fleet.drain("w1")
    assert chosen(fleet, ask) == ["w2"]


# ------------------------------------------------------------------------------------------- beginnings of prompts
def shared(one: Job, other: Job) -> int:
    """How many beginnings two prompts have in common."""
    pairs = list(zip(chain(one), chain(other), strict=False))
    same = [a == b for a, b in pairs]
    assert same == sorted(same, reverse=True)  # once they differ, they differ for good
    return sum(same)


def test_prompts_share_beginnings_as_far_as_they_are_alike() -> None:
    assert shared(chat("hello"), chat("hello", "hi", "more")) == 1
    assert shared(chat("hello"), chat("hell", "hi")) == 0
    assert shared(chat("x" * 600), chat("x" * 600 + "y")) == 2
    assert shared(chat("x" * 600, system="s" * 256), chat("y", system="s" * 256)) == 1
    assert shared(chat("hello"), chat("hello").model_copy(update={"model": "b"})) == 0
    tokens = [Job(id="x", model="a", tokens=tuple(range(n))) for n in (130, 200)]
    assert shared(*tokens) == 2
    texts = [Job(id="x", model="a", prompt="p" * n) for n in (300, 900)]
    assert shared(*texts) == 1


@given(st.lists(st.text(max_size=700), min_size=1, max_size=5), st.lists(st.text(max_size=20), max_size=3))
def test_a_conversation_that_goes_on_keeps_all_its_beginnings(before: list[str], after: list[str]) -> None:
    assert shared(chat(*before), chat(*before, *after)) == len(chain(chat(*before)))


def test_a_prompt_of_megabytes_has_a_bounded_number_of_beginnings() -> None:
    assert len(chain(chat("x" * 4_000_000))) == policies.BEGINNINGS
    assert len(chain(chat(*["x"] * 1000))) == policies.BEGINNINGS
    assert len(chain(Job(id="x", model="a", tokens=tuple(range(200_000))))) == policies.BEGINNINGS
