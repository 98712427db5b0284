"""How a worker joins the fleets of its controllers, and stays in them while controllers come and go."""

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from vicuna.errors import ConfigError
from vicuna.serve import server
from vicuna.serve.faults import Fault, from_body
from vicuna.serve.protocol import Heartbeat, Leave, Registration

log = logging.getLogger(__name__)
TIMEOUT = 5.0
PATIENCE = 5.0
"""Seconds between two attempts after a controller has refused the worker."""


def advertised(host: str, port: int, controller: str) -> str:
    """The address under which a controller can reach a worker that listens on `host:port`.

    A worker that listens on every address advertises the one from which it reaches the controller.

    Raises:
        ConfigError: the controller's name leads nowhere, so that address cannot be worked out.
    """
    if host not in ("0.0.0.0", "::"):
        return server.url(host, port)
    parts = urlsplit(controller)
    remote = (parts.hostname or "127.0.0.1", parts.port or (443 if parts.scheme == "https" else 80))
    try:
        family, kind, _, _, found = socket.getaddrinfo(*remote, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(found)  # sends nothing; asks the system which of its addresses it would use
            return server.url(probe.getsockname()[0], port)
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
        registration: Registration,
        beat: Callable[[], Heartbeat],
        interval: float,
        session: aiohttp.ClientSession,
    ) -> None:
        self.controller = controller.rstrip("/")
        self._registration = registration
        self._beat = beat
        self._interval = interval
        self._session = session
        self._said = ""

    async def keep(self) -> None:
        """Register and send heartbeats for ever; whatever goes wrong is tried again."""
        member = False
        while True:
            wait = self._interval
            try:
                if member:
                    await self._post("heartbeat", self._beat().model_dump())
                else:
                    await self._post("register", self._registration.model_dump(mode="json"))
                    member = True
                    self._say(logging.INFO, f"joined the fleet of {self.controller}")
            except Fault as refused:
                wait = self._after_refusal(member, refused)
                member = False
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                # The controller may be a new process by now: a heartbeat will tell.
                cause = str(error) or type(error).__name__
                self._say(logging.WARNING, f"cannot reach the controller {self.controller} ({cause}); trying again")
            await asyncio.sleep(wait)

    def _after_refusal(self, member: bool, refused: Fault) -> float:
        if member and refused.status == 404:  # it was restarted, or took us for dead
            return 0.0
        self._say(logging.ERROR, f"{self.controller} refused this worker: {refused}")
        return PATIENCE if refused.status < 500 else self._interval

    async def leave(self) -> None:
        """Ask not to be sent new work; a controller that is away finds out by itself."""
        try:
            await self._post("leave", Leave(worker_id=self._registration.worker_id).model_dump())
        except (Fault, aiohttp.ClientError, TimeoutError, OSError) as error:
            log.info("could not tell %s that this worker leaves: %s", self.controller, error)

    async def _post(self, what: str, body: dict[str, Any]) -> None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        address = f"{self.controller}/fleet/{what}"
        async with self._session.post(address, data=json.dumps(body), timeout=timeout) as reply:
            content = await reply.read()
            if reply.status != 200:
                raise from_body(reply.status, content)

    def _say(self, level: int, message: str) -> None:
        """Log what is new; not the same line every second."""
        if message != self._said:
            self._said = message
            log.log(level, "%s", message)


def memberships(
    controllers: Sequence[str],
    register: Callable[[str], Registration],
    beat: Callable[[], Heartbeat],
    interval: float,
    session: aiohttp.ClientSession,
) -> list[Membership]:
    """One membership for each controller."""
    return [Membership(each, register(each), beat, interval, session) for each in controllers]
