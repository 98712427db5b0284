"""Workers that answer at once, so that what is measured is the gateway before them. Not run by hand: `stacks.py` does.

    .venv/bin/python stub.py --speak vicuna --fleet http://127.0.0.1:8000 --count 100 --port 22000

One process speaks for any number of workers: each has its own address in 127.0.0.0/8, and all share one socket. It
speaks our controllers' protocol or FastChat's (written from the routes and fields that travel; no code of it), and
OpenAI's API too, which gives the cost of client and stub alone. An answer has as many pieces as `max_tokens` says.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import sys
import urllib.parse
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from vicuna.serve.net.signing import SIGNATURE, Signer
from vicuna.serve.protocol import FEATURES, PROTOCOL

MODEL = "lab"
SIGN = 1.0
"""Seconds between two signs of life on an answer that says nothing."""
_TOKENS = re.compile(rb'"(?:max_tokens|max_new_tokens)": ?(\d+)')
_LENGTH = re.compile(rb"content-length: ?(\d+)", re.IGNORECASE)
_SIGNED = re.compile(SIGNATURE.encode() + rb": ?([^\r]+)", re.IGNORECASE)
DETAILS = {"model_names": [MODEL], "speed": 1, "queue_length": 0, "context_length": 4096, "count": 1, "error_code": 0}
LOOKS = dict.fromkeys(("system_message", "sep"), "") | {
    "name": "raw", "system_template": "{system_message}", "roles": ["", ""], "messages": [], "offset": 0,
    "sep_style": 4, "sep2": None, "stop_str": None, "stop_token_ids": None,
}  # fmt: skip


def address_of(number: int, port: int) -> str:
    """The address of a worker; Linux answers on all of 127.0.0.0/8."""
    return f"http://127.1.{number // 250}.{number % 250 + 1}:{port}"


class Stub:
    """What all connections share."""

    def __init__(self, pace: float, signer: Signer) -> None:
        self.pace = pace
        self.signer = signer
        self.calls: Counter[str] = Counter()
        self.running = 0

    def worker_id(self, host: str) -> str:
        return f"w-stub-{host}"


class Connection(asyncio.Protocol):
    """One HTTP connection; as little as a stub needs."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self._rest = b""
        self._transport: asyncio.Transport
        self._host = ""
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._host = transport.get_extra_info("sockname")[0]

    def connection_lost(self, error: Exception | None) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None
            self._stub.running -= 1

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        while (head := data.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(data, 0, head)
            end = head + 4 + (int(length[1]) if length else 0)
            if len(data) < end:
                break
            self._answer(data[:head], data[head + 4 : end])
            data = data[end:]
        self._rest = data

    def _answer(self, head: bytes, body: bytes) -> None:
        path = head.split(b" ", 2)[1].decode()
        route = path.partition("?")[0]
        tokens = int(found[1]) if (found := _TOKENS.search(body)) else 1
        extra = b""
        if signed := _SIGNED.search(head):
            seal = self._stub.signer.seal({SIGNATURE: signed[1].decode()}, self._stub.worker_id(self._host))
            extra = "".join(f"{name}: {value}\r\n" for name, value in seal.items()).encode()
        if route == "/generate":
            self._pieces(b"application/x-ndjson", _ours(tokens), extra, b"\n")
        elif route == "/worker_generate_stream":
            self._pieces(b"text/plain", _fastchat(tokens), extra, b"")
        elif route == "/v1/chat/completions" and b'"stream": true' in body:
            self._pieces(b"text/event-stream", _openai(tokens), extra, b"")
        elif route == "/worker_generate" and self._stub.pace:
            self._stub.running += 1
            self._end = asyncio.get_running_loop().call_later(tokens * self._stub.pace, self._finish, route, tokens)
        else:
            self._whole(json.dumps(self._value(route, path, tokens)).encode(), extra)

    def _finish(self, route: str, tokens: int) -> None:
        self._end = None
        self._stub.running -= 1
        self._whole(json.dumps(self._value(route, route, tokens)).encode(), b"")

    def _value(self, route: str, path: str, tokens: int) -> Any:
        if route == "/health":
            nonce = urllib.parse.parse_qs(path.partition("?")[2]).get("nonce", [""])[0]
            found = self._stub.worker_id(self._host)
            proof = self._stub.signer.proof(nonce, found) if nonce else ""
            return {"status": "ok", "worker_id": found, "proof": proof, "load": {"running": self._stub.running}}
        if route == "/worker_generate":
            self._stub.calls[self._host] += 1
            return {"text": "x " * tokens, "error_code": 0, "finish_reason": "length", "usage": _usage(tokens)}
        if route == "/v1/chat/completions":
            choice = {"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": "x " * tokens}}
            return {"id": "x", "created": 0, "model": MODEL, "choices": [choice], "usage": _usage(tokens)}
        if route == "/worker_get_conv_template":
            return {"conv": LOOKS}
        if route == "/calls":
            return {"calls": dict(self._stub.calls), "running": self._stub.running}
        return DETAILS

    def _whole(self, body: bytes, extra: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n"
        self._transport.write(head % (extra, len(body)) + body)

    def _pieces(self, kind: bytes, pieces: list[bytes], extra: bytes, sign: bytes) -> None:
        self._stub.calls[self._host] += 1
        head = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\n%stransfer-encoding: chunked\r\n\r\n" % (kind, extra)
        if not self._stub.pace:
            body = b"".join(pieces)
            self._transport.write(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
            return
        self._transport.write(head)
        self._stub.running += 1
        pieces.reverse()
        self._say(pieces, sign, asyncio.get_running_loop().time())

    def _say(self, pieces: list[bytes], sign: bytes, due: float) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() >= due:
            piece = pieces.pop()
            due += self._stub.pace
        else:
            piece = sign
        if piece:
            self._transport.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if pieces:
            self._end = loop.call_later(min(max(due - loop.time(), 0), SIGN), self._say, pieces, sign, due)
        else:
            self._transport.write(b"0\r\n\r\n")
            self._end = None
            self._stub.running -= 1


def _ours(tokens: int) -> list[bytes]:
    first = [b'{"text":"x ","ids":[%d]}\n' % place for place in range(tokens - 1)]
    rows = [*first, b'{"text":"x ","ids":[%d],"finish":"length"}\n' % (tokens - 1)]
    return [b'{"prompt_tokens":1}\n' + rows[0], *rows[1:]]


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 1 + tokens}


def _fastchat(tokens: int) -> list[bytes]:
    """FastChat's worker sends the whole text so far with each piece."""
    rows = []
    for place in range(1, tokens + 1):
        finish = "length" if place == tokens else None
        row = {"text": "x " * place, "error_code": 0, "usage": _usage(place), "finish_reason": finish}
        rows.append(json.dumps(row).encode() + b"\0")
    return rows


def _openai(tokens: int) -> list[bytes]:
    base: dict[str, Any] = {"id": "x", "created": 0, "model": MODEL, "object": "chat.completion.chunk"}
    rows = []
    for place in range(tokens):
        choice = {"index": 0, "delta": {"content": "x "}, "finish_reason": "length" if place == tokens - 1 else None}
        rows.append(b"data: " + json.dumps(base | {"choices": [choice]}).encode() + b"\n\n")
    return [*rows, b"data: [DONE]\n\n"]


# ------------------------------------------------------------------------------------------------ membership
class Members:
    """Keeps all of the stub's workers in a fleet."""

    def __init__(self, options: argparse.Namespace, signer: Signer, session: aiohttp.ClientSession) -> None:
        self._options = options
        self._signer = signer
        self._session = session

    async def keep(self, ready: Callable[[], None]) -> None:
        gate = asyncio.Semaphore(16)

        async def register(number: int) -> None:
            async with gate:
                await self._post(*self._registration(number))

        await asyncio.gather(*map(register, range(self._options.count)))
        ready()
        loop, pause = asyncio.get_running_loop(), self._options.heartbeat / self._options.count
        due = loop.time()
        while True:
            for number in range(self._options.count):
                due += pause
                await asyncio.sleep(max(0, due - loop.time()))
                reply = await self._post(*self._beat(number))
                wished = reply["pause"] if self._options.speak == "vicuna" else 0.0
                pause = max(self._options.heartbeat, wished) / self._options.count

    def _registration(self, number: int) -> tuple[str, dict[str, Any]]:
        address = address_of(number, self._options.port)
        if self._options.speak == "fastchat":
            status = {"model_names": [self._options.model], "speed": 1, "queue_length": 0}
            body = {"worker_name": address, "check_heart_beat": True, "multimodal": False, "worker_status": status}
            return "/register_worker", body
        model = {"name": self._options.model, "checkpoint_hash": "0", "template_hash": "0", "max_length": 4096,
                 "features": sorted(FEATURES)}  # fmt: skip
        return "/fleet/register", {
            "protocol": PROTOCOL, "worker_id": f"w-stub-{address[7:].split(':')[0]}", "address": address,
            "engine": "stub", "models": [model], "capacity": self._options.slots,
        }  # fmt: skip

    def _beat(self, number: int) -> tuple[str, dict[str, Any]]:
        address = address_of(number, self._options.port)
        if self._options.speak == "fastchat":
            return "/receive_heart_beat", {"worker_name": address, "queue_length": 0}
        return "/fleet/heartbeat", {"worker_id": f"w-stub-{address[7:].split(':')[0]}"}

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        content = json.dumps(body).encode()
        headers = {"content-type": "application/json", **self._signer.headers("POST", path, content)}
        async with self._session.post(self._options.fleet + path, data=content, headers=headers) as reply:
            if reply.status != 200:
                sys.exit(f"error: {path}: {reply.status} {await reply.text()}")
            return json.loads(await reply.read())


async def serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM."""
    signer = Signer(os.environ.get("VICUNA_FLEET_SECRET", "").encode() if options.speak == "vicuna" else b"")
    stub = Stub(options.pace, signer)
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    await loop.create_server(lambda: Connection(stub), "0.0.0.0", options.port, backlog=4096)
    if options.fleet:
        async with aiohttp.ClientSession() as session:
            members = Members(options, signer, session)
            keeping = asyncio.create_task(members.keep(lambda: print("ready", flush=True)))
            ending = asyncio.create_task(over.wait())
            await asyncio.wait({keeping, ending}, return_when=asyncio.FIRST_COMPLETED)
            if keeping.done():
                keeping.result()
    else:
        print("ready", flush=True)
        await over.wait()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speak", choices=("vicuna", "fastchat", "openai"), default="vicuna")
    parser.add_argument("--fleet", default="", help="address of the controller to join; none: only answer")
    parser.add_argument("--count", type=int, default=1, help="workers")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--slots", type=int, default=100_000, help="capacity of each worker")
    parser.add_argument("--pace", type=float, default=0, help="seconds between two pieces; 0: all at once")
    parser.add_argument("--heartbeat", type=float, default=1, help="seconds between two heartbeats of a worker")
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
