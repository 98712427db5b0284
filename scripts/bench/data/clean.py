"""From raw chats to training conversations: `clean` with every filter on, beside FastChat's three programs.

    .venv/bin/python scripts/bench/data/clean.py --peers DIR --work DIR --json clean.json

FastChat's `clean_sharegpt`, `optional_clean` and `split_long_conversation` run one after the other on the same file,
with the same tokenizer and the same 2,048 tokens. Measured are CPU seconds of all processes, wall seconds, and memory;
both take turns, and medians count. Without `--peers` only ours is measured. Corpora are made as they are needed
(corpus.py) and kept in `--work`. `--quick` takes a minute.
"""

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import corpus
import measure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import peers
import tokenizer
import yaml
from measure import Cost

LENGTH = 2048
SETTINGS: dict[str, Any] = {
    "quality": {"refusals": True, "boilerplate": True, "moralizing": True, "blocked": ["lorem ipsum"], "same_digit": 8,
                "stuck_lists": True},
    "toxicity": {"enabled": True, "scorer": "words"},
    "language": {"skip": ["ko"]},
    "dedup": {"exact": True, "near": True},
    "decontaminate": {"enabled": True},
    "personal": {"enabled": True},
    "model": {"template": "vicuna_v1.1", "max_length": LENGTH},
}  # fmt: skip
"""Every filter on; the rest is as `clean` has it."""


@dataclass(frozen=True)
class Input:
    """A raw corpus."""

    raw: Path
    conversations: int
    questions: Path | None


@dataclass(frozen=True)
class Run:
    """One way through the whole pipeline, step by step."""

    steps: dict[str, Cost]

    @property
    def cpu(self) -> float:
        """CPU seconds of all steps."""
        return sum(each.cpu for each in self.steps.values())

    @property
    def wall(self) -> float:
        """Wall seconds of all steps, one after the other."""
        return sum(each.wall for each in self.steps.values())

    @property
    def process_mb(self) -> float:
        """Largest process of all steps, MB."""
        return max(each.process_mb for each in self.steps.values())

    @property
    def tree_mb(self) -> float:
        """Largest process tree of all steps, MB."""
        return max(each.tree_mb for each in self.steps.values())


# ------------------------------------------------------------------------------------------------ the two pipelines
def ours(given: Input, model: Path, workers: int, out: Path) -> Run:
    """`python -m vicuna.data clean` into a fresh folder."""
    shutil.rmtree(out, ignore_errors=True)
    settings = json.loads(json.dumps(SETTINGS))
    settings["model"]["path"] = str(model)
    if given.questions:
        settings["decontaminate"]["questions"] = [str(given.questions)]
    config = out.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    words = [
        "-m",
        "vicuna.data",
        "clean",
        given.raw,
        "--config",
        config,
        "--out",
        out,
        "--engine.workers",
        str(workers),
    ]
    return Run({"clean": measure.run([sys.executable, *map(str, words)])})


class FastChat:
    """FastChat's programs in their own environment."""

    def __init__(self, folder: str, work: Path) -> None:
        self._python = peers.python_of(folder, peers.FASTCHAT)
        self._work = work
        self.languages = peers.tells_languages(folder)
        if not self.languages:
            print("FastChat without optional_clean: polyglot, pycld2 or PyICU is missing", file=sys.stderr)

    def __call__(self, given: Input, model: Path, workers: int) -> Run:
        """All programs, each on what the one before left."""
        steps = {"clean_sharegpt": self._run(workers, "clean_sharegpt", given.raw, "clean.json")}
        last = self._work / "clean.json"
        if self.languages:
            steps["optional_clean"] = self._run(workers, "optional_clean", last, "lang.json", "--skip-lang", "ko")
            last = self._work / "lang.json"
        more = ("--model-name-or-path", str(model), "--max-length", str(LENGTH))
        steps["split_long_conversation"] = self._run(workers, "split_long_conversation", last, "split.json", *more)
        self.before, self.after = last, self._work / "split.json"
        return Run(steps)

    def _run(self, workers: int, program: str, source: Path, target: str, *more: str) -> Cost:
        runner = Path(__file__).with_name("fastchat_run.py")
        words = [runner, str(workers), f"fastchat.data.{program}", "--in", source, "--out", self._work / target, *more]
        return measure.run([self._python, "-P", "-W", "ignore", *map(str, words)], {"TOKENIZERS_PARALLELISM": "false"})


# ------------------------------------------------------------------------------------------------ rounds
def rounds_of(turns: Sequence[dict[str, str]]) -> int:
    """Rounds of a raw record as docs/data.md counts them: a run of questions and the run of answers after it."""
    roles = [turn["from"] for turn in turns]
    if not roles or set(roles) - {"human", "gpt"}:
        return 1
    begins = sum(role == "human" and (not place or roles[place - 1] != "human") for place, role in enumerate(roles))
    return begins + (roles[0] == "gpt")


def our_rounds(given: Input, out: Path) -> dict[str, int]:
    """Counted from the files, not from what the program says of itself."""
    raw = json.loads(given.raw.read_text(encoding="utf-8"))
    samples = 0
    for path in sorted((out / "conversations").glob("*.jsonl")):
        with path.open(encoding="utf-8") as rows:
            samples += sum(message["role"] == "assistant" for row in rows for message in json.loads(row)["messages"])
    with (out / "ledger.jsonl").open(encoding="utf-8") as rows:
        dropped = sum(1 for _ in rows)
    came = sum(rounds_of(row["conversations"]) for row in raw)
    return {"in": came, "in samples": samples, "in the ledger": dropped, "lost": came - samples - dropped}


def their_rounds(before: Path, after: Path) -> dict[str, int]:
    """What the splitter alone loses."""
    came, went = (json.loads(path.read_text(encoding="utf-8")) for path in (before, after))
    whole = {row["id"]: len(row["conversations"]) // 2 for row in came}
    left = dict.fromkeys(whole, 0)
    for row in went:
        left[row["id"].rsplit("_", 1)[0]] += len(row["conversations"]) // 2
    lost = {name: whole[name] - left[name] for name in whole if whole[name] > left[name]}
    return {"into the splitter": sum(whole.values()), "lost": sum(lost.values()), "conversations that lost": len(lost),
            "conversations": len(whole)}  # fmt: skip


# ------------------------------------------------------------------------------------------------ the command
def main() -> None:
    """Measure and show."""
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    machine = measure.machine()
    print(machine, end="\n\n")
    fastchat = FastChat(options.peers, options.work) if options.peers else None
    inputs = [Input(options.corpus, _count(options.corpus), None)] if options.corpus else _made(options)
    truth = options.truth or inputs[0].raw.with_name("truth.jsonl")
    model = _tokenizer(options, truth)
    results: dict[str, Any] = {"machine": machine, "runs": {}, "rounds": {}}
    for given in inputs:
        _compare(given, model, fastchat, options, results)
        measure.save(options.json, results)
    if options.growth:
        _grow(options, model, results)
        measure.save(options.json, results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, type=Path, help="folder for corpora, tokenizer and outputs")
    parser.add_argument("--peers", help="folder that peers.py made; without it, only ours is measured")
    parser.add_argument("--sizes", type=int, nargs="*", default=[2000, 10_000], help="conversations")
    parser.add_argument("--growth", type=int, nargs="*", default=[50_000], help="conversations, only ours, only once")
    parser.add_argument("--corpus", type=Path, help="a ShareGPT file instead")
    parser.add_argument("--truth", type=Path, help="its truth.jsonl, which the tokenizer is trained on")
    about = "llama: as real checkpoints have it (FastChat reads tokenizer.model, we tokenizer.json); fast: one for both"
    parser.add_argument("--tokenizer", choices=("llama", "fast"), default="llama", help=about)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="write everything there")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that all works")
    options = parser.parse_args()
    if options.corpus and not (options.truth or options.corpus.with_name("truth.jsonl").exists()):
        parser.error("--corpus needs --truth: the tokenizer is trained on its text")
    if options.quick:
        options.sizes, options.growth, options.repeats = [200], [], 1
    return options


def _tokenizer(options: argparse.Namespace, truth: Path) -> Path:
    if options.peers and options.tokenizer == "llama":
        python = peers.python_of(options.peers, peers.FASTCHAT)
        return tokenizer.like_llama(options.work / "llama", truth, python)
    return tokenizer.fast_only(options.work / "tokenizer", truth)


def _count(raw: Path) -> int:
    return len(json.loads(raw.read_text(encoding="utf-8")))


def _made(options: argparse.Namespace) -> list[Input]:
    return [_corpus(options, size) for size in options.sizes]


def _corpus(options: argparse.Namespace, size: int) -> Input:
    folder = options.work / f"corpus-{size}-{options.seed}"
    raw = folder / "raw.json"
    if not (folder / "questions.jsonl").exists():  # written last
        print(f"making {raw}", file=sys.stderr)
        corpus.write(folder, size, options.seed)
    return Input(raw, size, folder / "questions.jsonl")


def _compare(
    given: Input, model: Path, fastchat: FastChat | None, options: argparse.Namespace, results: dict[str, Any]
) -> None:
    """Both pipelines on one corpus, in turn, with each number of processes."""
    out = options.work / "out"
    found: dict[tuple[str, int], list[Run]] = {}
    for repeat in range(options.repeats):
        for workers in options.processes:
            if fastchat:
                found.setdefault(("FastChat", workers), []).append(fastchat(given, model, workers))
            found.setdefault(("ours", workers), []).append(ours(given, model, workers, out))
        print(f"{given.conversations} conversations: repetition {repeat + 1} of {options.repeats}", file=sys.stderr)
    megabytes = given.raw.stat().st_size / 1e6
    print(f"{given.conversations} conversations, {megabytes:.1f} MB\n")
    print(_table(found, given.conversations), end="\n\n")
    _show_ratios(found, options.processes)
    rounds: dict[str, Any] = {"ours": our_rounds(given, out)}
    if fastchat:
        rounds["FastChat's splitter"] = their_rounds(fastchat.before, fastchat.after)
    for name, each in rounds.items():
        print(f"rounds, {name}: " + ", ".join(f"{key} {number:,}" for key, number in each.items()))
    print()
    key = str(given.conversations)
    results["rounds"][key] = rounds
    results["runs"][key] = {
        f"{name}, {workers} processes": [{step: cost.row() for step, cost in run.steps.items()} for run in runs]
        for (name, workers), runs in found.items()
    }


def _table(found: dict[tuple[str, int], list[Run]], conversations: int) -> str:
    rows = []
    for (name, workers), runs in found.items():
        rows.append(_row(f"{name}, {workers}", runs, conversations))
        if len(runs[0].steps) > 1:
            rows += [_row(f"... {step}", [Run({step: run.steps[step]}) for run in runs], conversations)
                     for step in runs[0].steps]  # fmt: skip
    head = [
        "pipeline, processes",
        "CPU s",
        "conversations per CPU s",
        "wall s (least-most)",
        "largest process, MB",
        "tree, MB",
    ]
    return measure.table(head, rows)


def _row(name: str, runs: Sequence[Run], conversations: int) -> list[str]:
    cpu = _median(run.cpu for run in runs)
    walls = [run.wall for run in runs]
    wall = f"{statistics.median(walls):.1f} ({min(walls):.1f}-{max(walls):.1f})"
    memory = [f"{_median(run.process_mb for run in runs):.0f}", f"{_median(run.tree_mb for run in runs):.0f}"]
    return [name, f"{cpu:.1f}", f"{conversations / cpu:.0f}", wall, *memory]


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _show_ratios(found: dict[tuple[str, int], list[Run]], processes: Sequence[int]) -> None:
    for workers in processes:
        if theirs := found.get(("FastChat", workers)):
            mine = _median(run.cpu for run in found["ours", workers])
            ratio = _median(run.cpu for run in theirs) / mine
            print(f"conversations per CPU second, {workers} processes: ours is {ratio:.2f} times FastChat's")
    if {1, 2} <= set(processes):
        one, two = (_median(run.wall for run in found["ours", workers]) for workers in (1, 2))
        print(f"2 processes are {one / two:.2f} times as fast as 1")
    print()


def _grow(options: argparse.Namespace, model: Path, results: dict[str, Any]) -> None:
    """Our time and memory at larger sizes."""
    most = max(options.processes)
    rows = []
    for size in (*options.sizes, *options.growth):
        run = ours(_corpus(options, size), model, most, options.work / "out")
        rows.append(_row(f"{size:,}", [run], size))
        results["runs"][f"growth {size}"] = run.steps["clean"].row()
        print(f"growth: {size} done", file=sys.stderr)
    head = ["conversations", "CPU s", "per CPU s", "wall s", "largest process, MB", "tree, MB"]
    print(f"ours, {most} processes\n\n{measure.table(head, rows)}")


if __name__ == "__main__":
    main()
