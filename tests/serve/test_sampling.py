"""Drawing tokens: the right distribution, and seed and place alone decide. Seeds are fixed, so nothing flakes."""

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serve_tiny import model

torch = pytest.importorskip("torch")
import numpy as np  # noqa: E402
from scipy.stats import power_divergence  # noqa: E402

from vicuna.serve.engines import Piece  # noqa: E402
from vicuna.serve.engines.continuous.batcher import Batcher  # noqa: E402
from vicuna.serve.engines.continuous.seats import Seat  # noqa: E402
from vicuna.serve.engines.detokenize import Window  # noqa: E402
from vicuna.serve.engines.sampling import choose, penalise, uniform  # noqa: E402
from vicuna.serve.engines.text import AnswerText  # noqa: E402
from vicuna.serve.protocol import Sampling  # noqa: E402

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])
DRAWS = 4000
VOCABULARY = 300
"""More than two stretches, and no whole number of them."""
WAYS = [
    Sampling(temperature=0.5),
    Sampling(temperature=1.0),
    Sampling(temperature=3.0),
    Sampling(top_k=7),
    Sampling(top_p=0.8),
    Sampling(min_p=0.1),
    Sampling(temperature=1.7, top_k=200, top_p=0.95, min_p=0.01),
    Sampling(presence_penalty=1.5, frequency_penalty=0.5, repetition_penalty=1.3),
    Sampling(temperature=0.8, top_p=0.9, frequency_penalty=-1.0, repetition_penalty=0.7),
]
PROMPT, EMITTED, BIASES = [1, 2, 3, 3, 250], [4, 4, 5, 250], {4: 2.5, 9: -100.0, 299: 4.0}


def some_logits(seed: int, rows: int = 1) -> Any:
    """Some of them equal, as those of a model in bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, VOCABULARY, generator=generator).mul(2).bfloat16().float()


def counted(logits: Any, sampling: Sampling) -> np.ndarray[Any, Any]:
    """How often each token is drawn, over many places of one answer."""
    tokens = choose(logits.expand(DRAWS, -1), [sampling] * DRAWS, [uniform(11, place) for place in range(DRAWS)])
    return np.bincount(tokens, minlength=logits.shape[-1])


def by_definition(logits: Sequence[float], sampling: Sampling) -> np.ndarray[Any, Any]:
    """The probabilities, token by token, as papers and API references say it."""
    adjusted = np.array(logits, dtype=np.float64)
    for token in {*PROMPT, *EMITTED}:
        factor = sampling.repetition_penalty
        adjusted[token] = adjusted[token] / factor if adjusted[token] > 0 else adjusted[token] * factor
    for token, count in Counter(EMITTED).items():
        adjusted[token] -= sampling.presence_penalty + count * sampling.frequency_penalty
    for token, bias in BIASES.items():
        adjusted[token] += bias
    odds = np.exp(adjusted / sampling.temperature)
    odds /= odds.sum()
    order = sorted(range(len(odds)), key=lambda token: (-odds[token], token))
    kept, mass = [], 0.0
    for rank, token in enumerate(order):
        if mass >= sampling.top_p or (sampling.top_k and rank >= sampling.top_k):
            break
        if odds[token] < sampling.min_p * odds[order[0]]:
            break
        kept.append(token)
        mass += odds[token]
    truncated = np.zeros_like(odds)
    truncated[kept] = odds[kept]
    return truncated / truncated.sum()


def agrees(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> bool:
    """Whether a G-test finds nothing odd; tokens that hardly come count as one."""
    often = expected * found.sum() >= 5
    groups = [(*values[often], values[~often].sum()) for values in (found, expected * found.sum())]
    if groups[1][-1] == 0:
        groups = [group[:-1] for group in groups]
    return bool(power_divergence(*groups, lambda_="log-likelihood").pvalue > 0.001)


# ------------------------------------------------------------------------------------------- one step
@pytest.mark.parametrize("sampling", WAYS)
@pytest.mark.parametrize("seed", range(3))
def test_draws_follow_the_distribution_of_the_settings(sampling: Sampling, seed: int) -> None:
    logits = some_logits(seed)[0]
    expected = by_definition(logits.tolist(), sampling)
    text = AnswerText(Window(lambda ids: "x" * len(ids)), (), "")
    Seat(PROMPT, EMITTED, sampling, 100, frozenset(), text, biases=BIASES).adjust(logits)
    found = counted(logits, sampling)
    assert agrees(found, expected)
    assert not found[expected == 0].any()
    assert not agrees(found, by_definition(logits.tolist(), Sampling(temperature=0.7)))  # the test can tell


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(top_k=2), {0, 1}),
        (Sampling(top_p=0.5), {0}),
        (Sampling(top_p=0.75), {0, 1}),
        (Sampling(min_p=0.2), {0, 1, 2}),
        (Sampling(top_k=4, top_p=0.9, min_p=0.3), {0, 1}),
        (Sampling(temperature=0.0), {0}),
        (Sampling(temperature=1e-9), {0}),
        (Sampling(temperature=1e-9, top_p=0.9), {0}),
    ],
)
def test_truncation_keeps_exactly_the_likeliest(sampling: Sampling, kept: set[int]) -> None:
    assert set(np.flatnonzero(counted(LOGITS, sampling))) == kept


def test_of_equally_likely_tokens_the_first_ones_are_kept() -> None:
    flat = torch.zeros(VOCABULARY)
    assert set(np.flatnonzero(counted(flat, Sampling(top_k=5)))) == set(range(5))
    assert counted(flat, Sampling(temperature=0))[0] == DRAWS


@settings(max_examples=60, deadline=None)
@given(draw=st.sampled_from([0.0, 1 - 2**-53]) | st.floats(0, 1, exclude_max=True), seed=st.integers(0, 99))
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_p=0.9)])
def test_no_draw_leads_to_a_token_that_cannot_come(sampling: Sampling, draw: float, seed: int) -> None:
    logits = some_logits(seed)
    logits[:, torch.randperm(VOCABULARY, generator=torch.Generator().manual_seed(seed))[:290]] = -torch.inf
    (token,) = choose(logits, [sampling], [draw])
    assert logits[0, token] > -torch.inf


row = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.7, 1.0, 2.0]),
    top_p=st.sampled_from([0.5, 0.9, 1.0]),
    top_k=st.sampled_from([0, 1, 40]),
    min_p=st.sampled_from([0.0, 0.05]),
)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**40), samplings=st.lists(row, min_size=1, max_size=8), data=st.data())
def test_a_row_draws_the_same_alone_and_among_any_others(seed: int, samplings: list[Sampling], data: Any) -> None:
    logits = some_logits(seed, len(samplings))
    draws = [uniform(seed, place) for place in range(len(samplings))]
    together = choose(logits, samplings, draws)
    order = data.draw(st.permutations(range(len(samplings))))
    mixed = choose(logits[order], [samplings[index] for index in order], [draws[index] for index in order])
    alone = [choose(logits[i : i + 1], [samplings[i]], [draws[i]])[0] for i in range(len(samplings))]
    assert together == alone
    assert mixed == [alone[index] for index in order]
    assert all(0 <= draw < 1 for draw in draws)


def test_penalties_are_those_of_their_definitions() -> None:
    logits, used = torch.tensor([2.0, -2.0, 1.0, 1.0]), torch.tensor([3.0, 0.0, 1.0, 0.0])
    prompt = torch.tensor([False, True, False, False])
    penalise(logits, used, prompt, Sampling(presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=2.0))
    assert logits.tolist() == [1.0 - 0.5 - 0.75, -4.0, 0.5 - 0.5 - 0.25, 1.0]


# ------------------------------------------------------------------------------------------- whole answers
CONTEXT = 128
tiny = functools.cache(model)


def seat(prompt: list[int], tokens: int, sampling: Sampling) -> Seat:
    text = AnswerText(Window(lambda ids: "x" * len(ids)), (), "")
    return Seat(prompt, (), sampling, len(prompt) + tokens, frozenset(), text)


def answers(seats: Sequence[Seat], slots: int, late: int = 0) -> list[list[int]]:
    """The ids of each answer; the last `late` of them come when the others are under way."""
    batcher = Batcher(tiny(), slots=slots, room=16 * CONTEXT, max_length=CONTEXT)
    for each in seats[: len(seats) - late]:
        batcher.add(each)
    for _ in range(3):
        batcher.step()
    for each in seats[len(seats) - late :]:
        batcher.add(each)
    while batcher.busy:
        assert all(isinstance(item, Piece) for _, item in batcher.step())
    return [each.ids[each.prompt_tokens :] for each in seats]


prompts = st.lists(st.integers(2, 399), min_size=1, max_size=30)
asked = st.tuples(prompts, st.integers(1, 10), row, st.integers(0, 2**40))


@settings(max_examples=15, deadline=None)
@given(requests=st.lists(asked, min_size=2, max_size=6), slots=st.integers(1, 6), data=st.data())
def test_an_answer_is_determined_by_its_seed_whatever_else_is_in_the_batch(
    requests: list[Any], slots: int, data: Any
) -> None:
    def seats() -> list[Seat]:
        return [
            seat(prompt, tokens, sampling.model_copy(update={"seed": seed}))
            for prompt, tokens, sampling, seed in requests
        ]

    alone = [answers([each], 1)[0] for each in seats()]
    order = data.draw(st.permutations(range(len(requests))))
    made = seats()
    together = answers([made[index] for index in order], slots, late=data.draw(st.integers(0, len(requests))))
    assert together == [alone[index] for index in order]


def test_first_tokens_of_many_seeds_follow_the_models_softmax() -> None:
    prompt, temperature, many = [5, 6, 7], 3.0, 600
    seats = [seat(prompt, 1, Sampling(temperature=temperature, seed=seed)) for seed in range(many)]
    found = np.bincount([ids[0] for ids in answers(seats, 32)], minlength=400)
    with torch.inference_mode():
        logits = model()(torch.tensor([prompt])).logits[0, -1]  # not `tiny`, whose attention is the batch's
    assert agrees(found, torch.softmax(logits / temperature, -1).numpy())
    assert not agrees(found, torch.softmax(logits, -1).numpy())
