"""Loading: what belongs together is loaded, and every damage is one line that names the folder."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.tokenizers_kinds import MAKERS, tokenizer_of
from vicuna import manifest
from vicuna.errors import IncompleteError, InputError, VicunaError
from vicuna.files import write_json, write_text
from vicuna.models.load import checkpoint_hash, load_model, load_template, load_tokenizer
from vicuna.prompt import template

CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|im_end|>{% endfor %}"


def model_of(rows: int) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=rows, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=64, tie_word_embeddings=False,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "model"
    tokenizer = MAKERS["byte-level"]()
    with manifest.making(folder, "checkpoint") as part:
        model_of(len(tokenizer)).save_pretrained(part)
        tokenizer.save_pretrained(part)
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    """A checkpoint from elsewhere: without a manifest."""
    shutil.copytree(made, tmp_path / "model")
    (tmp_path / "model" / manifest.NAME).unlink()
    return tmp_path / "model"


def load(path: Path):
    return load_model(path, torch.float32, "cpu")


def settle(**changes):
    def change(folder: Path) -> None:
        path = folder / "config.json"
        write_json(path, {**json.loads(path.read_text()), **changes})

    return change


def cut(name: str, size: int):
    return lambda folder: os.truncate(folder / name, size)


def pickled(folder: Path) -> None:
    torch.save(load(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def test_weights_in_either_form_load(folder):
    before = load(folder).state_dict()
    pickled(folder)
    after = load(folder).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            cut("model.safetensors", 0),
            r"no causal language model that can be read: SafetensorError: .*header too small",
        ),
        (cut("model.safetensors", 1000), "no causal language model that can be read: SafetensorError"),
        (cut("model.safetensors", 20_000), "no causal language model that can be read: SafetensorError"),
        (
            lambda folder: (folder / "model.safetensors").unlink(),
            r"no weights \(\*.safetensors or pytorch_model\*.bin\)",
        ),
        (lambda folder: (pickled(folder), cut("pytorch_model.bin", 1000)(folder)), "RuntimeError: PytorchStreamReader"),
        (lambda folder: (pickled(folder), cut("pytorch_model.bin", 0)(folder)), "can be read: EOFError$"),
        (settle(hidden_size=32), r"\d+ tensors are of another shape than config.json says, e.g. .* is \[.*, not \["),
        (settle(num_hidden_layers=3), r"9 tensors are missing, e.g. model.layers.2.input_layernorm.weight"),
        (settle(model_type="nobody"), "model type `nobody`"),
        (settle(model_type="t5"), "Unrecognized configuration class .*…$"),
        (settle(hidden_size="wide"), "StrictDataclassFieldValidationError: .*'hidden_size' expected int"),
        (settle(num_attention_heads=0), "ZeroDivisionError"),
        (cut("config.json", 30), "not a valid JSON file"),
        (cut("generation_config.json", 20), r"generation_config.json:\d+: not JSON"),
    ],
)
def test_damaged_weights_are_one_line_that_names_the_folder(folder, change, message):
    change(folder)
    with pytest.raises(VicunaError, match=message) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut("tokenizer.json", 100), "JSONDecodeError: Expecting value"),
        (lambda folder: write_text(folder / "tokenizer.json", "{}"), "KeyError: 'added_tokens'"),
        (lambda folder: write_text(folder / "tokenizer.json", "[]"), "TypeError: "),
        (lambda folder: write_text(folder / "tokenizer_config.json", "[]"), "AttributeError: "),
        (lambda folder: _other_kind(folder / "tokenizer.json"), "Exception: data did not match any variant"),
    ],
)
def test_a_damaged_tokenizer_is_one_line_that_names_the_folder(folder, change, message):
    change(folder)
    with pytest.raises(InputError, match=f"holds no tokenizer that transformers can read: .*{message}") as caught:
        load_tokenizer(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def _other_kind(path: Path) -> None:
    tree = json.loads(path.read_text())
    tree["model"]["type"] = "Other"
    write_json(path, tree)


def test_tensors_that_the_model_does_not_have_are_said(folder, caplog):
    settle(num_hidden_layers=1)(folder)
    load(folder)
    assert "9 tensors are not part of the model and not used, e.g. model.layers.1." in caplog.text


@pytest.mark.parametrize("name", ["generation_config.json", "extra.json"])
def test_a_folder_whose_files_are_not_those_of_its_manifest_is_not_loaded(made, tmp_path, name):
    folder = shutil.copytree(made, tmp_path / "model")
    load(folder)
    (folder / name).unlink() if (folder / name).exists() else write_json(folder / name, {})
    with pytest.raises(IncompleteError, match=rf"model/{name} is (missing|new) since the manifest was written"):
        load(folder)


def test_a_damaged_manifest_is_not_taken_for_none(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "model")
    os.truncate(folder / manifest.NAME, 50)
    for use in (load, load_template, checkpoint_hash):
        with pytest.raises(IncompleteError, match=r"manifest.json:\d+: not JSON"):
            use(folder)


def test_the_hash_of_a_checkpoint_is_the_manifests_only_where_the_files_are_as_it_says(made, folder, tmp_path):
    assert checkpoint_hash(folder) == checkpoint_hash(made) == manifest.read(made).hash
    changed = shutil.copytree(made, tmp_path / "changed")
    with open(changed / "model.safetensors", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    with pytest.raises(IncompleteError, match=r"changed/model.safetensors is changed"):
        checkpoint_hash(changed)
    with pytest.raises(InputError, match="nowhere is not a folder"):
        checkpoint_hash(tmp_path / "nowhere")


def test_a_folder_without_a_tokenizer_says_what_it_lacks(folder):
    for each in folder.glob("token*"):
        each.unlink()
    with pytest.raises(InputError, match=r"holds no tokenizer \(tokenizer.json, tokenizer.model"):
        load_tokenizer(folder)


def with_chat_template(folder: Path, **facts: str) -> str:
    """Give a checkpoint a chat template and a manifest with these facts; the template's name."""
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    chosen = template(load_tokenizer(folder))
    if facts:
        manifest.write(folder, "checkpoint", facts={"template": chosen.name, "template_hash": chosen.hash, **facts})
    return chosen.name


def test_the_stored_chat_template_may_be_named_and_no_other(folder):
    name = with_chat_template(folder, trained="yes")
    assert load_template(folder).name == load_template(folder, name).name == name
    with pytest.raises(InputError, match=f"was trained with template {name}, not vicuna_v1.1"):
        load_template(folder, "vicuna_v1.1")
    with pytest.raises(InputError, match=f"was trained with template {name}, not chat-0"):
        load_template(folder, "chat-0")


def test_a_chat_template_that_changed_after_training_is_refused(folder):
    with_chat_template(folder, template="chat-0", template_hash="0" * 64)
    with pytest.raises(InputError, match=r"was trained with template chat-0 of hash 000000000000; it is "):
        load_template(folder)


def test_without_a_manifest_a_chat_template_may_be_named_too(folder):
    with pytest.raises(InputError, match="says which prompt template it was trained with; name one"):
        load_template(folder)
    name = with_chat_template(folder)
    assert load_template(folder, name).name == name
    with pytest.raises(InputError, match=f"has the chat template {name}, not chat-0"):
        load_template(folder, "chat-0")


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_a_tokenizer_is_the_one_that_transformers_would_choose(kind, tmp_path):
    tokenizer_of(kind).save_pretrained(tmp_path)
    ours, theirs = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert type(ours) is type(theirs)
    assert ours.special_tokens_map == theirs.special_tokens_map
    text = "USER: Naïve  words, 日本 and\n\tcode <s></s> ASSISTANT: yes"
    assert ours(text) == theirs(text)
