"""The whole house on one laptop: raw pages, cleaning, a tokenizer, a base model, fine-tuning, serving, judging.

Every stage runs as the command that a user would type, and knows by itself whether its work is done already.
"""

import contextlib
import dataclasses
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vicuna import manifest
from vicuna.command import run
from vicuna.config import dump
from vicuna.errors import ConfigError, VicunaError
from vicuna.files import read_json, write_json, write_text

CONFIGS = Path(__file__).parent.parent / "configs"
BASE, TUNED = "vicuna-tiny-base", "vicuna-tiny"
READY = 60.0
"""Seconds that the served models may take to appear."""
STOP = 10.0
"""Seconds that a child may take to end after it was asked to."""


@dataclass(frozen=True, kw_only=True)
class SizeConfig:
    """How big everything is."""

    conversations: int = 2000
    """Raw conversations in the sample corpus."""
    vocabulary: int = 2048
    """Tokens in the tokenizer."""
    hidden: int = 192
    """Width of the model."""
    layers: int = 4
    """Decoder layers of the model."""
    base_epochs: float = 4.0
    """Passes over the plain text for the base model."""
    epochs: float = 4.0
    """Passes over the conversations for fine-tuning."""

    def __post_init__(self) -> None:
        if self.conversations < 50:
            raise ValueError(
                f"conversations is at least 50, so that every kind of chat occurs; got {self.conversations}"
            )


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Who compares the two models."""

    base_url: str = ""
    """OpenAI-compatible endpoint of a judge, up to and including /v1; with it, or with OPENAI_API_KEY in the
    environment, a language model judges, else the offline reference judge."""
    model: str = ""
    """The judging model's name; empty takes the evaluation's default."""


@dataclass(frozen=True, kw_only=True)
class QuickstartConfig:
    """From raw chat pages to a judged chatbot on this machine's CPU, then the demo until Ctrl-C."""

    out: str = "runs/quickstart"
    """Folder for everything that is made; a second run uses what is finished there."""
    seed: int = 0
    """Decides the corpus, the weights and the order of training."""
    demo: bool = True
    """Leave the demo running at the end; --no-demo ends instead."""
    port: int = 8000
    """Port of the OpenAI-compatible API; 0 takes any free one."""
    web_port: int = 7860
    """Port of the demo; 0 takes any free one."""
    size: SizeConfig = field(default_factory=SizeConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)


class StageFailed(VicunaError):
    """A stage ended with an error; it has said why itself."""


@dataclass(frozen=True)
class Stage:
    """One command of the pipeline and the folder that it fills."""

    name: str
    argv: Sequence[str]
    out: Path


@dataclass
class Timing:
    """What a stage took."""

    stage: str
    seconds: float
    reused: bool


def command(argv: list[str]) -> int:
    """`python -m vicuna quickstart`."""
    return run(QuickstartConfig, main, argv, "python -m vicuna quickstart")


def main(config: QuickstartConfig) -> None:
    """Run the stages, show the summary, keep the demo up."""
    if not CONFIGS.is_dir():
        raise ConfigError(
            f"the recipes ({CONFIGS}) are not there; run the quickstart from a checkout of the repository"
        )
    config = free_ports(config)  # now, not after minutes of training
    out = Path(config.out)
    began = time.monotonic()
    with Children() as children, memory_of_family() as memory:
        timings = [children.run(stage) for stage in build_stages(config)]
        start = time.monotonic()
        api, page = children.serve(config)
        timings.append(Timing("serve", time.monotonic() - start, reused=False))
        timings.append(children.run(eval_stage(config, api)))
        seconds = time.monotonic() - began
        summary = summarise(out, timings, seconds, memory.peak)
        write_json(out / "summary.json", summary)
        show(summary, out, api, page if config.demo else "")
        if config.demo:
            children.wait()


def build_stages(config: QuickstartConfig) -> list[Stage]:
    """The commands from nothing to two checkpoints, in order."""
    out, size, seed = Path(config.out), config.size, str(config.seed)
    raw, clean, tokenizer, data = out / "raw", out / "clean", out / "tokenizer", out / "data"
    context = str(_context())
    base, tuned = out / "base", out / "tuned"
    tiny = ["--config", str(CONFIGS / "train" / "tiny.yaml"), "--seed", seed, "--model.max_length", context]
    return [
        Stage("sample corpus", ["data", "sample", "--out", str(raw), "--seed", seed,
                                "--conversations", str(size.conversations)], raw),
        Stage("clean", ["data", "clean", str(raw / "raw.json"), "--config", str(CONFIGS / "data" / "quickstart.yaml"),
                        "--out", str(clean)], clean),
        Stage("tokenizer", ["train", "tokenizer", str(clean), "--out", str(tokenizer),
                            "--size", str(size.vocabulary)], tokenizer),
        Stage("split", ["data", "split", str(clean), "--out", str(data), "--model.path", str(tokenizer),
                        "--model.template", "vicuna_v1.1", "--model.max_length", context], data),
        Stage("random weights", ["train", "init", str(tokenizer), "--out", str(out / "init"), "--seed", seed,
                                 "--hidden", str(size.hidden), "--layers", str(size.layers),
                                 "--max_length", context], out / "init"),
        Stage("base model", ["train", *tiny, "--model.path", str(out / "init"), "--data.path", str(data),
                             "--data.format", "text", "--batch.epochs", str(size.base_epochs),
                             "--out", str(base)], base / "model"),
        Stage("fine-tuning", ["train", *tiny, "--model.path", str(base / "model"), "--data.path", str(data),
                              "--batch.epochs", str(size.epochs), "--out", str(tuned)], tuned / "model"),
    ]  # fmt: skip


def _context() -> int:
    """The context that the tiny recipe names."""
    import yaml

    tree: Mapping[str, Any] = yaml.safe_load((CONFIGS / "train" / "tiny.yaml").read_text(encoding="utf-8"))
    return int(tree["model"]["max_length"])


def eval_stage(config: QuickstartConfig, api: str) -> Stage:
    """The command that asks and judges: by a language model if there is one, else by the reference judge."""
    out = Path(config.out)
    argv = ["eval", "--questions", str(out / "raw" / "questions.jsonl"), "--models", TUNED, BASE, "--baseline", BASE,
            "--endpoint.base_url", f"{api}/v1", "--out", str(out / "eval"),
            "--sampling.temperature", "0", "--sampling.max_tokens", "48"]  # fmt: skip
    if config.judge.base_url:
        argv += ["--judge.kind", "llm", "--judge.base_url", config.judge.base_url]
    elif os.environ.get("OPENAI_API_KEY"):
        argv += ["--judge.kind", "llm"]
    else:
        argv += ["--judge.kind", "reference"]
    argv += ["--judge.model", config.judge.model] if config.judge.model else []
    return Stage("judging", argv, out / "eval")


def stack(config: QuickstartConfig) -> dict[str, Any]:
    """The settings of the local stack: one controller, a worker for each model, the demo."""
    out = Path(config.out)

    def worker(name: str, folder: Path, template: str = "") -> dict[str, Any]:
        return {"names": [name], "model": {"path": str(folder), "max_length": _context(), "template": template}}

    return {
        "controller": {"port": config.port},
        "workers": [
            worker(TUNED, out / "tuned" / "model"),
            # A base model has no template of its own; it is asked in the same words as the tuned one.
            worker(BASE, out / "base" / "model", "vicuna_v1.1"),
        ],
        "web": {"port": config.web_port, "title": "Vicuna tiny", "sampling": {"temperature": 0.0, "max_tokens": 64}},
    }


class Children:
    """The commands that the quickstart starts; leaving the block ends every one of them."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Children":
        self._before = signal.signal(signal.SIGTERM, _interrupt)
        return self

    def __exit__(self, *exc: object) -> None:
        signal.signal(signal.SIGTERM, self._before)
        for child in self._running:
            if child.poll() is None:
                child.send_signal(signal.SIGINT)
        for child in self._running:
            try:
                child.wait(STOP)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

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
        child = self._start(["serve", "up", "--config", str(path)])
        api, page = f"http://127.0.0.1:{config.port}", f"http://127.0.0.1:{config.web_port}"
        wait_for_models(api, {BASE, TUNED}, child)
        return api, page

    def wait(self) -> None:
        """Wait until Ctrl-C, or until the stack ends by itself (which is an error)."""
        status = self._running[-1].wait() if self._running[-1].poll() is None else 0
        for child in self._running:
            status = status or child.wait()
        raise StageFailed(f"the demo ended by itself with status {status}")


def dump_stack(tree: Mapping[str, Any]) -> str:
    """The stack's settings as YAML, complete with every default."""
    from vicuna.config import from_dict
    from vicuna.serve.config import StackConfig

    return dump(from_dict(StackConfig, tree, "the quickstart"))


def free_ports(config: QuickstartConfig) -> QuickstartConfig:
    """The settings with any port 0 replaced by a free one.

    Raises:
        ConfigError: a port that was asked for is in use.
    """
    with contextlib.ExitStack() as held:
        ports = {}
        for name in ("port", "web_port"):
            sock = held.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", getattr(config, name)))
            except OSError as error:
                raise ConfigError(f"port {getattr(config, name)} is in use; choose another with --{name}") from error
            ports[name] = sock.getsockname()[1]
    return dataclasses.replace(config, **ports)


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


# ---------------------------------------- what it took
class Peak:
    """The most memory that a family of processes held at once."""

    peak = 0
    """Bytes of resident memory; pages that processes share count once for each of them."""


@contextlib.contextmanager
def memory_of_family() -> Iterator[Peak]:
    """Watch this process and all its descendants, twice a second."""
    import psutil

    found, done = Peak(), threading.Event()
    me = psutil.Process()

    def resident(process: Any) -> int:
        try:
            return int(process.memory_info().rss)
        except psutil.Error:
            return 0  # it ended between listing and asking

    def watch() -> None:
        while not done.wait(0.5):
            with contextlib.suppress(psutil.Error):
                found.peak = max(found.peak, sum(map(resident, [me, *me.children(recursive=True)])))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def summarise(out: Path, timings: Sequence[Timing], seconds: float, peak: int) -> dict[str, Any]:
    """Everything that the last table shows, from the manifests of what was made."""
    tuned = manifest.read(out / "tuned" / "model").facts
    return {
        "stages": [{"stage": each.stage, "seconds": round(each.seconds, 1), "reused": each.reused} for each in timings],
        "seconds": round(seconds, 1),
        "peak_memory_bytes": peak,
        "raw": dict(manifest.read(out / "raw").facts),
        "data": dict(manifest.read(out / "clean").facts),
        "training": {
            key: tuned[key] for key in ("parameters", "samples", "steps", "tokens", "target_tokens", "seconds")
        },
        "loss": _last_loss(out / "tuned" / "metrics.jsonl"),
        "evaluation": dict(manifest.read(out / "eval").facts),
        "scores": read_json(out / "eval" / "scores.json"),
    }


def _last_loss(path: Path) -> float:
    """Mean loss of the last twentieth of the run, weighted by target tokens."""
    from vicuna.train.metrics import read_steps

    steps = read_steps(path)
    steps = steps[-max(1, len(steps) // 20) :]
    return sum(each.loss * each.targets for each in steps) / sum(each.targets for each in steps)


def show(summary: Mapping[str, Any], out: Path, api: str, page: str) -> None:
    """The summary as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    times = Table("stage", "seconds", title="vicuna quickstart")
    times.columns[1].justify = "right"
    for each in summary["stages"]:
        times.add_row(each["stage"], "done before" if each["reused"] else f"{each['seconds']:.1f}")
    times.add_section()
    times.add_row("all", f"{summary['seconds']:.1f}")
    console.print(times)
    results = Table("result", "value")
    for name, value in result_rows(summary):
        results.add_row(name, value)
    console.print(results)
    console.print(f"report: {out / 'eval' / 'report.html'}\ndata:   {out / 'clean' / 'report.html'}", highlight=False)
    if page:
        console.print(f"demo:   {page}  (API: {api}/v1; Ctrl-C ends them)", highlight=False)


def result_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The headline numbers as (name, value)."""
    data, training, evaluation = summary["data"], summary["training"], summary["evaluation"]
    rows = [
        ("rounds kept", f"{data['rounds_kept']:,} of {data['rounds_in']:,}"),
        ("training samples", f"{training['samples']:,}"),
        ("parameters", f"{training['parameters']:,}"),
        ("final loss", f"{summary['loss']:.3f}"),
        ("target tokens/s", f"{training['target_tokens'] / training['seconds']:,.0f}"),
    ]
    for name, share in evaluation["accuracy"].items():
        rows.append((f"held-out accuracy of {name}", _interval(share)))
    for pair in evaluation["pairs"]:
        what = f"win rate of {pair['model']} over {pair['baseline']} ({evaluation['judge']})"
        rows.append((what, _interval(pair["win_rate"]) if pair["win_rate"] else "nothing was scored"))
    return [*rows, ("peak memory", f"{summary['peak_memory_bytes'] / 2**30:.2f} GiB")]


def _interval(estimate: Mapping[str, Any]) -> str:
    if estimate["low"] is None:
        return f"{estimate['value']:.3f} (too few questions for an interval)"
    return f"{estimate['value']:.3f} (95%: {estimate['low']:.3f} to {estimate['high']:.3f})"
