"""`python -m vicuna.serve drain`: take workers out of the fleet without losing an answer.

With a model's name its workers go one after the other, so a new version of a model comes in like this: start workers
with it (`--version v2`), then `drain MODEL@v1`.
"""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vicuna.command import run as run_command
from vicuna.errors import VicunaError

KEY = "VICUNA_API_KEY"
"""Environment variable with an API key that has the scopes `fleet` and `admin`."""
POLL = 0.25
"""Seconds between two looks at the fleet."""
TIMEOUT = 10.0
SHORT_HASH = 12
"""Characters of a checkpoint's hash that stand for a version without a label."""
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class DrainConfig:
    """Take a worker out of the fleet without losing an answer; of a model, its workers one after the other."""

    worker: str = field(metadata={"positional": "WORKER"})
    """The worker's id or address as GET /fleet shows it, or a model: NAME, or NAME@VERSION."""
    controller: str = "http://127.0.0.1:8000"
    """Address of a controller of the fleet. The environment variable VICUNA_API_KEY holds the API key for it."""
    force: bool = False
    """Do not wait until every model of the worker has another live worker."""
    wait: float = 900.0
    """Seconds that one worker may take to leave, the wait for another live one included."""

    def __post_init__(self) -> None:
        if not self.controller.startswith(("http://", "https://")):
            raise ValueError(f"controller is an address such as http://127.0.0.1:8000; got {self.controller!r}")
        if self.wait <= 0:
            raise ValueError(f"wait is a time in seconds above 0; got {self.wait}")


class DrainFailed(VicunaError):
    """A worker could not be taken out."""


class Controller:
    """What the command asks a controller."""

    def __init__(self, address: str, key: str) -> None:
        self._address = address.rstrip("/")
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def workers(self) -> list[Row]:
        """The fleet's workers.

        Raises:
            DrainFailed: the controller cannot be reached, or refuses.
        """
        rows: list[Row] = self._ask("/fleet", None)["workers"]
        return rows

    def drain(self, worker_id: str) -> None:
        """Tell a worker to leave.

        Raises:
            DrainFailed: the controller cannot be reached, or refuses; or it cannot reach the worker.
        """
        self._ask("/fleet/drain", json.dumps({"worker": worker_id}).encode())

    def _ask(self, path: str, body: bytes | None) -> Any:
        headers = {"accept": "application/json", "content-type": "application/json", **self._headers}
        request = urllib.request.Request(self._address + path, data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            raise DrainFailed(f"{self._address}: {_said(error)}") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise DrainFailed(f"no controller answers at {self._address} ({reason}); see --controller") from error


def _said(error: urllib.error.HTTPError) -> str:
    try:
        message = str(json.loads(error.read())["error"]["message"])
    except (OSError, ValueError, KeyError, TypeError):
        message = f"status {error.code}"
    hint = f"; the environment variable {KEY} should hold a key with the scopes fleet and admin"
    return message + (hint if error.code in (401, 403) else "")


# ------------------------------------------------------------------------------------------- who is meant
def chosen(workers: Sequence[Row], word: str) -> list[Row]:
    """The workers that an id, an address, a model or a version of it stands for.

    Raises:
        DrainFailed: nobody, or a model that is served in several versions.
    """
    one = [row for row in workers if word in (row["id"], row["address"])]
    if one:
        return one
    name, _, version = word.partition("@")
    serving = [(row, model) for row in workers for model in row["models"] if model["name"] == name]
    found = [(row, model) for row, model in serving if not version or version in _labels(model)]
    if not found:
        raise DrainFailed(f"nobody in the fleet is, or serves, {word!r}. There {_listed(workers)}")
    labels = sorted({_labels(model)[0] for _, model in found})
    if len({(model["checkpoint_hash"], model["template_hash"]) for _, model in found}) > 1:
        choices = " or ".join(f"{name}@{label}" for label in labels)
        raise DrainFailed(f"{name} is served in several versions; say which: {choices}")
    return [row for row, _ in found]


def _labels(model: Row) -> list[str]:
    label, digest = model.get("version", ""), model["checkpoint_hash"][:SHORT_HASH]
    return [label, digest] if label else [digest]


def _listed(workers: Sequence[Row]) -> str:
    rows = [f"{row['id']} at {row['address']} ({', '.join(each['name'] for each in row['models'])})" for row in workers]
    return f"are: {'; '.join(rows)}" if rows else "is no worker at all"


def alone(workers: Sequence[Row], worker_id: str) -> list[str]:
    """The names of models that nobody else serves who is live."""
    names = {model["name"] for row in workers if row["id"] == worker_id for model in row["models"]}
    others = [row for row in workers if row["id"] != worker_id and row["state"] == "live"]
    return sorted(names - {model["name"] for row in others for model in row["models"]})


# ------------------------------------------------------------------------------------------- draining
def drain_one(controller: Controller, worker: Row, config: DrainConfig) -> None:
    """Take one worker out, and wait until it has left.

    Raises:
        DrainFailed: it took too long, or the controller refuses.
    """
    until, shown = time.monotonic() + config.wait, ""

    def say(text: str) -> None:
        nonlocal shown
        if text != shown:
            shown = text
            print(f"{worker['id']} at {worker['address']}: {text}", flush=True)

    def pause(trouble: str) -> None:
        if time.monotonic() > until:
            raise DrainFailed(f"{worker['id']}: {trouble} after {config.wait:g} s; see --wait")
        time.sleep(POLL)

    while not config.force and (names := alone(controller.workers(), worker["id"])):
        say(f"waiting for another live worker of {', '.join(names)} (--force does not)")
        pause("still the only live worker of " + ", ".join(names))
    controller.drain(worker["id"])
    while row := next((each for each in controller.workers() if each["id"] == worker["id"]), None):
        say(f"draining, {row['running']} answers left")
        pause("has not left")
    say("has left")


def main(config: DrainConfig) -> None:
    """Drain all workers that are meant."""
    controller = Controller(config.controller, os.environ.get(KEY, ""))
    for worker in chosen(controller.workers(), config.worker):
        drain_one(controller, worker, config)


def command(argv: list[str]) -> int:
    """`python -m vicuna.serve drain`."""
    return run_command(DrainConfig, main, argv, "python -m vicuna.serve drain")
