"""A recorded trace of spot machines, replayed faster: workers come and go as the machines did, people keep asking.

    .venv/bin/python scripts/bench/serve/spot.py --trace us-west-2c_v100_1.json --out spot.json --figure spot.svg
    .venv/bin/python scripts/bench/serve/spot.py --trace FILE --quick

A trace is JSON, {"metadata": {"gap_seconds": s}, "data": [machines that were available at each tick]}, as in the
collection behind "Can't Be Late" (NSDI 2024); several traces are several zones. `--hours` of it, by default the day
with most changes, are replayed in `--seconds`. A machine that is taken gets SIGTERM and, `--notice` seconds later,
SIGKILL, whether its worker is done or not. `--base` workers stand on machines of one's own. Answers have 40 words, one
each 100 ms; every one is compared with what it has to be.
"""

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
from load import percentile
from stacks import Ours
from talk import Heard, Talker

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
import measure

WORDS, PACE = 40, 0.1
SCRIPT = f"pace: {PACE}\n"  # the default rule says the question again
SETTINGS = ("--limits.stall", "3", "--limits.lease", "3")


@dataclass(frozen=True)
class Replay:
    """Machines per tick, and how long a tick takes here."""

    machines: tuple[int, ...]
    tick: float
    hours: float


def read(paths: Sequence[Path], hours: float, seconds: float) -> Replay:
    """The busiest stretch of the traces, summed.

    Raises:
        SystemExit: a file is not a trace, or the ticks of two differ.
    """
    rows, gaps = [], set()
    for path in paths:
        try:
            tree = json.loads(path.read_text())
            gaps.add(float(tree["metadata"]["gap_seconds"]))
            rows.append([int(count) for count in tree["data"]])
        except (OSError, ValueError, KeyError, TypeError) as error:
            sys.exit(f"error: {path} is not a trace: {error!r}")
    if len(gaps) > 1:
        sys.exit(f"error: the traces have ticks of different lengths: {sorted(gaps)}")
    gap = gaps.pop()
    sums = [sum(each) for each in zip(*rows, strict=False)]
    length = min(len(sums), max(2, round(hours * 3600 / gap)))
    changes = [int(one != other) for one, other in zip(sums, sums[1:], strict=False)]
    starts = range(0, len(sums) - length + 1, max(1, length // 8))
    start = max(starts, key=lambda place: sum(changes[place : place + length - 1]))
    return Replay(tuple(sums[start : start + length]), seconds / length, length * gap / 3600)


class Market:
    """The machines that one can have now."""

    def __init__(self, stack: Ours, notice: float) -> None:
        self._stack = stack
        self._notice = notice
        self._up: list[str] = []
        self._names = (f"spot{number}" for number in range(100_000))
        self._ends: set[asyncio.Task[None]] = set()
        self.taken = 0

    def set(self, count: int) -> None:
        """Start or take machines until there are so many."""
        while len(self._up) < count:
            self._up.append(next(self._names))
            drain = max(0.0, self._notice - 1)
            self._stack.start_worker(self._up[-1], SCRIPT, "--drain", drain, wait=False)
        while len(self._up) > count:
            self.taken += 1
            task = asyncio.create_task(self._take(self._up.pop(0)))
            self._ends.add(task)
            task.add_done_callback(self._ends.discard)

    async def _take(self, name: str) -> None:
        self._stack.signal(name, signal.SIGTERM)
        await asyncio.sleep(self._notice)
        self._stack.kill(name)

    async def close(self) -> None:
        await asyncio.gather(*self._ends)


async def ask_on(talker: Talker, number: int, over: asyncio.Event, found: list[tuple[str, Heard]]) -> None:
    """Ask one question after the other."""
    count = 0
    await asyncio.sleep(PACE * WORDS * (number % 10) / 10)  # not all at once
    while not over.is_set():
        question = " ".join(f"c{number}q{count}w{word}" for word in range(WORDS))
        found.append((question, await talker.ask(question)))
        count += 1
        if found[-1][1].error:
            await asyncio.sleep(0.5)


async def replay(
    stack: Ours, trace: Replay, options: argparse.Namespace
) -> tuple[list[tuple[str, Heard]], Market, float]:
    """Follow the trace under load."""
    over, market = asyncio.Event(), Market(stack, options.notice)
    found: list[tuple[str, Heard]] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        talker = Talker(session, stack.base)
        market.set(trace.machines[0])
        await asyncio.sleep(3)
        began = time.monotonic()
        clients = [asyncio.create_task(ask_on(talker, number, over, found)) for number in range(options.streams)]
        for place, machines in enumerate(trace.machines):
            market.set(machines)
            await asyncio.sleep(max(0, began + (place + 1) * trace.tick - time.monotonic()))
        over.set()
        await asyncio.gather(*clients)
        await market.close()
    return found, market, began


def summary(found: Sequence[tuple[str, Heard]], taken: int) -> dict[str, Any]:
    """Figures about all answers."""
    whole = [heard for question, heard in found if not heard.error and heard.text == question]
    wrong = [heard for question, heard in found if not heard.error and heard.text != question]
    moved = [heard for heard in whole if len(set(heard.workers)) > 1]
    errors = [heard for _, heard in found if heard.error]
    calm = [heard for heard in whole if len(set(heard.workers)) <= 1]

    def late(answers: Sequence[Heard], share: float) -> float:
        return percentile([heard.seconds - PACE * (WORDS - 1) for heard in answers], share)

    return {
        "machines taken": taken, "answers": len(found), "whole": len(whole), "moved": len(moved), "wrong": len(wrong),
        "lost": len(errors), "errors": sorted({heard.error for heard in errors}),
        "first token p50": percentile([heard.times[0] - heard.began for heard in whole], 0.5),
        "first token p99": percentile([heard.times[0] - heard.began for heard in whole], 0.99),
        "beyond the pace, not moved, p50": late(calm, 0.5), "beyond the pace, moved, p50": late(moved, 0.5),
        "beyond the pace, moved, p99": late(moved, 0.99),
        "longest pause, moved": max((heard.gap for heard in moved), default=0.0),
    }  # fmt: skip


def main() -> None:
    """Replay, count, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", required=True, type=Path, nargs="+")
    parser.add_argument("--hours", type=float, default=24, help="how much of the trace")
    parser.add_argument("--seconds", type=float, default=180, help="how long that takes here")
    parser.add_argument("--notice", type=float, default=2, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("--base", type=int, default=1, help="workers on machines that stay")
    parser.add_argument("--streams", type=int, default=40, help="people who ask all the time")
    parser.add_argument("--out", help="write the figures there, as JSON")
    parser.add_argument("--figure", type=Path, help="draw machines and answers over time there (.png or .svg)")
    parser.add_argument("--quick", action="store_true", help="six hours in 30 seconds")
    options = parser.parse_args()
    if options.quick:
        options.hours, options.seconds = 6, 30
    machine, trace = measure.machine(), read(options.trace, options.hours, options.seconds)
    print(f"{machine}\n\n{trace.hours:.1f} hours in {options.seconds:g} s, {min(trace.machines)} to "
          f"{max(trace.machines)} spot machines, {options.base} of one's own\n")  # fmt: skip
    with Ours() as stack:
        stack.start_gateway(*SETTINGS)
        for number in range(options.base):
            stack.start_worker(f"own{number}", SCRIPT, "--engine.slots", 64)
        found, market, began = asyncio.run(replay(stack, trace, options))
    figures = summary(found, market.taken)
    print(measure.table(["", ""], [[name, f"{value:.2f}" if isinstance(value, float) else value]
                                   for name, value in figures.items()]))  # fmt: skip
    measure.save(options.out, {"machine": machine, "trace": asdict(trace), "figures": figures})
    if options.figure:
        draw_figure(trace, found, began, options.figure)


def draw_figure(trace: Replay, found: Sequence[tuple[str, Heard]], began: float, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    def spans(kind: str) -> Iterator[Heard]:
        for question, heard in found:
            whole = not heard.error and heard.text == question
            moved = len(set(heard.workers)) > 1
            if kind == ("lost" if not whole else "moved" if moved else "whole"):
                yield heard

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(9, 5), sharex=True, layout="constrained")
    times = [place * trace.tick for place in range(len(trace.machines))]
    above.step(times, trace.machines, where="post")
    above.set(ylabel="spot machines", ylim=(0, None))
    for kind, colour in (("whole", "#9ab"), ("moved", "#e80"), ("lost", "#c00")):
        ends = [(heard.ended - began, heard.gap) for heard in spans(kind)]
        below.scatter(
            [at for at, _ in ends], [pause for _, pause in ends], s=8, color=colour, label=f"{kind} ({len(ends)})"
        )
    below.set(
        ylabel="longest pause in an answer, s", xlabel=f"seconds ({trace.hours:.0f} hours of the trace)", ylim=(0, None)
    )
    below.margins(y=0.2)
    below.legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
