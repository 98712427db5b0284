"""Conversations → tokens, masks and bins: CPU seconds beside FastChat's `preprocess`, on the same seeded conversations.

    .venv/bin/python scripts/bench/train/preprocess.py --peer-python PEERS/fschat-0.2.36/bin/python --json out.json

Ours is measured from the JSON Lines file to the finished folder of tokens and the plan of bins, all processes' CPU
together, hashing and writing included; FastChat's is `preprocess` alone, without reading the file. Its rate does not
depend on the number of conversations (its memory does), so --peer-count may be smaller. Both get the same tokenizer, of
LLaMA's kind, trained on the same sentences.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import chats

sys.path.append(str(Path(__file__).parents[1] / "data"))
import measure

HERE = Path(__file__).parent
LENGTH = 2048


def ours(path: str, tokenizer: str, folder: str, workers: int) -> dict[str, Any]:
    """Tokenise, mask and pack a file in this process; what that took."""
    from vicuna.models.load import load_tokenizer
    from vicuna.prompt import template
    from vicuna.train.config import DataConfig
    from vicuna.train.packing import plan
    from vicuna.train.prepare import prepare

    loaded, chosen = load_tokenizer(tokenizer), template("vicuna_v1.1")
    before, started = _cpu(), time.perf_counter()
    made = prepare(DataConfig(path=path, workers=workers), loaded, chosen, LENGTH, Path(folder))
    data, _ = made.open()
    tokenised = _cpu()
    steps = plan(data.lengths, LENGTH, bins=128, seed=0)
    return {
        "conversations": len(data) + sum(data.dropped.values()), "cpu": _cpu() - before,
        "cpu_packing": _cpu() - tokenised, "wall": time.perf_counter() - started, "fill": steps.fill,
        "tokens": data.tokens, "targets": data.target_tokens, "left_out": dict(data.dropped),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "peak_worker_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    }  # fmt: skip


def _cpu() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def said(command: list[str | Path]) -> dict[str, Any]:
    """The last line that a command prints, as JSON."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {' '.join(map(str, command))}\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def tokenizer(folder: Path, python: str) -> Path:
    """A tokenizer of LLaMA's kind in both its forms, trained on the sentences of the conversations."""
    if not (folder / "tokenizer_config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        text = folder / "text.txt"
        text.write_text("\n".join(" ".join(each.split()) for each in chats.sentences()), encoding="utf-8")
        script = HERE.parent / "data" / "llama_tokenizer.py"
        subprocess.run([python, "-P", "-W", "ignore", script, text, folder], check=True, capture_output=True)
        text.unlink()
    return folder


def main() -> None:
    """Make the conversations, measure everybody, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="conversations for ours")
    parser.add_argument("--peer-count", type=int, default=2_000, help="conversations for FastChat")
    parser.add_argument("--peer-python", help="interpreter of FastChat's environment (scripts/bench/peers.py)")
    parser.add_argument("--workers", type=int, default=1, help="our processes; 0 is one for each CPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder for conversations and tokenizer, kept; else a temporary one")
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--ours", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        print(json.dumps(ours(*options.ours, options.workers)))
        return
    if not options.peer_python:
        parser.error("--peer-python is needed: the tokenizer is trained there, and FastChat runs there")
    with tempfile.TemporaryDirectory() as temporary:
        _compare(options, options.work or Path(temporary))


def _compare(options: argparse.Namespace, work: Path) -> None:
    about = measure.machine()
    work.mkdir(parents=True, exist_ok=True)
    made = tokenizer(work / "tokenizer", options.peer_python)
    found: dict[str, Any] = {}
    for count in (options.count // 10, options.count):
        path = work / f"chats-{count}.jsonl"
        if not path.exists():
            chats.write(path, count, options.seed)
        shutil.rmtree(work / "tokens", ignore_errors=True)
        words = [sys.executable, __file__, "--workers", str(options.workers), "--ours", path, made, work / "tokens"]
        found[f"vicuna, {count:,} conversations"] = said(words)
    path = work / f"chats-{options.peer_count}.jsonl"
    if not path.exists():
        chats.write(path, options.peer_count, options.seed)
    script = HERE / "fastchat_preprocess.py"
    for name, flags in (("fast tokenizer", []), ("its default, the slow tokenizer", ["--slow"])):
        command = [options.peer_python, "-W", "ignore", script, path, made, *flags]
        found[f"FastChat, {name}"] = said(command)
    _, best = list(found.items())[1]
    rows = [
        [name, f"{each['conversations'] / each['cpu']:,.0f}", f"{each['peak_mb']:,.0f}",
         f"{best['conversations'] / best['cpu'] / (each['conversations'] / each['cpu']):.1f}"]
        for name, each in found.items()
    ]  # fmt: skip
    print(f"{about}\n")
    print(measure.table(["", "conversations per CPU second", "peak MB", "ours / it"], rows))
    print(f"\n{best['tokens'] / best['conversations']:.0f} tokens a conversation; packing fills {best['fill']:.2%} in "
          f"{best['cpu_packing']:.2f} CPU seconds; left out: {best['left_out']}")  # fmt: skip
    measure.save(options.json, {"machine": about, "results": found})


if __name__ == "__main__":
    main()
