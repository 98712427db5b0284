"""The loss: the numbers of full logits, without ever holding them."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Cohere2Config, Gemma2Config, GraniteConfig, LlamaConfig

from vicuna.errors import InputError
from vicuna.train import loss
from vicuna.train.loss import check_logits, target_loss


def make(rows: int, width: int, words: int, *, bias: bool = False, dtype: torch.dtype = torch.float32):
    """Random hidden states, targets, and a head whose logits spread over several units."""
    torch.manual_seed(rows)
    hidden = torch.randn(rows, width, dtype=dtype, requires_grad=True)
    head = torch.nn.Linear(width, words, bias=bias).to(dtype)
    head.weight.data.normal_()
    return hidden, torch.randint(0, words, (rows,)), head


def full_logits(hidden: torch.Tensor, targets: torch.Tensor, head: torch.nn.Linear) -> torch.Tensor:
    return F.cross_entropy(head(hidden), targets, reduction="sum")


def gradients(value: torch.Tensor, *leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(value, leaves)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 23), width=st.integers(1, 9), words=st.integers(1, 17), at_once=st.integers(1, 400),
    bias=st.booleans(), factor=st.sampled_from([1.0, 0.125, 3.0]),
)  # fmt: skip
def test_loss_and_gradients_are_those_of_full_logits(rows, width, words, at_once, bias, factor):
    hidden, targets, head = make(rows, width, words, bias=bias, dtype=torch.float64)
    leaves = [hidden, *head.parameters()]
    expected = full_logits(hidden, targets, head)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "LOGITS", {"cpu": at_once})
        found = target_loss(hidden, targets, head)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients(found * factor, *leaves), gradients(expected * factor, *leaves)):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rows_at_once", [64, 1000])
def test_in_bfloat16_the_loss_is_that_of_float32_within_a_ten_thousandth(monkeypatch, rows_at_once):
    hidden, targets, head = make(500, 64, 1000, dtype=torch.bfloat16)
    head.weight.data.mul_(0.1)
    monkeypatch.setattr(loss, "LOGITS", {"cpu": rows_at_once * 1000})
    exact_head = torch.nn.Linear(64, 1000, bias=False)
    exact_head.weight.data.copy_(head.weight.data)
    exact_hidden = hidden.detach().float().requires_grad_()
    expected = full_logits(exact_hidden, targets, exact_head)
    found = target_loss(hidden, targets, head)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    exact = gradients(expected, exact_hidden, exact_head.weight)
    for ours, theirs in zip(gradients(found, hidden, head.weight), exact):
        assert ours.dtype == torch.bfloat16
        assert float((ours.float() - theirs).norm() / theirs.norm()) < 0.01


def test_under_autocast_float32_weights_get_float32_gradients():
    hidden, targets, head = make(40, 16, 50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = target_loss(hidden, targets, head)
    (ours,), (theirs,) = gradients(found, head.weight), gradients(full_logits(hidden, targets, head), head.weight)
    assert ours.dtype == torch.float32
    assert float((ours - theirs).norm() / theirs.norm()) < 0.01


def test_without_a_backward_pass_to_come_only_the_loss_is_computed():
    hidden, targets, head = make(9, 4, 11)
    expected = full_logits(hidden, targets, head)
    with torch.no_grad():
        found = target_loss(hidden, targets, head)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected.detach())


def test_a_frozen_head_passes_the_gradient_on_and_gets_none():
    hidden, targets, head = make(9, 4, 11)
    head.requires_grad_(False)
    target_loss(hidden, targets, head).backward()
    (expected,) = gradients(full_logits(hidden, targets, head), hidden)
    torch.testing.assert_close(hidden.grad, expected)
    assert head.weight.grad is None


def test_an_embedding_that_is_also_the_head_learns_from_both():
    torch.manual_seed(0)
    table, targets = torch.nn.Embedding(13, 6), torch.randint(0, 13, (8,))
    head = torch.nn.Linear(6, 13, bias=False)
    head.weight = table.weight
    found = gradients(target_loss(table(targets), targets, head), table.weight)
    expected = gradients(full_logits(table(targets), targets, head), table.weight)
    torch.testing.assert_close(found, expected)


def test_a_pass_without_targets_has_no_loss_and_gradients_of_zero():
    hidden, targets, head = make(0, 4, 11)
    found = target_loss(hidden, targets, head)
    found.backward()
    assert found == 0
    assert torch.equal(head.weight.grad, torch.zeros(11, 4))


def test_a_second_backward_pass_through_one_loss_is_an_error_not_a_wrong_gradient():
    hidden, targets, head = make(5, 4, 11)
    found = target_loss(hidden, targets, head) * 0.5
    found.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="earlier backward pass"):
        found.backward()


def test_a_head_that_is_more_than_a_linear_layer_is_called(monkeypatch):
    class Shifted(torch.nn.Linear):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return super().forward(hidden) * 2 - hidden.sum(-1, keepdim=True).sin() * torch.arange(self.out_features)

    hidden, targets, _ = make(10, 4, 7)
    head = Shifted(4, 7)
    monkeypatch.setattr(loss, "LOGITS", {"cpu": 7 * 3})
    leaves = [hidden, *head.parameters()]
    found, expected = target_loss(hidden, targets, head), full_logits(hidden, targets, head)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, *leaves), gradients(expected, *leaves))


@pytest.mark.parametrize("config", [Gemma2Config(), Cohere2Config(), GraniteConfig(logits_scaling=8.0)])
def test_a_model_that_scales_or_caps_its_logits_is_refused(config):
    with pytest.raises(InputError, match="logit"):
        check_logits(config)


@pytest.mark.parametrize("config", [LlamaConfig(), GraniteConfig(logits_scaling=1.0)])
def test_a_model_whose_logits_are_a_plain_product_is_accepted(config):
    check_logits(config)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("own", [True, False])
def test_on_a_gpu_the_loss_is_that_of_full_logits(monkeypatch, own):
    if own:
        monkeypatch.setattr(loss, "_liger", lambda: None)
    elif loss._liger() is None:
        pytest.skip("liger-kernel is not installed")
    hidden, targets, head = make(300, 64, 1000)
    expected = full_logits(hidden, targets, head)
    exact = gradients(expected, hidden, head.weight)
    there = hidden.detach().to("cuda", torch.bfloat16).requires_grad_()
    head = head.to("cuda", torch.bfloat16)
    monkeypatch.setattr(loss, "LOGITS", {"cuda": 1000 * 128})
    found = target_loss(there, targets.cuda(), head)
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)  # the inputs are rounded here
    for ours, theirs in zip(gradients(found, there, head.weight), exact):
        assert float((ours.cpu().float() - theirs).norm() / theirs.norm()) < 0.05
