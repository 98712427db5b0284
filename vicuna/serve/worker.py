"""A worker: one engine behind a small HTTP interface, and its membership in the fleets. A process may have several."""

import asyncio
import contextlib
import logging
import signal
import socket
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import aiohttp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vicuna.command import run as run_command
from vicuna.hardware import share_cores
from vicuna.serve import faults, hosting, lines
from vicuna.serve.api.handlers import ERROR_HANDLERS, as_json
from vicuna.serve.config import WorkerConfig
from vicuna.serve.engines import Engine
from vicuna.serve.faults import Fault
from vicuna.serve.names import served_names
from vicuna.serve.net import server, tls
from vicuna.serve.net.asgi import Sealed, Stream, read_signed, while_connected
from vicuna.serve.net.secret import load_secret
from vicuna.serve.net.signing import Signer
from vicuna.serve.protocol import ADDRESSEE, EmbedJob, Heartbeat, Job, Registration, parse
from vicuna.serve.registration import Fleets, advertised
from vicuna.serve.watch import logs, tracing
from vicuna.serve.watch.metrics import Outcome, WorkerMetrics
from vicuna.serve.watch.observe import Observed
from vicuna.serve.work import HandedOver, Running, Work

log = logging.getLogger(__name__)
BODY = 64 * 1024 * 1024
LINES = "application/x-ndjson"
GRACE = 1
"""Seconds that the last bytes may take once nothing is computed any more."""


class Worker:
    """The routes of one worker and its state."""

    def __init__(self, engine: Engine, config: WorkerConfig, port: int, fleets: Fleets, signer: Signer) -> None:
        """
        Args:
            engine: has started.
            config: without further models.
            port: where the worker listens.
            fleets: what it joins and leaves.
            signer: with the fleet's secret.
        """
        self.id = f"w-{uuid.uuid4().hex[:12]}"
        self.engine = engine
        self.running = Running(engine.capacity)
        self.left = asyncio.Event()
        """Set when it has left its fleets and nothing runs here any more."""
        self._config = config
        self._port = port
        self._fleets = fleets
        self._signer = signer
        self._models = list(engine.models())
        self._names = [model.name for model in self._models]
        self._started = time.time()
        self._metrics = WorkerMetrics(lambda: len(self.running), engine.capacity, engine.load)
        self._departure: asyncio.Task[None] | None = None
        engine.observe(self._metrics.step)
        address = server.url(config.host, port, config.tls.scheme)
        log.info("worker %s serves %s at %s", self.id, ", ".join(self._names), address)

    def routes(self) -> list[Route]:
        """What controllers ask."""
        return [
            Route("/generate", self.generate, methods=["POST"]),
            Route("/embed", self.embed, methods=["POST"]),
            Route("/tokenize", self.tokenize, methods=["POST"]),
            Route("/drain", self.drain, methods=["POST"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
        ]

    # ------------------------------------------------------------------------------------- what controllers are told
    def registration(self, controller: str) -> Registration:
        """Who joins the fleet of the controller at that address; may look its name up."""
        return Registration(
            worker_id=self.id,
            address=advertised(self._config, self._port, controller),
            engine=self.engine.kind,
            models=self._models,
            capacity=self.engine.capacity,
            started=self._started,
        )

    def heartbeat(self) -> Heartbeat:
        """The sign of life."""
        load = {**self.engine.load(), "running": float(len(self.running))}
        return Heartbeat(worker_id=self.id, draining=self.running.draining, running=len(self.running), load=load)

    async def health(self, request: Request) -> Response:
        """Whether the engine is well; id and proof tell a controller that it has reached the right worker."""
        trouble = self.engine.trouble()
        status = "failing" if trouble else "draining" if self.running.draining else "ok"
        body: dict[str, Any] = {"status": status, "worker_id": self.id, "models": list(self._names)}
        if trouble:
            body["reason"] = trouble
        if nonce := request.query_params.get("nonce"):
            body["proof"] = self._signer.proof(nonce, self.id)
        return as_json(body | {"load": self.heartbeat().load}, request, 503 if trouble else 200)

    async def metrics(self, request: Request) -> Response:
        """Numbers for Prometheus."""
        body, kind = await self._metrics.exposition(request.headers.get("accept", ""))
        return Response(body, media_type=kind)

    # ------------------------------------------------------------------------------------- what they send
    async def _called(self, request: Request) -> bytes:
        """The body of a call that was meant for this worker, by a controller of its fleet."""
        body = await read_signed(request, self._signer, BODY)
        if (meant := request.headers.get(ADDRESSEE, self.id)) != self.id:
            raise faults.server_error(f"this is worker {self.id}, not {meant}", status=faults.MISDIRECTED)
        return body

    def _check_name(self, model: str) -> None:
        logs.note(model=model)
        if model not in self._names:
            raise faults.model_not_found(model, self._names)

    async def generate(self, request: Request) -> Response:
        """Compute one answer, one JSON line per piece; what goes wrong is a line too."""
        job = parse(Job, await self._called(request))
        self._check_name(job.model)
        return await self._stream(lambda work: self._answer(job, work))

    async def embed(self, request: Request) -> Response:
        """Compute vectors: empty lines while it is at work, then one JSON object."""
        job = parse(EmbedJob, await self._called(request))
        self._check_name(job.model)
        return await self._stream(lambda work: self._vectors(job, work))

    async def tokenize(self, request: Request) -> Response:
        """The token ids of a job's prompt."""
        job = parse(Job, await self._called(request))
        self._check_name(job.model)
        return as_json({"tokens": await while_connected(request.receive, self.engine.tokenize(job))}, request)

    async def drain(self, request: Request) -> Response:
        """Take no new work, end what runs or hand it over, and leave; the process ends with its last worker."""
        await self._called(request)
        if self._departure is None:
            log.info("a controller asks worker %s to leave", self.id)
            self.depart()
        return as_json({"draining": True, "running": len(self.running)}, request)

    # ------------------------------------------------------------------------------------- computing
    async def _stream(self, compute: Callable[[Work], AsyncGenerator[bytes, None]]) -> Response:
        """A reply that holds one place of this worker until its last byte is out or the controller has gone."""
        work = await self.running.begin()

        async def end() -> None:
            self.running.end(work)

        return Stream(self._guarded(compute(work)), LINES, {}, end, self._sign_of_life)

    def _sign_of_life(self) -> bytes:
        """An empty line while the engine is well: the answer is still being worked on."""
        return b"" if self.engine.trouble() else b"\n"

    async def _answer(self, job: Job, work: Work) -> AsyncGenerator[bytes, None]:
        try:
            async with contextlib.aclosing(self.engine.generate(job)) as pieces:
                finish = None
                while finish is None:
                    piece = await work.step(pieces.__anext__)
                    self._metrics.tokens(piece.usage[1] if piece.usage else len(piece.ids))
                    yield lines.of_piece(piece)
                    finish = piece.finish
        except Fault as fault:
            if fault.code == "full":
                raise HandedOver("full") from fault
            raise

    async def _vectors(self, job: EmbedJob, work: Work) -> AsyncGenerator[bytes, None]:
        yield b"\n"
        try:
            embedded = await work.step(lambda: self.engine.embed(job))
        except HandedOver as error:
            raise faults.server_error("this worker leaves", status=503, code="draining") from error
        yield await asyncio.to_thread(lines.of_vectors, embedded)

    async def _guarded(self, parts: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """The lines, and as the last one why there are no more."""
        outcome: Outcome = "gone"
        try:
            async with contextlib.aclosing(parts):
                async for part in parts:
                    yield part
            outcome = "finished"
        except HandedOver as why:
            outcome = "moved"
            yield lines.of_move(str(why))
        except Fault as fault:
            outcome = "failed"
            yield lines.of_fault(fault)
        except Exception:
            outcome = "failed"
            log.exception("the engine ended an answer with a mistake of ours")
            yield lines.of_fault(faults.server_error("internal error; the worker's log has the details"))
        finally:
            self._metrics.ended(outcome)

    # ------------------------------------------------------------------------------------- leaving
    def depart(self) -> "asyncio.Task[None]":
        """Begin to leave, once however often it is called; the task ends when nothing runs here any more."""
        if self._departure is None:
            self._departure = asyncio.create_task(self._depart())
        return self._departure

    async def _depart(self) -> None:
        self.running.draining = True
        self._fleets.beat_now()
        if self.running:
            log.info("finishing %d answers, at most %g s", len(self.running), self._config.drain)
        handed_over = await self.running.drain(self._config.drain)
        if handed_over:
            log.info("handed %d answers over", handed_over)
        await self._fleets.leave(self.id)
        self.left.set()


def make_app(worker: Worker, signer: Signer, tracer: tracing.Tracer) -> Observed:
    """The worker as a web application."""
    app = Starlette(routes=worker.routes(), exception_handlers=ERROR_HANDLERS)
    app.router.redirect_slashes = False
    return Observed(Sealed(app, signer, worker.id), tracer)


# ------------------------------------------------------------------------------------------- the process
async def _serve(config: WorkerConfig, signer: Signer, tracer: tracing.Tracer) -> None:
    """Run all workers of this process until it is told to stop, or until the last of them has left."""
    trusted = tls.trust(config.tls)
    parts = hosting.split(config)
    async with contextlib.AsyncExitStack() as stack:
        socks = [stack.enter_context(server.listen(part.host, part.port)) for part in parts]
        engines = await stack.enter_async_context(hosting.started(parts))
        # A controller may come back at another address, so names are looked up for each new connection.
        connector = aiohttp.TCPConnector(limit=0, use_dns_cache=False, ssl=trusted)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        workers, servers = [], []
        for part, engine, sock in zip(parts, engines, socks, strict=True):
            fleets = Fleets(part, session, signer)
            worker = Worker(engine, part, server.port_of(sock), fleets, signer)
            workers.append(worker)
            servers.append(server.make(make_app(worker, signer, tracer), GRACE, part.limits, part.tls))
            await stack.enter_async_context(fleets.joined(worker.registration, worker.heartbeat))
        await _run(workers, servers, socks)


async def _run(workers: Sequence[Worker], servers: Sequence[server.Server], socks: Sequence[socket.socket]) -> None:
    """Answer for each worker at its socket until SIGINT or SIGTERM, or until all have left because they were asked."""
    leaving = asyncio.create_task(_stop_when_left(workers))

    async def goodbye() -> None:
        leaving.cancel()
        await asyncio.gather(*(worker.depart() for worker in workers))

    (first, sock), *others = zip(servers, socks, strict=True)
    beside = [asyncio.create_task(each.serve(sockets=[its])) for each, its in others]
    await server.run(first, sock, on_stop=goodbye)  # it has the signals, and the others end with it
    for each, _ in others:
        each.should_exit, each.force_exit = True, first.force_exit
    await asyncio.gather(*beside)


async def _stop_when_left(workers: Sequence[Worker]) -> None:
    for worker in workers:
        await worker.left.wait()
    signal.raise_signal(signal.SIGTERM)


def main(config: WorkerConfig) -> None:
    """Serve until told to stop."""
    logs.start(config.log)
    served_names(config)
    signer = load_secret(config.secret, config.host, "--secret")
    tracer = tracing.start(config.log.traces, "worker")
    share_cores()

    async def body() -> None:
        await _serve(config, signer, tracer)

    try:
        server.run_loop(body)
    finally:
        tracer.close()


def command(argv: list[str]) -> int:
    """`python -m vicuna.serve worker`."""
    return run_command(WorkerConfig, main, argv, "python -m vicuna.serve worker")
