"""A worker: one engine behind a small HTTP interface, and its membership in the fleets."""

import asyncio
import contextlib
import json
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vicuna.command import run as run_command
from vicuna.hardware import share_cores
from vicuna.serve import engines, faults, server
from vicuna.serve.asgi import Stream, read_body, while_connected
from vicuna.serve.config import WorkerConfig
from vicuna.serve.engines import Engine, Piece
from vicuna.serve.faults import Fault
from vicuna.serve.gateway import ERROR_HANDLERS, as_json
from vicuna.serve.names import served_names
from vicuna.serve.protocol import ADDRESSEE, Heartbeat, Job, Registration, parse
from vicuna.serve.registration import advertised, memberships

log = logging.getLogger(__name__)
BODY = 64 * 1024 * 1024


class Worker:
    """The routes of one worker and its state."""

    def __init__(self, engine: Engine, config: WorkerConfig) -> None:
        self.id = f"w-{uuid.uuid4().hex[:12]}"
        self.engine = engine
        self.draining = False
        self.running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._names = served_names(config)

    def routes(self) -> list[Route]:
        """What controllers ask."""
        return [
            Route("/generate", self.generate, methods=["POST"]),
            Route("/tokenize", self.tokenize, methods=["POST"]),
            Route("/health", self.health, methods=["GET"]),
        ]

    def registration(self, address: str) -> Registration:
        """What to tell a controller."""
        models = [self.engine.model(name) for name in self._names]
        return Registration(
            worker_id=self.id,
            address=address,
            engine=self.engine.kind,
            models=models,
            capacity=self.engine.capacity,
        )

    def heartbeat(self) -> Heartbeat:
        """The sign of life."""
        load = {"running": float(self.running), **self.engine.load()}
        return Heartbeat(worker_id=self.id, draining=self.draining, load=load)

    async def health(self, request: Request) -> Response:
        """Whether the engine is well; the id tells a controller that it has reached the right worker."""
        trouble = self.engine.trouble()
        body: dict[str, Any] = {"status": "ok", "worker_id": self.id, "models": list(self._names)}
        if trouble:
            body |= {"status": "failing", "reason": trouble}
        elif self.draining:
            body |= {"status": "draining"}
        return as_json(body | {"load": dict(self.engine.load())}, request, 503 if trouble else 200)

    async def tokenize(self, request: Request) -> Response:
        """The token ids of a job's prompt."""
        job = self._own(parse(Job, await read_body(request, BODY)))
        return as_json({"tokens": await self.engine.tokenize(job)}, request)

    async def generate(self, request: Request) -> Response:
        """Compute one answer, one JSON line per piece; errors before the first piece have a status of their own."""
        if (meant := request.headers.get(ADDRESSEE, self.id)) != self.id:
            raise faults.server_error(f"this is worker {self.id}, not {meant}", status=faults.MISDIRECTED)
        if self.draining:
            raise faults.server_error("this worker takes no new work", status=503, code="draining")
        job = self._own(parse(Job, await read_body(request, BODY)))
        pieces = self.engine.generate(job)
        self._count(1)
        try:
            first = await while_connected(request.receive, anext(pieces))
        except BaseException:
            self._count(-1)
            await pieces.aclose()
            raise

        async def end() -> None:
            self._count(-1)
            await pieces.aclose()

        return Stream(self._lines(job, first, pieces), "application/x-ndjson", {}, end, self._sign_of_life)

    async def finish(self, seconds: float) -> None:
        """Wait until nothing runs any more, at most that long."""
        if self.running:
            log.info("finishing %d answers, at most %g s", self.running, seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()

    def _count(self, change: int) -> None:
        self.running += change
        if self.running:
            self._idle.clear()
        else:
            self._idle.set()

    def _own(self, job: Job) -> Job:
        if job.model not in self._names:
            raise faults.model_not_found(job.model, self._names)
        return job

    async def _lines(self, job: Job, first: Piece, pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[bytes, None]:
        try:
            yield _line(first)
            async for piece in pieces:
                yield _line(piece)
        except Fault as fault:
            yield _error_line(fault)
        except Exception:
            log.exception("%s ended with a mistake of ours", job.id)
            yield _error_line(faults.server_error("internal error; the worker's log has the details"))

    def _sign_of_life(self) -> bytes:
        """An empty line while the engine is well: the answer is still being worked on."""
        return b"" if self.engine.trouble() else b"\n"


def _line(piece: Piece) -> bytes:
    if piece.prompt_tokens is not None:
        return b'{"prompt_tokens":%d}\n' % piece.prompt_tokens
    row: dict[str, Any] = {"text": piece.text, "ids": piece.ids}
    if piece.finish:
        row["finish"] = piece.finish
    return json.dumps(row, separators=(",", ":")).encode() + b"\n"


def _error_line(fault: Fault) -> bytes:
    body = fault.body()
    body["error"]["status"] = fault.status
    return json.dumps(body).encode() + b"\n"


def make_app(worker: Worker) -> Starlette:
    """The worker as a web application."""
    return Starlette(routes=worker.routes(), exception_handlers=ERROR_HANDLERS)


@contextlib.asynccontextmanager
async def _member(worker: Worker, config: WorkerConfig, port: int) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Be a member of all fleets; the value is what to call before leaving."""

    def register(controller: str) -> Registration:
        return worker.registration(config.advertise.rstrip("/") or advertised(config.host, port, controller))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        fleets = memberships(config.controllers, register, worker.heartbeat, config.heartbeat, session)
        tasks = [asyncio.create_task(each.keep()) for each in fleets]

        async def goodbye() -> None:
            worker.draining = True
            for task in tasks:
                task.cancel()
            await asyncio.gather(*(each.leave() for each in fleets))
            await worker.finish(config.drain)

        yield goodbye
        for task in tasks:
            task.cancel()


async def _serve(config: WorkerConfig) -> None:
    served_names(config)
    sock = server.listen(config.host, config.port)
    port = server.port_of(sock)
    engine = engines.make(config)
    await engine.start()
    worker = Worker(engine, config)
    log.info("worker %s serves %s at %s", worker.id, ", ".join(served_names(config)), server.url(config.host, port))
    try:
        async with _member(worker, config, port) as goodbye:
            await server.run(server.make(make_app(worker), grace=1), sock, on_stop=goodbye)
    finally:
        await engine.close()


def main(config: WorkerConfig) -> None:
    """Serve until told to stop."""
    share_cores()

    async def body() -> None:
        await _serve(config)

    server.run_loop(body)


def command(argv: list[str]) -> int:
    """`python -m vicuna.serve worker`."""
    return run_command(WorkerConfig, main, argv, "python -m vicuna.serve worker")
