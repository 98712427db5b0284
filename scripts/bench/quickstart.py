"""The quickstart's bars: whole time, memory, held-out accuracy, win rate, over fresh runs with different seeds.

    .venv/bin/python scripts/bench/quickstart.py --runs 3 --json quickstart.json

Prints the table for docs/benchmarks.md; exits with status 1 when a bar is missed. Time nothing else meanwhile.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

BARS = (
    ("seconds", "whole pipeline, seconds", 360.0, "at most"),
    ("memory_gib", "peak memory of all processes, GiB", 4.0, "at most"),
    ("accuracy", "held-out exact answers, tuned", 0.6, "at least"),
    ("base_accuracy", "held-out exact answers, base", 0.2, "at most"),
    ("win_rate", "win rate of tuned over base", 0.8, "at least"),
)


def run_once(seed: int, out: Path) -> dict[str, Any]:
    """One quickstart in a fresh folder; its numbers."""
    command = [sys.executable, "-m", "vicuna", "quickstart", "--no-demo", "--out", str(out), "--seed", str(seed),
               "--port", "0", "--web_port", "0"]  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if key != "OPENAI_API_KEY"}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    summary = json.loads((out / "summary.json").read_text())
    evaluation = summary["evaluation"]
    return {
        "seed": seed,
        "seconds": summary["seconds"],
        "memory_gib": summary["peak_memory_bytes"] / 2**30,
        "accuracy": evaluation["accuracy"]["vicuna-tiny"]["value"],
        "base_accuracy": evaluation["accuracy"]["vicuna-tiny-base"]["value"],
        "win_rate": evaluation["pairs"][0]["win_rate"]["value"],
        "target_tokens_per_second": summary["training"]["target_tokens"] / summary["training"]["seconds"],
        "stages": {each["stage"]: each["seconds"] for each in summary["stages"]},
    }


def main() -> int:
    """Run, print the table, and say whether the bars hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="fresh runs, with seeds 0, 1, ...")
    parser.add_argument("--json", help="write every run's numbers there")
    options = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.runs):
            runs.append(run_once(seed, Path(folder) / str(seed)))
            print(f"seed {seed}: {runs[-1]['seconds']:.0f} s, accuracy {runs[-1]['accuracy']:.3f}", file=sys.stderr)
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}\n")
    print("| | bar | median | each run |\n| --- | --- | --- | --- |")
    missed = False
    for key, what, bar, side in BARS:
        values = [each[key] for each in runs]
        missed |= any(value > bar if side == "at most" else value < bar for value in values)
        shown = ", ".join(f"{value:.3g}" for value in values)
        print(f"| {what} | {side} {bar:g} | {statistics.median(values):.3g} | {shown} |")
    stages = {name: statistics.median(each["stages"][name] for each in runs) for name in runs[0]["stages"]}
    print("\n| stage | seconds (median) |\n| --- | --- |")
    print("\n".join(f"| {name} | {seconds:.1f} |" for name, seconds in stages.items()))
    if options.json:
        Path(options.json).write_text(json.dumps(runs, indent=2) + "\n")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
