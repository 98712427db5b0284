"""Tokenizers, random weights and datasets as artefacts: never written over, never believed unread."""

import shutil
from pathlib import Path

import pytest

from vicuna import manifest
from vicuna.conversation import Conversation, Message, write_conversations
from vicuna.errors import IncompleteError, InputError
from vicuna.files import write_text
from vicuna.train.config import InitConfig, TokenizerConfig
from vicuna.train.dataset import dataset_hash, files_of
from vicuna.train.init import main as init
from vicuna.train.tokenizer import main as tokenizer

SIZES = {"hidden": 32, "layers": 2, "heads": 2, "intermediate": 64, "max_length": 256}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def dataset(tmp_path) -> Path:
    chat = Conversation("c", (Message("user", "a"), Message("assistant", "b")))
    write_conversations(tmp_path / "data" / "conversations" / "00000.jsonl", [chat])
    write_text(tmp_path / "data" / "ledger.jsonl", "")
    manifest.write(tmp_path / "data", "dataset")
    return tmp_path / "data"


def test_other_work_at_the_place_is_refused_and_not_touched(world):
    before = files(world / "init"), files(world / "tokenizer")
    with pytest.raises(InputError, match=r"init holds other work \(kind checkpoint\); choose another --out"):
        init(InitConfig(tokenizer=str(world / "tokenizer"), out=str(world / "init"), seed=1, **SIZES))
    with pytest.raises(InputError, match=r"init holds other work \(kind checkpoint\); choose another --out"):
        tokenizer(TokenizerConfig(inputs=(str(world / "chats.jsonl"),), out=str(world / "init"), size=451))
    with pytest.raises(InputError, match=r"tokenizer holds other work \(kind tokenizer\); choose another --out"):
        tokenizer(TokenizerConfig(inputs=(str(world / "chats.jsonl"),), out=str(world / "tokenizer"), size=400))
    assert (files(world / "init"), files(world / "tokenizer")) == before
    assert not list(world.glob(".*"))


def test_work_is_the_same_wherever_it_and_its_inputs_stand(world, tmp_path, capsys):
    moved = shutil.copytree(world, tmp_path / "moved")
    tokenizer(TokenizerConfig(inputs=(str(moved / "chats.jsonl"),), out=str(moved / "tokenizer"), size=451))
    init(InitConfig(tokenizer=str(moved / "tokenizer"), out=str(moved / "init"), **SIZES))
    assert capsys.readouterr().out.count("is made already") == 2
    init(InitConfig(tokenizer=str(moved / "tokenizer"), out=str(tmp_path / "again"), **SIZES))
    assert manifest.read(tmp_path / "again").hash == manifest.read(world / "init").hash
    for name in ("init", "tokenizer"):
        assert str(world) not in (world / name / manifest.NAME).read_text()


def test_a_tokenizer_that_changed_since_it_was_made_is_refused(world, tmp_path):
    copy = shutil.copytree(world / "tokenizer", tmp_path / "tokenizer")
    with open(copy / "tokenizer.json", "a") as file:
        file.write("\n")
    with pytest.raises(IncompleteError, match=r"tokenizer.json is changed since the manifest was written"):
        init(InitConfig(tokenizer=str(copy), out=str(tmp_path / "init"), **SIZES))
    assert not (tmp_path / "init").exists()


@pytest.mark.parametrize("change", ["changed", "new", "missing"])
def test_a_dataset_that_changed_since_it_was_made_is_refused(dataset, change):
    first = dataset / "conversations" / "00000.jsonl"
    if change == "missing":
        first.unlink()
    else:
        write_text(first if change == "changed" else dataset / "conversations" / "00001.jsonl", "{}\n")
    with pytest.raises(IncompleteError, match=rf"conversations/0000\d.jsonl is {change}"):
        dataset_hash(dataset)


def test_only_the_files_that_the_manifest_names_are_read(dataset):
    write_text(dataset / "conversations" / "00001.jsonl", "{}\n")
    assert [path.name for path in files_of(dataset)] == ["00000.jsonl"]


def test_a_folder_without_conversations_is_named_with_what_it_is(world, tmp_path):
    with pytest.raises(InputError, match=r"init \(checkpoint\) holds no conversations"):
        files_of(world / "init")
    for use in (files_of, dataset_hash):
        with pytest.raises(InputError, match="nowhere: no such file or folder"):
            use(tmp_path / "nowhere")
