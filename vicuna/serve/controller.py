"""The controller: it holds the fleet's leases and is the gateway in front of it."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import aiohttp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vicuna.command import run as run_command
from vicuna.serve import server
from vicuna.serve.asgi import read_body
from vicuna.serve.client import WorkerClient
from vicuna.serve.config import ControllerConfig, LimitsConfig
from vicuna.serve.dispatch import Dispatcher
from vicuna.serve.faults import Fault, invalid
from vicuna.serve.fleet import Fleet, JoinRefused, Worker
from vicuna.serve.gateway import ERROR_HANDLERS, Gateway, as_json
from vicuna.serve.protocol import PROTOCOL, Heartbeat, Leave, Registration, parse
from vicuna.serve.signing import Signer

log = logging.getLogger(__name__)
TICK = 0.1
GRACE = 5
"""Seconds that running answers have after the controller was told to stop."""
IDLE = 15.0
"""Seconds that an idle connection to a worker is kept; less than the worker keeps its end."""


class Controller:
    """One controller process: the fleet, its watch, and its routes."""

    def __init__(self, limits: LimitsConfig, session: aiohttp.ClientSession) -> None:
        self.fleet = Fleet(limits.lease, time.monotonic)
        self.dispatcher = Dispatcher(self.fleet, limits, time.monotonic)
        self.client = WorkerClient(session, Signer())
        self.gateway = Gateway(self.dispatcher, self.client, limits)
        self._limits = limits
        self._probing: set[str] = set()

    def routes(self) -> list[Route]:
        """Everything this process answers."""
        return [
            *self.gateway.routes(),
            Route("/health", self.health, methods=["GET"]),
            Route("/fleet", self.show, methods=["GET"]),
            Route("/fleet/register", self.register, methods=["POST"]),
            Route("/fleet/heartbeat", self.heartbeat, methods=["POST"]),
            Route("/fleet/leave", self.leave, methods=["POST"]),
        ]

    # ------------------------------------------------------------------------------------- the fleet over HTTP
    async def health(self, request: Request) -> Response:
        """This process is well; how many workers and models it has."""
        live = sum(self.fleet.state(worker) == "live" for worker in self.fleet.workers())
        body = {"status": "ok", "workers": live, "models": list(self.fleet.models())}
        return as_json(body, request)

    async def show(self, request: Request) -> Response:
        """The fleet as it is."""
        workers = [self._worker_row(worker) for worker in self.fleet.workers()]
        body = {"workers": workers, "in_flight": self.fleet.in_flight, "waiting": self.dispatcher.waiting}
        return as_json(body, request)

    def _worker_row(self, worker: Worker) -> dict[str, object]:
        return {
            "id": worker.id,
            "address": worker.address,
            "engine": worker.engine,
            "state": self.fleet.state(worker),
            "models": [model.model_dump(mode="json") for model in worker.models.values()],
            "capacity": worker.capacity,
            "in_flight": worker.in_flight,
            "answered": worker.answered,
            "failures_in_a_row": worker.failures,
            "last_failure": worker.last_failure,
            "lease_seconds_left": round(max(0.0, worker.expires - time.monotonic()), 2),
            "load": dict(worker.load),
        }

    async def register(self, request: Request) -> Response:
        """Take a worker in, once it was reached at the address that it gave."""
        registration = parse(Registration, await read_body(request, self._limits.body))
        if registration.protocol != PROTOCOL:
            theirs = registration.protocol
            message = f"this controller speaks protocol {PROTOCOL}, the worker {theirs}; update the older"
            raise invalid(message, param="protocol")
        await self._probe_address(registration.address, registration.worker_id)
        try:
            worker = self.fleet.join(registration)
        except JoinRefused as refused:
            raise Fault(str(refused), status=409, code="model_conflict") from refused
        log.info("worker %s joined: %s (%s)", worker.address, ", ".join(worker.models), worker.engine)
        self.dispatcher.wake()
        return as_json({"lease": self._limits.lease}, request)

    async def heartbeat(self, request: Request) -> Response:
        """Renew a lease."""
        beat = parse(Heartbeat, await read_body(request, self._limits.body))
        if not self.fleet.heartbeat(beat):
            raise Fault("this worker is not on the list; it has to register", status=404, code="unknown_worker")
        return as_json({"ok": True}, request)

    async def leave(self, request: Request) -> Response:
        """Take a worker off the list; its running answers go on."""
        parting = parse(Leave, await read_body(request, self._limits.body))
        worker = self.fleet.get(parting.worker_id)
        if self.fleet.leave(parting.worker_id) and worker is not None:
            log.info("worker %s left", worker.address)
        return as_json({"ok": True}, request)

    async def end_answers(self, seconds: float) -> None:
        """End what still runs after so long with an error that says why; else its connections would just break."""
        await asyncio.sleep(seconds)
        self.gateway.end_answers()

    # ------------------------------------------------------------------------------------- probes and the watch
    async def _probe_address(self, address: str, worker_id: str) -> None:
        try:
            host = urlsplit(address).hostname or ""
        except ValueError as error:
            raise invalid(f"{address} is not an address: {error}", param="address") from error
        if host in ("0.0.0.0", "::"):
            message = (
                f"{address} means 'every address of this machine', so nobody can connect to it; start the worker with "
                "--advertise http://ADDRESS:PORT as this controller would reach it"
            )
            raise invalid(message, param="address", code="address_unreachable")
        try:
            found = await self.client.health(address)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            cause = str(error) or type(error).__name__
            message = (
                f"this controller cannot reach the worker at {address} ({cause}); check --advertise and --port of "
                "the worker, and the firewall between the two"
            )
            raise invalid(message, param="address", code="address_unreachable") from error
        if found != worker_id:
            message = f"at {address} another program answers, not this worker; check --advertise and --port"
            raise invalid(message, param="address", code="address_unreachable")

    async def watch(self) -> None:
        """Let leases run out, end waits, and look after suspended workers; runs for the process's whole life."""
        probes: set[asyncio.Task[None]] = set()
        while True:
            await asyncio.sleep(TICK)
            for worker in self.fleet.expire():
                log.warning("worker %s is gone: no heartbeat for %g s", worker.address, self._limits.lease)
            self.dispatcher.tick()
            for worker in self.fleet.due_for_probe():
                if worker.id not in self._probing:
                    self._probing.add(worker.id)
                    task = asyncio.create_task(self._probe(worker))
                    probes.add(task)
                    task.add_done_callback(probes.discard)

    async def _probe(self, worker: Worker) -> None:
        try:
            found = await self.client.health(worker.address)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self.fleet.failed(worker, f"probe failed: {error or type(error).__name__}")
        else:
            if found == worker.id:
                log.info("worker %s is well again", worker.address)
                self.fleet.restore(worker)
                self.dispatcher.wake()
            else:
                self.fleet.leave(worker.id)
        finally:
            self._probing.discard(worker.id)


def make_app(limits: LimitsConfig) -> Starlette:
    """The controller as a web application."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=limits.connect, sock_read=limits.stall)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            controller = Controller(limits, session)
            app.state.controller = controller
            app.router.routes.extend(controller.routes())
            watch = asyncio.create_task(controller.watch())
            watch.add_done_callback(_report_end)
            yield
            watch.cancel()

    return Starlette(lifespan=lifespan, exception_handlers=ERROR_HANDLERS)


def _report_end(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("the watch over the fleet ended with a mistake", exc_info=task.exception())


def main(config: ControllerConfig) -> None:
    """Serve until told to stop."""
    sock = server.listen(config.host, config.port)
    log.info("controller: %s/v1", server.url(config.host, server.port_of(sock)))
    app = make_app(config.limits)

    async def body() -> None:
        ends: list[asyncio.Task[None]] = []

        async def goodbye() -> None:
            ends.append(asyncio.create_task(app.state.controller.end_answers(GRACE - 1)))

        await server.run(server.make(app, grace=GRACE), sock, on_stop=goodbye)

    server.run_loop(body)


def command(argv: list[str]) -> int:
    """`python -m vicuna.serve controller`."""
    return run_command(ControllerConfig, main, argv, "python -m vicuna.serve controller")
