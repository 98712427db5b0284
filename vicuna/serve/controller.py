"""The controller: it holds the fleet's leases and is the gateway in front of it."""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import AsyncIterator, Sequence

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from vicuna.command import run as run_command
from vicuna.serve.access.callers import Access
from vicuna.serve.api.gateway import Gateway
from vicuna.serve.api.handlers import ERROR_HANDLERS
from vicuna.serve.config import ControllerConfig
from vicuna.serve.fleet import policies
from vicuna.serve.fleet.client import WorkerClient
from vicuna.serve.fleet.dispatch import Dispatcher
from vicuna.serve.fleet.table import Fleet
from vicuna.serve.net import server, tls, wire
from vicuna.serve.net.addresses import AllowList
from vicuna.serve.net.asgi import Sealed
from vicuna.serve.net.secret import load_secret
from vicuna.serve.net.signing import Signer
from vicuna.serve.reception import Reception, Watch
from vicuna.serve.watch import logs, tracing
from vicuna.serve.watch.metrics import Metrics
from vicuna.serve.watch.observe import Observed

log = logging.getLogger(__name__)
IDLE = 15.0
"""Seconds that an idle connection to a worker is kept; less than the worker keeps its end."""
TO_END = 1
"""Seconds of the grace that are kept for ending what has not finished, with an error that says why."""


class Controller:
    """One controller process: the fleet, its watch, and its routes."""

    def __init__(
        self,
        config: ControllerConfig,
        pool: wire.Pool,
        access: Access,
        signer: Signer,
        addresses: AllowList,
        metrics: Metrics,
    ) -> None:
        limits = config.limits
        self.fleet = Fleet(limits.lease, time.monotonic, policies.make(config.fleet))
        self.dispatcher = Dispatcher(self.fleet, limits, time.monotonic)
        client = WorkerClient(pool, signer)
        self.gateway = Gateway(self.dispatcher, client, limits, access=access, metrics=metrics, log=config.log)
        self.reception = Reception(self.dispatcher, client, self.gateway, metrics, signer, addresses, limits)
        self.watch = Watch(self.dispatcher, client)
        metrics.follow(self.dispatcher)

    async def end_answers(self, seconds: float) -> None:
        """End what still runs after so long with an error that says why; else its connections would just break."""
        await asyncio.sleep(seconds)
        self.gateway.end_answers()


def make_app(config: ControllerConfig, tracer: tracing.Tracer) -> tuple[Starlette, Observed]:
    """The controller as a web application, and the same with its requests observed.

    Raises:
        ConfigError: it would be open to other machines without keys or secret, or a file is missing.
    """
    access = Access.from_config(config.access, config.host)
    signer = load_secret(config.fleet.secret, config.host, "--fleet.secret")
    addresses = AllowList(config.fleet.allow)
    trusted = tls.trust(config.tls)
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        limits = config.limits
        pool = wire.Pool(
            connect=limits.connect, silence=limits.stall, idle=IDLE, trusted=trusted, make_socket=addresses.socket
        )
        controller = Controller(config, pool, access, signer, addresses, metrics)
        app.state.controller = controller
        app.router.routes.extend([*controller.gateway.routes(), *controller.reception.routes()])
        tasks = [asyncio.create_task(each) for each in (controller.watch.run(), access.watch())]
        for task in tasks:
            task.add_done_callback(_report_end)
        yield
        for task in tasks:
            task.cancel()
        pool.close()

    app = Starlette(lifespan=lifespan, exception_handlers=ERROR_HANDLERS, middleware=_cors(config.access.cors))
    app.router.redirect_slashes = False
    return app, Observed(Sealed(app, signer), tracer, metrics.request)


def _cors(origins: Sequence[str]) -> list[Middleware]:
    """What lets web pages of these origins use the API; nothing unless asked for."""
    if not origins:
        return []
    shown = ["x-request-id", "x-vicuna-worker", "retry-after"]
    settings = Middleware(
        CORSMiddleware, allow_origins=list(origins), allow_methods=["*"], allow_headers=["*"], expose_headers=shown
    )
    return [settings]


def _report_end(task: "asyncio.Task[None]") -> None:
    """Without its watch a controller must not go on: nobody would expire leases. Who supervises it starts it again."""
    if not task.cancelled() and task.exception() is not None:
        log.critical("a task of the controller ended with a mistake; stopping", exc_info=task.exception())
        signal.raise_signal(signal.SIGTERM)


def main(config: ControllerConfig) -> None:
    """Serve until told to stop."""
    logs.start(config.log)
    tracer = tracing.start(config.log.traces, "controller")
    app, observed = make_app(config, tracer)
    sock = server.listen(config.host, config.port)
    log.info("controller: %s/v1", server.url(config.host, server.port_of(sock), config.tls.scheme))

    async def body() -> None:
        ends: list[asyncio.Task[None]] = []

        async def goodbye() -> None:
            patience = max(0.0, config.grace - TO_END)
            ends.append(asyncio.create_task(app.state.controller.end_answers(patience)))

        made = server.make(observed, grace=config.grace, limits=config.limits, tls=config.tls)
        await server.run(made, sock, on_stop=goodbye)

    try:
        server.run_loop(body)
    finally:
        tracer.close()


def command(argv: list[str]) -> int:
    """`python -m vicuna.serve controller`."""
    return run_command(ControllerConfig, main, argv, "python -m vicuna.serve controller")
