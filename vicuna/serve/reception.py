"""The fleet over HTTP: how workers join and leave, and how the fleet is shown."""

import asyncio
import logging
import time

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vicuna.serve import faults
from vicuna.serve.api.gateway import Gateway
from vicuna.serve.api.handlers import as_json
from vicuna.serve.config import LimitsConfig
from vicuna.serve.faults import Fault, invalid
from vicuna.serve.fleet.client import WorkerClient
from vicuna.serve.fleet.dispatch import Dispatcher
from vicuna.serve.fleet.table import Fleet, JoinRefused, Worker
from vicuna.serve.net.addresses import AllowList
from vicuna.serve.net.asgi import read_body, read_signed, request_id
from vicuna.serve.net.signing import Signer
from vicuna.serve.protocol import PROTOCOL, Heartbeat, Leave, ModelT, Registration, Which, parse
from vicuna.serve.watch import board
from vicuna.serve.watch.metrics import Metrics

log = logging.getLogger(__name__)
LONGEST = 256 * 1024
"""Bytes of what a worker reports."""


class Reception:
    """Where workers report, and where operators look."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        client: WorkerClient,
        gateway: Gateway,
        metrics: Metrics,
        signer: Signer,
        addresses: AllowList,
        limits: LimitsConfig,
    ) -> None:
        self._fleet: Fleet = dispatcher.fleet
        self._dispatcher = dispatcher
        self._client = client
        self._gateway = gateway
        self._metrics = metrics
        self._signer = signer
        self._addresses = addresses
        self._limits = limits

    def routes(self) -> list[Route]:
        """What this part answers."""
        return [
            Route("/health", self.health, methods=["GET"]),
            Route("/metrics", self.measured, methods=["GET"]),
            Route("/fleet", self.show, methods=["GET"]),
            Route("/fleet/register", self.register, methods=["POST"]),
            Route("/fleet/heartbeat", self.heartbeat, methods=["POST"]),
            Route("/fleet/leave", self.leave, methods=["POST"]),
            Route("/fleet/drain", self.drain, methods=["POST"]),
        ]

    # ------------------------------------------------------------------------------------- for people
    async def health(self, request: Request) -> Response:
        """This process is well; how many workers it has and which models they serve."""
        live = sum(self._fleet.state(worker) == "live" for worker in self._fleet.workers())
        return as_json({"status": "ok", "workers": live, "models": list(self._fleet.models())}, request)

    async def measured(self, request: Request) -> Response:
        """What Prometheus reads."""
        self._gateway.allow(request, "metrics")
        body, kind = await self._metrics.exposition(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": kind, "x-request-id": request_id(request)})

    async def show(self, request: Request) -> Response:
        """The fleet as it is: a page for browsers, JSON for programs."""
        if "text/html" in request.headers.get("accept", ""):
            return board.response()  # without data, so without a key: its script asks
        self._gateway.allow(request, "fleet")
        body = {
            "workers": [self._row(worker) for worker in self._fleet.workers()],
            "in_flight": self._fleet.in_flight,
            "waiting": self._dispatcher.waiting,
            "totals": self._metrics.totals(),
        }
        return as_json(body, request)

    def _row(self, worker: Worker) -> dict[str, object]:
        return {
            "id": worker.id,
            "address": worker.address,
            "engine": worker.engine,
            "state": self._fleet.state(worker),
            "models": [model.model_dump(mode="json") for model in worker.models.values()],
            "capacity": worker.capacity,
            "in_flight": worker.in_flight,
            "running": worker.in_flight + worker.elsewhere,
            "answered": worker.answered,
            "started": worker.started,
            "failures_in_a_row": worker.failures,
            "last_failure": worker.last_failure,
            "lease_seconds_left": round(max(0.0, worker.expires - time.monotonic()), 2),
            "load": dict(worker.load),
        }

    async def drain(self, request: Request) -> Response:
        """Ask a worker to finish what it has and leave."""
        self._gateway.allow(request, "admin")
        asked = parse(Which, await read_body(request, self._limits.body, self._limits.depth)).worker
        worker = next((each for each in self._fleet.workers() if asked in (each.id, each.address)), None)
        if worker is None:
            known = ", ".join(f"{each.id} ({each.address})" for each in self._fleet.workers()) or "none"
            raise Fault(f"there is no worker {asked!r}. On the list: {known}", status=404, code="unknown_worker")
        try:
            await self._client.call(worker, "/drain", b"{}", request_id(request))
        except OSError as error:
            cause = str(error) or type(error).__name__
            raise faults.server_error(f"{worker.address} cannot be reached: {cause}", 502, "worker_failed") from error
        self._fleet.drain(worker.id)
        log.info("worker %s was told to drain", worker.address)
        return as_json({"worker": worker.id}, request)

    # ------------------------------------------------------------------------------------- for workers
    async def register(self, request: Request) -> Response:
        """Take a worker in, once it was reached at the address that it gave and has proved to have the secret."""
        registration = await self._signed(request, Registration)
        if registration.protocol != PROTOCOL:
            theirs = registration.protocol
            message = f"this controller speaks protocol {PROTOCOL}, the worker {theirs}; update the older"
            raise invalid(message, param="protocol")
        await self._addresses.check(registration.address)
        await self._probe(registration.address, registration.worker_id)
        try:
            worker = self._fleet.join(registration)
        except JoinRefused as refused:
            raise Fault(str(refused), status=409, code="model_conflict") from refused
        log.info("worker %s joined: %s (%s)", worker.address, ", ".join(worker.models), worker.engine)
        self._dispatcher.wake()
        return self._terms(request)

    async def heartbeat(self, request: Request) -> Response:
        """Renew a lease."""
        if not self._fleet.heartbeat(await self._signed(request, Heartbeat)):
            raise Fault("this worker is not on the list; it has to register", status=404, code="unknown_worker")
        return self._terms(request)

    def _terms(self, request: Request) -> Response:
        return as_json({"lease": self._fleet.lease, "pause": self._fleet.pause}, request)

    async def leave(self, request: Request) -> Response:
        """Take a worker off the list; its running answers go on."""
        parting = await self._signed(request, Leave)
        worker = self._fleet.get(parting.worker_id)
        if self._fleet.leave(parting.worker_id) and worker is not None:
            log.info("worker %s left", worker.address)
        return as_json({"ok": True}, request)

    async def _signed(self, request: Request, cls: type[ModelT]) -> ModelT:
        return parse(cls, await read_signed(request, self._signer, LONGEST))

    async def _probe(self, address: str, worker_id: str) -> None:
        try:
            found = await self._client.health(address)
        except (OSError, ValueError) as error:
            cause = str(error) or type(error).__name__
            message = (
                f"this controller cannot reach the worker at {address} ({cause}); check --advertise and --port of "
                "the worker, and the firewall between the two"
            )
            raise invalid(message, param="address", code="address_unreachable") from error
        if found != worker_id:
            message = (
                f"at {address} another program answers, or a worker without this fleet's secret; check --advertise, "
                "--port and --secret"
            )
            raise invalid(message, param="address", code="address_unreachable")


class Watch:
    """Lets leases run out, ends waits, and looks after suspended workers."""

    TICK = 0.1
    """Seconds between two looks."""

    def __init__(self, dispatcher: Dispatcher, client: WorkerClient) -> None:
        self._dispatcher = dispatcher
        self._fleet = dispatcher.fleet
        self._client = client
        self._probes: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Watch for the process's whole life."""
        while True:
            await asyncio.sleep(self.TICK)
            for worker in self._fleet.expire():
                log.warning("worker %s is gone: no heartbeat for %g s", worker.address, self._fleet.lease)
            self._dispatcher.tick()
            for worker in self._fleet.due_for_probe():
                if worker.id not in self._probes:
                    self._probes[worker.id] = asyncio.create_task(self._probe(worker))

    async def _probe(self, worker: Worker) -> None:
        try:
            found = await self._client.health(worker.address)
        except (OSError, ValueError) as error:
            self._fleet.unwell(worker, f"probe failed: {error or type(error).__name__}")
        else:
            if found == worker.id:
                log.info("worker %s is well again", worker.address)
                self._fleet.restore(worker)
                self._dispatcher.wake()
            else:
                self._fleet.leave(worker.id)
        finally:
            del self._probes[worker.id]
