"""The systems under test as processes on 127.0.0.1: ours, FastChat's, and the stub workers behind either."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import peers

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PATIENCE = 60.0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def get(address: str, timeout: float = 5) -> Any:
    """The JSON at an address; None where nothing answers well."""
    try:
        with urllib.request.urlopen(address, timeout=timeout) as reply:
            return json.loads(reply.read())
    except (urllib.error.URLError, OSError, ValueError):
        return None


def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """The first true value of `condition`.

    Raises:
        SystemExit: there was none in time.
    """
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.01)
    sys.exit(f"error: waited in vain for {what}")


def tree_cpu(process: int) -> float:
    """User and system seconds of a process and of all that it has started, ended ones included."""
    root = psutil.Process(process)
    times = [each.cpu_times() for each in (root, *root.children(recursive=True))]
    return float(sum(each.user + each.system + each.children_user + each.children_system for each in times))


class Stack:
    """Named processes with their logs in one folder; all are ended with the `with` block."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self._environment = {**os.environ, **(environment or {})}
        self._folder = tempfile.TemporaryDirectory(prefix="bench-serve-")
        self.folder = Path(self._folder.name)

    def __enter__(self) -> Self:
        signal.signal(
            signal.SIGTERM, lambda *_: sys.exit(143)
        )  # so that nothing outlives a script that is told to stop
        return self

    def __exit__(self, *error: object) -> None:
        for name in list(self.processes):
            self.kill(name)
        self._folder.cleanup()

    def start(
        self, name: str, *words: object, folder: Path | None = None, piped: bool = False
    ) -> subprocess.Popen[str]:
        """Start a process; what it says goes to `NAME.log`, with `piped` its output to us and our words to it."""
        with (self.folder / f"{name}.log").open("a") as log:
            self.processes[name] = subprocess.Popen(
                list(map(str, words)), stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else log, stderr=log, text=True,
                env=self._environment, cwd=folder or ROOT, start_new_session=True,
            )  # fmt: skip
        return self.processes[name]

    def wait(self, name: str, condition: Callable[[], Any]) -> Any:
        """The first true value of `condition`, while the process lives.

        Raises:
            SystemExit: the process ended, or there was none in time.
        """
        process = self.processes[name]
        found = until(lambda: condition() or process.poll() is not None, f"{name}\n{self.log(name)[-2000:]}")
        self.check(name)
        return found

    def check(self, *names: str) -> None:
        """See that these processes live; all of them if none is named.

        Raises:
            SystemExit: one has ended.
        """
        for name in names or self.processes:
            if self.processes[name].poll() is not None:
                sys.exit(f"error: {name} ended:\n{self.log(name)[-3000:]}")

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def signal(self, name: str, number: int) -> None:
        self.processes[name].send_signal(number)

    def kill(self, name: str) -> None:
        """End a process at once, frozen or not."""
        process = self.processes.pop(name)
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(PATIENCE)

    def cpu(self, name: str) -> float:
        """User and system seconds so far."""
        times = psutil.Process(self.processes[name].pid).cpu_times()
        return float(times.user + times.system)

    def all_cpu(self) -> float:
        """User and system seconds of everything here."""
        return sum(tree_cpu(process.pid) for process in self.processes.values())

    def memory(self, name: str) -> float:
        """Resident MB."""
        return float(psutil.Process(self.processes[name].pid).memory_info().rss) / 1e6


class Ours(Stack):
    """A controller, real workers and stubs."""

    label = "ours"
    speak = "vicuna"
    gateways = ("controller",)

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        super().__init__(environment)
        self.port = free_port()
        self.base = self.fleet = f"http://127.0.0.1:{self.port}"

    def start_gateway(self, *flags: object) -> None:
        """Start the controller (again)."""
        words = (sys.executable, "-m", "vicuna.serve", "controller", "--port", self.port, *flags)
        self.start("controller", *words)
        self.wait("controller", lambda: get(f"{self.base}/health"))

    def start_worker(self, name: str, script: str, *flags: object, model: str = "lab", wait: bool = True) -> None:
        """Start a scripted worker, a process of its own."""
        path, port = self.folder / f"{name}.yaml", free_port()
        path.write_text(script)
        engine = ("--engine.kind", "scripted", "--engine.script", path, "--port", port, *flags)
        self.start(name, sys.executable, "-m", "vicuna.serve", "worker", "--names", model, "--controllers",
                   self.fleet, *engine)  # fmt: skip
        if wait:
            self.wait(name, lambda: self.row(port))

    def start_real_worker(self, name: str, model: Path, *flags: object) -> None:
        """Start a worker that computes."""
        port = free_port()
        self.start(name, sys.executable, "-m", "vicuna.serve", "worker", "--model.path", model, "--names", "lab",
                   "--controllers", self.fleet, "--port", port, *flags)  # fmt: skip
        self.wait(name, lambda: self.row(port))

    def row(self, port: int) -> Any:
        """What the fleet says of the worker at a port."""
        rows = (get(f"{self.fleet}/fleet") or {"workers": []})["workers"]
        return next((row for row in rows if row["address"].endswith(f":{port}") and row["state"] == "live"), None)

    def start_stub(self, name: str = "stub", **flags: object) -> str:
        """Start stub workers and wait until all have joined; returns the address where they speak OpenAI's API."""
        port = free_port()
        words = [word for key, value in flags.items() for word in (f"--{key}", value)]
        self.start(name, sys.executable, HERE / "stub.py", "--speak", self.speak, "--fleet", self.fleet, "--port",
                   port, *words)  # fmt: skip
        self.wait(name, lambda: "ready" in self.log(name))
        return f"http://127.0.0.1:{port}"


class FastChat(Ours):
    """FastChat's controller and API server; its workers are stubs that speak its protocol."""

    label = "FastChat"
    speak = "fastchat"
    gateways = ("controller", "api")

    def __init__(
        self, folder: str, peer: str = peers.FASTCHAT_SERVE, environment: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(environment)
        self._python = peers.python_of(folder, peer)
        self._environment |= {"LOGDIR": str(self.folder)}
        self.fleet = f"http://127.0.0.1:{free_port()}"

    def start_gateway(self, *flags: object) -> None:
        """Start the controller and the API server."""
        self.start_controller()
        port = self.base.rsplit(":", 1)[1]
        self._module(
            "api", "openai_api_server", "--host", "127.0.0.1", "--port", port, "--controller-address", self.fleet
        )
        self.wait("api", lambda: get(f"{self.base}/openapi.json"))

    def start_controller(self) -> None:
        """Start the controller (again)."""
        self._module("controller", "controller", "--host", "127.0.0.1", "--port", self.fleet.rsplit(":", 1)[1])
        self.wait("controller", lambda: get(f"{self.fleet}/test_connection") == "success")

    def start_real_worker(self, name: str, model: Path) -> None:
        """Start one of its own workers; its templates call the bare text of messages `raw`."""
        port = free_port()
        self._module(
            name, "model_worker", "--model-path", str(model), "--model-names", "lab", "--device", "cpu",
            "--conv-template", "raw", "--controller-address", self.fleet, "--host", "127.0.0.1", "--port", str(port),
            "--worker-address", f"http://127.0.0.1:{port}",
        )  # fmt: skip
        self.wait(name, lambda: (get(f"{self.base}/v1/models") or {"data": []})["data"])

    def _module(self, name: str, module: str, *flags: str) -> None:
        self.start(name, self._python, "-W", "ignore", "-m", f"fastchat.serve.{module}", *flags, folder=self.folder)
