"""How long training stands for a checkpoint: an asynchronous save beside a synchronous one of the same state.

    .venv/bin/python scripts/bench/train/checkpoint.py --json checkpoint.json

One rank with plain weights, and two with sharded ones (FSDP2, gloo). Weights and AdamW moments together are `--mb`.
The two kinds of save take turns, `--reps` times after one that is not counted (it fetches the memory for the copy), and
medians count. Between an asynchronous save and its completion, steps go on; they are compared with undisturbed ones.
Wall seconds: run it on a quiet machine, on the disk in question (`--work`). Exits with status 1 when the bar is missed.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
import measure

from vicuna.hardware import share_cores
from vicuna.train.checkpoint import Checkpoints, Position
from vicuna.train.launch import free_port
from vicuna.train.parallel import World, joined

BAR = 0.05
"""Share of the synchronous save's time that training may stand for the asynchronous one."""
WIDTH = 1024
UNDISTURBED = 20
"""Steps that show what one takes when nothing is written."""


def made(world: World, mb: float) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A stack of matrices and its optimiser, together of `mb` megabytes."""
    count = max(1, round(mb * 1e6 / 12 / WIDTH**2))  # a float32 weight and its two moments are 12 bytes
    net = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(count)))
    if world.size > 1:
        from torch.distributed.fsdp import fully_shard

        for layer in net:
            fully_shard(layer)
        fully_shard(net)
    return net, torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)


def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    """Seconds of a step."""
    began = time.perf_counter()
    net(torch.randn(64, WIDTH)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - began


def measured(world: World, work: Path, mb: float, reps: int) -> dict[str, Any]:
    """This rank's seconds."""
    net, optimizer = made(world, mb)
    kinds = {
        name: Checkpoints(work / name, {}, 1, world, asynchronous=name == "asynchronous")
        for name in ("synchronous", "asynchronous")
    }
    position = Position()
    found: dict[str, list[float]] = {"synchronous": [], "stands": [], "complete": [], "beside": []}
    step(net, optimizer)
    found["alone"] = [step(net, optimizer) for _ in range(UNDISTURBED)]
    for rep in range(reps + 1):
        position.step += 1
        kinds["synchronous"].save(position, net, optimizer)
        kinds["asynchronous"].save(position, net, optimizer)
        beside = []
        while any(world.gather(kinds["asynchronous"].writing)):
            beside.append(step(net, optimizer))
        kinds["asynchronous"].finish()
        if rep:
            found["synchronous"].append(kinds["synchronous"].blocked)
            found["stands"].append(kinds["asynchronous"].blocked)
            found["complete"].append(kinds["asynchronous"].written)
            found["beside"] += beside
    return found


def act(rank: int, ranks: int, port: int, work: Path, mb: float, reps: int, threads: int) -> None:
    """One rank: measure, and leave the slowest rank's numbers."""
    torch.set_num_threads(threads)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    with joined("cpu", 600, alone_too=False) as world:
        found = measured(world, work, mb, reps)
        slowest = {key: world.max([statistics.median(each)])[0] for key, each in found.items()}
        if world.is_main:
            (work / "result.json").write_text(json.dumps(slowest))


def run(ranks: int, mb: float, reps: int, work: Path) -> dict[str, float]:
    """The numbers of so many ranks."""
    threads = max(1, len(os.sched_getaffinity(0)) // ranks)
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=work) as folder:
        port = free_port()
        processes = [
            spawn.Process(target=act, args=(rank, ranks, port, Path(folder), mb, reps, threads))
            for rank in range(ranks)
        ]
        for each in processes:
            each.start()
        for each in processes:
            each.join()
        if any(each.exitcode for each in processes):
            sys.exit(f"error: {ranks} ranks did not end well")
        found: dict[str, float] = json.loads((Path(folder) / "result.json").read_text())
    return {"ranks": ranks, **found}


def main() -> int:
    """Measure, print the table, and say whether the bar holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, default=300, help="megabytes of weights and moments")
    parser.add_argument("--reps", type=int, default=7)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="a folder on the disk to use")
    parser.add_argument("--json", help="write the numbers there")
    options = parser.parse_args()
    machine = measure.machine()
    share_cores()  # as our commands do, in the processes that come
    results = [run(ranks, options.mb, options.reps, options.work) for ranks in (1, 2)]
    print(f"{machine}; {options.mb:.0f} MB, medians of {options.reps}\n")
    head = ("ranks", "synchronous save, ms", "training stands, ms", "share", "complete after, ms",
            "step alone, ms", "step beside, ms")  # fmt: skip
    rows = [
        [each["ranks"], *(f"{each[key] * 1e3:.1f}" for key in ("synchronous", "stands")),
         f"{each['stands'] / each['synchronous']:.1%}",
         *(f"{each[key] * 1e3:.1f}" for key in ("complete", "alone", "beside"))]
        for each in results
    ]  # fmt: skip
    print(measure.table(head, rows))
    measure.save(options.json, {"machine": machine, "mb": options.mb, "reps": options.reps, "results": results})
    return int(any(each["stands"] > BAR * each["synchronous"] for each in results))


if __name__ == "__main__":
    sys.exit(main())
