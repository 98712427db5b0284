"""`python -m vicuna.serve up`: one command starts, supervises and ends a stack; real processes."""

import asyncio
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from serve_stack import Command, free_port, get, until

from vicuna.config import load
from vicuna.errors import ConfigError
from vicuna.serve.config import StackConfig, WebConfig, WorkerConfig
from vicuna.serve.stack_log import lines
from vicuna.serve.up import threads_each

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
        self.command = Command(folder, "up", "--config", str(path))

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
    until(lambda: len((get(f"{ups[0].api}/fleet") or {}).get("workers", [])) == 2, "the worker to join again")
    assert "killed by SIGKILL" in ups[0].command.output()


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
