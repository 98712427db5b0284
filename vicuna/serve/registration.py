"""How a worker joins the fleets of its controllers, and stays in them while controllers come and go.

Each membership is a task of its own: a controller that is away, hangs or answers nonsense holds up no other.
"""

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from pydantic import BaseModel

from vicuna.errors import ConfigError
from vicuna.serve import faults
from vicuna.serve.config import WorkerConfig
from vicuna.serve.faults import Fault
from vicuna.serve.net import server
from vicuna.serve.net.signing import Signer
from vicuna.serve.protocol import BEATS_PER_LEASE, Heartbeat, Leave, Registration

log = logging.getLogger(__name__)
REGISTER_TIMEOUT = 5.0
"""Seconds that a registration may take; the controller tries the worker's address meanwhile."""
LEAVE_TIMEOUT = 1.0
RETRY = 0.25
"""Most seconds between two attempts while a controller cannot be reached, so that a new one soon has its workers."""
PATIENCE = 5.0
"""Most seconds between two attempts while a controller refuses the worker; it begins with the heartbeat's."""
LONGEST_REPLY = 65_536


def advertised(config: WorkerConfig, port: int, controller: str) -> str:
    """The address under which a controller can reach a worker that listens on this port.

    A worker that listens on every address advertises the one from which it reaches the controller. Looks names up, so
    it may take a while.

    Raises:
        ConfigError: the controller's name leads nowhere, so that address cannot be worked out.
    """
    if config.advertise:
        return config.advertise.rstrip("/")
    if config.host not in ("0.0.0.0", "::"):
        return server.url(config.host, port, config.tls.scheme)
    parts = urlsplit(controller)
    remote = (parts.hostname or "127.0.0.1", parts.port or (443 if parts.scheme == "https" else 80))
    try:
        family, kind, _, _, found = socket.getaddrinfo(*remote, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(found)  # sends nothing; asks the system which of its addresses it would use
            return server.url(probe.getsockname()[0], port, config.tls.scheme)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(
            f"cannot work out how {controller} reaches this machine ({reason}); set --advertise"
        ) from error


class Membership:
    """A worker's place in one controller's fleet."""

    def __init__(
        self,
        controller: str,
        register: Callable[[str], Registration],
        beat: Callable[[], Heartbeat],
        interval: float,
        session: aiohttp.ClientSession,
        signer: Signer,
    ) -> None:
        """
        Args:
            controller: its address.
            register: what to tell the controller of that address; may take a while, so it is called in a thread.
            beat: the sign of life.
            interval: seconds between two of them.
            session: for the calls.
            signer: with the fleet's secret.
        """
        self.controller = controller.rstrip("/")
        self._register = register
        self._beat = beat
        self._heartbeat = interval
        self._interval = interval
        self._session = session
        self._signer = signer
        self._member = False
        self._pause = interval
        self._hurry = asyncio.Event()
        self._said = ""

    async def keep(self) -> None:
        """Register and send heartbeats for ever; whatever goes wrong is tried again."""
        while True:
            pause = await self._attempt()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._hurry.wait()
            self._hurry.clear()

    def beat_now(self) -> None:
        """Send the next sign of life at once."""
        self._hurry.set()

    async def leave(self, worker_id: str) -> None:
        """Ask not to be sent new work; a controller that is away finds out by itself."""
        if not self._member:
            return
        try:
            await self._post("leave", Leave(worker_id=worker_id), LEAVE_TIMEOUT)
        except (Fault, aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            log.info("could not tell %s that this worker leaves: %s", self.controller, error or type(error).__name__)

    async def _attempt(self) -> float:
        """Seconds until the next one."""
        try:
            beat = self._beat()
            if self._member:
                self._agree(await self._post("heartbeat", beat, max(1.0, 2 * self._interval)))
            elif not beat.draining:
                await self._join()
        except Fault as refused:
            return self._after_refusal(refused)
        except (aiohttp.ClientError, TimeoutError, OSError, ConfigError, ValueError) as error:
            # The controller may be a new process by the time that it answers again; a heartbeat will tell.
            cause = str(error) or type(error).__name__
            self._say(logging.WARNING, f"cannot reach the controller {self.controller} ({cause}); trying again")
            return min(self._interval, RETRY)
        self._pause = self._interval
        return self._interval

    async def _join(self) -> None:
        registration = await asyncio.to_thread(self._register, self.controller)
        self._agree(await self._post("register", registration, REGISTER_TIMEOUT))
        self._member = True
        self._say(logging.INFO, f"worker {registration.worker_id} joined the fleet of {self.controller}")

    def _agree(self, terms: Any) -> None:
        """Beat as often as was asked for here, or more rarely if the controller wishes, but within its lease."""
        try:
            lease, pause = float(terms["lease"]), float(terms["pause"])
        except (KeyError, TypeError, ValueError) as error:
            raise _no_controller("a lease is missing in its reply") from error
        self._interval = min(max(self._heartbeat, pause), max(0.05, lease / BEATS_PER_LEASE))

    def _after_refusal(self, refused: Fault) -> float:
        if self._member and refused.status == 404:  # it was restarted, or took us for dead
            self._member = False
            return 0.0
        self._say(logging.ERROR, f"{self.controller} refused this worker: {refused}")
        self._pause = min(PATIENCE, 2 * self._pause)
        return self._pause

    async def _post(self, what: str, message: BaseModel, seconds: float) -> Any:
        path, body = f"/fleet/{what}", message.model_dump_json().encode()
        signature = self._signer.headers("POST", path, body)
        headers = {"content-type": "application/json", **signature}
        timeout = aiohttp.ClientTimeout(total=seconds)
        call = self._session.post(
            self.controller + path, data=body, headers=headers, timeout=timeout, allow_redirects=False
        )
        async with call as reply:
            content = b""
            async for part in reply.content.iter_any():
                content += part
                if len(content) > LONGEST_REPLY:
                    raise _no_controller("its reply has no end")
        if reply.status != 200:  # also from a controller that has another secret, and says so
            raise _refusal(reply.status, content)
        if not self._signer.sealed(signature, reply.headers):
            raise _no_controller("it does not have this fleet's secret")
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _no_controller("its reply is not JSON") from error

    def _say(self, level: int, message: str) -> None:
        """Log what is new; not the same line every second."""
        if message != self._said:
            self._said = message
            log.log(level, "%s", message)


def _refusal(status: int, content: bytes) -> Fault:
    fault = faults.from_body(status, content)
    return _no_controller(f"it answers with status {status}") if fault.code == "bad_worker_reply" else fault


def _no_controller(why: str) -> Fault:
    return faults.server_error(f"this seems to be no controller of ours: {why}", status=502, code="no_controller")


class Fleets:
    """A worker's memberships in the fleets of all its controllers."""

    def __init__(self, config: WorkerConfig, session: aiohttp.ClientSession, signer: Signer) -> None:
        self._config = config
        self._session = session
        self._signer = signer
        self._members: list[Membership] = []
        self._tasks: list[asyncio.Task[None]] = []

    @contextlib.asynccontextmanager
    async def joined(
        self, register: Callable[[str], Registration], beat: Callable[[], Heartbeat]
    ) -> AsyncIterator[None]:
        """Be a member of all fleets for as long as the block runs, or until `leave`."""
        self._members = [
            Membership(each, register, beat, self._config.heartbeat, self._session, self._signer)
            for each in self._config.controllers
        ]
        self._tasks = [asyncio.create_task(each.keep()) for each in self._members]
        for task in self._tasks:
            task.add_done_callback(_report_end)
        try:
            yield
        finally:
            await self._stop()

    def beat_now(self) -> None:
        """Tell all controllers at once how this worker is."""
        for each in self._members:
            each.beat_now()

    async def leave(self, worker_id: str) -> None:
        """Leave all fleets, and stay away."""
        await self._stop()
        await asyncio.gather(*(each.leave(worker_id) for each in self._members))

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _report_end(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("a membership ended with a mistake of ours", exc_info=task.exception())
