"""Whatever else is in the batch, a greedy answer is the one that transformers' own `generate` gives by itself."""

from dataclasses import dataclass

import pytest

torch = pytest.importorskip("torch")

from batch_kit import (  # noqa: E402
    CONTEXT,
    END,
    GREEDY,
    KINDS,
    alone,
    assert_all_is_free,
    batcher,
    ids_of,
    run,
    seat,
    served,
    text_of,
    tiny,
    words,
)
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from serve_tiny import model  # noqa: E402

from vicuna.errors import InputError  # noqa: E402
from vicuna.serve.engines.continuous.batcher import Batcher  # noqa: E402
from vicuna.serve.protocol import Sampling  # noqa: E402

LENGTHS = [1, 2, 7, 15, 16, 17, 31, 32, 33, 48, 70, 95]
"""Of prompts: blocks have 16 tokens."""
LONGEST = 40
"""Tokens of the answers."""


def prompt(beginning: int, length: int, ending: int) -> list[int]:
    """One of a family of prompts: those of one beginning differ in their last four tokens at most."""
    ids = [2 + (37 * beginning + 11 * place * (beginning + 1) + place * place) % 398 for place in range(length)]
    return ids[: length - 4] + [2 + (token + ending) % 398 for token in ids[length - 4 :]] if length > 4 else ids


def decoded(ids: list[int]) -> str:
    text: str = words().decode(ids, skip_special_tokens=True)
    return text


prompts = st.builds(prompt, st.integers(0, 2), st.sampled_from(LENGTHS), st.integers(0, 2))


@dataclass(frozen=True)
class Request:
    """One answer of a mix."""

    prompt: list[int]
    tokens: int
    arrives: int
    """At which step."""
    aborted: int | None
    stop: tuple[int, int] | None
    """Where in the answer's text a stop string is, as (first character, characters); None: it has none."""

    def stops(self, kind: str) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        first, size = self.stop
        text = decoded(alone(kind, self.prompt, LONGEST))[first : first + size]
        return () if "\ufffd" in text or not text else (text,)


requests = st.lists(
    st.builds(
        Request,
        prompt=prompts,
        tokens=st.sampled_from([1, 6, 17, LONGEST, LONGEST]),
        arrives=st.sampled_from([0, 0, 0, 1, 4, 9, 30]),
        aborted=st.sampled_from([None, None, None, None, 0, 3, 9, 15]),
        stop=st.none() | st.tuples(st.integers(0, 25), st.integers(1, 6)),
    ),
    min_size=3,
    max_size=9,
)


@dataclass(frozen=True)
class Machine:
    """A batcher's settings."""

    slots: int
    room: int
    prefill: int
    prefix_cache: bool


machines = st.builds(
    Machine,
    slots=st.sampled_from([1, 2, 3, 5, 8, 8]),
    room=st.sampled_from([144, 160, 256, 2048]),  # the first ones hold two or three answers: others are put back
    prefill=st.sampled_from([0, 1, 5, 16, 40]),
    prefix_cache=st.booleans(),
)


def expected(kind: str, request: Request) -> tuple[list[int], str, str]:
    """Ids, text and reason of the end, from `generate` and `decode` of all ids together."""
    ids = alone(kind, request.prompt, min(request.tokens, CONTEXT - len(request.prompt)))
    for count in range(1, len(ids) + 1):
        text = decoded(ids[:count])
        for stop in request.stops(kind):
            if stop in text:
                return ids[:count], text[: text.index(stop)], "stop"
    return ids, decoded(ids), "stop" if ids[-1] == END else "length"


def check(kind: str, mix: list[Request], machine: Machine) -> None:
    made = batcher(
        kind,
        slots=machine.slots,
        room=machine.room,
        prefill=machine.prefill,
        prefix_cache=machine.prefix_cache,
    )
    seats = [
        (each.arrives, seat(each.prompt, each.tokens, Sampling(temperature=0, stop=each.stops(kind)))) for each in mix
    ]
    aborts = {index: each.aborted for index, each in enumerate(mix) if each.aborted is not None}
    answers = run(made, seats, aborts)
    for request, (_, its) in zip(mix, seats):
        ids, text, finish = expected(kind, request)
        pieces = answers[its]
        if pieces and pieces[-1].finish:
            assert (ids_of(pieces), text_of(pieces), pieces[-1].finish) == (ids, text, finish)
        else:
            assert request.aborted is not None
            assert ids_of(pieces) == ids[: len(ids_of(pieces))]
            assert text.startswith(text_of(pieces))
    assert_all_is_free(made)
    assert machine.prefix_cache or made.cache.kept == 0


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(mix=requests, machine=machines)
def test_a_mix_of_answers_equals_generate_one_by_one(kind: str, mix: list[Request], machine: Machine) -> None:
    check(kind, mix, machine)


@settings(max_examples=40, deadline=None)
@given(
    mixes=st.lists(st.lists(st.tuples(prompts, st.integers(1, LONGEST)), min_size=1, max_size=4), max_size=4),
    room=st.sampled_from([176, 512, 2048]),
)
def test_turns_of_conversations_that_find_their_beginnings_equal_generate(
    mixes: list[list[tuple[list[int], int]]], room: int
) -> None:
    """One batcher, whose cache fills with what was said: each turn begins with the one before and its answer."""
    made = batcher(slots=3, room=room)
    said: list[list[int]] = [[] for _ in range(4)]
    for mix in mixes:
        seats = []
        for index, (more, tokens) in enumerate(mix):
            said[index] = (said[index] + more)[-(CONTEXT // 2) :]
            seats.append(seat(said[index], tokens))
        answers = run(made, [(0, each) for each in seats])
        for index, (its, (_, tokens)) in enumerate(zip(seats, mix)):
            assert ids_of(answers[its]) == alone("llama", said[index], tokens)
            said[index] += ids_of(answers[its])
    assert_all_is_free(made)


def test_a_window_that_is_shorter_than_the_prompt_is_obeyed() -> None:
    """Else the test above would prove nothing for windows."""
    long = prompt(0, 95, 0)
    assert len(long) > tiny("mistral").config.sliding_window
    changed = [3, *long[1:]]
    full, windowed = (model("mistral") for _ in range(2))
    full.config.sliding_window = None
    for layer in full.model.layers:
        layer.self_attn.sliding_window = None
    made = [Batcher(each, slots=2, room=512, max_length=CONTEXT) for each in (full, windowed)]
    answers = [[ids_of(run(each, [(0, its)])[its]) for its in (seat(long, 12), seat(changed, 12))] for each in made]
    assert answers[0] != answers[1]
    assert answers[1] == [alone("mistral", long, 12), alone("mistral", changed, 12)]


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_answers_that_begin_alike_and_arrive_together_are_computed_once(kind: str) -> None:
    begin = prompt(1, 95, 0)[:80]
    mix = [[*begin, 5 + index, 9, 9] for index in range(6)]
    for prefill in (0, 13, 20):  # pieces that end within blocks, too
        made = batcher(kind, slots=8, prefill=prefill)
        seats = [seat(each, 6) for each in mix]
        for each in seats:
            made.add(each)
        computed = 0
        while made.busy:
            made.step()
            computed += made.last.prompt_tokens
        assert computed <= 80 + 6 * 3
        for each, its in zip(mix, seats):
            assert its.ids[len(each) :] == alone(kind, each, 6)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("gemma2", "soft-capped scores"), ("gpt_oss", "attention sinks"), ("mamba", "its attention is its own")],
)
def test_a_model_whose_attention_is_of_another_kind_is_refused_with_the_reason(kind: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        run(Batcher(model(kind), slots=1, room=64, max_length=64), [(0, seat([5, 6, 7], 2, GREEDY))])


def test_the_model_that_serves_is_the_one_that_is_compared_with() -> None:
    for kind in KINDS:
        for (name, mine), (other, theirs) in zip(served(kind).named_parameters(), tiny(kind).named_parameters()):
            assert name == other
            assert torch.equal(mine, theirs)
        assert tiny(kind).config._attn_implementation != served(kind).config._attn_implementation
