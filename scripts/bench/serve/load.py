"""A load client that costs little: raw HTTP/1.1 over kept connections, uvloop. Not run by hand: the scripts here do.

    .venv/bin/python load.py --base http://127.0.0.1:8000 --concurrency 16 --requests 1000 --stream

prints one JSON object. Closed loop: each of the clients sends its next request when it has its answer. With `--rate`,
open loop: requests are sent at fixed times whatever became of those before, and latency counts from the time that a
request was due. Every answer is checked: status 200 and as many pieces as were asked for.
"""

import argparse
import asyncio
import json
import sys
import time
import urllib.parse
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import uvloop

END = b"0\r\n\r\n"
PATIENCE = 30.0
"""Seconds for an answer."""


@dataclass
class Tally:
    """What came back."""

    whole: list[float] = field(default_factory=list)
    """Seconds until the answer's end."""
    first: list[float] = field(default_factory=list)
    """Seconds until its first text."""
    pieces: int = 0
    errors: Counter[str] = field(default_factory=Counter)


class Connection(asyncio.Protocol):
    """One kept connection: a request at a time."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._end: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport
        self._length: int | None = None
        self._head = -1
        self.first = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def ask(self, request: bytes) -> "asyncio.Future[bytes]":
        """The whole reply, head and body."""
        self._data.clear()
        self._head, self._length, self.first = -1, None, 0.0
        self._end = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._end

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._head < 0:
            self._head = self._data.find(b"\r\n\r\n")
            if self._head < 0:
                return
            head = bytes(self._data[: self._head]).lower()
            at = head.find(b"content-length:")
            self._length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else None
        if (
            not self.first
            and self._data.find(b'"content":"x', self._head) + self._data.find(b'"content": "x', self._head) > -2
        ):
            self.first = time.perf_counter()
        over = (
            len(self._data) >= self._head + 4 + self._length if self._length is not None else self._data.endswith(END)
        )
        if over and self._end is not None and not self._end.done():
            self._end.set_result(bytes(self._data))

    def connection_lost(self, error: Exception | None) -> None:
        if self._end is not None and not self._end.done():
            self._end.set_exception(ConnectionError("the connection broke"))

    @property
    def lost(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._transport.close()


class Client:
    """Sends one kind of request again and again."""

    def __init__(self, options: argparse.Namespace) -> None:
        parts = urllib.parse.urlsplit(options.base)
        self._place = (parts.hostname, parts.port)
        self._options = options
        body = {"model": options.model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": options.pieces,
                "stream": options.stream}  # fmt: skip
        content = json.dumps(body).encode()
        head = (f"POST /v1/chat/completions HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
                f"authorization: Bearer {options.key}\r\ncontent-length: {len(content)}\r\n\r\n")  # fmt: skip
        self._request = head.encode() + content
        self._idle: list[Connection] = []
        self.tally = Tally()

    async def one(self, since: float) -> None:
        """One request; `since` is when it was due."""
        try:
            connection = await self._connection()
            async with asyncio.timeout(None if self._options.hold else PATIENCE):
                reply = await connection.ask(self._request)
        except OSError as error:  # TimeoutError is one too
            self.tally.errors[str(error) or type(error).__name__] += 1
            return
        self._check(reply, connection, since, time.perf_counter())
        self._idle.append(connection)

    def _check(self, reply: bytes, connection: Connection, since: float, now: float) -> None:
        if not reply.startswith(b"HTTP/1.1 200"):
            self.tally.errors[reply[:300].decode("latin1")] += 1
            return
        found = reply.count(b'"content":"x') + reply.count(b'"content": "x')
        if found < (self._options.pieces if self._options.stream else 1):
            self.tally.errors[f"{found} pieces"] += 1
            return
        self.tally.pieces += found
        self.tally.whole.append(now - since)
        self.tally.first.append(connection.first - since)

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.lost:
                return connection
        _, made = await asyncio.get_running_loop().create_connection(Connection, *self._place)
        return made

    def close(self) -> None:
        for connection in self._idle:
            connection.close()


async def closed_loop(client: Client, concurrency: int, requests: int) -> None:
    left = iter(range(requests))

    async def user() -> None:
        for _ in left:
            await client.one(time.perf_counter())

    await asyncio.gather(*(user() for _ in range(concurrency)))


async def open_loop(client: Client, rate: float, requests: int) -> None:
    began = time.perf_counter()
    tasks = []
    for number in range(requests):
        due = began + number / rate
        await asyncio.sleep(max(0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(client.one(due)))
    await asyncio.gather(*tasks)


async def hold(client: Client, count: int) -> None:
    """Open so many streams, say that they are open, and wait for a line on standard input."""
    tasks = [asyncio.create_task(client.one(time.perf_counter())) for _ in range(count)]
    await asyncio.sleep(1 + count / 200)
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    broken = sum(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    client.tally.errors["ended early"] += broken


def percentile(values: list[float], share: float) -> float:
    """Of unsorted values; not a number where there are none."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


async def run(options: argparse.Namespace) -> dict[str, Any]:
    client = Client(options)
    began = time.perf_counter()
    if options.hold:
        await hold(client, options.hold)
    elif options.rate:
        await open_loop(client, options.rate, options.requests)
    else:
        await closed_loop(client, options.concurrency, options.requests)
    wall, tally = time.perf_counter() - began, client.tally
    client.close()
    times = {f"{name}_{share}": 1e3 * percentile(values, share / 100)
             for name, values in (("whole", tally.whole), ("first", tally.first)) for share in (50, 99)}  # fmt: skip
    return {"requests": len(tally.whole), "seconds": wall, "per_second": len(tally.whole) / wall,
            "pieces_per_second": tally.pieces / wall, **times, "errors": dict(tally.errors)}  # fmt: skip


def main() -> None:
    """Read the command line, load, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", required=True, help="address before /v1")
    parser.add_argument("--model", default="lab")
    parser.add_argument("--key", default="none")
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--rate", type=float, default=0, help="requests per second, open loop")
    parser.add_argument("--pieces", type=int, default=1)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--hold", type=int, default=0, help="open so many streams and hold them")
    print(json.dumps(uvloop.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
