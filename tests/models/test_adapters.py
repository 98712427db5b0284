"""Adapters: what peft writes is read as peft reads it, and what would be computed wrongly is refused in words."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tests.adapters_kit import adapted, store
from vicuna import manifest
from vicuna.errors import IncompleteError, InputError
from vicuna.models.adapters import Adapter, adapter_hash, load_adapter, served_hash
from vicuna.train.config import LoraConfig
from vicuna.train.lora import adapter_weights, add_adapter, write_adapter

BASE, TEMPLATE = "b" * 64, "d" * 64
LAYER = "model.layers.1.mlp.up_proj"
HALVES = (f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight")
TENSOR = f"base_model.model.{LAYER}.lora_A.weight"


def make_model():
    torch.manual_seed(0)
    shape = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48,
             "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**shape)).eval()


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture
def folder(model, tmp_path) -> Path:
    return store(model, tmp_path / "adapter", seed=1)


def load(folder: Path, model) -> Adapter:
    return load_adapter(folder, model, checkpoint_hash=BASE, template_hash=TEMPLATE)


def settle(**changes):
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def rewrite(alter):
    def change(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        alter(tensors)
        save_file(tensors, path)

    return change


def drop(*endings: str):
    def alter(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.endswith(endings)]:
            del tensors[name]

    return rewrite(alter)


def put(name: str, tensor: torch.Tensor):
    return rewrite(lambda tensors: tensors.update({name: tensor}))


def scales(model) -> dict[str, float]:
    """By peft: each adapted layer's factor."""
    return {
        name.removeprefix("base_model.model."): each.scaling["default"]
        for name, each in model.named_modules()
        if hasattr(each, "lora_A")
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target_modules": ["q_proj", "down_proj"]},
        {"target_modules": r".*\.1\.mlp\.(up|gate)_proj"},
        {"target_modules": ["v_proj"], "layers_to_transform": [1]},
        {"target_modules": ["v_proj", "o_proj"], "exclude_modules": ["layers.0.self_attn.o_proj"]},
        {"use_rslora": True, "r": 3},
        {"rank_pattern": {"q_proj": 2, r"layers\.0\.mlp\.up_proj": 5}, "alpha_pattern": {"mlp.up_proj": 24}},
        {"init_lora_weights": "gaussian", "lora_dropout": 0.1, "use_rslora": True, "rank_pattern": {"k_proj": 9}},
    ],
)
def test_an_adapter_has_the_layers_halves_and_scales_that_peft_gives_it(model, tmp_path, options):
    theirs = adapted(model, seed=1, **options)
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path, model).layers
    assert {name: low.scale for name, low in ours.items()} == scales(theirs)
    halves = theirs.state_dict()
    for name, low in ours.items():
        assert torch.equal(low.down, halves[f"base_model.model.{name}.lora_A.default.weight"])
        assert torch.equal(low.up, halves[f"base_model.model.{name}.lora_B.default.weight"])


def test_loading_leaves_the_model_as_it_is(folder):
    model = make_model()
    names = [name for name, _ in model.named_modules()]
    load(folder, model)
    assert [name for name, _ in model.named_modules()] == names
    assert all(torch.equal(value, make_model().state_dict()[name]) for name, value in model.state_dict().items())


def test_halves_take_the_type_of_the_layers_that_they_add_to(folder):
    halves = [half for low in load(folder, make_model().bfloat16()).layers.values() for half in (low.down, low.up)]
    assert {half.dtype for half in halves} == {torch.bfloat16}


def test_weights_that_are_pickled_load_too(model, folder):
    before = load(folder, model)
    path = folder / "adapter_model.safetensors"
    torch.save(load_file(path), folder / "adapter_model.bin")
    path.unlink()
    after = load(folder, model)
    assert all(torch.equal(low.up, after.layers[name].up) for name, low in before.layers.items())
    assert after.hash != before.hash


def test_what_our_own_training_writes_is_read(model, tmp_path):
    trained, config = make_model(), LoraConfig(kind="lora", rank=4, alpha=6.0)
    add_adapter(trained, config)
    write_adapter(tmp_path, trained, dict(adapter_weights(trained, seed=3)), "some/base")
    layers = load(tmp_path, model).layers
    assert len(layers) == 14
    assert {low.scale for low in layers.values()} == {1.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (settle(peft_type="LOHA"), "only adapters of type LORA are served; this one is of type LOHA"),
        (settle(use_dora=True), "only plain LoRA is served, and use_dora is True; merge it into its base"),
        (settle(modules_to_save=["lm_head"]), r"modules_to_save is \['lm_head'\]"),
        (settle(bias="lora_only"), "bias is lora_only"),
        (settle(lora_bias=True), "lora_bias is True"),
        (settle(fan_in_fan_out=True), "fan_in_fan_out is True"),
        (settle(trainable_token_indices=[3]), "trainable_token_indices is"),
        (settle(something_of_2027={"a": 1}), "something_of_2027 is {'a': 1}"),
        (settle(init_lora_weights="pissa_niter_4"), "init_lora_weights is pissa_niter_4"),
        (settle(r=0), "a rank is at least 1; got 0"),
        (settle(r="many"), "r, lora_alpha or patterns cannot be used: invalid literal"),
        (settle(alpha_pattern={"(": 2}), "patterns cannot be used: missing"),
        (settle(rank_pattern=3), "patterns cannot be used"),
        (settle(target_modules="("), "target_modules cannot be used: "),
        (settle(r=8), r"have shapes \[4, 48\] and \[32, 4\]; .* ask for \[8, 48\] and \[32, 8\]"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json:1: not JSON"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "holds no settings of an adapter"),
        (lambda folder: (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}'), "json has no r"),
        (
            lambda folder: (folder / "adapter_model.safetensors").unlink(),
            r"no weights of an adapter \(adapter_model.safetensors or adapter_model.bin\)",
        ),
        (
            lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"123"),
            "no weights of an adapter that can be read: SafetensorError",
        ),
        (put(TENSOR, torch.zeros(4, 31)), r"up_proj have shapes \[4, 31\] and .* ask for \[4, 32\]"),
        (put(TENSOR, torch.full((4, 32), torch.nan)), "the tensors of .*up_proj hold numbers that are not finite"),
        (put(TENSOR, torch.full((4, 32), 1e300, dtype=torch.double)), "not finite in torch.float32"),
        (put("base_model.model.model.embed_tokens.lora_embedding_A", torch.zeros(4, 61)), "embedding_A is none"),
        (put(f"base_model.model.{LAYER}.lora_magnitude_vector", torch.zeros(48)), "lora_magnitude_vector is none"),
        (put("base_model.model.lm_head.weight", torch.zeros(61, 32)), "the tensor base_model.model.lm_head.weight is"),
        (drop("lora_A.weight", "lora_B.weight"), "the adapter has no tensors"),
    ],
)
def test_what_is_not_computed_here_is_refused_in_one_line(model, folder, change, message):
    change(folder)
    with pytest.raises(InputError, match=message) as caught:
        load(folder, model)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(f"{LAYER}.lora_B.weight"), f"{LAYER}.lora_B.weight is missing; fetch"),
        (drop(f"{LAYER}.lora_A.weight"), f"{LAYER}.lora_A.weight is missing; fetch"),
        (
            drop(*HALVES),
            f"1 layers that adapter_config.json names have no tensors, e.g. {LAYER}",
        ),
        (
            lambda folder: (settle(target_modules="all-linear")(folder), drop(*HALVES)(folder)),
            f"1 layers that adapter_config.json names have no tensors, e.g. {LAYER}",
        ),
    ],
)  # fmt: skip
def test_an_adapter_with_a_part_missing_is_incomplete(model, folder, change, message):
    change(folder)
    with pytest.raises(IncompleteError, match=message):
        load(folder, model)


def test_an_adapter_of_another_model_is_refused_with_a_layer_that_is_not_there(model, tmp_path):
    larger = LlamaForCausalLM(LlamaConfig(**(model.config.to_dict() | {"num_hidden_layers": 3})))
    store(larger, tmp_path, seed=1)
    with pytest.raises(InputError, match=r"no linear layer model\.layers\.2\.mlp\.down_proj, nor 6 more of 21"):
        load(tmp_path, model)


def test_an_addition_to_the_output_matrix_is_refused(model, tmp_path):
    adapted(model, seed=1, target_modules=["q_proj", "lm_head"]).save_pretrained(tmp_path, save_embedding_layers=False)
    with pytest.raises(InputError, match=r"output matrix .* are not served, and this adapter has one to lm_head"):
        load(tmp_path, model)


def test_no_folder_is_one_line(model, tmp_path):
    with pytest.raises(InputError, match="gone is not a folder, so there is no adapter to load"):
        load(tmp_path / "gone", model)


def made(folder: Path, kind: str = "adapter", base: str = BASE, template: str = TEMPLATE) -> Path:
    manifest.write(folder, kind, parents={"base": base}, facts={"template": "vicuna_v1.1", "template_hash": template})
    return folder


def test_an_adapter_with_its_base_model_and_template_is_loaded_and_its_hash_is_its_manifests(model, folder):
    made(folder)
    assert load(folder, model).hash == adapter_hash(folder) == manifest.read(folder).hash


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"base": "a" * 64}, "trained with the base model of hash aaaaaaaaaaaa, and this worker's has bbbbbbbbbbbb"),
        ({"template": "c" * 64}, "with the template vicuna_v1.1 of hash cccccccccccc, and this worker's has dddddddd"),
        ({"kind": "checkpoint"}, "is of kind checkpoint, not an adapter"),
    ],
)
def test_an_adapter_of_another_base_model_or_template_is_refused_with_both_hashes(model, folder, facts, message):
    made(folder, **facts)
    with pytest.raises(InputError, match=message):
        load(folder, model)


def test_an_adapter_that_changed_since_its_manifest_is_refused(model, folder):
    made(folder)
    drop(*HALVES)(folder)
    settle(target_modules=["q_proj"])(folder)
    with pytest.raises(IncompleteError, match="is changed since the manifest was written"):
        load(folder, model)


def test_a_served_hash_tells_apart_whatever_computes_something_else():
    hashes = {
        served_hash(base, adapter=adapter, quantize=quantize)
        for base in ("x", "y") for adapter in ("", "x", "y") for quantize in ("", "int8", "nf4")
    }  # fmt: skip
    assert len(hashes) == 18
    assert served_hash("x") == "x"
