"""What the documents say can be done: their links lead somewhere, and their commands have these settings."""

import re
import shlex
from pathlib import Path

import pytest

from vicuna.chat.config import ChatConfig
from vicuna.config import load
from vicuna.data.config import CleanConfig, SplitOnlyConfig
from vicuna.data.corpus.command import CorpusConfig
from vicuna.data.fingerprint import FingerprintConfig
from vicuna.data.tools.convert import ConvertConfig
from vicuna.data.tools.extract import ExtractConfig
from vicuna.data.tools.identity import IdentityConfig
from vicuna.data.tools.inspect import InspectConfig
from vicuna.data.tools.merge import MergeConfig
from vicuna.data.tools.sample import SampleConfig
from vicuna.data.tools.split_train_test import SplitTrainTestConfig
from vicuna.data.tools.stats import StatsConfig
from vicuna.eval.config import EvalConfig, ReportConfig, RescoreConfig
from vicuna.quickstart.config import QuickstartConfig
from vicuna.serve.access.keys import AddConfig
from vicuna.serve.config import ControllerConfig, StackConfig, WebConfig, WorkerConfig
from vicuna.serve.drain import DrainConfig
from vicuna.serve.net.secret import SecretConfig
from vicuna.train.config import InitConfig, TokenizerConfig, TrainConfig
from vicuna.train.config import ReportConfig as RunReportConfig
from vicuna.train.translate import main as translate

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
COMMANDS = {
    ("vicuna", "quickstart"): QuickstartConfig,
    ("vicuna.data", "clean"): CleanConfig,
    ("vicuna.data", "split"): SplitOnlyConfig,
    ("vicuna.data", "corpus"): CorpusConfig,
    ("vicuna.data", "fingerprint"): FingerprintConfig,
    ("vicuna.data", "stats"): StatsConfig,
    ("vicuna.data", "inspect"): InspectConfig,
    ("vicuna.data", "sample"): SampleConfig,
    ("vicuna.data", "split-train-test"): SplitTrainTestConfig,
    ("vicuna.data", "merge"): MergeConfig,
    ("vicuna.data", "convert"): ConvertConfig,
    ("vicuna.data", "extract"): ExtractConfig,
    ("vicuna.data", "identity"): IdentityConfig,
    ("vicuna.train", "tokenizer"): TokenizerConfig,
    ("vicuna.train", "init"): InitConfig,
    ("vicuna.train", "report"): RunReportConfig,
    ("vicuna.train",): TrainConfig,
    ("vicuna.serve", "controller"): ControllerConfig,
    ("vicuna.serve", "worker"): WorkerConfig,
    ("vicuna.serve", "web"): WebConfig,
    ("vicuna.serve", "up"): StackConfig,
    ("vicuna.serve", "drain"): DrainConfig,
    ("vicuna.serve", "secret"): SecretConfig,
    ("vicuna.serve", "key", "add"): AddConfig,
    ("vicuna", "chat"): ChatConfig,
    ("vicuna.eval", "rescore"): RescoreConfig,
    ("vicuna.eval", "report"): ReportConfig,
    ("vicuna.eval",): EvalConfig,
}


def commands(page: Path) -> list[str]:
    """The `python -m vicuna...` command lines in a page's code blocks, continued lines joined."""
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line[line.index("python -m ") + 10 :].split(" #")[0] for line in lines if "python -m vicuna" in line]


ALL = [(page, line) for page in PAGES for line in commands(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_there_are_commands_to_check():
    assert len(ALL) > 10


@pytest.mark.parametrize(("page", "line"), ALL, ids=[f"{page.name}: {line}" for page, line in ALL])
def test_a_documented_command_has_these_settings(page, line, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(line.replace("...", "x"))
    key = next((tuple(words[:size]) for size in (3, 2) if tuple(words[:size]) in COMMANDS), tuple(words[:1]))
    shown = [] if any(each in words for each in ("--help", "COMMAND")) else words[len(key) :]
    if words[:2] == ["vicuna.serve", "up"] and not shown[0].startswith("-"):
        shown = ["--config", *shown]
    if words[:2] == ["vicuna.train", "translate"]:
        assert translate(words[2:]) == 0
    elif key in COMMANDS:
        load(COMMANDS[key], shown)  # raises where a setting is not there
    else:
        assert "COMMAND" in words or key == ("vicuna",), line
