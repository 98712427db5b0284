"""The processes that the quickstart starts, one after the other, and how they end."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vicuna import manifest
from vicuna.errors import VicunaError
from vicuna.files import write_text
from vicuna.quickstart.config import QuickstartConfig
from vicuna.quickstart.stages import BASE, TUNED, Stage, dump_stack, stack

READY = 60.0
"""Seconds that the served models may take to appear."""
STOP = 10.0
"""Seconds that a child may take to end after it was asked to."""


class StageFailed(VicunaError):
    """A stage ended with an error; it has said why itself."""


@dataclass
class Timing:
    """What a stage took."""

    stage: str
    seconds: float
    reused: bool


def _end(child: subprocess.Popen[bytes]) -> None:
    """Wait for a child that was asked to end; kill it and its own children when it does not."""
    try:
        child.wait(STOP)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


class Children:
    """The commands that the quickstart starts; leaving the block ends every one of them."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Children":
        # SIGHUP stays ignored where `nohup` asked for it. SIGINT is heeded even where a shell's `&` had it ignored.
        heeded = [signal.SIGINT, signal.SIGTERM]
        heeded += [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
        self._before = {each: signal.signal(each, _interrupt) for each in heeded}
        return self

    def __exit__(self, *exc: object) -> None:
        for each in self._before:  # a second Ctrl-C must not leave a child behind
            signal.signal(each, signal.SIG_IGN)
        try:
            for child in self._running:
                if child.poll() is None:
                    child.send_signal(signal.SIGINT)
            for child in self._running:
                _end(child)
        finally:
            for each, handler in self._before.items():
                signal.signal(each, handler)

    def _start(self, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        # A group of its own: Ctrl-C reaches us alone, and we end the children in order.
        child = subprocess.Popen([sys.executable, "-m", "vicuna", *argv], process_group=0)
        self._running.append(child)
        return child

    def run(self, stage: Stage) -> Timing:
        """Run a command to its end.

        Raises:
            StageFailed: its exit status is not 0.
        """
        before = manifest.read(stage.out).created if manifest.is_complete(stage.out) else ""
        print(f"\n── {stage.name}: python -m vicuna {shlex.join(stage.argv)}", flush=True)
        start = time.monotonic()
        status = self._start(stage.argv).wait()
        if status:
            raise StageFailed(f"stage {stage.name} ended with status {status}; what it says above is the reason")
        reused = bool(before) and manifest.read(stage.out).created == before
        return Timing(stage.name, time.monotonic() - start, reused)

    def serve(self, config: QuickstartConfig) -> tuple[str, str]:
        """Start the stack and wait until both models are listed; returns the API's and the demo's address."""
        path = Path(config.out) / "stack.yaml"
        write_text(path, dump_stack(stack(config)))
        print(f"\n── serve: python -m vicuna serve up --config {path}", flush=True)
        child = self._stack = self._start(["serve", "up", "--config", str(path)])
        api, page = f"http://127.0.0.1:{config.port}", f"http://127.0.0.1:{config.web_port}"
        wait_for_models(api, {BASE, TUNED}, child)
        return api, page

    def wait(self) -> None:
        """Wait until Ctrl-C; a stack that ends by itself is an error."""
        for child in self._running:
            child.wait()
        status = self._stack.returncode
        raise StageFailed(f"the demo ended by itself with status {status}; what it says above is the reason")


def wait_for_models(api: str, names: set[str], child: subprocess.Popen[bytes]) -> None:
    """Return when the API lists all the models.

    Raises:
        StageFailed: the stack ended, or the models did not appear in time.
    """
    deadline, listed = time.monotonic() + READY, set()
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise StageFailed(f"serving ended with status {child.returncode}; what it says above is the reason")
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{api}/v1/models", timeout=5) as reply:
            listed = {each["id"] for each in json.load(reply)["data"]}
            if names <= listed:
                return
        time.sleep(0.2)
    raise StageFailed(f"after {READY:.0f} s {api} lists {sorted(listed)}, not all of {sorted(names)}")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
