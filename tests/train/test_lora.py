"""Adapters: where they go, how they begin, what they compute, how they are written, merged and quantised under."""

import json
import sys

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from accelerate import init_empty_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from vicuna.errors import ConfigError
from vicuna.train.config import LoraConfig, OptimConfig
from vicuna.train.lora import adapter_weights, add_adapter, base_name, is_adapter, merged, write_adapter
from vicuna.train.optim import make_optimizer
from vicuna.train.quantise import load_in_4bit

SHAPE = {"vocab_size": 61, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
LORA = LoraConfig(kind="lora", rank=4, alpha=8.0)
KINDS = ["llama", "qwen2"]


def make_model(kind: str = "llama"):
    torch.manual_seed(0)
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()
    return Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=True)).eval()


def with_adapter(kind: str = "llama", config: LoraConfig = LORA, *, begun: bool = False):
    """A model with an adapter; one that is not begun has random B too, as if it had learnt something."""
    model = make_model(kind)
    add_adapter(model, config)
    draw = torch.Generator().manual_seed(1)
    for name, value in adapter_weights(model, seed=0):
        start = value if begun or value.any() else torch.randn(value.shape, generator=draw) * 0.1
        model.get_parameter(name).data.copy_(start)
    return model


def adapter_of(model) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in model.named_parameters() if is_adapter(name)}


def loss_of(model, ids: torch.Tensor) -> torch.Tensor:
    """As the loop computes it: hidden states of the base model, then the head."""
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return F.cross_entropy(model.get_output_embeddings()(hidden[0, :-1]).float(), ids[0, 1:])


def some_ids(length: int = 24) -> torch.Tensor:
    return torch.randint(0, 61, (1, length), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_a_fresh_adapter_is_its_base_and_only_the_adapter_learns(kind):
    model, ids = with_adapter(kind, begun=True), some_ids()
    with torch.no_grad():
        assert torch.equal(model(ids).logits, make_model(kind)(ids).logits)
    loss_of(model, ids).backward()
    assert {name for name, each in model.named_parameters() if each.grad is not None} == set(adapter_of(model))
    linear = 7 * SHAPE["num_hidden_layers"]
    assert len(adapter_of(model)) == 2 * linear
    assert "lm_head" not in " ".join(adapter_of(model))


def test_every_parameter_but_the_adapter_has_a_name_in_the_base_model():
    frozen = {base_name(name) for name, _ in with_adapter().named_parameters() if not is_adapter(name)}
    assert frozen == {name for name, _ in make_model().named_parameters()}


def test_an_adapter_is_added_to_a_model_without_weights_and_stays_float32():
    with init_empty_weights(include_buffers=False):
        model = LlamaForCausalLM._from_config(LlamaConfig(**SHAPE), dtype=torch.bfloat16)
    add_adapter(model, LORA)
    assert {each.device.type for each in model.parameters()} == {"meta"}
    kinds = {(is_adapter(name), each.dtype, each.requires_grad) for name, each in model.named_parameters()}
    assert kinds == {(True, torch.float32, True), (False, torch.bfloat16, False)}
    ours, real = dict(adapter_weights(model, 3)), dict(adapter_weights(with_adapter(), 3))
    assert all(torch.equal(ours[name], real[name]) for name in ours)


def test_an_adapter_on_bfloat16_weights_is_float32():
    model = make_model().to(torch.bfloat16)
    add_adapter(model, LORA)
    assert {each.dtype for name, each in model.named_parameters() if is_adapter(name)} == {torch.float32}


def test_first_values_follow_the_seed_and_the_width():
    model = with_adapter()
    one, same, other = (dict(adapter_weights(model, seed)) for seed in (0, 0, 1))
    assert one.keys() == adapter_of(model).keys()
    for name, value in one.items():
        assert torch.equal(value, same[name])
        if "lora_A" in name:
            assert not torch.equal(value, other[name])
            bound = value.shape[1] ** -0.5
            assert 0.9 * bound < value.abs().max() <= bound
        else:
            assert not value.any()


def test_named_targets_alone_get_an_addition():
    model = with_adapter(config=LoraConfig(kind="lora", targets=("q_proj", "mlp.down_proj")))
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in adapter_of(model)}
    assert layers == {"q_proj", "down_proj"}


@pytest.mark.parametrize("target", ["c_attn", "lm_head", "proj", "embed_tokens"])
def test_a_target_that_is_no_layer_is_one_line_with_the_layers_there_are(target):
    with pytest.raises(ConfigError) as caught:
        add_adapter(make_model(), LoraConfig(kind="lora", targets=("q_proj", target)))
    assert str(caught.value) == (
        f"lora.targets: no linear layer is called {target}; there are "
        "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    )


def test_segments_reach_the_attention_of_a_model_with_an_adapter():
    seen = []

    def watching(*args, segments, **keywords):
        seen.append(segments)
        return sdpa_attention_forward(*args, **keywords)

    AttentionInterface.register("test_lora_watching", watching)
    model = with_adapter()
    model.set_attn_implementation("test_lora_watching")
    model.base_model(input_ids=some_ids(), segments=[20, 4], use_cache=False)
    assert seen == [[20, 4]] * SHAPE["num_hidden_layers"]


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_activations_give_the_same_gradients(kind):
    gradients = []
    for recompute in (False, True):
        model = with_adapter(kind).train()
        if recompute:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        loss_of(model, some_ids()).backward()
        gradients.append({name: each.grad for name, each in model.named_parameters() if each.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() == adapter_of(model).keys()
    for name, each in gradients[0].items():
        assert each.any(), name
        assert torch.equal(each, gradients[1][name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_written_adapter_and_a_merged_model_compute_what_was_trained(tmp_path, kind):
    model, base, ids = with_adapter(kind), make_model(kind), some_ids()
    write_adapter(tmp_path, model, adapter_of(model), "some/base")
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == "some/base"
    assert written["target_modules"] == sorted(written["target_modules"])
    whole = make_model(kind)
    whole.load_state_dict({n: merged(n, t, adapter_of(model), LORA) for n, t in base.state_dict().items()})
    with torch.no_grad():
        expected = model(ids).logits
        assert not torch.allclose(base(ids).logits, expected, atol=1e-2)
        assert torch.allclose(whole(ids).logits, expected, atol=1e-5)
        reloaded = PeftModel.from_pretrained(base, tmp_path)
        assert torch.equal(reloaded(ids).logits, expected)
        assert torch.allclose(reloaded.merge_and_unload()(ids).logits, whole(ids).logits, atol=1e-6)


@settings(deadline=None)
@given(out=st.integers(1, 9), width=st.integers(1, 9), rank=st.integers(1, 4), alpha=st.floats(0.5, 64))
def test_a_merged_weight_is_rounded_once(out, width, rank, alpha):
    w, a, b = torch.randn(out, width).bfloat16(), torch.randn(rank, width), torch.randn(out, rank)
    parts = {"x.lora_A.default.weight": a, "x.lora_B.default.weight": b}
    found = merged("x.weight", w, parts, LoraConfig(kind="lora", rank=rank, alpha=alpha))
    exact = w.double() + alpha / rank * b.double() @ a.double()
    assert found.dtype == torch.bfloat16
    slack = 1e-5 * (1 + alpha / rank * b.abs().double() @ a.abs().double())  # of the sum in float32
    assert ((found.double() - exact).abs() <= exact.abs() * 2**-8 + slack).all()
    assert merged("x.bias", w, parts, LORA) is w
    assert merged("y.weight", w, parts, LORA) is w


DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
]


@pytest.mark.parametrize("place", DEVICES)
def test_a_model_in_four_bits_learns_and_its_adapter_works_on_the_model_in_full(tmp_path, place):
    make_model().save_pretrained(tmp_path / "base")
    ids, config = some_ids(), LoraConfig(kind="qlora", rank=8, alpha=16.0)
    model = load_in_4bit(tmp_path / "base", torch.float32, torch.device(place), make_model().config)
    assert type(model.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    add_adapter(model, config)
    for name, value in adapter_weights(model, seed=0):
        model.get_parameter(name).data.copy_(value)
    losses = learn(model, ids.to(place), steps=30)
    assert losses[-1] < 0.75 * losses[0]
    base, adapter = make_model(), {name: each.cpu() for name, each in adapter_of(model).items()}
    with torch.no_grad():
        assert abs(loss_of(base, ids).item() - losses[0]) < 0.1
        write_adapter(tmp_path, model, adapter, str(tmp_path / "base"))
        reloaded = PeftModel.from_pretrained(make_model(), tmp_path).get_base_model()
        assert abs(loss_of(reloaded, ids).item() - loss_of(model.eval(), ids.to(place)).item()) < 0.1
        base.load_state_dict({n: merged(n, t, adapter, config) for n, t in base.state_dict().items()})
        assert torch.allclose(loss_of(base, ids), loss_of(reloaded, ids), atol=1e-5)


def learn(model, ids: torch.Tensor, steps: int) -> list[float]:
    optimizer = make_optimizer(model.train(), OptimConfig(lr=1e-2))
    losses = []
    for _ in range(steps):
        loss = loss_of(model, ids)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return losses


def test_four_bits_without_bitsandbytes_are_one_line_that_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as Python itself notes what is not there
    with pytest.raises(ConfigError, match=r"^lora.kind qlora needs the package bitsandbytes; install it with: pip"):
        load_in_4bit(tmp_path, torch.float32, torch.device("cpu"), make_model().config)
