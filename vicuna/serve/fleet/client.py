"""A controller's calls to workers: signed, addressed to one worker, with the request's id."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from vicuna.serve import faults
from vicuna.serve.fleet.table import Worker
from vicuna.serve.net import wire
from vicuna.serve.net.signing import Signer
from vicuna.serve.protocol import ADDRESSEE

PROBE = 2.0
"""Seconds that a worker may take to say how it is."""
MOST_OF_HEALTH = 65_536
"""Bytes that are read of what it says."""


class Impostor(wire.Broken):
    """What answered does not have the fleet's secret; nothing that it said may be used."""


class WorkerClient:
    """Speaks to workers over one pool of connections."""

    def __init__(self, pool: wire.Pool, signer: Signer) -> None:
        self._pool = pool
        self._signer = signer

    @contextlib.asynccontextmanager
    async def post(
        self, worker: Worker, path: str, body: bytes, request_id: str, extra: Mapping[str, str] | None = None
    ) -> AsyncIterator[wire.Connection]:
        """Begin a call; the caller reads the reply.

        Raises:
            Impostor: the reply is not from one who has the secret.
            OSError: the worker cannot be reached, or breaks off.
        """
        signature = self._signer.headers("POST", path, body, to=worker.id)
        headers = {
            "content-type": "application/json",
            "x-request-id": request_id,
            ADDRESSEE: worker.id,
            **signature,
            **(extra or {}),
        }
        async with self._asked(worker.address, wire.request("POST", worker.address, path, headers, body)) as reply:
            if not self._signer.sealed(signature, reply.headers, to=worker.id):
                raise Impostor(f"{worker.address} does not have this fleet's secret")
            yield reply

    @contextlib.asynccontextmanager
    async def _asked(self, address: str, request: bytes) -> AsyncIterator[wire.Connection]:
        reply = await self._pool.connection(address)
        try:
            await reply.ask(request)
            yield reply
        finally:
            self._pool.release(reply)

    async def call(self, worker: Worker, path: str, body: bytes, request_id: str) -> Any:
        """The JSON that a worker answers.

        Raises:
            Fault: the worker's own, with its status.
            OSError: it cannot be reached.
        """
        async with self.post(worker, path, body, request_id) as reply:
            content = await reply.rest()
            if reply.status != 200:
                raise faults.from_body(reply.status, content)
            return json.loads(content)

    async def health(self, address: str) -> str | None:
        """The id of the worker that is well at an address and has the fleet's secret; None where something else is.

        Raises:
            OSError, ValueError: nothing answers there in time, or the worker is not well.
        """
        nonce, content = self._signer.nonce(), b""
        request = wire.request("GET", address, f"/health?nonce={nonce}", {})
        async with asyncio.timeout(PROBE), self._asked(address, request) as reply:
            if reply.status != 200:
                raise ValueError(f"status {reply.status}")
            while len(content) < MOST_OF_HEALTH and (more := await reply.some()):
                content += more
        body = json.loads(content)
        found = str(body.get("worker_id", "")) if isinstance(body, dict) else ""
        return found if found and self._signer.proves(nonce, found, str(body.get("proof", ""))) else None
