"""Attention: a packed sample has the numbers that it has alone, on every kernel; models that would not are refused."""

import copy
import itertools
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GptOssConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3MoeConfig,
)  # fmt: skip

from vicuna.errors import ConfigError, InputError
from vicuna.train import attention
from vicuna.train.batch import Batch, Segments, make_batch
from vicuna.train.dataset import Sample
from vicuna.train.kernels import KERNELS, Scores, sample_by_sample
from vicuna.train.loss import target_loss

CPU = torch.device("cpu")
WORDS = 61
SHAPE = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "head_dim": 8,
         "num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": None}  # fmt: skip
CONFIGS = {
    "grouped heads": LlamaConfig(**SHAPE, num_key_value_heads=2),
    "biases and a tied head": Qwen2Config(**SHAPE, num_key_value_heads=4, tie_word_embeddings=True),
    "a window": MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=5),
    "a window in some layers": Gemma3TextConfig(
        **SHAPE, num_key_value_heads=1, sliding_window=4, layer_types=["sliding_attention", "full_attention"]
    ),
    "experts": Qwen3MoeConfig(
        **SHAPE, num_key_value_heads=4, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
    ),
}


def make_model(config, *, ours: bool = True):
    torch.manual_seed(0)
    config = copy.deepcopy(config)  # the attention is a part of it
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    if ours:
        attention.install(model, attention.choose("auto", config, CPU, torch.float32))
    return model


def samples(lengths: list[int], seed: int = 0) -> list[Sample]:
    draw = np.random.default_rng(seed)
    ids = [draw.integers(0, WORDS, n).astype(np.int32) for n in lengths]
    return [Sample(str(i), each, draw.random(len(each)) < 0.7) for i, each in enumerate(ids)]


def hidden_states(model, batch: Batch, **more) -> torch.Tensor:
    return model.base_model(
        input_ids=batch.tokens, position_ids=batch.positions, segments=batch.segments, **({"use_cache": False} | more)
    ).last_hidden_state[0]


def packed_loss(model, group: list[Sample]) -> torch.Tensor:
    batch = make_batch(group, CPU)
    before = hidden_states(model, batch).index_select(0, batch.before)
    return target_loss(before, batch.targets, model.get_output_embeddings())


def plain_loss(model, sample: Sample) -> torch.Tensor:
    """Of one sample by transformers' own attention and full logits."""
    ids = torch.from_numpy(sample.ids.astype(np.int64))
    losses = F.cross_entropy(model(ids[None], use_cache=False).logits[0, :-1], ids[1:], reduction="none")
    return losses[torch.from_numpy(sample.is_target[1:])].sum()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
@settings(max_examples=6, deadline=None)
@given(lengths=st.lists(st.integers(1, 14), min_size=1, max_size=5))
def test_packed_samples_have_the_loss_and_the_gradients_they_have_alone(config, lengths):
    group = samples(lengths)
    ours, theirs = make_model(config), make_model(config, ours=False)
    found, expected = packed_loss(ours, group), sum(plain_loss(theirs, sample) for sample in group)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    found.backward()
    expected.backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters()):
        a, b = (torch.zeros(()) if each.grad is None else each.grad for each in (a, b))
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4), name


def test_a_sample_does_not_see_its_neighbours():
    model, (first, second, other) = make_model(CONFIGS["grouped heads"]), samples([12, 9, 12])
    beside_first, beside_other = (hidden_states(model, make_batch([each, second], CPU)) for each in (first, other))
    assert not torch.equal(beside_first[:12], beside_other[:12])
    assert torch.equal(beside_first[12:], beside_other[12:])


@pytest.mark.parametrize("more", [{"use_cache": True}, {"attention_mask": torch.ones(1, 21, dtype=torch.long)}])
def test_what_makes_transformers_mix_packed_samples_changes_nothing_here(more):
    batch = make_batch(samples([12, 9]), CPU)
    ours, theirs = make_model(CONFIGS["grouped heads"]), make_model(CONFIGS["grouped heads"], ours=False)
    expected = hidden_states(ours, batch)
    assert torch.equal(hidden_states(ours, batch, **more), expected)
    assert not torch.allclose(hidden_states(theirs, batch, **more)[12:], expected[12:], atol=1e-2)


def test_recomputed_and_compiled_layers_give_the_same_gradients():
    config, group = CONFIGS["a window"], [samples([3, 14, 5]), samples([9, 2], seed=1), samples([6] * 7, seed=2)]
    gradients = []
    for recompute, compiled in ((False, False), (True, False), (False, True), (True, True)):
        model = make_model(config).train()
        if recompute:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        if compiled:
            torch._dynamo.reset()
            for layer in model.model.layers:
                layer.compile(backend="aot_eager", dynamic=True)
        for each in group:
            packed_loss(model, each).backward()
        gradients.append([each.grad for each in model.parameters()])
    for others in gradients[1:]:
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(gradients[0], others))


def test_under_autocast_packed_samples_have_nearly_the_loss_of_float32():
    model, group = make_model(CONFIGS["grouped heads"]), samples([12, 9, 14])
    expected = packed_loss(model, group).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert packed_loss(model, group).item() == pytest.approx(expected, rel=1e-2)


def test_the_empty_pass_gives_every_weight_a_gradient_of_zero():
    model = make_model(CONFIGS["grouped heads"])
    packed_loss(model, []).backward()
    assert all(torch.equal(each.grad, torch.zeros_like(each)) for each in model.parameters())


def test_a_samples_first_token_is_never_a_target():
    batch = make_batch([Sample("a", np.array([1, 2], np.int32), np.array([True, True])) for _ in range(2)], CPU)
    assert batch.before.tolist() == [0, 2]
    assert batch.targets.tolist() == [2, 2]
    assert batch.positions.tolist() == [[0, 1, 0, 1]]
    assert batch.segments.starts.tolist() == [0, 2, 4]


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5))
@settings(deadline=None, max_examples=10)
def test_the_block_mask_of_flex_attention_lets_the_same_pairs_through(lengths):
    from torch.nn.attention.flex_attention import flex_attention

    segments = Segments.of(lengths, CPU, blocks=True)
    query, key, value = torch.randn(3, 1, 2, sum(lengths), 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not compiled, which takes a minute
        found = flex_attention(query, key, value, block_mask=segments.blocks, scale=0.5).transpose(1, 2)
    torch.testing.assert_close(found, sample_by_sample(query, key, value, segments, Scores(0.5)))


def test_a_cpu_takes_sdpa_and_says_so():
    backend = attention.choose("auto", CONFIGS["grouped heads"], CPU, torch.float32)
    assert str(backend) == "sdpa, torch's scaled-dot-product attention, sample by sample"


@pytest.mark.parametrize("name", ["flash3", "flash2", "varlen", "flex"])
def test_a_kernel_that_does_not_work_here_gets_one_clear_line(name):
    with pytest.raises(ConfigError, match=f"{name}: it needs a CUDA device.*--attention") as caught:
        attention.choose(name, CONFIGS["grouped heads"], CPU, torch.float32)
    assert "\n" not in str(caught.value)


def test_a_kernel_that_gives_wrong_numbers_is_not_taken(monkeypatch):
    def sees_all(query, key, value, segments, scores):
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)

    wrong = attention.Backend("sdpa", sees_all)
    with pytest.raises(ArithmeticError):
        attention._prove(wrong, LlamaConfig(**SHAPE), CPU, torch.float32)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (MambaConfig(vocab_size=WORDS, hidden_size=32, num_hidden_layers=1), "Mamba"),
        (BloomConfig(vocab_size=WORDS, hidden_size=32, n_layer=1, n_head=4), "Bloom.* cannot be replaced"),
    ],
)
def test_a_model_without_attention_of_transformers_is_refused(config, match):
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(InputError, match=match):
        attention.install(model, attention.Backend("sdpa", sample_by_sample))


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (Gemma2Config(**SHAPE, num_key_value_heads=4), "softcap"),
        (GptOssConfig(**SHAPE, num_key_value_heads=4, num_local_experts=4), "s_aux"),
    ],
)
def test_attention_that_is_more_than_the_kernels_compute_is_refused(config, match):
    model = make_model(config)
    with pytest.raises(InputError, match=match):
        packed_loss(model, samples([4, 3]))


def run_check(model) -> None:
    backend = attention.choose("auto", model.config, CPU, torch.float32)
    attention.check(model, backend, lambda batch: hidden_states(model, batch), CPU, torch.float32)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_the_proof_on_the_model_itself_holds_and_leaves_it_as_it_was(config):
    model = make_model(config).train()
    run_check(model)
    assert model.training
    assert model.config._attn_implementation == attention.NAME


class PreviousToken(torch.nn.Module):
    """Lets a layer see the token before, whoever's it is."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.roll(1, 1)


def test_a_layer_that_looks_past_the_border_by_itself_is_found():
    model = make_model(CONFIGS["grouped heads"])
    model.model.layers[1].mlp = PreviousToken()
    with pytest.raises(InputError, match="past a sample's border"):
        run_check(model)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("heads", "window"), list(itertools.product([(4, 4), (4, 2)], [None, 70])))
def test_on_a_gpu_each_kernel_gives_the_numbers_of_sdpa(name, heads, window):
    device = torch.device("cuda")
    try:
        kernel = KERNELS[name].load()
    except ImportError as error:
        pytest.skip(str(error))
    for lengths in ([300, 129, 1, 82], [512], [17] * 30):  # torch.compile sees three lengths
        torch.manual_seed(0)
        segments = Segments.of(lengths, device, blocks=name == "flex")
        drawn = [torch.randn(1, each, sum(lengths), 64, device=device) for each in (heads[0], heads[1], heads[1])]
        numbers = []
        for each, dtype in ((kernel, torch.bfloat16), (sample_by_sample, torch.float32)):
            leaves = [tensor.to(dtype, copy=True).requires_grad_() for tensor in drawn]
            try:
                out = each(*leaves, segments, Scores(0.125, window=window))
            except NotImplementedError as error:
                pytest.skip(str(error))
            numbers.append([out, *torch.autograd.grad(out.float().square().sum(), leaves)])
        for found, exact in zip(*numbers):
            assert float((found.float() - exact).norm() / exact.norm()) < 0.02
