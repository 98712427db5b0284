"""What is written down: one line per event that nobody can forge, one id per request, and never a key or a prompt."""

import json
import logging
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serve_stack import Site, get, site, until

from vicuna.serve.watch import logs

PROMPT = "a prompt that nobody else may read"
SECRET = "a-fleet-secret-of-many-characters"


def record(message: str, /, *args: object, **fields: Any) -> logging.LogRecord:
    made = logging.LogRecord("vicuna.serve.test", logging.INFO, "", 0, message, args, None)
    made.__dict__.update(logs.fields(**fields))
    return made


def failed(message: str) -> logging.LogRecord:
    made = record("it failed")
    try:
        raise ValueError(message)
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


# ------------------------------------------------------------------------------------------- lines
@given(st.text(max_size=60), st.text(max_size=60))
def test_nothing_that_a_client_sends_makes_two_lines_of_one(message: str, model: str) -> None:
    text = logs.formatter("text").format(record("asked for %s", message, model=model))
    assert text.isprintable()
    row = logs.formatter("json").format(record("asked for %s", message, model=model))
    assert row.isprintable()
    read = json.loads(row)
    assert read["logger"] == "vicuna.serve.test"
    assert set(read) <= {"time", "level", "logger", "message", "model"}


def test_a_value_cannot_pass_for_another_field() -> None:
    line = logs.formatter("text").format(record("answered", model="x status=200 worker=w-1"))
    assert line.endswith('answered model="x status=200 worker=w-1"')
    row = json.loads(logs.formatter("json").format(record("answered", message="forged", level="forged", model="x")))
    assert (row["message"], row["level"], row["model"]) == ("answered", "info", "x")


def test_a_forged_line_in_an_exception_is_indented_below_its_own() -> None:
    forged = failed("x\n12:00:00 INFO vicuna.access: answered \x1b[2J")
    first, *rest = logs.formatter("text").format(forged).splitlines()
    assert first.endswith("it failed")
    assert rest
    assert all(line.startswith("    ") and line.isprintable() for line in rest)
    row = json.loads(logs.formatter("json").format(forged))
    assert "answered \\x1b[2J" in row["exception"]


def test_what_is_too_long_is_cut_and_says_so() -> None:
    line = logs.formatter("text").format(record("answered", prompt="x" * 100_000))
    assert len(line) < 10_000
    assert "(91808 more characters)" in line


def test_times_in_json_are_those_of_rfc_3339() -> None:
    row = json.loads(logs.formatter("json").format(record("answered")))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", row["time"])


@pytest.mark.parametrize(
    "said",
    [
        "Authorization: Bearer KEY",
        "{'authorization': 'Bearer KEY'}",
        "(b'authorization', b'Bearer KEY')",
        '{"authorization": "Basic KEY"}',
        "Authorization=KEY",
        "the key sk-KEY is wrong",
        "the key vk-12345678-KEY is wrong",
        f"the secret is {SECRET}KEY",
    ],
)
@pytest.mark.parametrize("form", ["text", "json"])
def test_keys_and_secrets_are_struck_out_wherever_they_turn_up(said: str, form: Any) -> None:
    key = "1f2e3d4c5b6a7980"
    logs.hide(SECRET + key)
    said = said.replace("KEY", key)
    for made in (record(said), record("answered", error=said), failed(said)):
        line = logs.formatter(form).format(made)
        assert key not in line
        assert "***" in line
        if form == "json":
            json.loads(line)


def test_words_that_only_look_like_keys_are_left_alone() -> None:
    said = "the task-force's risk-free desk; its bearer of news"
    assert logs.redacted("model task-7 ended") == "model task-7 ended"
    assert logs.redacted(said).startswith("the task-force's risk-free desk")


def test_outside_of_a_request_a_note_is_lost_without_harm() -> None:
    logs.note(key="k", model="m")
    assert logs.current.get() is None


def test_a_log_that_nobody_reads_holds_up_nobody_and_says_what_is_missing() -> None:
    program = (
        "import logging, sys\n"
        "from vicuna.serve.watch import logs\n"
        "from vicuna.serve.config import LogConfig\n"
        "logs.start(LogConfig())\n"
        "log = logging.getLogger('vicuna')\n"
        "log.setLevel('INFO')\n"
        "for i in range(30_000): log.info('line %d %s', i, 'x' * 50)\n"
        "print('done', flush=True)\n"
        "sys.stdin.readline()\n"
        "log.info('the last word')\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdin
    assert child.stdout
    assert child.stderr
    try:
        assert child.stdout.readline() == b"done\n"  # with its standard error unread, that is, its pipe full
        said = b""
        while b"lines are missing here" not in said:
            said += os.read(child.stderr.fileno(), 65_536)
        child.stdin.close()
        said += child.stderr.read()
        assert child.wait(30) == 0
    finally:
        child.kill()
        child.wait()
    assert b"line 0 " in said
    assert said.rstrip().endswith(b"the last word")


# ------------------------------------------------------------------------------------------- processes
@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, str]]:
    """A fleet with a secret and an API key that writes JSON at the level DEBUG."""
    folder = tmp_path_factory.mktemp("site")
    keys = folder / "keys.jsonl"
    words = [sys.executable, "-m", "vicuna.serve", "key", "add", "tester", "--file", str(keys)]
    made = subprocess.run(words, capture_output=True, text=True, check=True)
    key = next(word for word in made.stdout.split() if word.startswith("vk-"))
    found = Site(folder, VICUNA_FLEET_SECRET=SECRET, VICUNA_LOG="DEBUG")
    try:
        found.start("controller", "--port", str(found.port), "--access.keys", str(keys), "--log.format", "json")
        until(lambda: get(f"{found.api}/health"), "the controller")
        worker = ["--controllers", found.api, "--names", "echo", "--engine.kind", "scripted"]
        found.start("worker", *worker, "--log.format", "json")
        until(lambda: "echo" in get(f"{found.api}/health")["models"], "the worker")
        yield found, key
    finally:
        found.end()


def ask(stack: tuple[Site, str], name: str, key: str = "", **more: Any) -> tuple[int, bytes]:
    body = {"model": "echo", "messages": [{"role": "user", "content": PROMPT}], **more}
    request = urllib.request.Request(
        f"{stack[0].api}/v1/chat/completions",
        json.dumps(body).encode(),
        {"authorization": f"Bearer {key or stack[1]}", "content-type": "application/json", "x-request-id": name},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def rows(stack: tuple[Site, str], which: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stack[0].commands[which].output().splitlines()]


def access_line(stack: tuple[Site, str], which: int, name: str) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        lines = [row for row in rows(stack, which) if row.get("request_id") == name]
        return next((row for row in lines if row["logger"] == "vicuna.access"), None)

    line: dict[str, Any] = until(found, f"the line about {name}")
    return line


@pytest.mark.parametrize("stream", [False, True])
def test_one_request_id_goes_from_the_gateway_to_the_worker(stack: tuple[Site, str], stream: bool) -> None:
    name = f"from-the-client-{stream}"
    status, body = ask(stack, name, stream=stream)
    assert status == 200, body
    gateway, worker = access_line(stack, 0, name), access_line(stack, 1, name)
    assert (gateway["route"], gateway["status"], gateway["model"]) == ("/v1/chat/completions", 200, "echo")
    assert gateway["message"] == "answered"
    assert gateway["workers"][0].startswith("w-")
    assert gateway["completion_tokens"] > 0
    assert 0 <= gateway["first_token_ms"] <= gateway["total_ms"]
    assert gateway["key"]
    assert (worker["route"], worker["status"], worker["model"]) == ("/generate", 200, "echo")


def test_requests_that_are_refused_have_their_line_too(stack: tuple[Site, str]) -> None:
    assert ask(stack, "wrong-key", key="sk-wrong-wrong-wrong-wrong")[0] == 401
    assert access_line(stack, 0, "wrong-key")["message"] == "refused"
    assert ask(stack, "wrong-model", model="forged\nmodel")[0] == 404
    line = access_line(stack, 0, "wrong-model")
    assert (line["status"], line["model"]) == (404, "forged\\nmodel")


def test_no_line_has_a_key_a_secret_or_a_prompt(stack: tuple[Site, str]) -> None:
    ask(stack, "last-of-all")
    ask(stack, "too-many", n=1000)
    ask(stack, "of-a-wrong-type", messages=[{"role": "user", "content": PROMPT}, PROMPT])
    access_line(stack, 0, "of-a-wrong-type")
    access_line(stack, 1, "last-of-all")
    for command in stack[0].commands:
        said = command.output()
        assert stack[1] not in said
        assert SECRET not in said
        assert PROMPT not in said
        assert all(isinstance(json.loads(line), dict) for line in said.splitlines())


def test_prompts_are_written_down_where_the_operator_says_so(tmp_path: Path) -> None:
    with site(tmp_path, "--log.prompts", "true") as made:
        made.worker("echo")
        assert ask((made, "none"), "with-prompt")[0] == 200
        until(lambda: made.commands[0].output().count(PROMPT) >= 2, "the prompt and its echo in the log")
