"""A controller's calls to workers: signed, addressed to one worker, with the request's id."""

import json
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp

from vicuna.serve import faults
from vicuna.serve.fleet import Worker
from vicuna.serve.protocol import ADDRESSEE
from vicuna.serve.signing import Signer

PROBE_TIMEOUT = 2.0
"""Seconds that a worker may take to say how it is."""


class WorkerClient:
    """Speaks to workers over one pool of connections."""

    def __init__(self, session: aiohttp.ClientSession, signer: Signer) -> None:
        self._session = session
        self._signer = signer

    def post(
        self, worker: Worker, path: str, body: bytes, request_id: str, extra: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Begin a call; the caller reads the reply."""
        headers = {
            "content-type": "application/json",
            "x-request-id": request_id,
            ADDRESSEE: worker.id,
            **self._signer.headers("POST", path, body),
            **(extra or {}),
        }
        return self._session.post(worker.address + path, data=body, headers=headers)

    async def call(self, worker: Worker, path: str, body: bytes, request_id: str) -> Any:
        """The JSON that a worker answers.

        Raises:
            Fault: the worker's own, with its status.
            aiohttp.ClientError, OSError: it cannot be reached.
        """
        async with self.post(worker, path, body, request_id) as reply:
            content = await reply.read()
            if reply.status != 200:
                raise faults.from_body(reply.status, content)
            return json.loads(content)

    async def health(self, address: str) -> str | None:
        """The id of the worker that is well at an address and has the fleet's secret; None where something else is.

        Raises:
            aiohttp.ClientError, TimeoutError, OSError, ValueError: nothing answers there, or the worker is not well.
        """
        nonce = self._signer.nonce()
        timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT)
        async with self._session.get(f"{address}/health", params={"nonce": nonce}, timeout=timeout) as reply:
            if reply.status != 200:
                raise ValueError(f"status {reply.status}")
            body = json.loads(await reply.content.read(65_536))
        if not isinstance(body, dict) or not self._signer.proves(nonce, str(body.get("proof", ""))):
            return None
        return body.get("worker_id")
