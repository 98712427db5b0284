"""What the gateway costs: requests, streams and pieces per second, added latency, CPU and memory, over stub workers.

    .venv/bin/python scripts/bench/serve/gateway.py --peers DIR --out gateway.json      (10 minutes, machine idle)
    .venv/bin/python scripts/bench/serve/gateway.py --quick

DIR holds the environments that `scripts/bench/peers.py` makes; without it only ours is measured. Each system is one
gateway process (FastChat: its API server and its controller) between `load.py` and `stub.py`, each of which is one
process too. Systems take turns, and each figure is the median of the repetitions. On two cores, client and stub share
the core that the gateway leaves: "CPU ms" of the gateway per request hardly depends on that, requests per second do.

- closed loop: 1 and 16 clients, answers of one piece, whole and streamed, with 1 to 1,000 registered workers;
- open loop: 100 requests per second; added latency is the median minus that of the stub alone at the same rate;
- pieces: 64 streams of 200 pieces, one each 2 ms, which is more than can be had;
- memory: 1,000 open streams in which nothing happens.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stacks import HERE, FastChat, Ours

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
import measure

SECRET = {"VICUNA_FLEET_SECRET": "0123456789abcdef0123456789abcdef"}
FEW_HEARTBEATS = ("--limits.lease", "30")
"""For fleets of hundreds: a lease of 30 seconds, so that a heartbeat each 10 seconds will do."""


@dataclass
class Results:
    """All runs, and the medians of what the tables show."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, system: str, what: str, run: dict[str, Any]) -> None:
        self.rows.append({"system": system, "what": what, **run})
        print(f"{time.strftime('%H:%M:%S')} {system}: {what}", file=sys.stderr)
        if run["errors"]:
            print(f"errors: {system}, {what}: {run['errors']}", file=sys.stderr)

    def median(self, system: str, what: str, name: str) -> float:
        found = [row[name] for row in self.rows if (row["system"], row["what"]) == (system, what) and name in row]
        return statistics.median(found) if found else float("nan")

    def systems(self) -> list[str]:
        return list(dict.fromkeys(row["system"] for row in self.rows))


def load(base: str, *flags: object) -> dict[str, Any]:
    """One run of the load client."""
    words = [sys.executable, str(HERE / "load.py"), "--base", base, *map(str, flags)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(stack: Ours, base: str, *flags: object) -> dict[str, Any]:
    """The same with what the gateway's processes took of the processor."""
    before = [stack.cpu(name) for name in stack.gateways]
    run = load(base, *flags)
    for name, start in zip(stack.gateways, before, strict=True):
        run[f"cpu_ms_{name}"] = 1e3 * (stack.cpu(name) - start) / max(1, run["requests"])
    run["cpu_ms"] = sum(run[f"cpu_ms_{name}"] for name in stack.gateways)
    return run


# ------------------------------------------------------------------------------------------------ systems
@contextmanager
def ours(
    workers: int = 1, *, secret: bool = True, key: bool = False, seldom: bool = False, **stub: object
) -> Iterator[tuple[Ours, str, str]]:
    """Our controller over stubs: the stack, the stub's own address, and the API key."""
    with Ours(SECRET if secret else None) as stack:
        flags: list[object] = list(FEW_HEARTBEATS) if seldom else []
        text = "none"
        if key:
            path = stack.folder / "keys"
            words = [sys.executable, "-m", "vicuna.serve", "key", "add", "bench", "--file", str(path)]
            text = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()[-1]
            flags += ["--access.keys", path]
        stack.start_gateway(*flags)
        yield stack, stack.start_stub(count=workers, heartbeat=10 if seldom else 1, **stub), text


@contextmanager
def fastchat(folder: str, workers: int = 1, **stub: object) -> Iterator[tuple[Ours, str, str]]:
    """The same of FastChat, with its own heartbeat of 45 seconds."""
    with FastChat(folder) as stack:
        stack.start_gateway()
        yield stack, stack.start_stub(count=workers, heartbeat=45, **stub), "none"


# ------------------------------------------------------------------------------------------------ measurements
def closed(results: Results, name: str, system: tuple[Ours, str, str], options: argparse.Namespace) -> None:
    """Whole and streamed answers of one piece, by 1 and by 16 clients."""
    stack, _, key = system
    for stream in ((), ("--stream",)):
        for clients in (1, 16):
            count = options.requests if name.startswith("ours") else max(50, options.requests // 8)
            flags = ("--concurrency", clients, "--key", key, *stream)
            load(stack.base, "--requests", 50, *flags)  # connections, caches
            what = f"{'streamed' if stream else 'whole'} C={clients}"
            results.add(name, what, measured(stack, stack.base, "--requests", count, *flags))


def opened(results: Results, name: str, system: tuple[Ours, str, str], options: argparse.Namespace) -> None:
    """Latency at a fixed rate, through the gateway and at the stub itself."""
    stack, stub, key = system
    count = int(options.seconds * options.rate)
    for stream in ((), ("--stream",)):
        what = "streamed" if stream else "whole"
        flags = ("--rate", options.rate, "--requests", count, "--key", key, *stream)
        results.add(name, f"{what} at {options.rate:g}/s", measured(stack, stack.base, *flags))
        results.add(name, f"{what} at {options.rate:g}/s, stub alone", load(stub, *flags))


def pieces(results: Results, name: str, system: tuple[Ours, str, str], options: argparse.Namespace) -> None:
    """How many pieces per second go through."""
    stack, _, key = system
    flags = ("--concurrency", 64, "--requests", 64 * options.rounds, "--pieces", 200, "--stream", "--key", key)
    results.add(name, "pieces", measured(stack, stack.base, *flags))


def idle_streams(results: Results, name: str, system: tuple[Ours, str, str], options: argparse.Namespace) -> None:
    """Memory of open streams in which nothing happens."""
    stack, _, key = system
    load(stack.base, "--requests", 1, "--stream", "--key", key)
    before = sum(stack.memory(each) for each in stack.gateways)
    words = [sys.executable, str(HERE / "load.py"), "--base", stack.base, "--key", key, "--stream", "--pieces", "2"]
    with subprocess.Popen(
        [*words, "--hold", str(options.streams)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        client.stdout.readline()
        after = sum(stack.memory(each) for each in stack.gateways)
        out, _ = client.communicate("over\n")
    ended = json.loads(out.splitlines()[-1])["errors"].pop("ended early", 0)
    run = {"errors": {"ended early": ended} if ended else {}, "mb": after - before, "before_mb": before}
    results.add(name, f"{options.streams} idle streams", run)


def rounds(results: Results, options: argparse.Namespace) -> None:
    """Every measurement once."""
    for workers in options.workers:
        with ours(workers) as system:
            closed(results, f"ours, {workers}", system, options)
        if workers >= 100:
            with ours(workers, seldom=True) as system:
                closed(results, f"ours, {workers}, seldom", system, options)
        if options.peers and workers <= options.most:
            with fastchat(options.peers, workers) as system:
                closed(results, f"FastChat, {workers}", system, options)
    for name, settings in (("no secret", {"secret": False}), ("API key", {"key": True})):
        with ours(**settings) as system:
            closed(results, f"ours, 1, {name}", system, options)
    every = [("ours", ours())] + ([("FastChat", fastchat(options.peers))] if options.peers else [])
    for name, made in every:
        with made as system:
            opened(results, name, system, options)
    with ours(pace=0.002) as system:
        pieces(results, "ours", system, options)
    with ours(pace=10_000) as system:
        idle_streams(results, "ours", system, options)


# ------------------------------------------------------------------------------------------------ what is shown
def show(results: Results, options: argparse.Namespace) -> None:
    """The tables."""
    kinds = [f"{what} C={clients}" for what in ("whole", "streamed") for clients in (1, 16)]
    rows = [[name, *(_cell(results, name, kind) for kind in kinds)]
            for name in results.systems() if "," in name]  # fmt: skip
    print("requests per second (CPU ms per request)\n")
    print(measure.table(["system, workers", *kinds], rows), end="\n\n")
    rows = []
    for name in [each for each in results.systems() if "," not in each]:
        for what in ("whole", "streamed"):
            kind = f"{what} at {options.rate:g}/s"
            added = [_added(results, name, kind, share) for share in (50, 99)]
            rows.append([f"{name}, {what}", *added, f"{results.median(name, kind, 'cpu_ms'):.2f}"])
    print(f"added latency at {options.rate:g} requests per second, ms\n")
    print(measure.table(["system", "p50", "p99", "CPU ms"], rows), end="\n\n")
    print(f"streamed pieces per second: {results.median('ours', 'pieces', 'pieces_per_second'):,.0f}")
    print(f"{options.streams} idle streams: {results.median('ours', f'{options.streams} idle streams', 'mb'):.0f} MB")
    for kind, bar in (("whole C=16", 4), ("streamed C=16", 12)):
        ratio = results.median("ours, 1", kind, "per_second") / results.median("FastChat, 1", kind, "per_second")
        if ratio == ratio:
            print(f"{kind}: {ratio:.1f} times FastChat (bar: {bar})")
    for name in [each for each in results.systems() if each.startswith("ours, 1000")]:
        share = results.median(name, "whole C=16", "per_second") / results.median("ours, 1", "whole C=16", "per_second")
        print(f"{name}: {100 * (1 - share):.0f}% fewer whole answers at C=16 than with one worker")


def _cell(results: Results, name: str, kind: str) -> str:
    return f"{results.median(name, kind, 'per_second'):,.0f} ({results.median(name, kind, 'cpu_ms'):.2f})"


def _added(results: Results, name: str, kind: str, share: int) -> str:
    through, alone = (results.median(name, each, f"whole_{share}") for each in (kind, f"{kind}, stub alone"))
    return f"{through - alone:.2f}"


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="folder that peers.py made; without it, only ours is measured")
    parser.add_argument("--out", help="write every run there, as JSON")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 10, 100, 1000], help="registered workers")
    parser.add_argument("--most", type=int, default=100, help="registered workers with FastChat")
    parser.add_argument("--requests", type=int, default=4000, help="of a closed loop; FastChat gets an eighth")
    parser.add_argument("--rate", type=float, default=100, help="requests per second of the open loop")
    parser.add_argument("--seconds", type=float, default=20, help="how long the open loop runs")
    parser.add_argument("--rounds", type=int, default=4, help="streams of each client when pieces are counted")
    parser.add_argument("--streams", type=int, default=1000, help="idle streams")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that all works")
    options = parser.parse_args()
    if options.quick:
        options.requests, options.seconds, options.rounds = 400, 2, 1
        options.workers, options.streams, options.repeats = options.workers[:2], 50, 1
    machine = measure.machine()
    print(machine, end="\n\n")
    results = Results()
    for number in range(options.repeats):
        rounds(results, options)
        print(f"repetition {number + 1} of {options.repeats}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        measure.save(options.out, {"machine": machine, "rows": results.rows})
    show(results, options)


if __name__ == "__main__":
    main()
