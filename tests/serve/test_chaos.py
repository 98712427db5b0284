"""Chaos: workers and controllers are killed, frozen, told to stop and started at random under 200 streams."""

import asyncio
import json
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from serve_stack import Command, Site, get, until

SECONDS = 60
CLIENTS = 200
WORKERS = 8
SPARED = 3
"""So many workers at least are well at any time: chaos must not amount to having no fleet."""
WORDS = 30
SCRIPT = "pace: 0.15\n"  # the default rule repeats the question
CONTROLLER = ("--limits.stall", "3", "--limits.lease", "3", "--limits.attempts", str(WORKERS))
"""With half of the fleet struck at a time, one answer may well meet three frozen workers in a row."""
WORKER = ("--engine.slots", "64", "--drain", "1", "--heartbeat", "0.5")


class Stack:
    """Two controllers side by side and the workers that serve both."""

    def __init__(self, folder: Path) -> None:
        self.sites = [Site(folder / name) for name in ("first", "second")]
        self.controllers = [site.controller(*CONTROLLER) for site in self.sites]
        self.folder = folder
        self.script = folder / "script.yaml"
        self.script.write_text(SCRIPT)
        self.workers = [self.start_worker() for _ in range(WORKERS)]
        self.ended: list[Command] = []
        for site in self.sites:
            until(lambda site=site: self._live(site) == WORKERS, "all workers to join")

    def start_worker(self) -> Command:
        engine = ("--engine.kind", "scripted", "--engine.script", str(self.script))
        addresses = (site.api for site in self.sites)
        return Command(self.folder / "workers", "worker", "--names", "m", *engine, *WORKER, "--controllers", *addresses)

    def replace(self, worker: Command) -> None:
        """Another process for one that was ended."""
        self.workers[self.workers.index(worker)] = self.start_worker()
        self.ended.append(worker)

    def restart(self, number: int) -> None:
        self.controllers[number] = self.sites[number].start(
            "controller", "--port", str(self.sites[number].port), *CONTROLLER
        )

    def is_at_rest(self) -> bool:
        """Nothing in flight, nobody waiting, every worker idle and well."""
        return all(self._is_at_rest(site) for site in self.sites)

    def _is_at_rest(self, site: Site) -> bool:
        fleet = site.fleet()
        health = [get(f"{row['address']}/health") for row in fleet["workers"]]
        running = [each and each["load"]["running"] for each in health]
        return (
            fleet["in_flight"] == 0
            and not any(fleet["waiting"].values())
            and self._live(site) == WORKERS
            and running == [0] * WORKERS
        )

    def _live(self, site: Site) -> int:
        return sum(row["state"] == "live" for row in site.fleet()["workers"])

    def end(self) -> None:
        for command in [*self.workers, *self.ended]:
            command.end()
        for site in self.sites:
            site.end()


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path)
    yield made
    made.end()


# ------------------------------------------------------------------------------------------------ the clients
@dataclass
class Tally:
    """What the clients got."""

    complete: int = 0
    moved: int = 0
    """Of the complete ones, those that several workers made."""
    cut: int = 0
    """Connections that broke because their controller was killed."""
    wrong: list[str] = field(default_factory=list)


async def events(session: aiohttp.ClientSession, api: str, question: str) -> AsyncIterator[Any]:
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": question}]}
    async with session.post(f"{api}/v1/chat/completions", json=body) as reply:
        if reply.status != 200:
            yield {"error": await reply.json()}
            return
        async for line in reply.content:
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])
            elif line.startswith(b"data: [DONE]"):
                yield None


async def ask(session: aiohttp.ClientSession, api: str, question: str, tally: Tally) -> None:
    """One question; the answer has to be the question, word for word, with an end.

    Raises:
        aiohttp.ClientError: the connection to the controller broke.
    """
    said, done, workers = "", False, []
    async for event in events(session, api, question):
        if event is None:
            done = True
        elif "error" in event:
            tally.wrong.append(f"{event['error']}")
            return
        else:
            workers = event.get("vicuna", {}).get("workers", workers)
            said += "".join(choice["delta"].get("content", "") for choice in event["choices"])
    if said != question or not done:
        tally.wrong.append(f"asked {question!r}, got {said!r}, {done=}")
        return
    tally.complete += 1
    tally.moved += len(set(workers)) > 1


async def client(number: int, stack: Stack, over: asyncio.Event, tally: Tally) -> None:
    """Ask again and again; when the controller is lost, go to the other one and ask from the start."""
    at, count = number % 2, 0
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while not over.is_set():
            question = " ".join(f"c{number}q{count}w{word}" for word in range(WORDS))
            lives = stack.controllers[at]
            try:
                await ask(session, stack.sites[at].api, question, tally)
                count += 1
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if lives.process.poll() is None:
                    tally.wrong.append(f"the connection broke though its controller lives: {error!r}")
                tally.cut += 1
                at = 1 - at
                await asyncio.sleep(0.2)


# ------------------------------------------------------------------------------------------------ the chaos
async def havoc(stack: Stack, draw: random.Random, over: asyncio.Event) -> Counter[str]:
    """Something befalls a worker about every second; what was ended is started again a little later."""
    done: Counter[str] = Counter()
    struck: set[Command] = set()
    repairs: set[asyncio.Task[None]] = set()

    async def mend(worker: Command, what: str) -> None:
        await asyncio.sleep(draw.uniform(1, 5))
        if what == "thawed":
            worker.signal(signal.SIGCONT)
        else:
            if worker.process.poll() is None:
                worker.signal(signal.SIGKILL)
            stack.replace(worker)
        await asyncio.sleep(2)  # it joins again
        struck.discard(worker)

    while not over.is_set():
        await asyncio.sleep(draw.uniform(0.3, 1.5))
        well = [worker for worker in stack.workers if worker not in struck]
        if WORKERS - len(struck) <= SPARED:
            continue
        worker = draw.choice(well)
        what, number, then = draw.choice(
            [("killed", signal.SIGKILL, "replaced"), ("frozen", signal.SIGSTOP, "thawed"),
             ("frozen and killed", signal.SIGSTOP, "replaced"), ("told to stop", signal.SIGTERM, "replaced")]
        )  # fmt: skip
        struck.add(worker)
        worker.signal(number)
        done[what] += 1
        task = asyncio.create_task(mend(worker, then))
        repairs.add(task)
        task.add_done_callback(repairs.discard)
    await asyncio.gather(*repairs)
    return done


async def kill_controllers(stack: Stack) -> None:
    """The first a third into the time, the second when everybody is at the first again."""
    for number in (0, 1):
        await asyncio.sleep(SECONDS / 3)
        stack.controllers[number].end()
        await asyncio.sleep(2)
        stack.restart(number)


async def storm(stack: Stack, seed: int) -> tuple[Tally, Counter[str]]:
    tally, over = Tally(), asyncio.Event()
    clients = [asyncio.create_task(client(number, stack, over, tally)) for number in range(CLIENTS)]
    havocs = asyncio.create_task(havoc(stack, random.Random(seed), over))
    kills = asyncio.create_task(kill_controllers(stack))
    await asyncio.sleep(SECONDS)
    over.set()
    done = await havocs
    await kills
    await asyncio.gather(*clients)
    return tally, done


@pytest.mark.slow
def test_every_client_that_keeps_its_connection_gets_its_whole_answer(stack: Stack) -> None:
    tally, done = asyncio.run(storm(stack, seed=5))
    assert tally.wrong == []
    assert tally.complete >= CLIENTS
    assert tally.moved > 0
    assert tally.cut >= CLIENTS / 4  # both kills did cut somebody off
    assert min(done[what] for what in ("killed", "frozen", "frozen and killed", "told to stop")) > 0
    until(stack.is_at_rest, "a fleet at rest")
