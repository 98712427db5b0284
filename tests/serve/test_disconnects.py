"""Clients that go away at any moment leave nothing behind: no slot, no place in line, no file descriptor."""

import asyncio
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from serve_stack import Command, Site, get, site, until

CLIENTS = 1000
AT_ONCE = 60
WORKERS = 2
SLOTS = 16
SCRIPT = """
pace: 0.02
rules:
  - match: endless
    answer: "word "
    repeat: 100000
  - match: late
    answer: "word "
    first: 1000
  - match: hold
    answer: held
    first: 2
  - answer: fine
"""
RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Place:
    """A controller, and workers that hold on to whatever they are asked."""

    site: Site
    controller: Command

    @property
    def in_use(self) -> dict[str, Any]:
        """What requests may hold of the fleet; all of it zero at rest."""
        fleet = self.site.fleet()
        loads = [get(f"{row['address']}/health")["load"]["running"] for row in fleet["workers"]]
        return {"in flight": fleet["in_flight"], "waiting": sum(fleet["waiting"].values()), "running": sum(loads)}

    def is_at_rest(self) -> bool:
        return not any(self.in_use.values())

    def descriptors(self) -> int:
        return psutil.Process(self.controller.process.pid).num_fds()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with site(tmp_path) as made:
        for _ in range(WORKERS):
            made.worker("m", SCRIPT, "--engine.slots", str(SLOTS), "--model.max_length", "1000000")
        yield Place(made, made.commands[0])


def request(draw: random.Random, what: str) -> bytes:
    """A request whose answer nobody would live to see the end of."""
    body: dict[str, Any] = {"model": "m", "max_tokens": 500_000, "stream": what in ("stream", "choices")}
    body["n"] = draw.choice((2, 3)) if what == "choices" or draw.random() < 0.1 else 1
    body["messages"] = [{"role": "user", "content": draw.choice(("endless", "endless", "late"))}]
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n"
    return head.encode() + content


async def leave(port: int, draw: random.Random, what: str) -> None:
    """Connect, get to the moment that `what` names, and go away, in order or at a stroke."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        data = request(draw, what)
        head = data.index(b"\r\n\r\n") + 4
        if what == "headers":
            data = data[: draw.randrange(head)]
        elif what == "body":
            data = data[: draw.randrange(head, len(data))]
        writer.write(data)
        await writer.drain()
        if what in ("stream", "choices"):
            with_patience = asyncio.timeout(draw.uniform(0, 0.6))  # it may be waiting in line, or for the first token
            try:
                async with with_patience:
                    await reader.readexactly(draw.randrange(1, 4000))
            except TimeoutError:
                pass
        elif what != "at once":
            await asyncio.sleep(draw.uniform(0, 0.3))
        if draw.random() < 0.5:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    finally:
        writer.close()


async def stampede(port: int, seed: int, count: int) -> Counter[str]:
    draw, left = random.Random(seed), Counter[str]()
    gate = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with gate:
            what = draw.choice(("headers", "body", "at once", "stream", "stream", "choices", "whole", "whole"))
            await leave(port, draw, what)
            left[what] += 1

    await asyncio.gather(*(one() for _ in range(count)))
    return left


async def hold(api: str, count: int) -> list[str]:
    """So many questions at once, each of which holds a slot for two seconds."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hold"}]}
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None)) as client:
        replies = await asyncio.gather(*(client.post(f"{api}/v1/chat/completions", json=body) for _ in range(count)))
    return [reply.json()["choices"][0]["message"]["content"] for reply in replies]


async def fully_used(place: Place) -> tuple[list[str], int]:
    """Answers to as many questions as there are slots, and the most that were in flight."""
    asked = asyncio.create_task(hold(place.site.api, WORKERS * SLOTS))
    most = 0
    while not asked.done():
        fleet = await asyncio.to_thread(place.site.fleet)
        most = max(most, fleet["in_flight"])
        await asyncio.sleep(0.05)
    return await asked, most


@pytest.mark.slow
def test_a_thousand_clients_that_go_away_leave_nothing_behind(place: Place) -> None:
    before = place.descriptors()
    left = asyncio.run(stampede(place.site.port, seed=7, count=CLIENTS))
    assert sum(left.values()) == CLIENTS
    assert min(left.values()) > 50
    until(place.is_at_rest, "the fleet to be at rest")
    answers, most = asyncio.run(fully_used(place))
    assert answers == ["held"] * (WORKERS * SLOTS)
    assert most == WORKERS * SLOTS
    assert place.is_at_rest()
    states = {row["state"]: row["last_failure"] for row in place.site.fleet()["workers"]}
    assert states == {"live": ""}  # a client that leaves is no failure of the worker
    until(lambda: place.descriptors() <= before, f"no more open descriptors than the {before} before")
    assert "Traceback" not in place.controller.output()


@pytest.mark.parametrize("what", ["stream", "whole", "choices"])
def test_the_worker_stops_when_its_client_leaves(place: Place, what: str) -> None:
    with socket.create_connection(("127.0.0.1", place.site.port)) as connection:
        connection.sendall(request(random.Random(1), what))
        until(lambda: place.in_use["running"] > 0, "the worker to begin")
    until(place.is_at_rest, "the worker to stop")
