"""Memory that is short, and steps that fail: answers wait or end with a reason, nothing leaks, all others are right."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from batch_kit import (  # noqa: E402
    CONTEXT,
    all_numbers,
    alone,
    assert_all_is_free,
    batcher,
    ids_of,
    run,
    seat,
    served,
)

from vicuna.serve.engines import Piece  # noqa: E402
from vicuna.serve.engines.continuous.batcher import Batcher  # noqa: E402
from vicuna.serve.engines.continuous.seats import Seat  # noqa: E402
from vicuna.serve.faults import Fault  # noqa: E402

PROMPTS = [[2 + (29 * number + 7 * place * place) % 398 for place in range(5 + 9 * number)] for number in range(8)]


def right(tokens: int, kind: str = "llama") -> list[list[int]]:
    """The answers to all of PROMPTS."""
    return [alone(kind, prompt, tokens) for prompt in PROMPTS]


@contextmanager
def before_layer(number: int, do: Callable[[torch.Tensor], torch.Tensor | None]) -> Iterator[None]:
    """Look at, change or refuse what goes into a layer of the served model, (1, N, hidden)."""

    def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        changed = do(args[0])
        return None if changed is None else ((changed, *args[1:]), kwargs)

    handle = served("llama").model.layers[number].register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def outcome(made: Batcher, seats: list[Seat]) -> dict[Seat, Fault | list[int]]:
    """What becomes of each: its fault, or its tokens."""
    found: dict[Seat, Fault | list[int]] = {each: [] for each in seats}
    for each in seats:
        made.add(each)
    steps = 0
    while made.busy:
        for each, item in made.step():
            before = found[each]
            assert isinstance(before, list)  # nothing comes after a fault
            found[each] = item if isinstance(item, Fault) else before + item.ids
        steps += 1
        assert steps < 5000
    return found


def unheard(prompts: list[list[int]], tokens: int) -> int:
    """A token that is neither in the prompts nor in their answers."""
    said = {token for prompt in prompts for token in [*prompt, *alone("llama", prompt, tokens)]}
    return min(set(range(2, 400)) - said)


def where(hidden: torch.Tensor, token: int) -> torch.Tensor:
    """(1, N) where a token is in what goes into the first layer."""
    return (hidden == served("llama").model.embed_tokens.weight[token]).all(-1)


# ------------------------------------------------------------------------------------------- nothing leaks
def test_a_thousand_aborts_at_any_time_leave_every_block_and_slot_free() -> None:
    made = batcher(slots=6, room=512, prefill=20)
    draw = random.Random(5)
    waiting: list[Seat] = []
    aborted = 0
    while aborted < 1000:
        while len(waiting) < 12:
            prompt = draw.choice(PROMPTS)
            waiting.append(seat(prompt[: draw.randint(1, len(prompt))], 60))
            made.add(waiting[-1])
        made.step()
        draw.shuffle(waiting)
        for _ in range(draw.randint(0, 12)):
            waiting.pop().aborted = True
            aborted += 1
        waiting = [each for each in waiting if not each.aborted]
    for each in waiting:
        each.aborted = True
    made.step()
    assert_all_is_free(made)
    assert made.last.running == made.last.waiting == made.last.used == 0
    everything = made.cache.open()
    assert made.cache.grow(everything, 512)
    made.cache.close(everything)
    assert list(outcome(made, [seat(prompt, 12) for prompt in PROMPTS]).values()) == right(12)


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_a_cache_that_is_too_small_for_all_lets_answers_wait_and_each_is_right(kind: str, prefix_cache: bool) -> None:
    made = batcher(kind, slots=8, room=160, prefix_cache=prefix_cache)
    seats = [seat(prompt, 40) for prompt in PROMPTS]
    for each in seats:
        made.add(each)
    answers: dict[Seat, list[int]] = {each: [] for each in seats}
    put_back = most_waiting = 0
    while made.busy:
        for each, item in made.step():
            assert isinstance(item, Piece), item
            answers[each] += item.ids
        put_back += made.last.put_back
        most_waiting = max(most_waiting, made.last.waiting)
        assert made.last.used <= made.last.room
    assert put_back > 0
    assert most_waiting >= 4
    assert list(answers.values()) == right(40, kind)
    assert_all_is_free(made)


def test_an_answer_that_was_put_back_says_nothing_twice_and_goes_on_before_those_that_came_later() -> None:
    made = batcher(slots=2, room=96)
    prompts = [PROMPTS[3], [9, *PROMPTS[3][1:]], PROMPTS[0]]
    seats = [seat(prompt, 40) for prompt in prompts]
    for each in seats:
        made.add(each)
    ended: list[Seat] = []
    put_back = 0
    while made.busy:
        for each, item in made.step():
            assert isinstance(item, Piece)
            if item.finish:
                ended.append(each)
        put_back += made.last.put_back
        assert list(made.waiting) == [each for each in seats if each in made.waiting]
    assert put_back > 0
    assert ended == seats
    for prompt, each in zip(prompts, seats):
        assert each.ids == prompt + alone("llama", prompt, 40)
    assert_all_is_free(made)


# ------------------------------------------------------------------------------------------- out of memory
OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]


def at_most(tokens: int, error: BaseException, seen: list[int] | None = None) -> Callable[[torch.Tensor], None]:
    """A layer whose memory suffices for so many tokens of a step."""

    def refuse(hidden: torch.Tensor) -> None:
        if hidden.shape[1] > tokens:
            raise error
        if seen is not None:
            seen.append(hidden.shape[1])

    return refuse


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("tokens", [16, 20, 60])
def test_out_of_memory_makes_the_steps_smaller_and_every_answer_is_right(error: BaseException, tokens: int) -> None:
    made = batcher(slots=8, room=1024)
    seats = [seat(prompt, 20) for prompt in PROMPTS]
    with before_layer(1, at_most(tokens, error)):
        found = outcome(made, seats)
    assert list(found.values()) == right(20)
    assert_all_is_free(made)


def test_out_of_memory_while_tokens_are_chosen_loses_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    from vicuna.serve.engines.continuous import batcher as module

    choose, calls = module.choose, []

    def short_of_memory(logits: torch.Tensor, *given: Any) -> list[int]:
        calls.append(len(logits))
        if len(logits) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return choose(logits, *given)

    monkeypatch.setattr(module, "choose", short_of_memory)
    made = batcher(slots=8, room=1024)
    found = outcome(made, [seat(prompt, 20) for prompt in PROMPTS])
    assert max(calls) > 3
    assert list(found.values()) == right(20)
    assert_all_is_free(made)


def test_after_a_long_while_without_trouble_more_is_tried_again() -> None:
    made = batcher(slots=8, room=2048)
    seen: list[int] = []
    with before_layer(1, at_most(60, OUT_OF_MEMORY[0], seen)):
        run(made, [(0, seat(prompt, 10)) for prompt in PROMPTS])
    low = made._pace.slots
    assert low < 8
    for _ in range(12):
        run(made, [(0, seat(PROMPTS[1], 200))])
    assert made._pace.slots == 8


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_an_answer_that_does_not_fit_by_itself_gets_a_fault_and_the_others_are_computed(error: BaseException) -> None:
    """No memory suffices for a token that only one of the prompts has."""
    token = unheard(PROMPTS, 30)
    hopeless = [5, token, 6]
    made = batcher(slots=4)

    def refuse(hidden: torch.Tensor) -> None:
        if bool(where(hidden, token).any()):
            raise error

    seats = [seat(PROMPTS[2], 30), seat(PROMPTS[4], 30), seat(hopeless, 30), seat(PROMPTS[1], 30)]
    with before_layer(0, refuse):
        found = outcome(made, seats)
    fault = found.pop(seats[2])
    assert isinstance(fault, Fault)
    assert (fault.status, fault.code) == (503, "out_of_memory")
    assert list(found.values()) == [alone("llama", PROMPTS[index], 30) for index in (2, 4, 1)]
    assert_all_is_free(made)
    assert outcome(made, [after := seat(hopeless, 5)])[after] == alone("llama", hopeless, 5)


# ------------------------------------------------------------------------------------------- what is no number
def no_number(token: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """What goes into the first layer for a token is not a number."""
    return lambda hidden: torch.where(where(hidden, token)[..., None], torch.nan, hidden)


@pytest.mark.parametrize("prefill", [0, 3])
@pytest.mark.parametrize("lengths", [[20, 21, 22, 23, 24], [3, 40, 5, 60, 20]])
def test_an_answer_that_becomes_no_number_gets_a_fault_and_infects_nobody(lengths: list[int], prefill: int) -> None:
    made = batcher(slots=5, room=1024, prefill=prefill)
    prompts = [PROMPTS[7][:length] for length in lengths]
    prompts = [[3 + number, *prompt[1:]] for number, prompt in enumerate(prompts)]
    others = [prompts[0], *prompts[2:]]
    prompts[1][-1] = token = unheard(others, 30)
    seats = [seat(prompt, 30) for prompt in prompts]
    with before_layer(0, no_number(token)):
        found = outcome(made, seats)
    fault = found.pop(seats[1])
    assert isinstance(fault, Fault)
    assert (fault.status, fault.code) == (500, "engine_failed")
    assert list(found.values()) == [alone("llama", prompt, 30) for prompt in others]
    assert_all_is_free(made)
    assert all_numbers(made)
    assert outcome(made, [after := seat(prompts[1], 5)])[after] == alone("llama", prompts[1], 5)


SHORT, LONG = PROMPTS[6][:33], PROMPTS[7][:68]
"""So long that attention to their answers, side by side in the cache, is computed in one go, which reads beyond the end
of the short one's memory."""


def test_an_answer_that_becomes_no_number_in_its_middle_does_not_infect_what_is_computed_with_it() -> None:
    made = batcher(slots=2)
    short, long = seat(SHORT, 12), seat([9, *LONG], 12)
    others = {9, *LONG, *SHORT, *alone("llama", SHORT, 12)}
    bad = next(token for token in alone("llama", [9, *LONG], 11) if token not in others)
    with before_layer(0, no_number(bad)):
        found = outcome(made, [short, long])
    assert found[short] == alone("llama", SHORT, 12)
    assert isinstance(found[long], Fault)
    assert_all_is_free(made)
    assert all_numbers(made)


def test_what_nobody_uses_any_more_is_wiped_when_it_infects_an_answer() -> None:
    made = batcher(slots=3, prefill=100)
    short, long = seat(SHORT, 12), seat([9, *LONG], 12)
    broken = seat([unheard([SHORT, [9, *LONG]], 12), *PROMPTS[7], *PROMPTS[7]], 5)
    made.add(short)
    made.step()
    with before_layer(0, no_number(broken.ids[0])):
        made.add(broken)
        made.step()
    broken.aborted = True
    assert not all_numbers(made)
    made.add(long)
    while made.busy:
        made.step()
    assert short.ids == SHORT + alone("llama", SHORT, 12)
    assert long.ids == [9, *LONG, *alone("llama", [9, *LONG], 12)]
    assert all_numbers(made)


def test_what_an_aborted_answer_leaves_behind_infects_nobody() -> None:
    """It was aborted before its first token, so nobody has seen that it is no number."""
    made = batcher(slots=3, room=128, prefill=20)
    prompts = [[4 + number, *PROMPTS[2 + number % 2]] for number in range(3)]
    broken = [unheard(prompts, 20), *PROMPTS[6]]
    with before_layer(0, no_number(broken[0])):
        made.add(bad := seat(broken, 5))
        made.step()
        bad.aborted = True
        made.step()
    assert not all_numbers(made)
    for _ in range(2):
        found = outcome(made, [seat(prompt, 20) for prompt in prompts])
        assert list(found.values()) == [alone("llama", prompt, 20) for prompt in prompts]
    assert_all_is_free(made)
    answers = [outcome(made, [seat(broken, 5)]).popitem()[1] for _ in range(2)]
    assert isinstance(answers[0], Fault) or answers[0] == alone("llama", broken, 5)  # its beginning may still be kept
    assert answers[1] == alone("llama", broken, 5)


# ------------------------------------------------------------------------------------------- anything else
def test_a_step_that_fails_otherwise_is_raised_and_after_clearing_all_is_as_before() -> None:
    made = batcher(slots=3)
    seats = [seat(prompt, 20) for prompt in PROMPTS[:5]]
    for each in seats:
        made.add(each)
    made.step()

    def fail(hidden: torch.Tensor) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with before_layer(1, fail), pytest.raises(RuntimeError, match="shapes"):
        made.step()
    assert set(made.clear()) == set(seats)
    assert_all_is_free(made)
    assert list(outcome(made, [seat(prompt, 20) for prompt in PROMPTS]).values()) == right(20)


def test_an_answer_that_fills_the_context_and_the_cache_ends_there() -> None:
    made = Batcher(served("llama"), slots=2, room=CONTEXT, max_length=CONTEXT)
    prompt = [2 + place % 300 for place in range(CONTEXT - 10)]
    one, other = seat(prompt, 100), seat([9, 8, 7], 30)
    answers = run(made, [(0, one), (1, other)])
    assert len(one.ids) <= CONTEXT
    assert ids_of(answers[one]) == alone("llama", prompt, 100)
    assert ids_of(answers[other]) == alone("llama", [9, 8, 7], 30)
    assert_all_is_free(made)
