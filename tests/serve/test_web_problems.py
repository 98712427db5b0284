"""What the chat page says when there is no answer; a real controller, no browser."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from serve_stack import Site, until

from vicuna.serve.web import history
from vicuna.serve.web.client import Service
from vicuna.serve.web.talk import Talk


def made_key(folder: Path, *flags: str) -> str:
    words = [
        sys.executable,
        "-m",
        "vicuna.serve",
        "key",
        "add",
        "visitor",
        "--file",
        str(folder / "keys.jsonl"),
        *flags,
    ]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def noted(api: str, key: str, model: str | None) -> Any:
    """What is shown after a question."""

    async def ask() -> Any:
        views = Talk(Service(api, key)).answer("visitor", [history.user("hello")], model, "", {})
        return [view async for view in views][-1].shown[-1]

    return asyncio.run(ask())


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A controller with keys, and one that does not open chats."""
    folder = tmp_path_factory.mktemp("locked")
    key = made_key(folder, "--scopes", "embeddings")
    made = Site(folder)
    try:
        controller = made.start("controller", "--port", str(made.port), "--access.keys", str(folder / "keys.jsonl"))
        until(lambda: "controller: http" in controller.output(), "the controller")
        yield made.api, key
    finally:
        made.end()


def test_without_a_key_the_page_says_that_one_is_wanted_and_not_that_nothing_is_served(locked: Any) -> None:
    note = noted(locked[0], "", None)
    assert "wants a key" in note["metadata"]["title"]
    assert "VICUNA_API_KEY" in note["content"]


def test_a_key_that_does_not_open_chats_is_named_as_the_cause(locked: Any) -> None:
    note = noted(*locked, "echo")
    assert "key does not allow this" in note["metadata"]["title"]
    assert "scope 'chat'" in note["content"]


def test_a_service_that_is_away_is_named_as_the_cause() -> None:
    assert "cannot be reached" in noted("http://127.0.0.1:1", "", None)["metadata"]["title"]
