"""The whole house in small: raw pages in, a judged chatbot out, the same command again, and Ctrl-C in the middle."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from vicuna import manifest
from vicuna.errors import ConfigError
from vicuna.quickstart.config import QuickstartConfig
from vicuna.quickstart.run import free_ports

SMALL = ["--size.conversations", "300", "--size.base_epochs", "1", "--size.epochs", "1", "--size.hidden", "64",
         "--size.layers", "2", "--port", "0", "--web_port", "0"]  # fmt: skip
pytestmark = pytest.mark.slow


def quickstart(out: Path, *more: str, **popen) -> subprocess.Popen[str]:
    """The command, reached by no key to a judge outside."""
    environment = {key: value for key, value in os.environ.items() if key != "OPENAI_API_KEY"}
    words = [sys.executable, "-m", "vicuna", "quickstart", "--out", str(out), *SMALL, *more]
    return subprocess.Popen(
        words, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **popen
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("quickstart")
    child = quickstart(out, "--no-demo")
    said, _ = child.communicate(timeout=280)
    assert child.returncode == 0, said
    return out, said


def test_it_ends_with_the_numbers_and_says_where_the_report_is(finished):
    out, said = finished
    summary = json.loads((out / "summary.json").read_text())
    assert [each["stage"] for each in summary["stages"]] == [
        "sample corpus", "clean", "tokenizer", "split", "random weights", "base model", "fine-tuning", "serve",
        "judging",
    ]  # fmt: skip
    assert set(summary["evaluation"]["accuracy"]) == {"vicuna-tiny", "vicuna-tiny-base"}
    assert summary["data"]["rounds_in"] == summary["data"]["rounds_kept"] + summary["data"]["rounds_dropped"]
    assert summary["peak_memory_bytes"] < 4 * 2**30
    assert "reference judge" in said
    assert str(out / "eval" / "report.html") in said.replace("\n", "")


def test_every_artefact_can_be_walked_back_to_the_raw_pages(finished):
    out, _ = finished
    made = {name: manifest.verify(out / name) for name in ("raw", "clean", "tokenizer", "data", "init")}
    made |= {name: manifest.verify(out / name / "model") for name in ("base", "tuned")}
    made["eval"] = manifest.verify(out / "eval")
    assert made["raw"].files["raw.json"] in made["clean"].parents.values()
    assert made["clean"].hash in made["tokenizer"].parents.values()
    assert made["tokenizer"].hash in made["init"].parents.values()
    assert made["base"].parents == {"base": made["init"].hash, "data": made["data"].hash}
    assert made["tuned"].parents == {"base": made["base"].hash, "data": made["data"].hash}
    assert made["eval"].parents["model vicuna-tiny"] == made["tuned"].hash
    assert made["eval"].parents["model vicuna-tiny-base"] == made["base"].hash
    assert made["eval"].parents["questions"] == made["raw"].files["questions.jsonl"]


def test_no_process_is_left_over(finished):
    out, _ = finished
    assert not [each for each in psutil.process_iter(["cmdline"]) if str(out) in " ".join(each.info["cmdline"] or [])]


def test_a_second_run_uses_what_is_finished(finished):
    out, _ = finished
    before = {name: manifest.read(out / name).created for name in ("raw", "clean", "data", "tuned/model")}
    child = quickstart(out, "--no-demo")
    said, _ = child.communicate(timeout=200)
    assert child.returncode == 0, said
    assert {name: manifest.read(out / name).created for name in before} == before
    assert said.count("done before") >= 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_ends_every_child_and_the_next_run_goes_on(tmp_path, number):
    child = quickstart(tmp_path, "--no-demo", process_group=0)
    deadline = time.monotonic() + 200
    while not (tmp_path / "base" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    family = psutil.Process(child.pid).children(recursive=True)
    os.killpg(child.pid, number) if number == signal.SIGINT else child.send_signal(number)
    said, _ = child.communicate(timeout=60)
    assert child.returncode == 130, said
    assert "Traceback" not in said
    assert not [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert manifest.is_complete(tmp_path / "data")
    assert not (tmp_path / "tuned").exists()


def test_a_port_in_use_is_said_in_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is in use; choose another with --web_port"):
            free_ports(QuickstartConfig(port=0, web_port=port))
