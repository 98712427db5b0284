"""One answer, whoever computes it: a worker that fails is replaced, before the first token and after it.

The answer's token ids so far go with the job to the next worker, which computes on from there; the client's text goes
on without a gap and without a repetition.
"""

import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp

from vicuna.serve import faults
from vicuna.serve.config import LimitsConfig
from vicuna.serve.dispatch import Dispatcher
from vicuna.serve.faults import MISDIRECTED, Fault
from vicuna.serve.fleet import Ticket
from vicuna.serve.protocol import ADDRESSEE, Job, ServedModel

log = logging.getLogger(__name__)

Piece = tuple[str, str | None]
"""Text, and the reason why the answer ended (else None)."""


class WorkerFailed(Exception):
    """This worker could not finish the answer; another may."""


class EngineError(WorkerFailed):
    """The worker is there and says that its engine failed at this answer."""


class _Declined(Exception):
    """The worker is well, but takes no new work."""


class Answer:
    """An answer in the making: what the client has of it, and who computed it."""

    def __init__(self, job: Job, dispatcher: Dispatcher, session: aiohttp.ClientSession, limits: LimitsConfig) -> None:
        self.job = job
        self.version: ServedModel | None = None
        self.served_by: list[str] = []
        self.prompt_tokens = 0
        self.ids: list[int] = []
        self._characters = 0
        self._finished = False
        self._reply: aiohttp.ClientResponse | None = None
        self._avoid: set[str] = set()
        self._failures: list[str] = []
        self._dispatcher = dispatcher
        self._session = session
        self._limits = limits
        self._deadline = time.monotonic() + limits.request

    async def pieces(self) -> AsyncGenerator[list[Piece], None]:
        """The answer's pieces, as many at a time as arrived together.

        Raises:
            Fault: the request is wrong, or no worker could finish it.
        """
        while not self._finished:
            ticket = await self._next_worker()
            try:
                async with contextlib.aclosing(self._from_worker(ticket)) as batches:
                    async for batch in batches:
                        yield batch
            except (WorkerFailed, _Declined, aiohttp.ClientError, OSError) as error:
                if not self._finished:  # a connection that breaks after the last piece has done its work
                    self._give_up_on(ticket, error)
            finally:
                self._dispatcher.release(ticket, answered=self._finished)

    def break_off(self) -> None:
        """Close the connection to the worker; with a dispatcher that is closed too, that ends the answer."""
        if self._reply is not None:
            self._reply.close()

    async def _next_worker(self) -> Ticket:
        if len(self._failures) >= self._limits.attempts:
            raise self._lost()
        version = self.version if self.ids else None
        try:
            return await self._dispatcher.acquire(self.job.model, self._avoid, version)
        except Fault as fault:
            if self._failures and fault.status in (404, 503):
                raise self._lost() from fault
            raise

    def _lost(self) -> Fault:
        tried = "; ".join(self._failures)
        if self._characters:
            message = f"the answer broke off and no other worker could continue it ({tried})"
            return faults.server_error(message, status=502, code="stream_interrupted", retry_after=1.0)
        message = f"no worker could answer ({tried})"
        return faults.server_error(message, status=502, code="worker_failed", retry_after=1.0)

    def _give_up_on(self, ticket: Ticket, error: Exception) -> None:
        worker = ticket.worker
        self._avoid.add(worker.id)
        if isinstance(error, _Declined) or self._dispatcher.closed:
            return
        reason = _describe(error, self._limits)
        self._failures.append(f"{worker.id} {reason}")
        self._dispatcher.fleet.failed(worker, reason, certain=not isinstance(error, EngineError))
        log.warning("%s: worker %s %s after %d tokens", self.job.id, worker.address, reason, len(self.ids))

    async def _from_worker(self, ticket: Ticket) -> AsyncGenerator[list[Piece], None]:
        job = self.job
        if self.ids:
            job = job.model_copy(update={"emitted": tuple(self.ids), "emitted_text": self._characters})
        request = self._session.post(
            f"{ticket.worker.address}/generate",
            data=job.model_dump_json(exclude_defaults=True).encode(),
            headers={"content-type": "application/json", "x-request-id": job.id, ADDRESSEE: ticket.worker.id},
        )
        async with request as reply:
            self._reply = reply
            if reply.status != 200:
                raise _refusal(reply.status, await reply.read())
            self.version = ticket.model
            self.served_by.append(ticket.worker.id)
            rest = b""
            while data := await reply.content.readany():  # up to the end, so that the connection can be used again
                *lines, rest = (rest + data).split(b"\n")
                batch, error = self._read(lines)
                if batch:
                    yield batch
                if error is not None:
                    raise error
                self._check_deadline()
        if not self._finished:
            raise WorkerFailed("closed the connection")

    def _read(self, lines: list[bytes]) -> tuple[list[Piece], Exception | None]:
        """Take note of what a worker sent; what came before an error is still part of the answer."""
        batch: list[Piece] = []
        try:
            for line in filter(None, lines):
                row = json.loads(line)
                if "error" in row:
                    return batch, _fault_of(row["error"])
                if "prompt_tokens" in row:
                    self.prompt_tokens = row["prompt_tokens"]
                    continue
                text, finish = row["text"], row.get("finish")
                self.ids += row["ids"]
                self._characters += len(text)
                self._finished = finish is not None
                batch.append((text, finish))
        except (ValueError, KeyError, TypeError):
            return batch, WorkerFailed("sent something that is not of the protocol")
        return batch, None

    def _check_deadline(self) -> None:
        # Workers give a sign of life within `stall`, so looking at the clock here is often enough.
        if not self._finished and time.monotonic() > self._deadline:
            message = f"the answer was not finished within {self._limits.request:g} seconds"
            raise faults.server_error(message, status=504, code="timeout")


def _refusal(status: int, body: bytes) -> Exception:
    fault = faults.from_body(status, body)
    if status == 503:
        return _Declined(str(fault))
    if status == MISDIRECTED:
        return WorkerFailed("is gone; another process has its address")
    return fault if status < 500 else EngineError(f"answered with status {status}: {fault}")


def _fault_of(error: dict[str, Any]) -> Exception:
    status = int(error.get("status", 500))
    if status >= 500:
        return EngineError(f"failed: {error.get('message')}")
    return faults.from_body(status, json.dumps({"error": error}).encode())


def _describe(error: Exception, limits: LimitsConfig) -> str:
    if isinstance(error, aiohttp.ServerTimeoutError):
        return f"gave no sign of life for {limits.stall:g} s"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "cannot be reached"
    if isinstance(error, aiohttp.ClientError | OSError):
        return "closed the connection"
    return str(error)
