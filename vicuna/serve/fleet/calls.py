"""One question that a worker answers in one go (vectors, token ids), asked again of another where it fails."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from vicuna.serve import faults
from vicuna.serve.config import LimitsConfig
from vicuna.serve.faults import MISDIRECTED, Fault
from vicuna.serve.fleet.ask import Ask
from vicuna.serve.fleet.client import WorkerClient
from vicuna.serve.fleet.dispatch import Dispatcher
from vicuna.serve.fleet.table import Ticket
from vicuna.serve.watch.metrics import Metrics


class Call:
    """One such question."""

    def __init__(
        self,
        ask: Ask,
        path: str,
        body: bytes,
        request_id: str,
        dispatcher: Dispatcher,
        client: WorkerClient,
        limits: LimitsConfig,
        metrics: Metrics,
    ) -> None:
        self._ask = ask
        self._path = path
        self._body = body
        self._request_id = request_id
        self._dispatcher = dispatcher
        self._client = client
        self._limits = limits
        self._watch = metrics.answer(ask.model)
        self._avoid: set[str] = set()
        self._failures: list[str] = []
        self._attempts = 0
        self._reached = False
        self._waits_since = time.monotonic()

    async def answer(self) -> tuple[Mapping[str, Any], Ticket]:
        """A worker's reply, and the ticket (given back already) that says whose it is.

        Raises:
            Fault: the request is wrong, nobody could answer, or not in time.
        """
        limit = time.monotonic() + self._limits.request
        tokens: Any = None
        try:
            async with asyncio.timeout(min(self._ask.deadline, limit) - time.monotonic()):
                reply, ticket = await self._somebodys()
            tokens = reply.get("tokens", 0)
            return reply, ticket
        except TimeoutError:
            raise faults.timeout(None if self._ask.deadline < limit else self._limits.request) from None
        finally:
            self._watch.ended(tokens if isinstance(tokens, int) else 0, 0, finished=tokens is not None)

    async def _somebodys(self) -> tuple[Mapping[str, Any], Ticket]:
        again = False
        while self._attempts < self._limits.attempts:
            ticket = await self._ticket(again)
            self._watch.dispatched(ticket.worker.id)
            self._reached, again, answered = False, True, False
            try:
                reply = await self._reply_of(ticket)
                answered = True
                return reply, ticket
            except Fault as fault:
                self._judge(ticket, fault)
            except (OSError, ValueError) as error:
                self._failed(ticket, type(error).__name__, "connection")
            finally:
                self._dispatcher.release(ticket, answered)
        raise self._lost()

    async def _ticket(self, again: bool) -> Ticket:
        try:
            return await self._dispatcher.acquire(self._ask, self._avoid, None, again, self._waits_since)
        except Fault as fault:
            if self._failures and fault.status in (404, 503):
                raise self._lost() from fault
            raise

    async def _reply_of(self, ticket: Ticket) -> Mapping[str, Any]:
        """What the worker says; an error that it noticed late comes with status 200."""
        extra = self._watch.headers()
        async with self._client.post(ticket.worker, self._path, self._body, self._request_id, extra) as reply:
            self._reached = True
            content = await reply.rest()
            if reply.status != 200:
                raise faults.from_body(reply.status, content)
        said = from_json(content)  # signs of life stand before it; white space there is JSON
        if not isinstance(said, dict):
            raise ValueError("not of the protocol")
        if "error" in said:
            raise faults.from_said(int(said["error"].get("status", 500)), said)
        return said

    def _judge(self, ticket: Ticket, fault: Fault) -> None:
        """Take note of what a worker said instead of an answer; raises what is the request's own fault."""
        if fault.status == 503 and fault.code == "full":
            self._dispatcher.fleet.full(ticket.worker)
        elif fault.status == 503:  # it takes no new work
            self._avoid.add(ticket.worker.id)
        elif fault.status in (401, MISDIRECTED):
            self._failed(ticket, "is not the worker that it was", "failed")
        elif fault.status >= 500:
            self._failed(ticket, f"answered with status {fault.status}: {fault}", "engine")
        else:
            raise fault

    def _failed(self, ticket: Ticket, reason: str, kind: str) -> None:
        """Do not ask this worker again; what its engine says may be the request's fault."""
        worker = ticket.worker
        self._avoid.add(worker.id)
        self._failures.append(f"{worker.id} {reason}")
        self._attempts += self._reached  # one that was gone before it had the question says nothing about the question
        self._watch.failover(worker.id, kind)
        self._dispatcher.fleet.failed(worker, reason, certain=kind != "engine")

    def _lost(self) -> Fault:
        message = f"no worker could answer ({'; '.join(self._failures)})"
        return faults.server_error(message, 502, "worker_failed", retry_after=1.0)
