"""The numbers of a step: packed equals apart, accumulated equals whole, chunked equals full."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from vicuna.train import attention, loss
from vicuna.train.batch import make_batch
from vicuna.train.dataset import Sample
from vicuna.train.loop import Precision, train_step
from vicuna.train.loss import target_loss

CPU = Precision(torch.device("cpu"), torch.float32)
SHAPE = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "num_attention_heads": 4,
         "max_position_embeddings": 64}  # fmt: skip


def make_model(kind: str = "llama"):
    torch.manual_seed(0)
    if kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(**SHAPE, num_key_value_heads=2))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**SHAPE, num_key_value_heads=4, tie_word_embeddings=True))
    return model.eval()


def samples(lengths: list[int]) -> list[Sample]:
    draw = np.random.default_rng(0)
    made = []
    for i, length in enumerate(lengths):
        targets = draw.random(length) < 0.5
        targets[-1] = True
        made.append(Sample(str(i), draw.integers(0, 61, length).astype(np.int32), targets))
    return made


def plain_loss(model, sample: Sample) -> torch.Tensor:
    """The sum over one sample's targets by transformers' own attention and full logits."""
    ids = torch.from_numpy(sample.ids.astype(np.int64))
    logits = model(ids[None]).logits[0, :-1]
    losses = F.cross_entropy(logits, ids[1:], reduction="none")
    return losses[torch.from_numpy(sample.is_target[1:])].sum()


def packed_loss(model, group: list[Sample]) -> torch.Tensor:
    batch = make_batch(group, "cpu")
    hidden = model.base_model(
        input_ids=batch.tokens, position_ids=batch.positions, segments=batch.segments, use_cache=False
    ).last_hidden_state
    return target_loss(hidden[0, batch.before], batch.targets, model.get_output_embeddings())


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(2, 20), min_size=1, max_size=5))
def test_packed_samples_have_the_loss_they_have_alone(kind, lengths):
    group = samples(lengths)
    apart, packed = make_model(kind), make_model(kind)
    attention.install(packed)
    expected = sum(plain_loss(apart, sample) for sample in group)
    assert torch.allclose(packed_loss(packed, group), expected, rtol=1e-5, atol=1e-4)


def test_a_sample_does_not_see_its_neighbours():
    model = make_model()
    attention.install(model)
    first, second, other = samples([12, 9, 12])
    assert torch.equal(_last_hidden(model, [first, second])[12:], _last_hidden(model, [other, second])[12:])


def _last_hidden(model, group):
    batch = make_batch(group, "cpu")
    return model.base_model(
        input_ids=batch.tokens, position_ids=batch.positions, segments=batch.segments, use_cache=False
    ).last_hidden_state[0]


def test_four_small_batches_accumulate_to_one_large_gradient():
    group = samples([7, 15, 3, 11])
    gradients = []
    for batches in ([make_batch(group, "cpu")], [make_batch([each], "cpu") for each in group]):
        model = make_model()
        attention.install(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        value, norm = train_step(model, optimizer, batches, 1e9, CPU)
        gradients.append((value, norm, [each.detach().clone() for each in model.parameters()]))
    (a_loss, a_norm, a), (b_loss, b_norm, b) = gradients
    assert a_loss == pytest.approx(b_loss, rel=1e-6)
    assert a_norm == pytest.approx(b_norm, rel=1e-5)
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(a, b))


def test_the_loss_of_a_step_is_the_mean_over_its_targets():
    group = samples([9, 14])
    model = make_model()
    expected = sum(plain_loss(model, each) for each in group) / sum(int(each.is_target[1:].sum()) for each in group)
    attention.install(model)
    value, _ = train_step(model, torch.optim.SGD(model.parameters(), lr=0.0), [make_batch(group, "cpu")], 1.0, CPU)
    assert value == pytest.approx(float(expected), rel=1e-5)


def test_logits_in_chunks_give_the_same_loss_and_gradient(monkeypatch):
    hidden = torch.randn(50, 32, requires_grad=True)
    targets, head = torch.randint(0, 61, (50,)), torch.nn.Linear(32, 61, bias=False)
    whole = target_loss(hidden, targets, head)
    whole.backward()
    expected, hidden.grad = hidden.grad, None
    monkeypatch.setattr(loss, "LOGITS", 61 * 7)
    chunked = target_loss(hidden, targets, head)
    chunked.backward()
    assert torch.allclose(whole, chunked)
    assert torch.allclose(expected, hidden.grad, atol=1e-6)


def test_a_samples_first_token_is_never_a_target():
    group = [Sample("a", np.array([1, 2], np.int32), np.array([True, True])) for _ in range(2)]
    batch = make_batch(group, "cpu")
    assert batch.before.tolist() == [0, 2]
    assert batch.targets.tolist() == [2, 2]
    assert batch.positions.tolist() == [[0, 1, 0, 1]]
