"""Every command: quick help without torch, one-line errors, no traceback for what people can cause."""

import subprocess
import sys

import pytest

from vicuna import __main__ as top
from vicuna.command import guarded
from vicuna.data.__main__ import COMMANDS as DATA
from vicuna.errors import ConfigError, InputError
from vicuna.eval.__main__ import COMMANDS as EVAL
from vicuna.serve.__main__ import COMMANDS as SERVE
from vicuna.serve.access.keys import COMMANDS as KEY
from vicuna.train.__main__ import COMMANDS as TRAIN

ALL = [
    [],
    ["quickstart"],
    *[[stage] for stage in ("data", "train", "serve", "eval")],
    *[["data", name] for name in DATA],
    *[["train", name] for name in TRAIN],
    *[["serve", name] for name in SERVE],
    *[["serve", "key", name] for name in KEY],
    ["chat"],
    *[["eval", name] for name in EVAL],
]
HEAVY = ("jsonargparse", "torch", "transformers", "gradio", "matplotlib", "lxml", "pandas")
PROBE = """
import sys
from vicuna.__main__ import main
status = main(sys.argv[1:])
print("HEAVY", sorted(set(sys.modules) & set({heavy})))
sys.exit(status)
"""


def python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_help_explains_and_imports_nothing_heavy(words):
    shown = python("-c", PROBE.format(heavy=HEAVY), *words, "--help")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("usage: python -m vicuna")
    assert "HEAVY []" in shown.stdout


@pytest.mark.parametrize("words", [each for each in ALL if each], ids=" ".join)
def test_an_unknown_setting_is_one_line_with_status_2(words):
    if words in (["data"], ["serve"], ["serve", "key"]):
        pytest.skip("has sub-commands only")
    if words == ["train", "translate"]:
        pytest.skip("reads another program's flags, and says of which it knows nothing")
    ended = python("-m", "vicuna", *words, "--nonsense", "1")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: --nonsense: there is no setting nonsense")
    assert ended.stderr.count("\n") == 1


def test_an_unknown_command_lists_the_known_ones():
    ended = python("-m", "vicuna", "trian")
    assert (ended.returncode, ended.stderr) == (
        2,
        "error: there is no command 'trian'; python -m vicuna has: " + ", ".join(top.COMMANDS) + "\n",
    )


def test_output_that_nobody_reads_on_is_no_error():
    ended = subprocess.run(
        f"{sys.executable} -m vicuna serve worker --help | head -n 1",
        shell=True, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.stderr == ""


@pytest.mark.parametrize(("error", "status"), [(ConfigError("a setting"), 2), (InputError("a file"), 1)])
def test_what_people_cause_is_one_line_with_its_status(error, status, capsys):
    def body() -> int:
        raise error

    assert guarded(body) == status
    assert capsys.readouterr().err == f"error: {error}\n"


def test_output_that_nobody_reads_at_all_is_no_error():
    ended = subprocess.run(
        f"{sys.executable} -m vicuna train --help | true; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")


def test_an_error_stays_on_one_line_whatever_it_names(capsys):
    def body() -> int:
        raise InputError("no file a\nb\x1b[31m")

    assert guarded(body) == 1
    assert capsys.readouterr().err == "error: no file a\\nb\\x1b[31m\n"


def test_help_wins_over_whatever_else_is_wrong_on_the_line():
    shown = python("-m", "vicuna", "train", "--nonsense", "--help")
    assert shown.returncode == 0
    assert shown.stdout.startswith("usage: python -m vicuna.train")


def test_help_of_a_stage_that_needs_no_command_names_its_commands_too():
    shown = python("-m", "vicuna", "train", "--help").stdout
    assert "--optim.lr" in shown
    assert "\n  tokenizer  train a BPE tokenizer" in shown


def test_a_programming_mistake_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        guarded(lambda: 1 // 0)
