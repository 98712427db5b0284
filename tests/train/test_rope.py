"""Scaled rotary positions: what they do to a model, and what its configuration says of them."""

import json

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from vicuna.config import from_dict
from vicuna.errors import ConfigError
from vicuna.train.config import RopeConfig, TrainConfig
from vicuna.train.rope import scale_positions

SHAPE = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3}  # fmt: skip
KINDS = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}


def model_with(rope: RopeConfig, kind: str = "llama"):
    """The same random weights whatever the positions."""
    config = KINDS[kind][0](**SHAPE, rope_parameters={"rope_type": "default", "rope_theta": 5000.0})
    scale_positions(config, rope)
    torch.manual_seed(0)
    return KINDS[kind][1](config).eval()


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_linear_scaling_by_two_halves_the_positions(kind):
    ids, positions = torch.randint(0, 61, (1, 20)), torch.arange(20)[None]
    plain = model_with(RopeConfig(), kind)
    scaled = model_with(RopeConfig(kind="linear", factor=2.0), kind)
    with torch.no_grad():
        expected = plain(input_ids=ids, position_ids=positions).logits
        assert torch.allclose(scaled(input_ids=ids, position_ids=positions * 2).logits, expected, atol=1e-4)
        assert not torch.allclose(scaled(input_ids=ids, position_ids=positions).logits, expected, atol=0.1)


def test_yarn_keeps_fast_rotations_and_slows_the_slowest_by_the_factor():
    plain, scaled = model_with(RopeConfig()), model_with(RopeConfig(kind="yarn", factor=4.0))
    ratio = plain.model.rotary_emb.inv_freq / scaled.model.rotary_emb.inv_freq
    assert ratio[0] == 1
    assert ratio[-1] == pytest.approx(4)
    assert scaled.model.rotary_emb.attention_scaling > 1


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_the_written_configuration_carries_scaling_and_context(tmp_path, kind):
    model = model_with(RopeConfig(kind=kind, factor=2.5))
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["max_position_embeddings"] == 160
    assert written["rope_parameters"]["rope_type"] == kind
    assert written["rope_parameters"]["factor"] == 2.5
    assert written["rope_parameters"]["rope_theta"] == 5000.0
    ids = torch.randint(0, 61, (1, 100))
    with torch.no_grad():
        assert torch.equal(LlamaForCausalLM.from_pretrained(tmp_path)(ids).logits, model(ids).logits)


def test_without_scaling_nothing_changes():
    config = LlamaConfig(**SHAPE)
    before = config.to_dict()
    scale_positions(config, RopeConfig())
    assert config.to_dict() == before


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GPT2Config(), "a gpt2 model has no rotary positions"),
        (
            LlamaConfig(**SHAPE, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}),
            "positions of this llama model are scaled already (linear, context 64)",
        ),
    ],
)
def test_what_cannot_be_scaled_is_refused(config, message):
    with pytest.raises(ConfigError) as caught:
        scale_positions(config, RopeConfig(kind="linear", factor=2.0))
    assert message in str(caught.value)


def test_a_model_with_several_kinds_of_positions_is_refused():
    from transformers import Gemma3TextConfig

    with pytest.raises(ConfigError, match="gemma3_text model differ in their rotary positions"):
        scale_positions(Gemma3TextConfig(num_hidden_layers=6), RopeConfig(kind="yarn", factor=2.0))


def test_an_adapter_alone_would_lose_the_scaling_so_it_has_to_be_merged():
    rope, lora = {"kind": "yarn", "factor": 2.0}, {"kind": "lora"}
    with pytest.raises(ConfigError, match=r"set lora\.merge true"):
        from_dict(TrainConfig, {"rope": rope, "lora": lora}, "a test")
    from_dict(TrainConfig, {"rope": rope, "lora": lora | {"merge": True}}, "a test")
