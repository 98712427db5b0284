"""Whole runs: what they leave, what kills cannot take from them, and what they say of mistakes."""

import json
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.train.conftest import CAPITALS
from vicuna import manifest
from vicuna.config import from_dict
from vicuna.conversation import Conversation, Message, write_conversations
from vicuna.errors import VicunaError
from vicuna.models.load import load_model, load_template, load_tokenizer
from vicuna.prompt import encode_prompt
from vicuna.train.config import TrainConfig
from vicuna.train.metrics import read_steps
from vicuna.train.run import main


def settings(world: Path, out: Path, **more) -> dict:
    tree = {
        "out": str(out),
        "model": {"path": str(world / "init"), "template": "vicuna_v1.1", "max_length": 256},
        "data": {"path": str(world / "chats.jsonl")},
        "optim": {"lr": 5e-3},
        "batch": {"tokens": 512, "epochs": 2},
        "checkpoint": {"every": 3},
        "threads": 1,
    }
    for key, value in more.items():
        tree[key] = {**tree.get(key, {}), **value} if isinstance(value, dict) else value
    return tree


def train(world: Path, out: Path, **more) -> None:
    main(from_dict(TrainConfig, settings(world, out, **more), "a test"))


def start(world: Path, out: Path, limit: int = resource.RLIM_INFINITY, **more) -> subprocess.Popen[str]:
    """The same run as a process of its own, which may write files of at most `limit` bytes."""
    words = []
    for key, value in settings(world, out, **more).items():
        inner = {f"{key}.{name}": each for name, each in value.items()} if isinstance(value, dict) else {key: value}
        words += [word for name, each in inner.items() for word in (f"--{name}", str(each))]
    return subprocess.Popen(
        [sys.executable, "-m", "vicuna.train", *words], stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    train(world, out)
    return out


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


def test_the_chat_template_in_the_folder_gives_the_tokens_that_were_trained(finished):
    tokenizer = load_tokenizer(finished / "model")
    rows = [{"role": "user", "content": "What is the capital of Peru?"}]
    ids = tokenizer.apply_chat_template(rows, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids == encode_prompt([Message("user", rows[0]["content"])], tokenizer, load_template(finished / "model"))


def test_a_finished_run_is_not_done_again(world, finished, capsys):
    before = (finished / "model" / "manifest.json").stat().st_mtime_ns
    train(world, finished)
    assert "is trained already" in capsys.readouterr().out
    assert (finished / "model" / "manifest.json").stat().st_mtime_ns == before


def test_another_run_is_not_written_over_a_finished_one(world, finished):
    with pytest.raises(VicunaError, match="model holds other work"):
        train(world, finished, optim={"lr": 1e-3})


@pytest.mark.parametrize("moment", range(3))
def test_kill_9_at_any_moment_and_a_new_start_give_the_same_bits(world, finished, tmp_path, moment):
    """At most the steps since the last checkpoint are done twice; losses and weights equal the unbroken run's."""
    out = tmp_path / "run"
    steps = len(read_steps(finished / "metrics.jsonl"))
    kill_after = random.Random(moment).randint(2, steps - 1)
    child = start(world, out)
    log, deadline = out / "metrics.jsonl", time.monotonic() + 120
    while child.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.read_text().count("\n") >= kill_after:
            break
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert not (out / "model" / "manifest.json").exists() or child.returncode == 0
    train(world, out)
    assert [(s.step, s.loss, s.grad_norm) for s in read_steps(log)] == [
        (s.step, s.loss, s.grad_norm) for s in read_steps(finished / "metrics.jsonl")
    ]
    ours, theirs = (load_file(each / "model" / "model.safetensors") for each in (out, finished))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_where_it_stands(world, tmp_path, number, status):
    out = tmp_path / "run"
    child = start(world, out, checkpoint={"every": 0}, batch={"epochs": 200})
    log, deadline = out / "metrics.jsonl", time.monotonic() + 120
    while not (log.exists() and log.read_text().count("\n") >= 2) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(number)
    _, said = child.communicate(timeout=60)
    assert child.returncode == status
    assert "start again to go on from there" in said
    assert "Traceback" not in said
    (saved,) = (out / "checkpoints").iterdir()
    assert json.loads((saved / "position.json").read_text())["step"] == len(read_steps(log))


def test_a_torn_checkpoint_is_passed_over_for_the_one_before(world, finished, tmp_path, caplog):
    out = tmp_path / "run"
    with pytest.raises(_Cut):
        _train_until(world, out, 7)
    checkpoints = sorted((out / "checkpoints").iterdir())
    assert [each.name for each in checkpoints] == ["step-00000003", "step-00000006"]
    with open(checkpoints[-1] / "model.safetensors", "r+b") as file:
        file.truncate(1000)
    train(world, out)
    assert "step-00000006/model.safetensors is changed" in caplog.text
    ours, theirs = (load_file(each / "model" / "model.safetensors") for each in (out, finished))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_checkpoints_of_other_settings_are_refused_by_name(world, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(_Cut):
        _train_until(world, out, 7)
    with pytest.raises(VicunaError, match=r"another optim.lr"):
        train(world, out, optim={"lr": 1e-3})


class _Cut(Exception):
    pass


def _train_until(world: Path, out: Path, step: int) -> None:
    """Break off after a step, as a crash would."""
    import vicuna.train.run as module

    class Crashing(module.Progress):
        def add(self, done) -> None:
            super().add(done)
            if done.step == step:
                raise _Cut

    whole, module.Progress = module.Progress, Crashing  # type: ignore[misc]
    try:
        train(world, out)
    finally:
        module.Progress = whole  # type: ignore[misc]


def test_a_model_learns_a_few_chats_by_heart_and_says_them(world, tmp_path):
    chats = [
        Conversation(country, (Message("user", f"Capital of {country}?"), Message("assistant", f"It is {city}.")))
        for country, city in CAPITALS.items()
    ]
    write_conversations(tmp_path / "few.jsonl", chats)
    train(world, tmp_path / "run", data={"path": str(tmp_path / "few.jsonl")}, batch={"epochs": 400},
          optim={"lr": 4e-3}, checkpoint={"every": 0})  # fmt: skip
    folder = tmp_path / "run" / "model"
    tokenizer, model = load_tokenizer(folder), load_model(folder, torch.float32, "cpu")
    for chat in chats:
        ids = encode_prompt(chat.messages[:1], tokenizer, load_template(folder))
        said = model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False)[0, len(ids) :]
        assert tokenizer.decode(said) == chat.messages[1].content + "</s>"
    assert read_steps(tmp_path / "run" / "metrics.jsonl")[-1].loss < 0.01


def test_plain_text_trains_a_base_model_that_has_no_template(world, tmp_path):
    train(world, tmp_path, data={"format": "text"}, batch={"epochs": 1})
    assert "template" not in manifest.read(tmp_path / "model").facts


def test_bfloat16_trains_too_and_keeps_float32_weights(world, tmp_path):
    train(world, tmp_path, dtype="bfloat16", batch={"epochs": 1}, checkpoint={"every": 0})
    assert {each.dtype for each in load_file(tmp_path / "model" / "model.safetensors").values()} == {torch.float32}


def test_recomputing_activations_changes_nothing(world, finished, tmp_path):
    train(world, tmp_path, gradient_checkpointing=True)
    ours, theirs = (load_file(each / "model" / "model.safetensors") for each in (tmp_path, finished))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs)


def test_a_base_models_contradictory_sampling_settings_do_not_stop_the_save(world, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    for each in (world / "init").iterdir():
        if each.name != "manifest.json":
            (base / each.name).write_bytes(each.read_bytes())
    (base / "generation_config.json").write_text('{"temperature": 0.9, "top_p": 0.6, "do_sample": false}')
    train(world, tmp_path / "run", model={"path": str(base)}, batch={"max_steps": 1})
    assert "temperature" not in json.loads((tmp_path / "run" / "model" / "generation_config.json").read_text())


def test_a_disk_that_takes_no_more_is_one_line_and_leaves_nothing_that_looks_whole(world, tmp_path):
    """A limit on the size of files stands in for the full disk."""
    out = tmp_path / "run"
    child = start(world, out, checkpoint={"every": 0}, limit=50_000)
    _, said = child.communicate(timeout=120)
    assert child.returncode == 1
    assert f"error: cannot write {out / 'model'}" in said
    assert "Traceback" not in said
    assert not list(out.glob("*model*"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"data": {"path": ""}}, "data.path is missing"),
        ({"data": {"path": "/nowhere"}}, "/nowhere"),
        ({"model": {"path": ""}}, "model.path is missing"),
        ({"model": {"path": "/nowhere"}}, "/nowhere is not a folder"),
        ({"model": {"template": "vicuna"}}, "unknown prompt template 'vicuna'; known: vicuna_v1.1"),
        ({"model": {"max_length": 512}}, "model.max_length is 512, and .* has 256 positions"),
        ({"device": "cuda"}, "torch sees no CUDA device"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="one case needs a machine without CUDA")
def test_mistakes_are_one_line(world, tmp_path, more, message):
    with pytest.raises(VicunaError, match=message):
        train(world, tmp_path, **more)


def test_an_unfinished_dataset_is_refused(world, tmp_path):
    (tmp_path / "data" / "conversations").mkdir(parents=True)
    with pytest.raises(VicunaError, match=r"has no manifest.json: it is incomplete"):
        train(world, tmp_path / "run", data={"path": str(tmp_path / "data")})


def test_rows_that_cannot_be_learnt_are_counted_and_a_run_without_any_is_refused(world, tmp_path):
    long = Conversation("long", (Message("user", "x " * 500), Message("assistant", "y")))
    write_conversations(tmp_path / "long.jsonl", [long])
    with pytest.raises(VicunaError, match=r"holds nothing to learn from .*longer than 256 tokens': 1"):
        train(world, tmp_path / "run", data={"path": str(tmp_path / "long.jsonl")})


def test_an_invalid_conversation_is_named(world, tmp_path):
    write_conversations(tmp_path / "bad.jsonl", [Conversation("b", (Message("user", "x"),), source="here")])
    with pytest.raises(VicunaError, match=r"here \(b\): it ends with user.*clean it with vicuna.data"):
        train(world, tmp_path / "run", data={"path": str(tmp_path / "bad.jsonl")})


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step_and_samples(world, tmp_path):
    with pytest.raises(VicunaError, match=r"step \d+: loss .*\(samples c\d+"):
        train(world, tmp_path, optim={"lr": 1e30, "warmup": 0.0}, batch={"epochs": 50})
    assert not (tmp_path / "model").exists()
