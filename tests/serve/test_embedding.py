"""Vectors of texts: the model's own, in small steps, whatever else is computed."""

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serve_tiny import model

torch = pytest.importorskip("torch")
from vicuna.serve.engines import embedding  # noqa: E402
from vicuna.serve.engines.embedding import Embedder, Texts  # noqa: E402

torch.set_num_threads(1)
tiny = functools.cache(model)
texts_of_ids = st.lists(st.lists(st.integers(2, 399), min_size=1, max_size=40), min_size=1, max_size=6)


def alone(kind: str, ids: list[int]) -> "torch.Tensor":
    """The mean of the last hidden states, as transformers gives them, of length 1."""
    with torch.inference_mode():
        states = tiny(kind)(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
    mean = states.float().mean(0)
    return mean / mean.norm()


def vectors(embedder: Embedder, *requests: Texts) -> None:
    """Step until nothing is left."""
    for each in requests:
        embedder.add(each)
    steps = 0
    while embedder.busy:
        embedder.step()
        steps += 1
        assert steps < 1000


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "neox"])
@settings(max_examples=10, deadline=None)
@given(first=texts_of_ids, second=texts_of_ids, most=st.sampled_from([7, 16, 512]))
def test_vectors_are_those_of_each_text_alone_however_the_steps_are_cut(
    kind: str, first: list[list[int]], second: list[list[int]], most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "STEP_TOKENS", most)
        one, other = Texts(first), Texts(second)
        vectors(Embedder(tiny(kind)), one, other)
    for request in (one, other):
        assert request.done
        for ids, vector in zip(request.ids, request.vectors):
            torch.testing.assert_close(torch.tensor(vector), alone(kind, list(ids)), atol=1e-4, rtol=1e-4)


def test_a_short_request_does_not_wait_for_all_of_a_long_one() -> None:
    embedder = Embedder(tiny())
    long, short = Texts([[5, 6, 7] * 100] * 50), Texts([[5, 6]])
    embedder.add(long)
    embedder.add(short)
    for _ in range(2):
        embedder.step()
    assert short.done
    assert not long.done


def test_a_request_that_nobody_waits_for_is_dropped() -> None:
    embedder = Embedder(tiny())
    texts = Texts([[5, 6]])
    embedder.add(texts)
    texts.aborted = True
    assert embedder.step() == []
    assert not embedder.busy
    assert texts.vectors == []
