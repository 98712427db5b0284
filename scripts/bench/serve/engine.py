"""Engines side by side on one small model: what answers cost, how fast they come, and who waits for whom.

    .venv/bin/python scripts/bench/serve/engine.py --peers DIR --out engine.json --plot engine.png     (half an hour)
    .venv/bin/python scripts/bench/serve/engine.py --peers DIR --quick                                 (3 minutes)

DIR holds the environments that `scripts/bench/peers.py` makes; without it only ours and transformers in one process
are measured. The model is made here (engine_model.py): all systems get the same weights, the same token ids, greedy
decoding and one thread, and their answers are compared. A repetition starts each system afresh, one after the other,
every second time in reverse order; figures are medians of the repetitions, ratios medians of the ratios within one.
Cells:

- 64, 512: prompts of so many tokens, none like another, answers of 64 tokens, streamed; bursts of 1, 4, 16 and 32;
- shared: prompts of 512 tokens whose first 448 are the same, after a burst of such prompts that is not counted;
- stall: eight answers are under way when a prompt of 2,000 tokens comes.

"CPU s" are those of all processes of a system and hardly depend on what else the machine does; times do. Pieces of
FastChat have two tokens, so its times between pieces are those of two.
"""

import argparse
import asyncio
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from engine_model import Kind, Prompts, count, make
from engine_report import Results, Row, Stall, bar_table, bars, measure, plot, tables
from engine_systems import SYSTEMS, Place, Server, System
from load import percentile
from talk import Heard

KINDS = {"64": Kind(64), "512": Kind(512), "shared": Kind(512, 448)}
CELLS = (*KINDS, "stall")
TOKENS = 64
"""Of an answer."""
ANSWERS = {1: 16, 4: 32, 16: 32}
"""Of one measurement, by how many are asked at once; otherwise one burst."""
STREAMS, STREAM_TOKENS, LONG = 8, 512, Kind(2000)


def gaps(heard: Heard) -> Iterator[tuple[float, float]]:
    """The times of every two neighbouring pieces."""
    return itertools.pairwise(heard.times)


def lengths(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """In milliseconds."""
    return [1e3 * (end - begin) for begin, end in pairs]


def errors(answers: Sequence[Heard], tokens: int) -> list[str]:
    """What is wrong with answers."""
    return [each.error or f"{count(each.text)} tokens instead of {tokens}"
            for each in answers if each.error or count(each.text) != tokens]  # fmt: skip


# ------------------------------------------------------------------------------------------------ measurements
async def warm_up(system: System, prompts: Prompts) -> None:
    """A few answers of every length that is measured, on prompts that nobody sees again."""
    for tokens in (60, 500):
        await system.burst(prompts.some(Kind(tokens), "warm-up", 4), 8)


async def cell(name: str, number: int, system: System, what: str, clients: int, prompts: Prompts) -> Row:
    """Bursts of `clients` prompts, one after the other."""
    kind = KINDS[what]
    if kind.shared:
        await system.burst(prompts.some(kind, f"warm-up {clients}", clients), TOKENS)
    asked = prompts.some(kind, str(clients), ANSWERS.get(clients, clients))
    cpu, began, answers = system.cpu(), time.monotonic(), list[Heard]()
    for start in range(0, len(asked), clients):
        answers += await system.burst(asked[start : start + clients], TOKENS)
    seconds, cpu = time.monotonic() - began, system.cpu() - cpu
    good = [each for each in answers if each.times]
    tokens = sum(count(each.text) for each in answers)
    first = [1e3 * (each.times[0] - each.began) for each in good]
    between = lengths([pair for each in good for pair in gaps(each)])
    return Row(
        name, what, clients, number, [each.text for each in answers], errors(answers, TOKENS), tokens,
        tokens / seconds, 1e3 * cpu / max(1, tokens), percentile(first, 0.5), percentile(first, 0.99),
        percentile(between, 0.5), percentile(between, 0.99), os.getloadavg()[0],
    )  # fmt: skip


async def stall(name: str, number: int, server: Server, prompts: Prompts) -> Stall:
    """Some answers are under way; a long prompt comes; how long do the others wait until it has its first token?"""
    heard = [Heard() for _ in range(STREAMS)]
    async with server.talker() as talker:
        asked = [
            asyncio.create_task(server.ask(talker, prompt, STREAM_TOKENS, each))
            for prompt, each in zip(prompts.some(KINDS["64"], "stall", STREAMS), heard, strict=True)
        ]
        while any(len(each.times) < TOKENS and not each.ended for each in heard):  # noqa: ASYNC110 (nobody tells us)
            await asyncio.sleep(0.01)
        long = await server.ask(talker, prompts.some(LONG, "stall", 1)[0], TOKENS)
        await asyncio.gather(*asked)
    wrong = errors(heard, STREAM_TOKENS) + errors([long], TOKENS)
    if wrong or any(each.ended < long.times[0] for each in heard):
        sys.exit(f"error: {name}: the stall was not measured: {wrong or 'the others had ended before'}")
    first = long.times[0]
    settled = max(each.times[0] for each in heard)
    before = [lengths([(a, b) for a, b in gaps(each) if settled <= a and b <= long.began]) for each in heard]
    during = [lengths([(a, b) for a, b in gaps(each) if b > long.began and a < first]) for each in heard]
    together = list(itertools.chain(*during))
    worst = [percentile(each, 0.99) for each in during]
    return Stall(
        name, number, 1e3 * (first - long.began), percentile(list(itertools.chain(*before)), 0.5),
        percentile(together, 0.5), percentile(together, 0.99),
        max(most / statistics.median(each) for most, each in zip(worst, during, strict=True)),
        max(most / statistics.median(each) for most, each in zip(worst, before, strict=True)),
    )  # fmt: skip


async def measured(name: str, number: int, system: System, results: Results, options: argparse.Namespace,
                   prompts: Prompts) -> None:  # fmt: skip
    """All cells of a system that has just been started."""
    await warm_up(system, prompts)
    for what in [each for each in options.cells if each in SYSTEMS[name].cells and each in KINDS]:
        for clients in options.concurrency:
            row = await cell(name, number, system, what, clients, prompts)
            results.rows.append(row)
            said = f"{row.cpu_per_1000:.2f} CPU s per 1,000 tokens, {row.per_second:,.0f} tokens/s"
            tell(f"{name}, {what}, {clients} at once: {said}", row.errors)
    if "stall" in options.cells and "stall" in SYSTEMS[name].cells and isinstance(system, Server):
        found = await stall(name, number, system, prompts)
        results.stalls.append(found)
        tell(f"{name}, stall: {found.during_99:.0f} ms, before {found.before_50:.1f} ms")


def tell(what: str, wrong: Sequence[str] = ()) -> None:
    """Say on standard error how far we are."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr)
    for each in sorted(set(wrong)):
        print(f"  error ({wrong.count(each)} times): {each}", file=sys.stderr)


def repetition(number: int, results: Results, options: argparse.Namespace, place: Place) -> list[str]:
    """Every system once; returns what failed."""
    failed = []
    for name in options.systems if number % 2 == 0 else options.systems[::-1]:
        try:
            with SYSTEMS[name].start(place) as system:
                asyncio.run(measured(name, number, system, results, options, place.prompts))
        except SystemExit as error:  # one system that fails must not cost half an hour of the others
            if isinstance(error.code, int):
                raise  # we were told to stop
            failed.append(f"{name}, repetition {number + 1}: {error.code}")
            tell(failed[-1])
    return failed


def main() -> int:
    """Measure and show; 1 where a system failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="folder that peers.py made; without it, no FastChat, no other servers")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, help="all that can be had, if none is named")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 4, 16, 32], help="answers at once")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--flags", default="", help="more settings of our worker, such as '--engine.prefill 256'")
    parser.add_argument("--out", help="write every measurement there, as JSON")
    parser.add_argument("--plot", help="draw CPU seconds by concurrency into this file")
    parser.add_argument("--quick", action="store_true", help="few cells, once, to see that all works")
    options = parser.parse_args()
    if options.quick:
        options.concurrency, options.repeats = [16], 1
        options.cells = [each for each in options.cells if each != "512"]
    options.systems = options.systems or [name for name, known in SYSTEMS.items() if options.peers or not known.peer]
    machine = measure.machine()
    print(machine, end="\n\n", flush=True)
    results = Results()
    with tempfile.TemporaryDirectory(prefix="bench-engine-") as folder:
        make(Path(folder) / "lab")
        place = Place(Path(folder) / "lab", Prompts(Path(folder) / "lab"), options.peers, options.flags.split())
        failed: list[str] = []
        for number in range(options.repeats):
            failed += repetition(number, results, options, place)
            rows = [asdict(row) for row in results.rows]
            stalls = [asdict(row) for row in results.stalls]
            measure.save(options.out, {"machine": machine, "rows": rows, "stalls": stalls})
    for table in tables(results):
        print(table, end="\n\n")
    print(bar_table(list(bars(results))))
    if options.plot:
        plot(results, options.plot)
    print(*failed, sep="\n", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
