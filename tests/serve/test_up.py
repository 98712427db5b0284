"""`python -m vicuna.serve up`: one command starts, supervises and ends a stack; real processes."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from serve_stack import Command, free_port, get, until

from vicuna.config import load
from vicuna.errors import ConfigError
from vicuna.serve.config import ControllerConfig, FleetConfig, StackConfig, WebConfig, WorkerConfig
from vicuna.serve.net.signing import VARIABLE
from vicuna.serve.up import fleet_secret, threads_each, with_ports
from vicuna.serve.watch.stack_log import lines

CONFIGS = Path(__file__).parents[2] / "configs" / "serve"


class Up:
    """A stack of two scripted workers."""

    def __init__(self, folder: Path, **more: object) -> None:
        self.port = free_port()
        self.api = f"http://127.0.0.1:{self.port}"
        tree = {
            "controllers": [{"port": self.port}],
            "workers": [{"names": [name], "engine": {"kind": "scripted"}} for name in ("one", "two")],
            "page": False,
            **more,
        }
        path = folder / "stack.yaml"
        path.write_text(yaml.safe_dump(tree))
        self.command = Command(folder, "up", str(path))

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.command.process.pid).children(recursive=True)

    def child(self, word: str) -> psutil.Process | None:
        return next((each for each in self.children() if word in each.cmdline()), None)

    def ready(self) -> list[psutil.Process]:
        until(lambda: "ready." in self.command.output() or self.command.process.poll() is not None, "the stack")
        assert "ready." in self.command.output(), self.command.output()
        return self.children()


@pytest.fixture
def ups() -> Iterator[list[Up]]:
    made: list[Up] = []
    yield made
    for each in made:
        with_children = []
        if each.command.process.poll() is None:
            with_children = each.children()
        each.command.end()
        for child in with_children:
            if child.is_running():
                child.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stack_starts_serves_and_ends_without_a_trace(tmp_path: Path, ups: list[Up], number: int) -> None:
    ups.append(Up(tmp_path))
    children = ups[0].ready()
    models = get(f"{ups[0].api}/v1/models")
    assert [model["id"] for model in models["data"]] == ["one", "two"]
    assert len(children) == 3
    ups[0].command.signal(number)
    assert ups[0].command.wait() == 0
    assert not any(child.is_running() for child in children)
    assert "Traceback" not in ups[0].command.output()


def test_a_stack_that_is_killed_leaves_no_process_behind(tmp_path: Path, ups: list[Up]) -> None:
    ups.append(Up(tmp_path))
    children = ups[0].ready()
    ups[0].command.signal(signal.SIGKILL)
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert len(gone) == 3
    assert alive == []


def test_a_worker_that_dies_is_started_again(tmp_path: Path, ups: list[Up]) -> None:
    ups.append(Up(tmp_path))
    ups[0].ready()
    worker = ups[0].child("worker")
    assert worker is not None
    worker.kill()
    until(lambda: "starting it again" in ups[0].command.output(), "the restart")
    until(lambda: len(joined(ups[0].api)) == 2, "the worker to join again")
    assert "killed by SIGKILL" in ups[0].command.output()


def joined(api: str) -> set[str]:
    """The workers on a controller's list; none where it does not answer."""
    return {row["id"] for row in (get(f"{api}/fleet") or {"workers": []})["workers"]}


def test_several_controllers_serve_the_same_workers_and_one_of_them_may_die(tmp_path: Path, ups: list[Up]) -> None:
    other = free_port()
    first = {"port": free_port(), "log": {"format": "json"}}
    ups.append(Up(tmp_path, controllers=[first, {"port": other}]))
    children = ups[0].ready()
    assert len(children) == 4
    apis = [f"http://127.0.0.1:{port}" for port in (first["port"], other)]
    ready = next(line for line in ups[0].command.output().splitlines() if "ready." in line)
    assert all(f"{api}/v1" in ready for api in apis)
    seen = [joined(api) for api in apis]
    assert seen[0] == seen[1]
    controller = next(each for each in children if "controller" in each.cmdline())
    controller.kill()
    until(lambda: "was killed by SIGKILL; starting it again" in ups[0].command.output(), "the restart")
    until(lambda: [joined(api) for api in apis] == seen, "the workers to join again")
    ups[0].command.signal(signal.SIGINT)
    assert ups[0].command.wait() == 0
    rows = [json.loads(line) for line in ups[0].command.output().splitlines()]
    assert {"up", "controller 1", "controller 2", "worker one", "worker two"} == {row["process"] for row in rows}
    assert all({"time", "level", "message"} <= set(row) for row in rows)


def test_a_stack_has_a_secret_of_its_own_that_no_other_process_knows(tmp_path: Path, ups: list[Up]) -> None:
    ups.append(Up(tmp_path))
    children = ups[0].ready()
    found = {child.environ().get(VARIABLE, "") for child in children}
    assert len(found) == 1
    secret = found.pop()
    assert len(secret) >= 32
    assert not any(secret in " ".join(child.cmdline()) for child in children)
    models = [{"name": "m", "max_length": 9}]
    body = {"worker_id": "w-x", "address": "http://127.0.0.1:1", "models": models, "capacity": 1}
    assert httpx.post(f"{ups[0].api}/fleet/register", json=body).status_code == 401
    assert secret not in ups[0].command.output()


@pytest.mark.parametrize(
    "more",
    [
        {"controllers": [ControllerConfig(fleet=FleetConfig(secret="secret.txt"))]},
        {"workers": [WorkerConfig(names=("m",), secret="secret.txt")]},
    ],
)
def test_a_secret_that_the_operator_has_set_is_kept(monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert VARIABLE in fleet_secret(StackConfig())
    assert fleet_secret(StackConfig(**more)) == {}
    monkeypatch.setenv(VARIABLE, "the operator's own secret")
    assert fleet_secret(StackConfig()) == {}


def test_workers_take_the_secret_file_of_the_first_controller() -> None:
    controller = ControllerConfig(port=0, fleet=FleetConfig(secret="secret.txt"))
    workers = (WorkerConfig(names=("a",)), WorkerConfig(names=("b",), secret="other.txt"))
    chosen = with_ports(StackConfig(controllers=(controller,), workers=workers, page=False))
    assert [worker.secret for worker in chosen.workers] == ["secret.txt", "other.txt"]
    assert chosen.workers[0].controllers == (f"http://127.0.0.1:{chosen.controllers[0].port}",)


def test_a_worker_that_was_drained_comes_back_and_that_is_no_alarm(tmp_path: Path, ups: list[Up]) -> None:
    ups.append(Up(tmp_path))
    ups[0].ready()
    worker = ups[0].child("worker")
    assert worker is not None
    worker.terminate()
    until(lambda: "has drained and left; starting it again" in ups[0].command.output(), "the restart")
    until(lambda: len(joined(ups[0].api)) == 2, "the worker to join again")


def test_a_second_signal_ends_the_stack_at_once(tmp_path: Path, ups: list[Up]) -> None:
    ups.append(Up(tmp_path, stop=300))
    children = ups[0].ready()
    for child in children:
        child.suspend()  # it cannot end by itself
    ups[0].command.signal(signal.SIGINT)
    time.sleep(0.5)
    assert ups[0].command.process.poll() is None
    ups[0].command.signal(signal.SIGINT)
    assert ups[0].command.wait() == 0
    assert not any(child.is_running() for child in children)


def test_a_port_in_use_is_said_before_anything_starts(tmp_path: Path, ups: list[Up]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ups.append(Up(tmp_path, controllers=[{"port": port}]))
        assert ups[0].command.wait() == 2
        said = ups[0].command.output()
        assert said.startswith(f"error: port {port} is in use by another program")
        assert "`port` of controller 1 in the stack's file" in said
        lone = Command(tmp_path, "controller", "--port", str(port))
        assert lone.wait() == 2
        assert "choose another with --port" in lone.output()


def test_a_port_that_is_given_twice_is_said_with_both_places() -> None:
    port = free_port()
    controllers = (ControllerConfig(port=port), ControllerConfig(port=port))
    with pytest.raises(ConfigError, match=rf"controller 1 .* and .* controller 2 .* are both {port}"):
        with_ports(StackConfig(controllers=controllers, page=False))


def test_the_page_of_a_stack_trusts_the_authority_of_the_fleet(tmp_path: Path, ups: list[Up]) -> None:
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    kind = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key]
    subprocess.run(["openssl", "req", "-x509", *kind, *names, "-out", cert], check=True, capture_output=True)
    tls = {"cert": cert, "key": key, "ca": cert}
    workers = [{"names": ["one"], "engine": {"kind": "scripted"}, "tls": tls}]
    web = {"port": free_port()}
    port = free_port()
    ups.append(Up(tmp_path, controllers=[{"port": port, "tls": tls}], workers=workers, page=True, web=web))
    ups[0].ready()
    page = ups[0].child("web")
    assert page is not None
    program = f"import openai; print(openai.OpenAI(base_url='https://127.0.0.1:{port}/v1').models.list().data[0].id)"
    words, environment = [sys.executable, "-c", program], page.environ() | {"OPENAI_API_KEY": "none"}
    said = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert said.stdout == "one\n"


def test_a_worker_that_cannot_start_ends_the_stack_with_its_reason(tmp_path: Path, ups: list[Up]) -> None:
    ups.append(Up(tmp_path, workers=[{"model": {"path": "/nowhere/tiny"}}]))
    assert ups[0].command.wait() == 1
    assert "error: worker tiny: /nowhere/tiny is not a folder" in ups[0].command.output()


def test_output_comes_line_by_line_however_long_a_line_is() -> None:
    program = "import sys; sys.stdout.write('one\\n' + 'é' * 300_000 + '\\n\\nlast')"

    async def read() -> list[str]:
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
        assert child.stdout is not None
        found = [line async for line in lines(child.stdout)]
        await child.wait()
        return found

    found = asyncio.run(read())
    assert (found[0], found[-2], found[-1]) == ("one", "", "last")
    assert "".join(found[1:-2]) == "é" * 300_000
    assert max(map(len, found)) < 140_000


@pytest.mark.parametrize(
    ("cls", "flags", "says"),
    [
        (WorkerConfig, ["--advertise", "http://host/path"], "advertise is scheme, host and port"),
        (WorkerConfig, ["--advertise", "http://host:99999"], "advertise is an address"),
        (WorkerConfig, ["--controllers", "http://["], "controllers is an address"),
        (WorkerConfig, ["--names", "a", "a"], "names are each given once"),
        (WorkerConfig, ["--names", "x" * 300], "names are 1 to 200 characters"),
        (WebConfig, ["--api", "127.0.0.1:8000"], "api is an address"),
        (WebConfig, ["--api", "http://127.0.0.1:8000/v1"], "api is given without /v1"),
    ],
)
def test_addresses_and_names_that_cannot_work_are_wrong_settings(cls: type, flags: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(cls, flags)


def test_every_stack_file_loads_and_the_cores_are_shared() -> None:
    files = sorted(CONFIGS.glob("*.yaml"))
    assert files
    for path in files:
        config = load(StackConfig, ["--config", str(path)])
        assert config.workers
    assert threads_each([WorkerConfig()]) >= threads_each([WorkerConfig()] * 2) >= 1
