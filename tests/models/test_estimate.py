"""The estimate against reality: real weights, real optimisers, and what real passes keep."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    Qwen2Config,
    Qwen3Config,
)

from vicuna.models.estimate import MASTER, Way, _passing, _share, count, memory
from vicuna.models.flops import flops
from vicuna.models.load import empty_model
from vicuna.models.trace import _Alive, trace

FP32, BF16 = torch.float32, torch.bfloat16
SIZE = {
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "vocab_size": 512,
}
LLAMA = LlamaConfig(**SIZE, num_key_value_heads=2, tie_word_embeddings=False)
KINDS = {
    "llama": LLAMA,
    "qwen2": Qwen2Config(**SIZE, num_key_value_heads=2, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZE, num_key_value_heads=2, head_dim=32, tie_word_embeddings=False),
    "gpt_neox": GPTNeoXConfig(**SIZE),
}


def layers_of(model) -> list:
    return list(next(each for each in model.base_model.children() if isinstance(each, torch.nn.ModuleList)))


def full_logits(hidden, targets, head):
    return torch.nn.functional.cross_entropy(head(hidden).float(), targets, reduction="sum")


def traced(settings, tokens=256, dtype=FP32):
    model = empty_model(settings, dtype)
    return model, layers_of(model), trace(model, layers_of(model), tokens, full_logits)


def real_pass(model, tokens):
    """The hidden states of a pass of a real model, with the attention that it would be trained with."""
    model.set_attn_implementation("sdpa")
    rows = torch.arange(tokens)[None] % 500
    return model.train().base_model(input_ids=rows, use_cache=False).last_hidden_state


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_of_a_model_add_up_to_it(kind):
    model = empty_model(KINDS[kind], FP32)
    found = count(model, layers_of(model))
    assert found.total == found.trainable == model.num_parameters()
    assert found.embedding == 512 * 64
    assert found.head == (0 if kind == "qwen2" else 512 * 64)
    assert len(found.layers) == 4
    assert 0 < found.other <= 2 * 64


def test_an_empty_model_holds_no_weights():
    model = empty_model(LLAMA, BF16)
    assert {each.device.type for each in model.parameters()} == {"meta"}
    assert {each.dtype for each in model.parameters()} == {BF16}


def test_weights_gradients_and_adamw_are_exact():
    model = LlamaForCausalLM(LLAMA)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    real_pass(model, 8).sum().backward()
    model.lm_head.weight.grad = torch.zeros_like(model.lm_head.weight)
    optimizer.step()
    empty, layers, seen = traced(LLAMA)
    found = memory(empty, layers, seen, Way(FP32))
    assert found.weights == sum(each.nbytes for each in model.parameters())
    assert found.gradients == sum(each.grad.nbytes for each in model.parameters())
    states = [tensor for state in optimizer.state.values() for name, tensor in state.items() if name != "step"]
    assert found.optimizer == sum(each.nbytes for each in states)


def test_frozen_weights_have_no_gradient_and_no_optimiser():
    model, layers, seen = traced(LLAMA, dtype=BF16)
    for name, each in model.named_parameters():
        each.requires_grad_("norm" in name)
    norms = sum(each.numel() for each in model.parameters() if each.requires_grad)
    frozen = model.num_parameters() - norms
    found = memory(model, layers, seen, Way(BF16))
    assert (found.gradients, found.optimizer) == (4 * norms, 8 * norms)
    assert found.weights == MASTER * norms + 2 * frozen
    packed = memory(model, layers, seen, Way(BF16, in_4bit=True))
    maps = sum(each.weight.numel() for layer in layers for each in layer.modules() if isinstance(each, torch.nn.Linear))
    assert packed.weights == pytest.approx(MASTER * norms + 2 * (frozen - maps) + 0.516 * maps, rel=1e-3)


@given(rows=st.integers(1, 2000), columns=st.integers(1, 8), ranks=st.integers(1, 16))
def test_the_fullest_rank_has_the_largest_chunk(rows, columns, ranks):
    tensor = torch.empty((rows, columns), device="meta")
    assert _share(tensor, ranks) == max(each.numel() for each in tensor.chunk(ranks))


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_pass_keeps_is_what_autograd_saves(kind, dtype):
    torch.manual_seed(0)
    real = empty_model(KINDS[kind], dtype).to_empty(device="cpu")
    for module in real.modules():  # tables of rotary positions are no parameters
        if hasattr(module, "inv_freq"):
            module.inv_freq.fill_(0.5)
    own = {each.untyped_storage().data_ptr() for each in (*real.parameters(), *real.buffers())}
    saved: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = real_pass(real, 256)
    *_, seen = traced(KINDS[kind], 256, dtype)
    assert seen.outside + sum(seen.layers) == pytest.approx(sum(saved.values()), rel=0.03)
    assert seen.hidden == hidden.nbytes


@pytest.mark.parametrize("every", [0, 1, 2, 3])
def test_a_real_pass_with_recomputation_peaks_where_it_was_said(every):
    model = LlamaForCausalLM(LLAMA)
    if every:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        for number, layer in enumerate(model.model.layers):
            layer.gradient_checkpointing = number % every == 0
    for each in model.parameters():
        each.grad = torch.zeros_like(each)  # there already, as in every pass but the first
    alive = _Alive()
    alive.leave_out(iter(model.parameters()))
    alive.leave_out(iter(model.buffers()))
    with alive:
        hidden = real_pass(model, 512)
        kept = alive.now
        hidden.backward(torch.empty_like(hidden))
    *_, seen = traced(LLAMA, 512)
    activations, working = _passing(seen, Way(FP32, recompute=every))
    assert activations == pytest.approx(kept, rel=0.05)
    assert activations + working == pytest.approx(alive.peak, rel=0.10)


def test_activations_grow_with_the_tokens_and_shrink_with_recomputation():
    model, layers, short = traced(LLAMA, 128)
    *_, long = traced(LLAMA, 512)
    assert sum(long.layers) == pytest.approx(4 * sum(short.layers), rel=0.01)
    all_, half, none = (memory(model, layers, long, Way(FP32, recompute=every)).activations for every in (1, 2, 0))
    assert all_ < half < none


def test_sharding_divides_what_is_kept_and_gathers_two_layers():
    model, layers, seen = traced(LLAMA, dtype=BF16)
    one, eight = (memory(model, layers, seen, Way(BF16, ranks=ranks, sharded=True)) for ranks in (1, 8))
    for name in ("weights", "gradients", "optimizer"):
        assert getattr(eight, name) == pytest.approx(getattr(one, name) / 8, rel=0.01)
    assert eight.gathered == one.gathered > 0
    assert eight.activations == one.activations
    kept = memory(model, layers, seen, Way(BF16, ranks=8, sharded=True, reshard=False))
    assert kept.gathered - eight.gathered == 2 * sum(
        each.numel() for layer in layers[2:] for each in layer.parameters()
    )


def test_what_is_offloaded_lies_in_main_memory():
    model, layers, seen = traced(LLAMA, dtype=BF16)
    here, there = (memory(model, layers, seen, Way(BF16, sharded=True, offload=offload)) for offload in (False, True))
    assert there.weights == there.gradients == there.optimizer == here.host == 0
    assert there.host == here.weights + here.gradients + here.optimizer
    assert there.total == here.total - there.host


def test_the_parts_add_up_and_a_gpu_needs_more_than_them():
    model, layers, seen = traced(LLAMA)
    found = memory(model, layers, seen, Way(FP32))
    assert found.moment == "the loss"  # full logits of 512 tokens outweigh so small a layer
    parts = (found.weights, found.gradients, found.optimizer, found.gathered, found.activations, found.working)
    assert found.total == sum(parts) < found.needed


@pytest.mark.parametrize("kind", KINDS)
def test_forward_operations_are_those_that_torch_counts(kind):
    model = AutoModelForCausalLM.from_config(
        KINDS[kind], attn_implementation="eager"
    )  # torch counts its masked half too
    work = flops(model, layers_of(model), 0)
    counted, rows = FlopCounterMode(display=False), torch.zeros((1, 256), dtype=torch.long)
    with counted:
        model.get_output_embeddings()(model.base_model(input_ids=rows, use_cache=False).last_hidden_state)
    positions = 256 * KINDS[kind].hidden_size  # of the rotary table: an outer product of positions and frequencies
    expected = work.forward.of(256, 2 * 256**2, 256)
    assert counted.get_total_flops() == pytest.approx(expected, abs=positions)


def test_backward_is_twice_forward_and_less_where_weights_are_frozen():
    model = empty_model(LLAMA, FP32)
    full = flops(model, layers_of(model), 0)
    assert full.backward.of(7, 11, 3) == 2 * full.forward.of(7, 11, 3)
    assert full.hardware(7, 11, 3) == full.model(7, 11, 3)
    frozen = copy.deepcopy(model).requires_grad_(False)
    assert flops(frozen, layers_of(frozen), 0).backward.token == full.forward.token


@pytest.mark.parametrize(("every", "share"), [(1, 1.0), (2, 0.5), (3, 0.5), (8, 0.25)])
def test_recomputed_layers_are_work_but_not_the_models(every, share):
    model = empty_model(LLAMA, FP32)
    found = flops(model, layers_of(model), every)
    assert found.again.token == share * found.forward.token
    assert found.model(100, 100, 100) == flops(model, layers_of(model), 0).model(100, 100, 100)


def test_a_token_meets_only_its_experts():
    model = empty_model(MixtralConfig(**SIZE, num_key_value_heads=2, num_local_experts=8), FP32)
    found = {}
    for model.config.num_experts_per_tok in (2, 8):
        found[model.config.num_experts_per_tok] = flops(model, layers_of(model), 0).forward.token
    assert found[8] - found[2] == 2 * 4 * 6 * 3 * 64 * 176  # layers, further experts, matrices of each
