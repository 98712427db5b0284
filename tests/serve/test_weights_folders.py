"""Folders whose weights cannot be served are refused before anybody is answered, in one line that says why."""

import asyncio
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from serve_stack import Command
from serve_tiny import model, tokenizer

from vicuna import manifest
from vicuna.config import ModelConfig
from vicuna.errors import VicunaError
from vicuna.files import write_json
from vicuna.prompt import template
from vicuna.serve.config import EngineConfig, WorkerConfig
from vicuna.serve.engines.transformers import TransformersEngine

torch = pytest.importorskip("torch")
TEMPLATE = "vicuna_v1.1"
Change = Callable[[Path], Any]


def fill(folder: Path) -> None:
    """Weights in several files, and a tokenizer."""
    words = tokenizer()
    model(vocabulary=len(words)).float().save_pretrained(folder, max_shard_size="50KB")
    words.save_pretrained(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As training leaves it: with a manifest that names the template."""
    folder = tmp_path_factory.mktemp("made") / "tiny"
    facts = {"template": TEMPLATE, "template_hash": template(TEMPLATE).hash}
    with manifest.making(folder, "checkpoint", facts=facts) as part:
        fill(part)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "tiny")


@pytest.fixture
def foreign(folder: Path) -> Path:
    """From elsewhere: without a manifest."""
    (folder / manifest.NAME).unlink()
    return folder


def shards(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.safetensors"))
    assert len(found) > 2
    return found


def rewrite(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    tree = json.loads((folder / name).read_text())
    change(tree)
    write_json(folder / name, tree)


def settings(**changes: Any) -> Change:
    return lambda folder: rewrite(folder, "config.json", lambda tree: tree.update(changes))


def without_a_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    for shard in shards(folder):
        tensors = load_file(shard)
        if tensors.pop("model.norm.weight", None) is not None:
            save_file(tensors, shard, {"format": "pt"})
    rewrite(folder, "model.safetensors.index.json", lambda tree: tree["weight_map"].pop("model.norm.weight"))


def without_a_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def another_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def another(kind: str) -> Change:
    """A whole and healthy model of another kind."""

    def change(folder: Path) -> None:
        import transformers

        shape = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "bos_token_id": 0, "eos_token_id": 1}
        heads = {"num_attention_heads": 4, "intermediate_size": 64}
        t5 = {"vocab_size": 400, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
        makers: dict[str, Callable[[], Any]] = {
            "t5": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**t5)),
            "clip": lambda: transformers.CLIPVisionModel(
                transformers.CLIPVisionConfig(hidden_size=32, num_hidden_layers=1, **heads)
            ),
            "mamba": lambda: transformers.MambaForCausalLM(transformers.MambaConfig(**shape, state_size=8)),
            "bloom": lambda: transformers.BloomForCausalLM(transformers.BloomConfig(**shape, n_head=4)),
            "gemma2": lambda: transformers.Gemma2ForCausalLM(
                transformers.Gemma2Config(**shape, **heads, num_key_value_heads=2, head_dim=8)
            ),
        }
        for path in [*shards(folder), folder / "model.safetensors.index.json"]:
            path.unlink()
        makers[kind]().save_pretrained(folder)

    return change


def start(folder: Path, wanted: str) -> None:
    """What the command `worker` does before it joins anybody."""

    async def serve() -> None:
        config = ModelConfig(path=str(folder), template=wanted, max_length=128)
        engine = TransformersEngine(WorkerConfig(model=config, engine=EngineConfig(slots=2, memory=0.01, threads=1)))
        try:
            await engine.start()
        finally:
            await engine.close()

    asyncio.run(serve())


def refusal(folder: Path, wanted: str = "") -> str:
    """Why it is not served."""
    with pytest.raises(VicunaError) as caught:
        start(folder, wanted)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 600
    return said


def test_a_whole_folder_is_served_with_and_without_a_manifest(folder: Path) -> None:
    start(folder, "")
    (folder / manifest.NAME).unlink()
    start(folder, TEMPLATE)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: shards(folder)[1].unlink(), "model-00002-of-"),
        (
            lambda folder: os.truncate(shards(folder)[1], 5000),
            "no causal language model that can be read: .*Safetensor",
        ),
        (lambda folder: os.truncate(shards(folder)[0], 0), "no causal language model that can be read: .*Safetensor"),
        (without_a_tensor, "1 tensors are missing, e.g. model.norm.weight; fetch or make it again"),
        (without_a_tokenizer, "holds no tokenizer"),
        (settings(model_type="gpt_neox"), "tensors are missing, e.g. .*; fetch or make it again"),
        (settings(num_hidden_layers=3), "9 tensors are missing, e.g. model.layers.2"),
        (settings(hidden_size=64), "tensors are of another shape than config.json says, e.g. .*; fetch or make"),
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (another("t5"), "holds no causal language model that can be read: .*T5Config"),
        (another("clip"), "holds no causal language model that can be read: .*CLIPVisionConfig"),
        (another("mamba"), "cannot batch layers of kind linear_attention"),
        (another("bloom"), "cannot batch BloomForCausalLM: its attention is its own"),
        (another("gemma2"), "soft-capped scores"),
    ],
)
def test_weights_from_elsewhere_that_are_damaged_or_of_another_kind(foreign: Path, change: Change, reason: str) -> None:
    change(foreign)
    assert re.search(reason, refusal(foreign, TEMPLATE))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: shards(folder)[1].unlink(), "model-00002-of-.* is missing since the manifest was written"),
        (lambda folder: another_byte(shards(folder)[0]), "model-00001-of-.* since the manifest was written"),
        (
            lambda folder: (folder / "tokenizer.json").open("a").write(" "),
            "tokenizer.json .*since the manifest was written",
        ),
        (
            lambda folder: rewrite(folder, manifest.NAME, lambda tree: tree.update(hash="0" * 64)),
            "its hash is not that of the files",
        ),
    ],
)
def test_weights_that_are_not_those_of_their_manifest(folder: Path, change: Change, reason: str) -> None:
    change(folder)
    assert re.search(reason, refusal(folder))


def test_weights_that_were_trained_with_another_template(folder: Path) -> None:
    assert "was trained with template vicuna_v1.1, not vicuna_v0; leave the template unset" in refusal(
        folder, "vicuna_v0"
    )
    rewrite(folder, manifest.NAME, lambda tree: tree["facts"].update(template_hash="0" * 64))
    assert "was trained with template vicuna_v1.1 of hash 000000000000; it is " in refusal(folder)


def test_weights_of_which_nothing_says_with_which_template_they_were_trained(foreign: Path) -> None:
    said = refusal(foreign)
    assert "which prompt template" in said
    assert "--model.template" in said


def test_the_command_ends_with_the_reason_in_one_line(folder: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    shards(damaged)[1].unlink()
    rewrite(folder, manifest.NAME, lambda tree: tree["facts"].update(template_hash="0" * 64))
    commands = [Command(tmp_path / "log", "worker", "--model.path", str(each)) for each in (damaged, folder)]
    for command, reason in zip(commands, ["is missing since the manifest", "of hash 000000000000"], strict=True):
        try:
            assert command.wait() == 1
        finally:
            command.end()
        lines = [line for line in command.output().splitlines() if "error:" in line]
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
        assert reason in lines[0]
        assert "Traceback" not in command.output()
        assert "listens" not in command.output()
