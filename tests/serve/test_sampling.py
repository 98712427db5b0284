"""Drawing tokens: the right distribution, and nothing but seed and place decides."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
from scipy.stats import chisquare  # noqa: E402

from vicuna.serve.engines.sampling import choose, penalise, uniform  # noqa: E402
from vicuna.serve.protocol import Sampling  # noqa: E402

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])
DRAWS = 4000


def counts(sampling: Sampling) -> list[int]:
    """How often each token is drawn, over many places of one answer."""
    rows = LOGITS.expand(DRAWS, -1)
    tokens = choose(rows, [sampling] * DRAWS, [uniform(11, place) for place in range(DRAWS)])
    return [tokens.count(token) for token in range(len(LOGITS))]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    expected = torch.softmax(LOGITS / temperature, -1).double()
    found = counts(Sampling(temperature=temperature))
    likely = [(n, float(p) * DRAWS) for n, p in zip(found, expected / expected.sum(), strict=True) if p * DRAWS > 5]
    scale = sum(n for n, _ in likely) / sum(e for _, e in likely)
    assert chisquare([n for n, _ in likely], [e * scale for _, e in likely]).pvalue > 0.001


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
    ],
)
def test_truncation_keeps_exactly_the_likeliest(sampling: Sampling, kept: set[int]) -> None:
    assert {token for token, count in enumerate(counts(sampling)) if count} == kept


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**48), places=st.lists(st.integers(0, 1000), min_size=2, max_size=6, unique=True))
def test_a_row_draws_the_same_alone_and_among_others(seed: int, places: list[int]) -> None:
    rows = torch.randn(len(places), 50, generator=torch.Generator().manual_seed(seed))
    samplings = [Sampling(temperature=0.7 + 0.1 * i, top_p=0.9 if i % 2 else 1.0) for i in range(len(places))]
    draws = [uniform(seed, place) for place in places]
    together = choose(rows, samplings, draws)
    alone = [choose(rows[i : i + 1], [samplings[i]], [draws[i]])[0] for i in range(len(places))]
    assert together == alone
    assert all(0 <= draw < 1 for draw in draws)


def test_penalties_are_those_of_their_definitions() -> None:
    logits, used = torch.tensor([2.0, -2.0, 1.0, 1.0]), torch.tensor([3.0, 0.0, 1.0, 0.0])
    prompt = torch.tensor([False, True, False, False])
    penalise(logits, used, prompt, Sampling(presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=2.0))
    assert logits.tolist() == [1.0 - 0.5 - 0.75, -4.0, 0.5 - 0.5 - 0.25, 1.0]
