"""The embedded engine's batch: who gets on when, sampling, and what is told about tokens."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from batch_kit import CONTEXT, END, alone, batcher, run, seat, spelling, tiny  # noqa: E402

from vicuna.serve.engines import Piece  # noqa: E402
from vicuna.serve.engines.continuous.batcher import Batcher, Seat  # noqa: E402
from vicuna.serve.engines.likelihood import LOWEST, Wish  # noqa: E402
from vicuna.serve.faults import Fault  # noqa: E402
from vicuna.serve.protocol import Sampling  # noqa: E402

prompts = st.lists(st.integers(2, 399), min_size=1, max_size=60)


# ------------------------------------------------------------------------------------------- who gets on when
def test_a_long_prompt_is_computed_in_pieces_while_others_go_on() -> None:
    made = batcher(prefill=16)
    short, long = [5, 6, 7], list(range(2, 150))
    first, second = seat(short, 30), seat(long, 10)
    made.add(first)
    made.step()
    made.add(second)
    steps = 0
    while second.generated == 0:
        before = first.generated
        made.step()
        steps += 1
        assert first.generated == before + 1  # nobody waits for the long prompt
        assert made.last.prompt_tokens <= 16
    assert steps == -(-len(long) // 16)
    run(made, [])
    assert first.ids[3:] == alone("llama", short, 30)
    assert second.ids[len(long) :] == alone("llama", long, 10)


def test_a_long_prompt_gets_its_turns_however_many_short_ones_arrive() -> None:
    made = batcher(slots=8, prefill=16)
    long = seat(list(range(2, 100)), 5)
    made.add(long)
    steps = 0
    while long.generated == 0:
        for number in range(3):
            made.add(seat([5 + number, 6, 7, *range(10 * steps, 10 * steps + 10)], 1))
        made.step()
        steps += 1
        assert steps <= 14  # at least half of each step is for the one that came first


def test_a_short_prompt_does_not_wait_for_all_of_a_long_one() -> None:
    made = batcher(slots=8, prefill=16)
    long, short = seat(list(range(2, 200)), 5), seat([5, 6, 7, 8], 5)
    made.add(long)
    made.step()
    made.add(short)
    made.step()
    assert short.generated == 1
    assert long.generated == 0


def test_more_answers_than_slots_wait_their_turn_in_the_order_in_which_they_came() -> None:
    made = batcher(slots=2)
    seats = [seat([5 + number, 6], 4) for number in range(6)]
    for each in seats:
        made.add(each)
    begun: list[Seat] = []
    while made.busy:
        for each, _ in made.step():
            if each not in begun:
                begun.append(each)
        assert made.last.running <= 2
    assert begun == seats


def test_the_steps_tell_what_was_computed_and_what_is_held() -> None:
    made = batcher(slots=2, room=256, prefill=20)
    prompt = list(range(2, 72))
    steps = []
    for each in (seat(prompt, 10), seat([*prompt, 7], 10), seat([9, 8], 10)):
        made.add(each)
    while made.busy:
        made.step()
        steps.append(made.last)
        assert made.last.used + made.last.kept <= made.last.room == 256
        assert made.last.used == made.cache.used * 16
        assert 1 <= made.last.running <= 2
        assert made.last.answer_tokens <= made.last.running, "those that end in the step are counted too"
        assert all(waited >= 0 for waited in made.last.queued)
    assert sum(step.answer_tokens for step in steps) == 30
    assert sum(len(step.queued) for step in steps) == 3
    assert sum(step.looked_up for step in steps) == 70 + 71 + 2
    assert max(step.waiting for step in steps) == 1
    # The second prompt's beginning is computed with the first one's.
    assert sum(step.found for step in steps) == 64
    assert sum(step.prompt_tokens for step in steps) == 70 + 7 + 2
    again = seat(prompt, 1)
    made.add(again)
    made.step()
    assert (made.last.looked_up, made.last.found) == (70, 64)


# ------------------------------------------------------------------------------------------- sampling
@settings(max_examples=20, deadline=None)
@given(prompt=prompts, cut=st.integers(1, 19), temperature=st.sampled_from([0.0, 0.8]), seed=st.integers(0, 2**40))
def test_a_continued_answer_has_the_tokens_of_the_uninterrupted_one(
    prompt: list[int], cut: int, temperature: float, seed: int
) -> None:
    sampling = Sampling(temperature=temperature, seed=seed, top_p=0.9)
    whole = seat(prompt, 20, sampling)
    run(batcher(slots=2), [(0, whole)])
    answer = whole.ids[len(prompt) :]
    if cut < len(answer):
        other = seat(prompt, 20, sampling, emitted=tuple(answer[:cut]))
        run(batcher(slots=2), [(0, other)])
        assert other.ids[len(prompt) :] == answer


def test_a_seed_gives_the_same_answer_whatever_else_is_in_the_batch() -> None:
    warm = Sampling(temperature=1.0, seed=7, top_k=50, min_p=0.01)
    single, again = seat([4, 5], 20, warm), seat([4, 5], 20, warm)
    run(batcher(slots=4), [(0, single)])
    others = [(i, seat([9 + i, 8], 15, Sampling(temperature=1.3, seed=i))) for i in range(5)]
    run(batcher(slots=4), [*others, (3, again)])
    assert single.ids == again.ids


def penalised(prompt: list[int], tokens: int, sampling: Sampling) -> list[int]:
    """A greedy answer with penalties, computed token by token from the whole text so far."""
    answer: list[int] = []
    while len(answer) < tokens and answer[-1:] != [END]:
        with torch.no_grad():
            logits = tiny("llama")(torch.tensor([prompt + answer])).logits[0, -1].float()
        for token in {*prompt, *answer}:
            by = sampling.repetition_penalty
            logits[token] = logits[token] / by if logits[token] > 0 else logits[token] * by
        for token in set(answer):
            logits[token] -= sampling.presence_penalty + sampling.frequency_penalty * answer.count(token)
        answer.append(int(logits.argmax()))
    return answer


@settings(max_examples=15, deadline=None)
@given(
    prompt=prompts,
    presence=st.sampled_from([0.0, 1.5, 20.0]),
    frequency=st.sampled_from([0.0, -2.0, 5.0]),
    repetition=st.sampled_from([1.0, 1.3, 0.5]),
    cut=st.integers(0, 11),
)
def test_penalties_count_what_was_said_also_by_an_earlier_worker(
    prompt: list[int], presence: float, frequency: float, repetition: float, cut: int
) -> None:
    sampling = Sampling(
        temperature=0, presence_penalty=presence, frequency_penalty=frequency, repetition_penalty=repetition
    )
    truth = penalised(prompt, 12, sampling)
    plain, whole, rest = seat([4, 5, 6], 12), seat(prompt, 12, sampling), seat(prompt, 12, sampling, truth[:cut])
    run(batcher(), [(0, plain), (0, whole), *([(0, rest)] if cut < len(truth) else [])])
    assert whole.ids == prompt + truth
    assert rest.ids == prompt + truth or cut >= len(truth)
    assert plain.ids[3:] == alone("llama", [4, 5, 6], 12)


def test_an_answer_ends_where_the_context_ends() -> None:
    prompt = list(range(2, 250))
    one = seat(prompt, 100)
    run(batcher(slots=2), [(0, one)])
    assert len(one.ids) <= CONTEXT
    assert one.ids[len(prompt) :] == alone("llama", prompt, 100)


# ------------------------------------------------------------------------------------------- log probabilities
def told(made: Batcher, *seats: Seat) -> dict[Seat, list[dict[str, Any]]]:
    """The rows about the tokens of each answer."""
    rows: dict[Seat, list[dict[str, Any]]] = {each: [] for each in seats}
    for each in seats:
        made.add(each)
    while made.busy:
        for each, item in made.step():
            assert isinstance(item, Piece), item
            rows[each] += item.logprobs or []
    return rows


@settings(max_examples=15, deadline=None)
@given(prompt=prompts, alternatives=st.sampled_from([0, 3, 20]), temperature=st.sampled_from([0.0, 1.5]))
def test_log_probabilities_are_the_models_own_whatever_the_sampling(
    prompt: list[int], alternatives: int, temperature: float
) -> None:
    sampling = Sampling(temperature=temperature, seed=3, top_k=30, frequency_penalty=1.0)
    one, other = seat(prompt, 8, sampling, wish=Wish(alternatives, spelling())), seat([9, 8], 12)
    rows = told(batcher(slots=2), one, other)
    assert rows[other] == []
    answer = one.ids[len(prompt) :]
    shown = answer[:-1] if answer[-1] == 1 else answer  # the token that ends an answer is no part of it
    assert len(rows[one]) == len(shown)
    with torch.inference_mode():
        logits = tiny("llama")(torch.tensor([one.ids])).logits[0].float()
    for place, (token, row) in enumerate(zip(shown, rows[one]), len(prompt) - 1):
        truth = torch.log_softmax(logits[place], -1)
        assert row["logprob"] == pytest.approx(float(truth[token]), abs=1e-4)
        assert bytes(row["bytes"]) == spelling()[token]
        best = truth.topk(alternatives).values.tolist()
        assert [each["logprob"] for each in row["top_logprobs"]] == pytest.approx(best, abs=1e-4)


def test_a_continued_answer_gives_the_log_probabilities_of_the_uninterrupted_one() -> None:
    sampling = Sampling(temperature=0.9, seed=5)
    whole = seat([4, 5, 6], 20, sampling, wish=Wish(2, spelling()))
    rows = told(batcher(slots=2), whole)[whole]
    rest = seat([4, 5, 6], 20, sampling, tuple(whole.ids[3:10]), wish=Wish(2, spelling()))
    others = [row["logprob"] for row in told(batcher(slots=2), rest)[rest]]
    assert others == pytest.approx([row["logprob"] for row in rows[7:]], abs=1e-4)


def test_a_bias_makes_a_token_certain_or_impossible_and_changes_no_log_probability() -> None:
    plain = seat([4, 5, 6], 5, wish=Wish(0, spelling()))
    first = told(batcher(slots=2), plain)[plain][0]
    forced = seat([4, 5, 6], 5, biases={77: 100.0}, wish=Wish(1, spelling()))
    rows = told(batcher(slots=2), forced)[forced]
    assert forced.ids[3:] == [77] * 5
    assert rows[0]["top_logprobs"][0]["logprob"] == pytest.approx(first["logprob"], abs=1e-4)
    banned = seat([4, 5, 6], 5, biases={plain.ids[3]: -100.0})
    run(batcher(slots=2), [(0, banned)])
    assert plain.ids[3] not in banned.ids[3:]


def test_what_json_cannot_say_is_a_number_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    made = batcher(slots=2)
    forward = made._forward

    def barred(*given: Any) -> Any:
        logits = forward(*given)
        logits[:, 7] = -torch.inf
        return logits

    monkeypatch.setattr(made, "_forward", barred)
    one = seat([4, 5, 6], 1, wish=Wish(400, spelling()))
    assert min(each["logprob"] for each in told(made, one)[one][0]["top_logprobs"]) == LOWEST
    monkeypatch.setattr(made, "_forward", lambda *given: forward(*given) + torch.inf)
    made.add(seat([4, 5, 6], 1, wish=Wish(1, spelling())))
    assert [type(item) for _, item in made.step()] == [Fault]
