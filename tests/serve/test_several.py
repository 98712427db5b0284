"""Several models in one process: each is a worker of its own, with its own places and its own health."""

import asyncio
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from serve_stack import Command, Site, free_port, get, site, until
from serve_tiny import checkpoint

from tests.adapters_kit import store
from vicuna.config import ModelConfig, load
from vicuna.errors import ConfigError, VicunaError
from vicuna.models.load import load_model, load_tokenizer
from vicuna.serve.config import AdapterConfig, EngineConfig, HostedConfig, WorkerConfig
from vicuna.serve.hosting import split, started, threads_each
from vicuna.serve.names import served_names

PROMPT = "The quick brown fox"
SCRIPT = """
rules:
  - match: brief
    answer: "one two three four five "
    repeat: 4
    pace: 0.05
  - match: long
    answer: "one two three four five "
    repeat: 20
    pace: 0.05
  - match: hang
    fail: hang
  - answer: "{name} heard {{last}}"
"""


def scripted(folder: Path, name: str, slots: int, *more: str) -> dict[str, Any]:
    """Settings of a model whose answers tell its name."""
    path = folder / f"{name}-script.yaml"
    path.write_text(SCRIPT.format(name=name))
    return {"names": [name, *more], "engine": {"kind": "scripted", "script": str(path), "slots": slots}}


def settings(place: Site, first: dict[str, Any], *more: dict[str, Any], **shared: Any) -> Path:
    """A file with the settings of such a process."""
    path = place.folder / f"worker-{len(place.commands)}.yaml"
    path.write_text(yaml.safe_dump({"controllers": [place.api], **first, "more": list(more), **shared}))
    return path


def process(place: Site, first: dict[str, Any], *more: dict[str, Any], **shared: Any) -> Command:
    """A process with these models, whose workers have all joined."""
    command = place.start("worker", "--config", str(settings(place, first, *more, **shared)))
    until(lambda: len(rows(place)) == 1 + len(more) or command.process.poll() is not None, "the workers")
    assert command.process.poll() is None, command.output()
    return command


def rows(place: Site) -> dict[str, Any]:
    """The fleet's rows, by the first model of each."""
    return {row["models"][0]["name"]: row for row in place.fleet()["workers"]}


def ask(place: Site, model: str, text: str, **more: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    return httpx.post(f"{place.api}/v1/chat/completions", json=body, timeout=60)


def said(reply: httpx.Response) -> str:
    return str(reply.json()["choices"][0]["message"]["content"])


def in_background(
    place: Site, model: str, text: str, count: int
) -> tuple[list[threading.Thread], list[httpx.Response]]:
    """Ask in threads; the replies are complete once these are joined."""
    replies: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: replies.append(ask(place, model, text))) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, replies


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path, "--limits.gap", "0.5", "--limits.lease", "3") as made:
        yield made


# ------------------------------------------------------------------------------------------- three models, one process
@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a real model with two adapters."""
    folder = checkpoint(tmp_path_factory.mktemp("model") / "tiny", context=160)
    base = load_model(folder, torch.float32, "cpu")
    adapters = [
        {"path": str(store(base, folder.parent / name, seed)), "names": [name]}
        for seed, name in enumerate(("poems", "sums"))
    ]
    model = {"path": str(folder), "template": "vicuna_v1.1"}
    return {"model": model, "engine": {"threads": 1, "slots": 3}, "adapters": adapters}


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("several")
    with site(folder) as made:
        process(made, scripted(folder, "alpha", 2, "beta"), scripted(folder, "gamma", 1), tiny)
        yield made


def test_every_model_is_listed_and_gives_its_own_answers(three: Site) -> None:
    listed = get(f"{three.api}/v1/models")["data"]
    assert [model["id"] for model in listed] == ["alpha", "beta", "gamma", "poems", "sums", "tiny"]
    for name, teller in (("alpha", "alpha"), ("beta", "alpha"), ("gamma", "gamma")):
        assert said(ask(three, name, "this")) == f"{teller} heard this"
    assert ask(three, "delta", "this").status_code == 404


def test_adapters_are_models_of_one_worker_and_answer_at_once_as_they_do_alone(
    three: Site, tiny: dict[str, Any]
) -> None:
    row = rows(three)["tiny"]
    assert ([model["name"] for model in row["models"]], row["capacity"]) == (["tiny", "poems", "sums"], 3)
    assert len({model["checkpoint_hash"] for model in row["models"]}) == 3
    names = ["tiny", "poems", "sums"] * 4
    with ThreadPoolExecutor(len(names)) as pool:
        found = list(pool.map(lambda name: completion(three, name), names))
    expected = [alone(tiny, path) for path in (None, *(each["path"] for each in tiny["adapters"]))]
    assert found == expected * 4
    assert len(set(expected)) == 3


def completion(place: Site, model: str) -> str:
    body = {"model": model, "prompt": PROMPT, "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    reply = httpx.post(f"{place.api}/v1/completions", json=body, timeout=60)
    return str(reply.json()["choices"][0]["text"])


def alone(tiny: dict[str, Any], adapter: str | None) -> str:
    """What `generate` says, with peft around the model for an adapter."""
    from peft import PeftModel

    folder = tiny["model"]["path"]
    words, model = load_tokenizer(folder), load_model(folder, torch.float32, "cpu")
    given = words(PROMPT, return_tensors="pt")
    whole = PeftModel.from_pretrained(model, adapter).eval() if adapter else model
    made = whole.generate(
        input_ids=given["input_ids"], attention_mask=given["attention_mask"], do_sample=False, max_new_tokens=12,
        min_new_tokens=12,
    )  # fmt: skip
    return str(words.decode(made[0], skip_special_tokens=True)).removeprefix(PROMPT)


def test_vectors_and_token_ids_come_from_the_model_that_was_asked(three: Site) -> None:
    sizes = {}
    for name in ("alpha", "gamma", "tiny"):
        reply = httpx.post(f"{three.api}/v1/embeddings", json={"model": name, "input": "a text"}, timeout=60)
        sizes[name] = len(reply.json()["data"][0]["embedding"])
    assert sizes == {"alpha": 16, "gamma": 16, "tiny": 32}
    tokens = {
        name: httpx.post(f"{three.api}/tokenize", json={"model": name, "prompt": "café 🙂"}).json()["tokens"]
        for name in ("gamma", "tiny")
    }
    assert tokens["gamma"] == [0, 1]
    assert tokens["tiny"][0] == 0  # <s>
    assert len(tokens["tiny"]) > 4


def test_each_model_is_a_worker_with_its_own_names_places_and_numbers(three: Site) -> None:
    found = rows(three)
    assert [model["name"] for model in found["alpha"]["models"]] == ["alpha", "beta"]
    assert (found["alpha"]["capacity"], found["gamma"]["capacity"]) == (2, 1)
    assert {found[name]["engine"] for name in ("alpha", "gamma")} == {"scripted"}
    assert found["tiny"]["engine"] == "transformers"
    assert len({row["address"] for row in found.values()}) == len({row["id"] for row in found.values()}) == 3
    for name in ("alpha", "gamma", "tiny"):
        health = get(f"{found[name]['address']}/health")
        assert (health["status"], health["worker_id"]) == ("ok", found[name]["id"])
        assert health["models"] == [model["name"] for model in found[name]["models"]]
    before = {name: answers(found[name]["address"]) for name in found}
    ask(three, "gamma", "this")
    after = {name: answers(found[name]["address"]) for name in found}
    assert after == before | {"gamma": before["gamma"] + 1}
    wrong = {"id": "job", "model": "gamma", "messages": [{"role": "user", "content": "hi"}]}
    assert httpx.post(f"{found['alpha']['address']}/generate", json=wrong).status_code == 404


def answers(worker: str) -> float:
    """How many a worker has finished."""
    lines = httpx.get(f"{worker}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if 'answers_total{outcome="finished"}' in line)


def test_a_queue_for_one_model_holds_up_no_other(three: Site) -> None:
    threads, replies = in_background(three, "gamma", "brief", 8)
    until(lambda: three.fleet()["waiting"].get("gamma", 0) >= 5, "a queue for the model with one place")
    for _ in range(5):
        assert said(ask(three, "alpha", "this")) == "alpha heard this"
    assert three.fleet()["waiting"].get("gamma", 0) >= 1
    for thread in threads:
        thread.join(60)
    assert {said(reply) for reply in replies} == {"one two three four five " * 4}


# ------------------------------------------------------------------------------------------- health and leaving
def test_an_engine_in_trouble_takes_no_other_model_with_it(place: Site, tmp_path: Path) -> None:
    process(place, scripted(tmp_path, "alpha", 2), scripted(tmp_path, "gamma", 2))
    threads, replies = in_background(place, "gamma", "hang", 1)
    until(lambda: rows(place)["gamma"]["state"] == "suspended", "the fleet to notice")
    gamma = rows(place)["gamma"]["address"]
    assert httpx.get(f"{gamma}/health").json()["reason"] == "the script says that the engine hangs"
    assert rows(place)["alpha"]["state"] == "live"
    assert said(ask(place, "alpha", "this")) == "alpha heard this"
    threads[0].join(60)
    assert replies[0].status_code >= 500


def test_a_model_can_leave_alone_and_the_process_ends_with_the_last(place: Site, tmp_path: Path) -> None:
    command = process(place, scripted(tmp_path, "alpha", 2), scripted(tmp_path, "gamma", 2))
    threads, replies = in_background(place, "alpha", "brief", 1)
    until(lambda: rows(place)["alpha"]["in_flight"], "the answer to begin")
    for name, left in (("alpha", {"gamma"}), ("gamma", set())):
        drained = place.start("drain", name, "--controller", place.api, "--force", "true")
        assert drained.wait() == 0, drained.output()
        assert set(rows(place)) == left
        if left:
            assert said(ask(place, "gamma", "this")) == "gamma heard this"
            assert command.process.poll() is None
    assert command.wait() == 0
    threads[0].join(60)
    assert said(replies[0]) == "one two three four five " * 4


def test_a_signal_ends_all_and_what_runs_anywhere_is_finished(place: Site, tmp_path: Path) -> None:
    command = process(place, scripted(tmp_path, "alpha", 2), scripted(tmp_path, "gamma", 2))
    asked = [in_background(place, name, "brief", 2) for name in ("alpha", "gamma")]
    until(lambda: all(row["in_flight"] == 2 for row in rows(place).values()), "all answers to begin")
    command.signal(signal.SIGTERM)
    for threads, replies in asked:
        for thread in threads:
            thread.join(60)
        assert [said(reply) for reply in replies] == ["one two three four five " * 4] * 2
    assert command.wait() == 0
    assert rows(place) == {}


def test_what_one_model_has_left_after_the_notice_goes_to_another_process(place: Site, tmp_path: Path) -> None:
    models = scripted(tmp_path, "alpha", 2), scripted(tmp_path, "gamma", 2)
    leaving = process(place, *models, drain=0.2)
    threads, replies = in_background(place, "gamma", "long", 1)
    until(lambda: rows(place)["gamma"]["in_flight"], "the answer to begin")
    place.start("worker", "--config", str(settings(place, *models)))
    until(lambda: len(place.fleet()["workers"]) == 4, "the other process")
    leaving.signal(signal.SIGTERM)
    threads[0].join(60)
    assert said(replies[0]) == "one two three four five " * 20
    assert len(replies[0].json()["vicuna"]["workers"]) == 2
    assert leaving.wait() == 0


# ------------------------------------------------------------------------------------------- what cannot start
def test_a_model_that_cannot_be_loaded_is_named_and_nothing_is_served(
    place: Site, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny["model"]["path"], folder)
    with (folder / "model.safetensors").open("r+b") as weights:
        weights.truncate(1000)
    broken = {"model": tiny["model"] | {"path": str(folder)}, "names": ["second"]}
    command = place.start("worker", "--config", str(settings(place, tiny, broken)))
    assert command.wait() == 1
    assert f"error: model second: {folder} holds no causal language model that can be read" in command.output()
    assert "Traceback" not in command.output()
    assert place.fleet()["workers"] == []


@pytest.mark.parametrize(
    ("wrong", "adapters", "reason"),
    [
        ("nowhere", (), "nowhere is not a folder, so there is no model to load"),
        ("empty", (), "empty holds no weights"),
        ("first", ("nowhere",), "nowhere is not a folder, so there is no adapter to load"),
        ("first", ("empty",), "cannot read empty/adapter_config.json"),
    ],
)
def test_a_folder_that_is_not_there_is_named_before_anything_is_loaded(
    wrong: str, adapters: tuple[str, ...], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("first").mkdir()
    Path("first/model.safetensors").touch()  # which would be the complaint if it were loaded
    second = HostedConfig(
        model=ModelConfig(path=wrong), names=("second",), adapters=tuple(AdapterConfig(path=each) for each in adapters)
    )
    workers = split(WorkerConfig(model=ModelConfig(path="first"), more=(second,)))
    with pytest.raises(VicunaError, match=f"^model second: {reason}"):
        asyncio.run(started(workers).__aenter__())


def test_a_stack_with_such_a_process_serves_all_of_its_models(tmp_path: Path) -> None:
    port = free_port()
    worker = scripted(tmp_path, "alpha", 2) | {"more": [scripted(tmp_path, "gamma", 1)]}
    path = tmp_path / "stack.yaml"
    path.write_text(yaml.safe_dump({"controllers": [{"port": port}], "workers": [worker], "page": False}))
    command = Command(tmp_path, "up", str(path))
    try:
        until(lambda: "ready." in command.output() or command.process.poll() is not None, "the stack")
        assert "(models: alpha, gamma)" in command.output()
        assert len(psutil.Process(command.process.pid).children()) == 2
        command.signal(signal.SIGINT)
        assert command.wait() == 0
    finally:
        command.end()


# ------------------------------------------------------------------------------------------- settings
def config(text: str, tmp_path: Path) -> WorkerConfig:
    path = tmp_path / "worker.yaml"
    path.write_text(text)
    return load(WorkerConfig, ["--config", str(path)])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("names: [a]\nmore: [{names: [b, a]}]", r"more\[0\].names: the name 'a' is the first model's already"),
        (
            "model: {path: runs/a}\nadapters: [{path: lora/a}]",
            r"adapters\[0\].names: the name 'a' is the first model's",
        ),
        (
            "names: [a]\nmore: [{names: [b], adapters: [{path: x/c}]}, {names: [c]}]",
            r"more\[1\].names: the name 'c' is that of more\[0\].adapters\[0\] already; give another one",
        ),
        ("names: [a]\nadapters: [{path: /}]", r"adapters\[0\].path / has no last part to take a name from"),
        ("names: [a]\nadapters: [{names: [b]}]", r"adapters\[0\].path is the folder of a LoRA adapter; got none"),
        ("names: [a]\nmore: [{engine: {kind: scripted}}]", r"more\[0\].model.path is a folder; got none"),
        ("names: [a]\nmore: [{engine: {kind: nonsense}}]", r"more\[0\].engine.kind is transformers or .* 'nonsense'"),
        ("names: [a]\nmore: [{names: [b], port: 3}]", r"there is no setting more\[0\].port"),
        ("names: ['a@b']", "names have no @"),
        ("port: 65535\nnames: [a]\nmore: [{names: [b]}]", "port: each model of `more` takes the next port"),
        ("engine: {kind: scripted}", "a worker needs --model.path FOLDER"),
    ],
)
def test_settings_that_cannot_work_are_one_line_that_names_them(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says) as raised:
        made = config(text, tmp_path)
        served_names(made)
        split(made)
    assert "\n" not in str(raised.value)


def test_errors_of_a_stack_say_which_worker() -> None:
    worker = WorkerConfig(names=("a",), more=(HostedConfig(names=("a",)),))
    with pytest.raises(ConfigError, match=r"^workers\[1\]\.more\[0\]\.names: the name 'a' is the first model's"):
        served_names(worker, "workers[1].")


word = st.text("abcdef-.7", min_size=1, max_size=3)
adapter = st.builds(
    AdapterConfig, path=word.map("lora/x{}".format), names=st.lists(word, max_size=2, unique=True).map(tuple)
)
hosted = {
    "model": st.builds(ModelConfig, path=word.map("runs/m{}".format)),
    "names": st.lists(word, max_size=2, unique=True).map(tuple),
    "adapters": st.lists(adapter, max_size=2).map(tuple),
}
process_config = st.builds(
    WorkerConfig, **hosted, more=st.lists(st.builds(HostedConfig, **hosted), max_size=3).map(tuple)
)


@given(process_config)
def test_every_model_and_adapter_has_names_of_its_own_or_it_is_an_error(made: WorkerConfig) -> None:
    parts = [part for each in made.hosted for part in (each, *each.adapters)]
    given_names = [part.names or (folder(part),) for part in parts]
    every = [name for names in given_names for name in names]
    if len(set(every)) < len(every):
        with pytest.raises(ConfigError, match="already"):
            served_names(made)
        return
    assert list(served_names(made)) == every
    assert [name for each in split(made) for name in served_names(each)] == every


def folder(part: HostedConfig | AdapterConfig) -> str:
    path = part.path if isinstance(part, AdapterConfig) else part.model.path
    return path.rpartition("/")[2]


@given(process_config, st.sampled_from([0, 1, 8100, 65000]), st.sampled_from(["", "http://host:9000", "https://[::1]"]))
def test_a_process_is_split_into_workers_that_share_all_but_model_and_port(
    made: WorkerConfig, port: int, advertise: str
) -> None:
    whole = WorkerConfig(
        model=made.model,
        names=made.names,
        adapters=made.adapters,
        more=made.more,
        port=port,
        advertise=advertise,
        drain=7,
    )
    parts = split(whole)
    assert [(each.model, each.names, each.adapters) for each in parts] == [
        (each.model, each.names, each.adapters) for each in whole.hosted
    ]
    assert all(each.more == () and each.drain == 7 for each in parts)
    assert [each.port for each in parts] == [port + number if port else 0 for number in range(len(parts))]
    if advertise:
        last = int(parts[-1].advertise.rpartition(":")[2]) if len(parts) > 1 else 0
        assert last in (0, 9000 + len(parts) - 1, 443 + len(parts) - 1)
        assert len({each.advertise for each in parts}) == len(parts)
    else:
        assert {each.advertise for each in parts} == {""}


def test_engines_of_one_process_share_the_cores_and_those_that_compute_nothing_take_none() -> None:
    lone = threads_each([WorkerConfig()])
    computing = HostedConfig()
    given_threads = HostedConfig(engine=EngineConfig(threads=3))
    echo = HostedConfig(engine=EngineConfig(kind="scripted"))
    assert threads_each([WorkerConfig(more=(echo, echo))]) == lone
    assert threads_each([WorkerConfig(more=(computing,))]) == max(1, lone // 2)
    assert [each.engine.threads for each in split(WorkerConfig(more=(computing, given_threads)))] == [
        max(1, lone // 3), max(1, lone // 3), 3,
    ]  # fmt: skip
    assert split(WorkerConfig())[0].engine.threads == 0
