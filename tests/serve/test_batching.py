"""The embedded engine's batch: the same tokens as one answer at a time."""

import functools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serve_tiny import model, tokenizer

torch = pytest.importorskip("torch")

from vicuna.serve.engines import Piece  # noqa: E402
from vicuna.serve.engines.batching import Batcher, Seat  # noqa: E402
from vicuna.serve.engines.likelihood import LOWEST, Wish  # noqa: E402
from vicuna.serve.engines.spelling import Spelling  # noqa: E402
from vicuna.serve.engines.text import AnswerText, Detokenizer  # noqa: E402
from vicuna.serve.faults import Fault  # noqa: E402
from vicuna.serve.protocol import Sampling  # noqa: E402

torch.set_num_threads(1)  # tiny tensors: a second thread costs more than it gives
GREEDY = Sampling(temperature=0)
CONTEXT = 256
tiny = functools.cache(model)
words = functools.cache(tokenizer)
spelling = functools.cache(lambda: Spelling(words()))


def seat(
    prompt: list[int], tokens: int, sampling: Sampling = GREEDY, emitted: tuple[int, ...] = (), **more: Any
) -> Seat:
    text = AnswerText(Detokenizer(lambda ids: words().decode(ids), prompt[-4:]), sampling.stop, "")
    limit = min(CONTEXT, len(prompt) + tokens)
    return Seat(prompt, emitted, sampling, limit, frozenset([1]), text, **more)


def alone(kind: str, prompt: list[int], tokens: int) -> list[int]:
    """What transformers' own `generate` answers."""
    ids = torch.tensor([prompt])
    room = min(tokens, CONTEXT - len(prompt))
    out = tiny(kind).generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=room, do_sample=False)
    return list(out[0, len(prompt) :].tolist())


def run(
    batcher: Batcher, arrivals: list[tuple[int, Seat]], aborts: dict[int, int] | None = None
) -> dict[Seat, list[int]]:
    """Step until nothing is left; seats arrive and are aborted at given steps."""
    answers: dict[Seat, list[int]] = {each: [] for _, each in arrivals}
    coming = sorted(arrivals, key=lambda each: each[0])
    number = 0
    while coming or batcher.busy:
        while coming and coming[0][0] <= number:
            batcher.add(coming.pop(0)[1])
        for index, at in (aborts or {}).items():
            if at == number:
                arrivals[index][1].aborted = True
        for each, item in batcher.step():
            assert isinstance(item, Piece), item
            answers.setdefault(each, []).extend(item.ids)
        number += 1
        assert number < 5000
    return answers


prompts = st.lists(st.integers(2, 399), min_size=1, max_size=60)
requests = st.lists(st.tuples(prompts, st.integers(1, 24), st.integers(0, 12)), min_size=1, max_size=7)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "neox"])
@settings(max_examples=12, deadline=None)
@given(requests=requests, capacity=st.integers(1, 5))
def test_a_mix_of_answers_equals_generate_one_by_one(kind: str, requests: Any, capacity: int) -> None:
    batcher = Batcher(tiny(kind), capacity, CONTEXT)
    seats = [(at, seat(prompt, tokens)) for prompt, tokens, at in requests]
    answers = run(batcher, seats)
    for (prompt, tokens, _), (_, each) in zip(requests, seats, strict=True):
        assert answers[each] == alone(kind, prompt, tokens)
    assert batcher.rows == []


@settings(max_examples=15, deadline=None)
@given(requests=requests, aborts=st.dictionaries(st.integers(0, 6), st.integers(0, 15), max_size=4))
def test_an_aborted_answer_frees_its_row_and_disturbs_nobody(requests: Any, aborts: dict[int, int]) -> None:
    batcher = Batcher(tiny("llama"), 3, CONTEXT)
    seats = [(at, seat(prompt, tokens)) for prompt, tokens, at in requests]
    aborted = {index: at for index, at in aborts.items() if index < len(seats)}
    answers = run(batcher, seats, aborted)
    for index, (prompt, tokens, _) in enumerate(requests):
        whole, got = alone("llama", prompt, tokens), answers[seats[index][1]]
        assert got == whole[: len(got)]
        assert index in aborted or got == whole
    assert batcher.rows == []
    assert not batcher.waiting


def test_a_long_prompt_is_computed_in_pieces_while_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vicuna.serve.engines.batching.PREFILL_PIECE", 16)
    batcher = Batcher(tiny("llama"), 4, CONTEXT)
    short, long = [5, 6, 7], list(range(2, 150))
    first, second = seat(short, 30), seat(long, 10)
    batcher.add(first)
    batcher.step()
    batcher.add(second)
    steps = 0
    while second.generated == 0:
        before = first.generated
        batcher.step()
        steps += 1
        assert first.generated == before + 1  # nobody waits for the long prompt
    assert steps == -(-len(long) // 16)
    run(batcher, [])
    assert first.ids[3:] == alone("llama", short, 30)
    assert second.ids[len(long) :] == alone("llama", long, 10)


def test_a_long_prompt_gets_its_turns_however_many_short_ones_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vicuna.serve.engines.batching.PREFILL_PIECE", 16)
    batcher = Batcher(tiny("llama"), 8, CONTEXT)
    long = seat(list(range(2, 100)), 5)
    batcher.add(long)
    steps = 0
    while long.generated == 0:
        batcher.add(seat([5, 6, 7], 1))
        batcher.step()
        steps += 1
        assert steps <= 2 * 7  # seven pieces, and each waits for at most one group of short prompts


@settings(max_examples=20, deadline=None)
@given(prompt=prompts, cut=st.integers(1, 19), temperature=st.sampled_from([0.0, 0.8]), seed=st.integers(0, 2**40))
def test_a_continued_answer_has_the_tokens_of_the_uninterrupted_one(
    prompt: list[int], cut: int, temperature: float, seed: int
) -> None:
    sampling = Sampling(temperature=temperature, seed=seed, top_p=0.9)
    whole = seat(prompt, 20, sampling)
    run(Batcher(tiny("llama"), 2, CONTEXT), [(0, whole)])
    answer = whole.ids[len(prompt) :]
    if cut < len(answer):
        other = seat(prompt, 20, sampling, emitted=tuple(answer[:cut]))
        run(Batcher(tiny("llama"), 2, CONTEXT), [(0, other)])
        assert other.ids[len(prompt) :] == answer


def test_a_seed_gives_the_same_answer_whatever_else_is_in_the_batch() -> None:
    warm = Sampling(temperature=1.0, seed=7, top_k=50, min_p=0.01)
    single, again = seat([4, 5], 20, warm), seat([4, 5], 20, warm)
    run(Batcher(tiny("llama"), 4, CONTEXT), [(0, single)])
    others = [(i, seat([9 + i, 8], 15, Sampling(temperature=1.3, seed=i))) for i in range(5)]
    run(Batcher(tiny("llama"), 4, CONTEXT), [*others, (3, again)])
    assert single.ids == again.ids


def test_penalties_keep_a_model_from_saying_a_token_again() -> None:
    plain, penalised = (
        seat([4, 5, 6], 30),
        seat([4, 5, 6], 30, Sampling(temperature=0, frequency_penalty=2, presence_penalty=2)),
    )
    strict = seat([4, 5, 6], 30, Sampling(temperature=0, repetition_penalty=10))
    run(Batcher(tiny("llama"), 4, CONTEXT), [(0, plain), (0, penalised), (0, strict)])
    assert len(set(penalised.ids[3:])) >= len(set(plain.ids[3:]))
    assert plain.ids[3:] == alone("llama", [4, 5, 6], 30)


def test_an_answer_ends_where_the_context_ends() -> None:
    prompt = list(range(2, 250))
    one = seat(prompt, 100)
    run(Batcher(tiny("llama"), 2, CONTEXT), [(0, one)])
    assert len(one.ids) <= CONTEXT
    assert one.ids[len(prompt) :] == alone("llama", prompt, 100)


# ------------------------------------------------------------------------------------------- log probabilities
def told(batcher: Batcher, *seats: Seat) -> dict[Seat, list[dict[str, Any]]]:
    """The rows about the tokens of each answer."""
    rows: dict[Seat, list[dict[str, Any]]] = {each: [] for each in seats}
    for each in seats:
        batcher.add(each)
    while batcher.busy:
        for each, item in batcher.step():
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
    rows = told(Batcher(tiny("llama"), 2, CONTEXT), one, other)
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
    rows = told(Batcher(tiny("llama"), 2, CONTEXT), whole)[whole]
    rest = seat([4, 5, 6], 20, sampling, tuple(whole.ids[3:10]), wish=Wish(2, spelling()))
    others = [row["logprob"] for row in told(Batcher(tiny("llama"), 2, CONTEXT), rest)[rest]]
    assert others == pytest.approx([row["logprob"] for row in rows[7:]], abs=1e-4)


def test_a_bias_makes_a_token_certain_or_impossible_and_changes_no_log_probability() -> None:
    plain = seat([4, 5, 6], 5, wish=Wish(0, spelling()))
    first = told(Batcher(tiny("llama"), 2, CONTEXT), plain)[plain][0]
    forced = seat([4, 5, 6], 5, biases={77: 100.0}, wish=Wish(1, spelling()))
    rows = told(Batcher(tiny("llama"), 2, CONTEXT), forced)[forced]
    assert forced.ids[3:] == [77] * 5
    assert rows[0]["top_logprobs"][0]["logprob"] == pytest.approx(first["logprob"], abs=1e-4)
    banned = seat([4, 5, 6], 5, biases={plain.ids[3]: -100.0})
    run(Batcher(tiny("llama"), 2, CONTEXT), [(0, banned)])
    assert plain.ids[3] not in banned.ids[3:]


def test_what_json_cannot_say_is_a_number_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    batcher = Batcher(tiny("llama"), 2, CONTEXT)
    forward = batcher._forward

    def barred(*given: Any) -> Any:
        logits = forward(*given)
        logits[:, 7] = -torch.inf
        return logits

    monkeypatch.setattr(batcher, "_forward", barred)
    one = seat([4, 5, 6], 1, wish=Wish(400, spelling()))
    assert min(each["logprob"] for each in told(batcher, one)[one][0]["top_logprobs"]) == LOWEST
    monkeypatch.setattr(batcher, "_forward", lambda *given: forward(*given) + torch.inf)
    batcher.add(seat([4, 5, 6], 1, wish=Wish(1, spelling())))
    assert [type(item) for _, item in batcher.step()] == [Fault]
