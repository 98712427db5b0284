"""Quantised weights: made while loading or found in the folder; close to the full ones, or refused in words."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tests.adapters_kit import store
from vicuna.errors import ConfigError, IncompleteError, InputError, VicunaError
from vicuna.models.adapters import load_adapter
from vicuna.models.load import load_model
from vicuna.models.quantized import method, settings

bitsandbytes = pytest.importorskip("bitsandbytes")
KINDS = {"int8": 0.02, "nf4": 0.3}
"""What weights are stored in, and how far logits may then be off, as a share of the largest."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model whose matrices are most of it."""
    torch.manual_seed(0)
    shape = {"vocab_size": 64, "hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 256,
             "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
    made = tmp_path_factory.mktemp("full")
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def stored(folder, tmp_path_factory) -> Path:
    """The same with weights in nf4, as people publish them."""
    made = tmp_path_factory.mktemp("stored")
    load(folder, quantize="nf4").save_pretrained(made)
    return made


def load(path: Path, **options):
    return load_model(path, torch.float32, "cpu", **options)


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.arange(48)[None]).logits


def settled(folder: Path, place: Path, **changes) -> Path:
    """A copy whose config.json has these changes."""
    shutil.copytree(folder, place)
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | changes))
    return place


@pytest.mark.parametrize("kind", KINDS)
def test_weights_in_fewer_bits_compute_about_the_same_in_less_memory(folder, kind):
    full, small = load(folder), load(folder, quantize=kind)
    off = (logits(small) - logits(full)).abs().max() / logits(full).abs().max()
    assert 0 < off < KINDS[kind]
    assert small.get_memory_footprint() < full.get_memory_footprint() / 2.5
    assert small.num_parameters() == full.num_parameters()
    assert not small.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_4_bits_compute_in_the_type_that_was_asked_for_at_every_shape(folder, tmp_path, dtype):
    """On CPUs with instructions for bfloat16 the library would take its own way."""
    odd = LlamaConfig(**(LlamaConfig.from_pretrained(folder).to_dict() | {"intermediate_size": 200}))
    LlamaForCausalLM(odd).save_pretrained(tmp_path)
    model = load_model(tmp_path, dtype, "cpu", quantize="nf4")
    assert logits(model).dtype == dtype
    layer = model.model.layers[0].mlp.down_proj
    inputs = torch.randn(3, 200, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.inference_mode():
        whole = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(dtype)
        assert torch.allclose(layer(inputs), inputs @ whole.T, atol=1e-6 if dtype == torch.float32 else 0.02)


def test_in_8_bits_nothing_is_logged_for_every_product(folder, caplog):
    logits(load(folder, quantize="int8"))
    assert caplog.text == ""


def test_a_folder_that_is_quantised_already_needs_no_setting(folder, stored):
    assert (method(folder), method(stored)) == ("", "bitsandbytes")
    again = load(stored)
    assert again.model.layers[0].mlp.up_proj.weight.dtype == torch.uint8
    assert torch.allclose(logits(again), logits(load(folder, quantize="nf4")), atol=0.02)


def test_an_adapter_adds_to_quantised_layers_in_the_models_own_type(folder, stored, tmp_path):
    store(load(folder), tmp_path, seed=1)
    lows = load_adapter(tmp_path, load(stored), checkpoint_hash="", template_hash="").layers.values()
    assert {half.dtype for low in lows for half in (low.down, low.up)} == {torch.float32}


def test_weights_are_not_quantised_twice(stored):
    with pytest.raises(InputError, match=r"quantised with bitsandbytes already; leave engine.quantize empty"):
        load(stored, quantize="int8")


def test_a_quantised_folder_with_tensors_missing_is_refused(stored, tmp_path):
    shutil.copytree(stored, tmp_path / "model")
    tensors = load_file(stored / "model.safetensors")
    del tensors["model.layers.1.input_layernorm.weight"]
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IncompleteError, match=r"1 tensors are missing, e.g. model.layers.1.input_layernorm.weight"):
        load(tmp_path / "model")
    with pytest.raises(VicunaError, match=r"deeper"):
        load(settled(stored, tmp_path / "deeper", num_hidden_layers=3))


def test_other_kinds_are_refused():
    with pytest.raises(ConfigError, match=r"can be stored in int8 or nf4; got 'int3'"):
        settings("int3", torch.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_quantising_without_bitsandbytes_says_what_to_install(folder, monkeypatch, kind):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as Python itself notes what is not there
    with pytest.raises(ConfigError, match=f"storing weights in {kind} needs the package bitsandbytes; install"):
        load(folder, quantize=kind)


def test_a_folder_in_the_format_of_bitsandbytes_without_it_says_what_to_install(stored, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=rf"{stored} needs the package bitsandbytes; install it with: pip"):
        load(stored)


@pytest.mark.parametrize(
    ("how", "library"),
    [
        ({"quant_method": "gptq", "bits": 4}, "optimum"),
        ({"quant_method": "awq"}, "gptqmodel"),
        ({"quant_method": "torchao"}, "torchao"),
        ({"quant_method": "aqlm"}, "aqlm"),
        ({"quant_method": "vptq"}, "vptq"),
        ({"quant_method": "hqq"}, "hqq"),
    ],
)
def test_weights_of_a_library_that_is_not_there_are_one_line_that_names_it(folder, tmp_path, how, library):
    if importlib.util.find_spec(library):
        pytest.skip(f"{library} is there")
    says = f"holds no weights quantised with {how['quant_method']} that can be read: .*{library}"
    with pytest.raises(InputError, match=f"(?i){says}") as caught:
        load(settled(folder, tmp_path / "model", quantization_config=how))
    assert "\n" not in str(caught.value)


def test_weights_that_this_machine_has_to_unpack_are_said_to_take_their_full_size(folder, tmp_path, caplog):
    if torch.cuda.is_available():
        pytest.skip("a GPU computes with them as they are")
    eight = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    load(settled(folder, tmp_path / "model", quantization_config=eight))
    assert "cannot compute with weights in fp8, so they take torch.float32" in caplog.text
