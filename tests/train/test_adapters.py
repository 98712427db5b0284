"""Whole runs that learn an adapter: what they leave, and that it is the same on one rank and on two."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.train import runs
from vicuna import manifest
from vicuna.models.load import load_model

LORA = {"kind": "lora", "rank": 4, "alpha": 8.0}


def adapter(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def learnt(world, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("learnt")
    runs.train(world, out, lora=LORA)
    return out


def last_hidden(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(4, 40)[None], use_cache=False).logits


def test_a_run_leaves_an_adapter_that_peft_puts_on_the_base_model(world, learnt):
    from peft import PeftModel

    made = manifest.verify(learnt / "model")
    assert made.kind == "adapter"
    assert made.facts["template"] == "vicuna_v1.1"
    assert runs.losses(learnt)[-1][1] < runs.losses(learnt)[0][1]
    base = load_model(world / "init", torch.float32, "cpu")
    before = last_hidden(base)
    assert not torch.allclose(last_hidden(PeftModel.from_pretrained(base, learnt / "model").eval()), before)


def test_a_merged_run_leaves_a_whole_model_that_computes_the_same(world, learnt, tmp_path):
    from peft import PeftModel

    runs.train(world, tmp_path, lora=LORA | {"merge": True})
    assert manifest.verify(tmp_path / "model").kind == "checkpoint"
    whole = load_model(tmp_path / "model", torch.float32, "cpu")
    base = load_model(world / "init", torch.float32, "cpu")
    apart = PeftModel.from_pretrained(base, learnt / "model").eval()
    assert torch.allclose(last_hidden(whole), last_hidden(apart), atol=1e-5)


def test_a_finished_adapter_is_not_learnt_again(world, learnt, capsys):
    runs.train(world, learnt, lora=LORA)
    assert "is trained already" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_two_ranks_learn_the_adapter_that_one_learns(world, tmp_path, kind):
    """LoRA shards the frozen weights; QLoRA keeps them whole in 4 bits and adds up the gradients."""
    more = {"lora": LORA | {"kind": kind}, "batch": {"max_steps": 6}}
    runs.train(world, tmp_path / "one", **more)
    child = runs.start(world, tmp_path / "two", launch={"ranks": 2}, **more)
    _, said = child.communicate(timeout=180)
    assert child.returncode == 0, said
    one, two = adapter(tmp_path / "one"), adapter(tmp_path / "two")
    assert all(torch.allclose(one[name], two[name], atol=2e-4) for name in one)


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_a_killed_run_goes_on_bit_for_bit(world, tmp_path, kind):
    more = {"lora": LORA | {"kind": kind, "dropout": 0.1}, "checkpoint": {"asynchronous": False}}
    runs.train(world, tmp_path / "unbroken", **more)
    child = runs.start(world, tmp_path / "run", **more)
    runs.wait_for_steps(child, tmp_path / "run", 8)
    child.kill()
    child.communicate()
    runs.train(world, tmp_path / "run", **more)
    assert runs.losses(tmp_path / "run") == runs.losses(tmp_path / "unbroken")
    one, other = adapter(tmp_path / "run"), adapter(tmp_path / "unbroken")
    assert all(torch.equal(one[name], other[name]) for name in one)
