"""Mixed load with faults for half an hour: does memory stay flat, and does anything leak?

    .venv/bin/python scripts/bench/serve/soak.py --minutes 30 --out soak.json --figure soak.svg
    .venv/bin/python scripts/bench/serve/soak.py --quick                                        (2 minutes)

One controller and six scripted workers. Clients ask all the time, each time for something else: streams, whole replies,
several choices, bodies that are refused, models that nobody serves, and connections that are given up in the middle.
Every ten seconds or so one of four workers is killed, frozen for a while, or told to stop, and comes back; two others
and the controller live through all of it and are watched. The verdict compares the last fifth of the time with the
second, when caches and pools are filled.
"""

import argparse
import asyncio
import contextlib
import random
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from stacks import Ours, get, until
from talk import Talker

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
import measure

SCRIPT = """
pace: 0.01
rules:
  - match: long
    answer: "word "
    repeat: 200
  - answer: "you said {last}"
"""
SETTINGS = ("--limits.stall", "3", "--limits.lease", "3", "--limits.attempts", "6")
SECRET = {"VICUNA_FLEET_SECRET": "0123456789abcdef0123456789abcdef"}
STRUCK = ("struck0", "struck1", "struck2", "struck3")
WATCHED = ("controller", "spared0", "spared1")
FLAT = 0.05


@dataclass(frozen=True)
class Sample:
    """What a process holds at one moment."""

    minute: float
    process: str
    mb: float
    descriptors: int
    threads: int


async def load(talker: Talker, draw: random.Random, over: asyncio.Event, tally: Counter[str]) -> None:
    """One client that never has enough."""
    while not over.is_set():
        kind = draw.choice(
            ("stream", "stream", "stream", "whole", "choices", "left", "left", "refused", "unknown", "big")
        )
        tally[kind] += 1
        if kind == "left":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(draw.uniform(0, 1)):
                    await talker.ask("long", stream=draw.random() < 0.5)
            continue
        if kind == "refused":
            heard = await talker.send(draw.choice((b"{", b"[]", b"[" * 10_000, b'{"model": "lab", "messages": []}')))
        elif kind == "unknown":
            heard = await talker.ask(model="nobody")
        elif kind == "choices":
            heard = await talker.ask("long", stream=False, n=3)
        else:
            text = "long" if kind != "big" else "long " + "many words " * 500
            heard = await talker.ask(text, stream=kind != "whole")
        if kind in ("refused", "unknown"):
            tally["not refused"] += not 400 <= heard.status < 500
        elif heard.error or heard.text != "word " * 200:
            tally["lost"] += 1
            print(f"lost: {heard.status} {heard.error or heard.text[-60:]!r}", file=sys.stderr)


async def strike(stack: Ours, draw: random.Random, over: asyncio.Event, tally: Counter[str]) -> None:
    """Something befalls one worker at a time, and it comes back."""
    while not over.is_set():
        await asyncio.sleep(draw.uniform(4, 8))
        name, what = draw.choice(STRUCK), draw.choice((signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM))
        tally[f"worker {what.name}"] += 1
        stack.signal(name, what)
        await asyncio.sleep(draw.uniform(2, 5))
        if what is signal.SIGSTOP:
            stack.signal(name, signal.SIGCONT)
        else:
            stack.kill(name)
            stack.start_worker(name, SCRIPT, "--drain", "1", wait=False)


async def watch(stack: Ours, minutes: float, over: asyncio.Event, samples: list[Sample]) -> None:
    """Look at the watched processes some 300 times."""
    began = time.monotonic()
    while (minute := (time.monotonic() - began) / 60) < minutes:
        samples += [look(stack, name, minute) for name in WATCHED]
        await asyncio.sleep(max(1, minutes * 60 / 300))
    over.set()


def look(stack: Ours, name: str, minute: float) -> Sample:
    process = psutil.Process(stack.processes[name].pid)
    return Sample(minute, name, stack.memory(name), process.num_fds(), process.num_threads())


async def soak(stack: Ours, options: argparse.Namespace) -> tuple[list[Sample], Counter[str]]:
    over, tally, samples = asyncio.Event(), Counter[str](), list[Sample]()
    draw = random.Random(options.seed)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        talker = Talker(session, stack.base)
        clients = [load(talker, random.Random(draw.random()), over, tally) for _ in range(options.clients)]
        await asyncio.gather(watch(stack, options.minutes, over, samples), strike(stack, draw, over, tally), *clients)
    return samples, tally


# ------------------------------------------------------------------------------------------------ the verdict
def grown(samples: Sequence[Sample], name: str, minutes: float, what: str = "mb") -> float:
    """By how much of itself it is larger in the last fifth of the time than in the second."""
    fifth = minutes / 5
    mine = [(sample.minute, getattr(sample, what)) for sample in samples if sample.process == name]
    early = statistics.median(value for minute, value in mine if fifth <= minute < 2 * fifth)
    late = statistics.median(value for minute, value in mine if minute >= 4 * fifth)
    return late / early - 1


def at_rest(stack: Ours, before: Mapping[str, Sample]) -> dict[str, Any]:
    """What is still held when nobody asks any more; waits a minute for it to be nothing."""

    def held() -> dict[str, Any]:
        fleet = get(f"{stack.fleet}/fleet") or {"workers": [], "in_flight": -1, "waiting": {}}
        health = [get(f"{row['address']}/health") for row in fleet["workers"] if row["state"] == "live"]
        running = sum(int(each["load"]["running"]) for each in health if each)
        more = {name: look(stack, name, 0).descriptors - before[name].descriptors for name in WATCHED}
        return {"in flight": fleet["in_flight"], "waiting": sum(fleet["waiting"].values()), "running": running,
                "descriptors": sum(max(0, each) for each in more.values())}  # fmt: skip

    with contextlib.suppress(SystemExit):  # idle connections are closed after half a minute
        until(lambda: not any(held().values()), "the fleet to be at rest", 60)
    return held()


def main() -> None:
    """Soak, judge, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="write the samples there, as JSON")
    parser.add_argument("--figure", type=Path, help="draw memory over time there (.png or .svg)")
    parser.add_argument("--quick", action="store_true", help="two minutes, to see that all works")
    options = parser.parse_args()
    if options.quick:
        options.minutes = 2
    machine = measure.machine()
    print(machine, end="\n\n")
    with started() as stack:
        before = {name: look(stack, name, 0) for name in WATCHED}
        samples, tally = asyncio.run(soak(stack, options))
        held = at_rest(stack, before)
        after = {name: look(stack, name, options.minutes) for name in WATCHED}
    rows = []
    for name in WATCHED:
        share = grown(samples, name, options.minutes)
        verdict = "flat" if share <= FLAT else "GROWS"
        rows.append([name, f"{before[name].mb:.0f}", f"{after[name].mb:.0f}", f"{100 * share:+.1f}%",
                     f"{before[name].descriptors} → {after[name].descriptors}",
                     f"{before[name].threads} → {after[name].threads}", verdict])  # fmt: skip
    head = ["process", "MB at the start", "at the end", "last fifth to second", "descriptors", "threads", "verdict"]
    print(measure.table(head, rows), end="\n\n")
    print("requests and faults: " + ", ".join(f"{name} {count:,}" for name, count in sorted(tally.items())))
    print("LEAKS" if any(held.values()) else "nothing leaks", end="; held at the end: ")
    print(", ".join(f"{name} {count}" for name, count in held.items()))
    result = {"machine": machine, "tally": dict(tally), "held": held, "samples": [asdict(each) for each in samples]}
    measure.save(options.out, result)
    if options.figure:
        draw_figure(samples, options.figure)


@contextlib.contextmanager
def started() -> Iterator[Ours]:
    """A controller, two workers that are spared and four that are not."""
    with Ours(SECRET) as stack:
        stack.start_gateway(*SETTINGS)
        for name in (*WATCHED[1:], *STRUCK):
            stack.start_worker(name, SCRIPT, "--drain", "1")
        yield stack


def draw_figure(samples: Sequence[Sample], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 1, figsize=(8, 5), sharex=True, layout="constrained")
    for name in WATCHED:
        mine = [sample for sample in samples if sample.process == name]
        minutes = [sample.minute for sample in mine]
        axes[0].plot(minutes, [sample.mb for sample in mine], label=name)
        axes[1].plot(minutes, [sample.descriptors for sample in mine], label=name)
    axes[0].set(ylabel="resident memory, MB", ylim=(0, None))
    axes[1].set(ylabel="open descriptors", xlabel="minutes", ylim=(0, None))
    axes[0].legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
