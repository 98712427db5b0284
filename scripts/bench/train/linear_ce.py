"""Output matrix and cross-entropy on a CPU: ours, full logits, and what torch has, each case in its own process.

    .venv/bin/python scripts/bench/train/linear_ce.py --json linear_ce.json

Memory is the most that the process held over what it held when hidden states and weights were there: gradients, logits.
Time is CPU seconds, forward and backward. Prints the table for docs/benchmarks.md; exits with status 1 when a bar is
missed: at most 290 MB, no more time than full logits, and the loss of float32 within 1e-4.
"""

import argparse
import dataclasses
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from vicuna.train import loss

MEMORY = 290.0
"""Bar, in units of 10^6 bytes."""
CLOSE = 1e-4
"""Bar: the share by which the loss may differ from that of full logits in float32."""
DTYPES = ("float32", "bfloat16")


def all_rows(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Logits of every position, as the losses of transformers' models have them."""
    return F.cross_entropy(F.linear(hidden, weight).float(), targets)


def target_rows(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Logits only where a target comes next."""
    kept = targets != -100
    return F.cross_entropy(F.linear(hidden[kept], weight).float(), targets[kept])


def ours(hidden: torch.Tensor, weight: torch.nn.Parameter, targets: torch.Tensor) -> torch.Tensor:
    """The loss that training uses."""
    (at,) = torch.nonzero(targets != -100, as_tuple=True)
    head = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    head.weight = weight
    return loss.target_loss(hidden.index_select(0, at), targets[at], head) / len(at)


def torchs(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """torch's own, since 2.13, with its default options."""
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(hidden, weight, targets, options=options)


CASES: dict[str, Callable[[torch.Tensor, torch.nn.Parameter, torch.Tensor], torch.Tensor]] = {
    "full logits, all rows": all_rows,
    "full logits, target rows": target_rows,
    "ours": ours,
    "torch.nn.functional.linear_cross_entropy": torchs,
}


@dataclasses.dataclass(frozen=True)
class Size:
    """What is computed."""

    tokens: int
    hidden: int
    vocabulary: int
    targets: float
    """Share of the tokens."""


def measure(case: str, dtype: str, size: Size) -> dict[str, float]:
    """Loss, norms of the gradients, memory and CPU seconds of one case in this process."""
    torch.manual_seed(0)
    hidden = torch.randn(size.tokens, size.hidden).to(getattr(torch, dtype)).requires_grad_()
    weight = torch.nn.Parameter(torch.randn(size.vocabulary, size.hidden).mul_(0.02).to(hidden.dtype))
    targets = torch.randint(0, size.vocabulary, (size.tokens,))
    targets[torch.rand(size.tokens) >= size.targets] = -100
    F.linear(hidden[:8].detach(), weight.detach())  # what a first product sets up
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before, began = _peak(), time.process_time()
    value = CASES[case](hidden, weight, targets)
    value.backward()
    return {
        "cpu_seconds": time.process_time() - began,
        "mb": (_peak() - before) / 1e6,
        "loss": value.item(),
        "hidden_gradient": _norm(hidden),
        "weight_gradient": _norm(weight),
    }


def _norm(leaf: torch.Tensor) -> float:
    assert leaf.grad is not None
    return float(leaf.grad.float().norm())


def _peak() -> int:
    """Most bytes that this process has held since the peak was reset."""
    (line,) = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def run(case: str, dtype: str, options: argparse.Namespace) -> dict[str, Any] | None:
    """Medians over fresh processes; None where this torch does not have the case."""
    command = [sys.executable, __file__, "--case", case, "--dtype", dtype, "--threads", str(options.threads)]
    for field in dataclasses.fields(Size):
        command += [f"--{field.name}", str(getattr(options, field.name))]
    found: list[dict[str, float]] = []
    for _ in range(options.repeats):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{case}, {dtype}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            return None
        found.append(json.loads(done.stdout))
    return {"case": case, "dtype": dtype} | {key: statistics.median(each[key] for each in found) for key in found[0]}


def main() -> int:
    """Run the cases, print the table, and say whether the bars hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--targets", type=float, default=0.7, help="share of the tokens")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="fresh processes of each case")
    parser.add_argument("--case", choices=CASES, help="only this one, in this process")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="with --case")
    parser.add_argument("--json", help="write the numbers there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.case:
        size = Size(options.tokens, options.hidden, options.vocabulary, options.targets)
        print(json.dumps(measure(options.case, options.dtype, size)))
        return 0
    print(f"{platform.machine()}, torch {torch.__version__}, threads: {options.threads}; {options.tokens} tokens, "
          f"hidden {options.hidden}, vocabulary {options.vocabulary}, {options.targets:.0%} targets\n")  # fmt: skip
    rows = [row for dtype in DTYPES for case in CASES if (row := run(case, dtype, options))]
    print("| | | memory, MB | CPU seconds | loss | gradient of hidden states | of weights |\n" + "| --- " * 7 + "|")
    for row in rows:
        print(f"| {row['case']} | {row['dtype']} | {row['mb']:.0f} | {row['cpu_seconds']:.2f} | {row['loss']:.5f} "
              f"| {row['hidden_gradient']:.5f} | {row['weight_gradient']:.4f} |")  # fmt: skip
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=2) + "\n")
    of = {(row["case"], row["dtype"]): row for row in rows}
    exact = of["full logits, all rows", "float32"]["loss"]
    missed = [
        dtype
        for dtype in DTYPES
        if of["ours", dtype]["mb"] > MEMORY
        or of["ours", dtype]["cpu_seconds"] > of["full logits, all rows", dtype]["cpu_seconds"]
        or abs(of["ours", dtype]["loss"] / exact - 1) > CLOSE
    ]
    print(f"\nbars {'missed in ' + ', '.join(missed) if missed else 'hold'}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
