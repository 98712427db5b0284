"""Whole runs on one rank: what they leave, what kills cannot take from them, and what they say of mistakes."""

import json
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train import runs
from tests.train.conftest import CAPITALS
from vicuna import manifest
from vicuna.conversation import Conversation, Message, write_conversations
from vicuna.errors import VicunaError
from vicuna.files import read_jsonl
from vicuna.models.load import load_model, load_template, load_tokenizer
from vicuna.prompt import encode_prompt


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    runs.train(world, out)
    return out


def interrupt(world: Path, out: Path, steps: int, **more) -> None:
    """Kill a run after so many steps."""
    child = runs.start(world, out, **more)
    runs.wait_for_steps(child, out, steps)
    child.send_signal(signal.SIGKILL)
    child.communicate()


def test_a_run_leaves_an_ordinary_checkpoint_that_says_what_it_is(world, finished):
    model = finished / "model"
    facts = manifest.verify(model).facts
    assert facts["template"] == "vicuna_v1.1"
    assert load_template(model).hash == facts["template_hash"]
    assert {"model.safetensors", "config.json", "tokenizer.json", "generation_config.json", "chat_template.jinja"} <= {
        each.name for each in model.iterdir()
    }
    generation = json.loads((model / "generation_config.json").read_text())
    assert generation["eos_token_id"] == load_tokenizer(model).eos_token_id
    assert manifest.read(model).parents["base"] == manifest.read(world / "init").hash
    assert not (finished / "checkpoints").exists()
    assert (finished / "report.html").exists()


def test_the_chat_template_in_the_folder_gives_the_tokens_that_were_trained(finished):
    tokenizer = load_tokenizer(finished / "model")
    rows = [{"role": "user", "content": "What is the capital of Peru?"}]
    ids = tokenizer.apply_chat_template(rows, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids == encode_prompt([Message("user", rows[0]["content"])], tokenizer, load_template(finished / "model"))


def test_a_finished_run_is_not_done_again(world, finished, capsys):
    before = (finished / "model" / "manifest.json").stat().st_mtime_ns
    runs.train(world, finished)
    assert "is trained already" in capsys.readouterr().out
    assert (finished / "model" / "manifest.json").stat().st_mtime_ns == before


def test_another_run_is_not_written_over_a_finished_one(world, finished):
    with pytest.raises(VicunaError, match=r"is of a run with another optim\.lr"):
        runs.train(world, finished, optim={"lr": 1e-3})


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(10))
def test_kill_9_at_any_moment_and_a_new_start_give_the_same_bits(world, finished, tmp_path, moment):
    """At most the steps since the last checkpoint are done twice; losses and weights equal the unbroken run's."""
    out = tmp_path / "run"
    interrupt(world, out, random.Random(moment).randint(1, len(runs.losses(finished)) - 1))
    if (out / "model").exists():  # what has its name is whole
        manifest.verify(out / "model")
    runs.train(world, out)
    assert runs.losses(out) == runs.losses(finished)
    assert runs.same_weights(out, finished)


def test_a_model_that_could_not_be_written_costs_no_step(world, finished, tmp_path, capsys):
    """Whatever ends a run while it writes its model: the newest checkpoint is that of the last step."""
    out = tmp_path / "run"
    child = runs.start(world, out)
    runs.wait_for_steps(child, out, 1)
    (out / "model").mkdir()
    (out / "model" / "notes.txt").write_text("of somebody else")
    _, said = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "model holds other files (notes.txt)" in said
    shutil.rmtree(out / "model")
    runs.train(world, out)
    assert f"going on after step {len(runs.losses(finished))}" in capsys.readouterr().out
    assert runs.losses(out) == runs.losses(finished)
    assert runs.same_weights(out, finished)


def test_what_a_kill_after_the_model_left_to_do_is_done_at_the_next_start(world, finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "report.html").unlink()
    (out / "checkpoints" / "step-00000003").mkdir(parents=True)
    runs.train(world, out)
    assert (out / "report.html").exists()
    assert not (out / "checkpoints").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_where_it_stands(world, tmp_path, number, status):
    out = tmp_path / "run"
    child = runs.start(world, out, checkpoint={"every": 0}, batch={"epochs": 200})
    runs.wait_for_steps(child, out, 2)
    child.send_signal(number)
    _, said = child.communicate(timeout=60)
    assert child.returncode == status
    assert "start again to go on from there" in said
    assert "Traceback" not in said
    (saved,) = (out / "checkpoints").glob("step-*")
    assert runs.position(saved)["step"] == len(runs.losses(out))


def test_a_torn_checkpoint_is_passed_over_for_the_one_before(world, finished, tmp_path, caplog):
    out = tmp_path / "run"
    interrupt(world, out, 8, checkpoint={"asynchronous": False})
    newest = sorted((out / "checkpoints").glob("step-*"))[-1]
    torn = max(newest.iterdir(), key=lambda each: each.stat().st_size)
    with open(torn, "r+b") as file:
        file.truncate(1000)
    runs.train(world, out)
    assert f"{newest.name}/{torn.name} is changed" in caplog.text
    assert runs.losses(out) == runs.losses(finished)
    assert runs.same_weights(out, finished)


def test_checkpoints_of_other_settings_are_refused_by_name(world, tmp_path):
    interrupt(world, tmp_path, 5, checkpoint={"asynchronous": False})
    with pytest.raises(VicunaError, match=r"another optim.lr"):
        runs.train(world, tmp_path, optim={"lr": 1e-3})


def test_a_run_may_go_on_with_other_means(world, tmp_path, capsys):
    """Recomputation, sharding, threads and the interval of checkpoints are not what a run is."""
    interrupt(world, tmp_path, 5, checkpoint={"asynchronous": False})
    stored = runs.position(sorted((tmp_path / "checkpoints").glob("step-*"))[-1])["step"]
    assert stored >= 3
    runs.train(world, tmp_path, gradient_checkpointing=2, parallel={"shard": "on"}, checkpoint={"every": 5})
    assert f"going on after step {stored}\n" in capsys.readouterr().out


def test_a_model_learns_a_few_chats_by_heart_and_says_them(world, tmp_path):
    chats = [
        Conversation(country, (Message("user", f"Capital of {country}?"), Message("assistant", f"It is {city}.")))
        for country, city in CAPITALS.items()
    ]
    write_conversations(tmp_path / "few.jsonl", chats)
    runs.train(world, tmp_path / "run", data={"path": str(tmp_path / "few.jsonl")}, batch={"epochs": 400, "bins": 1},
               optim={"lr": 4e-3}, checkpoint={"every": 0})  # fmt: skip
    folder = tmp_path / "run" / "model"
    tokenizer, model = load_tokenizer(folder), load_model(folder, torch.float32, "cpu")
    for chat in chats:
        ids = encode_prompt(chat.messages[:1], tokenizer, load_template(folder))
        said = model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False)[0, len(ids) :]
        assert tokenizer.decode(said) == chat.messages[1].content + "</s>"
    assert runs.losses(tmp_path / "run")[-1][1] < 0.01


def test_plain_text_trains_a_base_model_that_has_no_template(world, tmp_path):
    runs.train(world, tmp_path, data={"format": "text"}, batch={"epochs": 1})
    assert "template" not in manifest.read(tmp_path / "model").facts


def test_bfloat16_trains_too_and_the_folder_keeps_the_base_models_type(world, tmp_path):
    runs.train(world, tmp_path, dtype="bfloat16", batch={"epochs": 1}, checkpoint={"every": 0})
    assert {each.dtype for each in runs.weights(tmp_path).values()} == {torch.float32}


def test_the_folder_may_have_another_type(world, tmp_path):
    runs.train(world, tmp_path, batch={"max_steps": 1}, export={"dtype": "bfloat16"})
    assert {each.dtype for each in runs.weights(tmp_path).values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("every", [1, 2])
def test_recomputing_activations_changes_nothing(world, finished, tmp_path, every):
    runs.train(world, tmp_path, gradient_checkpointing=every)
    assert runs.same_weights(tmp_path, finished, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("every", [0, 1])
def test_compiled_layers_learn_the_same_and_recomputed_ones_are_compiled_too(world, tmp_path, every):
    from torch._dynamo.utils import counters

    short: dict[str, Any] = {"batch": {"max_steps": 3}, "gradient_checkpointing": every}
    runs.train(world, tmp_path / "plain", **short)
    counters.clear()
    runs.train(world, tmp_path / "compiled", compile=True, **short)
    assert counters["stats"]["unique_graphs"] > 1
    assert runs.same_weights(tmp_path / "compiled", tmp_path / "plain", atol=1e-5)


def test_held_out_chats_are_not_learnt_and_their_loss_is_told(world, tmp_path):
    runs.train(world, tmp_path, data={"held_out_share": 0.2}, track={"held_out_every": 3})
    facts = manifest.read(tmp_path / "model").facts
    assert facts["samples"] < 60
    rows = [row for _, row in read_jsonl(tmp_path / "held_out.jsonl")]
    last = runs.losses(tmp_path)[-1][0]
    assert [row["step"] for row in rows] == sorted({*range(3, last + 1, 3), last})
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_a_base_models_contradictory_sampling_settings_do_not_stop_the_save(world, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    for each in (world / "init").iterdir():
        if each.name != "manifest.json":
            (base / each.name).write_bytes(each.read_bytes())
    (base / "generation_config.json").write_text('{"temperature": 0.9, "top_p": 0.6, "do_sample": false}')
    runs.train(world, tmp_path / "run", model={"path": str(base)}, batch={"max_steps": 1})
    assert "temperature" not in json.loads((tmp_path / "run" / "model" / "generation_config.json").read_text())


def test_a_disk_that_takes_no_more_is_one_line_and_leaves_nothing_that_looks_whole(world, tmp_path):
    """A limit on the size of files stands in for the full disk."""
    out = tmp_path / "run"
    child = runs.start(world, out, checkpoint={"every": 0}, limit=60_000)
    _, said = child.communicate(timeout=120)
    assert child.returncode == 1
    assert f"error: cannot write {out / 'model'}" in said
    assert "Traceback" not in said
    assert not list(out.glob("*model*"))


def test_a_dry_run_says_what_the_run_would_take_and_makes_no_model(world, tmp_path, capsys):
    runs.train(world, tmp_path, dry_run=True, launch={"gpu": "H100"})
    said = capsys.readouterr().out
    assert "H100" in said
    assert "$" in said
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"data": {"path": ""}}, "data.path is missing"),
        ({"data": {"path": "/nowhere"}}, "/nowhere"),
        ({"model": {"path": ""}}, "model.path is missing"),
        ({"model": {"path": "/nowhere"}}, "/nowhere is not a folder"),
        ({"model": {"template": "vicuna"}}, "unknown prompt template 'vicuna'; known: vicuna_v1.1"),
        ({"model": {"max_length": 512}, "batch": {"tokens": 512}}, "model.max_length is 512, and .* has 256 positions"),
        ({"device": "cuda"}, "torch sees no CUDA device"),
        ({"parallel": {"cpu_offload": True}}, "this run is on the CPU"),
        ({"attention": "flash2"}, "flash"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="some cases need a machine without CUDA")
def test_mistakes_are_one_line(world, tmp_path, more, message):
    with pytest.raises(VicunaError, match=message):
        runs.train(world, tmp_path, **more)


def test_an_unfinished_dataset_is_refused(world, tmp_path):
    (tmp_path / "data" / "conversations").mkdir(parents=True)
    with pytest.raises(VicunaError, match=r"has no manifest.json: it is incomplete"):
        runs.train(world, tmp_path / "run", data={"path": str(tmp_path / "data")})


def test_rows_that_cannot_be_learnt_are_counted_and_a_run_without_any_is_refused(world, tmp_path):
    long = Conversation("long", (Message("user", "x " * 500), Message("assistant", "y")))
    write_conversations(tmp_path / "long.jsonl", [long])
    with pytest.raises(VicunaError, match=r"longer than 256 tokens"):
        runs.train(world, tmp_path / "run", data={"path": str(tmp_path / "long.jsonl")})


def test_an_invalid_conversation_is_named(world, tmp_path):
    write_conversations(tmp_path / "bad.jsonl", [Conversation("b", (Message("user", "x"),), source="here")])
    with pytest.raises(VicunaError, match=r"here \(b\): it ends with user.*clean it with vicuna.data"):
        runs.train(world, tmp_path / "run", data={"path": str(tmp_path / "bad.jsonl")})


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step_its_samples_and_the_last_checkpoint(world, tmp_path):
    with pytest.raises(VicunaError, match=r"step \d+: loss .*\(samples c\d+.*checkpoint"):
        runs.train(world, tmp_path, optim={"lr": 1e30, "warmup": 0.0}, batch={"epochs": 50})
    assert not (tmp_path / "model").exists()
