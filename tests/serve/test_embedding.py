"""Vectors of texts: the model's own, in small steps, whatever else is computed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
from batch_kit import KINDS, all_numbers, alone, batcher, ids_of, run, seat, served, tiny  # noqa: E402

from vicuna.serve.engines.continuous import embedding  # noqa: E402
from vicuna.serve.engines.continuous.batcher import Batcher  # noqa: E402
from vicuna.serve.engines.continuous.embedding import Embedder, Texts  # noqa: E402
from vicuna.serve.faults import Fault  # noqa: E402

texts_of_ids = st.lists(st.lists(st.integers(2, 399), min_size=1, max_size=40), min_size=1, max_size=6)


def truth(kind: str, ids: list[int]) -> "torch.Tensor":
    """The mean of the last hidden states, as transformers gives them, of length 1."""
    with torch.inference_mode():
        states = tiny(kind)(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
    mean = states.float().mean(0)
    return mean / mean.norm()


def embedder(of: Batcher) -> Embedder:
    """One that shares the batcher's cache."""
    return Embedder(of._model, of.cache, of.pools)


def vectors(embedder: Embedder, *requests: Texts) -> None:
    """Step until nothing is left."""
    for each in requests:
        embedder.add(each)
    steps = 0
    while embedder.busy:
        embedder.step()
        steps += 1
        assert steps < 1000


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None)
@given(
    first=texts_of_ids,
    second=texts_of_ids,
    most=st.sampled_from([1, 7, 16, 512]),
    room=st.sampled_from([48, 128, 2048]),
)
def test_vectors_are_those_of_each_text_alone_however_the_steps_are_cut(
    kind: str, first: list[list[int]], second: list[list[int]], most: int, room: int
) -> None:
    made = batcher(kind, room=room)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "STEP_TOKENS", most)
        one, other = Texts(first), Texts(second)
        vectors(embedder(made), one, other)
    for request in (one, other):
        assert request.done
        for ids, vector in zip(request.ids, request.vectors):
            torch.testing.assert_close(torch.tensor(vector), truth(kind, list(ids)), atol=1e-4, rtol=1e-4)

    assert made.cache.free == made.cache.blocks


def test_a_short_request_does_not_wait_for_all_of_a_long_one() -> None:
    machine = embedder(batcher())
    long, short = Texts([[5, 6, 7] * 100] * 50), Texts([[5, 6]])
    machine.add(long)
    machine.add(short)
    for _ in range(2):
        machine.step()
    assert short.done
    assert not long.done


def test_a_request_that_nobody_waits_for_is_dropped() -> None:
    machine = embedder(batcher())
    texts = Texts([[5, 6]])
    machine.add(texts)
    texts.aborted = True
    assert machine.step() == []
    assert not machine.busy
    assert texts.vectors == []


def test_a_request_that_is_dropped_in_the_middle_gives_its_blocks_back() -> None:
    made = batcher(room=1024)
    machine = embedder(made)
    machine.add(texts := Texts([[5, 6, 7] * 300]))
    machine.step()
    assert made.cache.used > 0
    texts.aborted = True
    machine.step()
    assert made.cache.free == made.cache.blocks
    machine.add(Texts([[5, 6, 7] * 300]))
    machine.step()
    assert len(machine.clear()) == 1
    assert made.cache.free == made.cache.blocks


def test_texts_and_answers_share_a_cache_that_is_too_small_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "STEP_TOKENS", 20)
    made = batcher(slots=4, room=160)
    machine = embedder(made)
    prompts = [[4 + index] * (20 + index) for index in range(4)]
    seats = [seat(prompt, 30) for prompt in prompts]
    texts = Texts([[2 + (7 * place) % 397 for place in range(length)] for length in (150, 1, 90)])
    machine.add(texts)
    for each in seats:
        made.add(each)
    while made.busy or machine.busy:
        made.step()
        machine.step()
    for prompt, each in zip(prompts, seats):
        assert each.ids[len(prompt) :] == alone("llama", prompt, 30)
    for ids, vector in zip(texts.ids, texts.vectors):
        torch.testing.assert_close(torch.tensor(vector), truth("llama", list(ids)), atol=1e-4, rtol=1e-4)
    assert made.cache.used == 0


def test_a_vector_that_is_no_number_is_a_fault_and_infects_nobody() -> None:
    made = batcher()
    machine = embedder(made)

    def broken(_: object, args: tuple[torch.Tensor, ...], kwargs: dict[str, object]) -> object:
        return (args[0] * torch.nan, *args[1:]), kwargs

    hook = served("llama").model.layers[0].register_forward_pre_hook(broken, with_kwargs=True)
    machine.add(bad := Texts([[5, 6, 7]]))
    ((request, fault),) = machine.step()
    hook.remove()
    assert request is bad
    assert isinstance(fault, Fault)
    assert (fault.status, fault.code, machine.busy) == (500, "engine_failed", False)
    assert all_numbers(made)
    good = Texts([[5, 6, 7]])
    vectors(machine, good)
    torch.testing.assert_close(torch.tensor(good.vectors[0]), truth("llama", [5, 6, 7]), atol=1e-4, rtol=1e-4)
    (pieces,) = run(made, [(0, seat([5, 6, 7], 10))]).values()
    assert ids_of(pieces) == alone("llama", [5, 6, 7], 10)
