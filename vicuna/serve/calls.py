"""One question that a worker answers in one go (vectors, token ids), asked again of another where it fails."""

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

import aiohttp

from vicuna.serve import faults
from vicuna.serve.ask import Ask
from vicuna.serve.client import WorkerClient
from vicuna.serve.config import LimitsConfig
from vicuna.serve.dispatch import Dispatcher
from vicuna.serve.faults import MISDIRECTED, Fault
from vicuna.serve.fleet import Ticket


class Calls:
    """Puts such questions to the fleet."""

    def __init__(self, dispatcher: Dispatcher, client: WorkerClient, limits: LimitsConfig) -> None:
        self._dispatcher = dispatcher
        self._client = client
        self._limits = limits

    async def put(self, ask: Ask, path: str, body: bytes, request_id: str) -> tuple[Mapping[str, Any], Ticket]:
        """A worker's reply, and the ticket (given back already) that says whose it is.

        Raises:
            Fault: the request is wrong, nobody could answer, or not in time.
        """
        limit = time.monotonic() + self._limits.request
        try:
            async with asyncio.timeout(min(ask.deadline, limit) - time.monotonic()):
                return await self._put(ask, path, body, request_id)
        except TimeoutError:
            raise faults.timeout(None if ask.deadline < limit else self._limits.request) from None

    async def _put(self, ask: Ask, path: str, body: bytes, request_id: str) -> tuple[Mapping[str, Any], Ticket]:
        avoid: set[str] = set()
        failures: list[str] = []
        again = False
        while len(failures) < self._limits.attempts:
            ticket = await self._acquire(ask, avoid, failures, again)
            again, answered = True, False
            try:
                reply = await self._call(ticket, path, body, request_id)
                answered = True
                return reply, ticket
            except Fault as fault:
                self._judge(ticket, fault, avoid, failures)
            except (aiohttp.ClientError, OSError) as error:
                self._failed(ticket, type(error).__name__, avoid, failures, certain=True)
            finally:
                self._dispatcher.release(ticket, answered)
        raise _lost(failures)

    async def _acquire(self, ask: Ask, avoid: set[str], failures: list[str], again: bool) -> Ticket:
        try:
            return await self._dispatcher.acquire(ask, avoid, again=again)
        except Fault as fault:
            if failures and fault.status in (404, 503):
                raise _lost(failures) from fault
            raise

    async def _call(self, ticket: Ticket, path: str, body: bytes, request_id: str) -> Mapping[str, Any]:
        """What the worker says; an error that it noticed late comes with status 200."""
        reply = await self._client.call(ticket.worker, path, body, request_id)
        if not isinstance(reply, Mapping):
            raise faults.server_error("the worker sent something that is not of the protocol", 502, "bad_worker_reply")
        if "error" in reply:
            raise faults.from_body(int(reply["error"].get("status", 500)), json.dumps(reply).encode())
        return reply

    def _judge(self, ticket: Ticket, fault: Fault, avoid: set[str], failures: list[str]) -> None:
        """Take note of what a worker said instead of an answer; raises what is the request's own fault."""
        if fault.status == 503 and fault.code == "full":
            self._dispatcher.fleet.full(ticket.worker)
        elif fault.status == 503:  # it takes no new work
            avoid.add(ticket.worker.id)
        elif fault.status in (401, MISDIRECTED):
            self._failed(ticket, "is not the worker that it was", avoid, failures, certain=True)
        elif fault.status >= 500:
            self._failed(ticket, f"answered with status {fault.status}: {fault}", avoid, failures, certain=False)
        else:
            raise fault

    def _failed(self, ticket: Ticket, reason: str, avoid: set[str], failures: list[str], *, certain: bool) -> None:
        avoid.add(ticket.worker.id)
        failures.append(f"{ticket.worker.id} {reason}")
        self._dispatcher.fleet.failed(ticket.worker, reason, certain=certain)


def _lost(failures: list[str]) -> Fault:
    return faults.server_error(f"no worker could answer ({'; '.join(failures)})", 502, "worker_failed", retry_after=1.0)
