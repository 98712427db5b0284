"""Real processes of the serving stage on 127.0.0.1, each ended by its fixture."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PATIENCE = 60.0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def until(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition`."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited in vain for: {what}")


def get(address: str) -> Any:
    """The JSON at an address, or None where nothing answers well."""
    try:
        with urllib.request.urlopen(address, timeout=5) as reply:
            return json.loads(reply.read())
    except (urllib.error.URLError, OSError, ValueError):
        return None


class Command:
    """`python -m vicuna.serve ...` as a process of its own, with its output in a file."""

    def __init__(self, folder: Path, *words: str, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"{words[0]}-{len(list(folder.iterdir()))}.log"
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vicuna.serve", *words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | environment,
            )

    def output(self) -> str:
        """What it has printed."""
        return self.log.read_text()

    def signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.process.pid, number)

    def wait(self) -> int:
        """Its exit status."""
        return self.process.wait(PATIENCE)

    def end(self) -> None:
        """Make sure that it has ended."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGCONT)
                os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait(PATIENCE)


class Site:
    """A controller and its workers."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.environment = environment
        self.port = free_port()
        self.api = f"http://127.0.0.1:{self.port}"
        self.commands: list[Command] = []

    def start(self, *words: str) -> Command:
        """Run a command that is ended with the site."""
        command = Command(self.folder, *words, **self.environment)
        self.commands.append(command)
        return command

    def controller(self, *flags: str) -> Command:
        """Start the controller and wait until it answers."""
        started = self.start("controller", "--port", str(self.port), *flags)
        until(lambda: get(f"{self.api}/health") or started.process.poll() is not None, "the controller")
        return started

    def worker(self, name: str, script: str = "", *flags: str) -> Command:
        """Start a scripted worker and wait until it has joined."""
        engine = ["--engine.kind", "scripted"]
        if script:
            path = self.folder / f"script-{len(self.commands)}.yaml"
            path.write_text(script)
            engine += ["--engine.script", str(path)]
        return self.join("--names", name, *engine, *flags)

    def join(self, *flags: str) -> Command:
        """Start any worker and wait until it has joined."""
        before = {row["id"] for row in self.fleet()["workers"]}
        started = self.start("worker", "--controllers", self.api, *flags)
        until(lambda: {row["id"] for row in self.fleet()["workers"]} - before, f"a worker\n{started.output()}")
        return started

    def fleet(self) -> Any:
        """What GET /fleet says."""
        return until(lambda: get(f"{self.api}/fleet"), "the fleet")

    def row(self, command: Command) -> Any:
        """The fleet's row about the worker that a command started; None when it is not on the list."""
        printed = until(lambda: [line for line in command.output().splitlines() if " worker w-" in line], "its name")
        name = printed[0].split(" worker ")[1].split()[0]
        return next((row for row in self.fleet()["workers"] if row["id"] == name), None)

    def end(self) -> None:
        """End everything."""
        for command in self.commands:
            command.end()


@contextlib.contextmanager
def site(folder: Path, *flags: str, **environment: str) -> Iterator[Site]:
    """A site whose controller runs; `environment` is set for all its processes."""
    made = Site(folder, **environment)
    try:
        made.controller(*flags)
        yield made
    finally:
        made.end()
