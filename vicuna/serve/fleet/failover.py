"""One answer, whoever computes it: a worker that fails is replaced, before the first token and after it.

The answer's token ids so far (or its text, where an engine knows no ids) go with the job to the next worker, which
computes on from there; the client's text goes on without a gap and without a repetition.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

from vicuna.serve import faults
from vicuna.serve.config import LimitsConfig
from vicuna.serve.encoding import decode
from vicuna.serve.faults import MISDIRECTED, Fault
from vicuna.serve.fleet.ask import Ask
from vicuna.serve.fleet.client import Impostor, WorkerClient
from vicuna.serve.fleet.dispatch import Dispatcher
from vicuna.serve.fleet.table import Ticket
from vicuna.serve.net import wire
from vicuna.serve.protocol import Job, ServedModel
from vicuna.serve.watch.metrics import Metrics

log = logging.getLogger(__name__)
TAIL = 1.0
"""Seconds to wait for the end of a worker's reply behind the answer's last piece."""
HELD_UP = 1.0
"""Seconds that a client may take for what has come, before a connection to a worker may break for its sake."""


class Part(NamedTuple):
    """A bit of an answer as it goes to the client."""

    text: str
    finish: str | None = None
    """Why the answer ended, in its last part."""
    logprobs: list[dict[str, Any]] | None = None
    delta: dict[str, Any] | None = None


class WorkerFailed(Exception):
    """This worker could not finish the answer; another may."""

    kind = "failed"


class EngineError(WorkerFailed):
    """The worker is there and says that its engine failed at this answer."""

    kind = "engine"


class TokensStalled(WorkerFailed):
    """The worker gives signs of life but no tokens."""

    kind = "stalled"


class _Declined(Exception):
    """The worker is well, but takes no new work or hands this answer over."""


class _Full(Exception):
    """The worker is well and has all the work that it can do, from other controllers too."""


class Answer:
    """An answer in the making: what the client has of it, and who computed it."""

    def __init__(
        self, job: Job, ask: Ask, dispatcher: Dispatcher, client: WorkerClient, limits: LimitsConfig, metrics: Metrics
    ) -> None:
        self.job = job
        self.ask = ask
        self.version: ServedModel | None = None
        self.served_by: list[str] = []
        self.prompt_tokens = 0
        self.ids: list[int] = []
        self._shown: list[str] = []
        self._started = False
        self._past_text = False
        self._counted = 0
        self._finished = False
        self._reply: wire.Connection | None = None
        self._avoid: set[str] = set()
        self._failures: list[str] = []
        self._failed_in_a_row = 0
        self._tried = 0
        self._reached = False
        self._held_up = False
        self._dispatcher = dispatcher
        self._client = client
        self._limits = limits
        self._watch = metrics.answer(ask.model)
        now = time.monotonic()
        self._deadline = min(ask.deadline, now + limits.request)
        self._token_at = now
        self._waits_since = now

    @property
    def completion_tokens(self) -> int:
        """Tokens of the answer so far."""
        return max(len(self.ids), self._counted)

    @property
    def text(self) -> str:
        """The answer's text so far."""
        return "".join(self._shown)

    async def pieces(self) -> AsyncGenerator[list[Part], None]:
        """The answer's parts, as many at a time as arrived together.

        Raises:
            Fault: the request is wrong, or no worker could finish it.
        """
        try:
            while not self._finished:
                ticket = await self._next_worker()
                try:
                    async with contextlib.aclosing(self._from_worker(ticket)) as batches:
                        async for batch in batches:
                            yield batch
                except _Full:  # and it still waits, since when it began to
                    self._dispatcher.fleet.full(ticket.worker)
                except (WorkerFailed, _Declined, OSError) as error:
                    if not self._finished:  # a connection that breaks after the last piece has done its work
                        self._give_up_on(ticket, error)
                finally:
                    self._dispatcher.release(ticket, answered=self._finished)
        finally:
            self._watch.ended(self.prompt_tokens, self.completion_tokens, finished=self._finished)

    def break_off(self) -> None:
        """Close the connection to the worker; with a dispatcher that is closed too, that ends the answer."""
        if self._reply is not None:
            self._reply.close()

    async def _next_worker(self) -> Ticket:
        if self._failed_in_a_row >= self._limits.attempts or (self._past_text and not self.ids):
            raise self._lost()
        version = self.version if self._started else None
        try:
            again = bool(self._tried)
            return await self._dispatcher.acquire(self.ask, self._avoid, version, again, self._waits_since)
        except Fault as fault:
            if self._failures and fault.status in (404, 503):
                raise self._lost() from fault
            if self._started and fault.status == 503 and fault.code == "no_worker":
                raise self._lost() from fault
            raise

    def _lost(self) -> Fault:
        tried = "; ".join(self._failures[-self._limits.attempts :]) or "its worker left"
        if self._started:
            message = f"the answer broke off and no other worker could continue it ({tried})"
            return faults.server_error(message, status=502, code="stream_interrupted", retry_after=1.0)
        message = f"no worker could answer ({tried})"
        return faults.server_error(message, status=502, code="worker_failed", retry_after=1.0)

    def _give_up_on(self, ticket: Ticket, error: Exception) -> None:
        worker = ticket.worker
        self._waits_since = time.monotonic()
        if self._held_up and isinstance(error, OSError):
            # A worker cuts off who does not read, and we did not because our client does not. If it is gone, the next
            # attempt will tell.
            log.info("%s: its slow client held up worker %s", self.job.id, worker.address)
            return
        self._avoid.add(worker.id)
        if self._dispatcher.closed:
            return
        if isinstance(error, _Declined):
            self._watch.failover(worker.id, "moved")
            log.info("%s: worker %s %s after %d tokens", self.job.id, worker.address, error, self.completion_tokens)
            return
        reason = _describe(error, self._limits)
        self._failures.append(f"{worker.id} {reason}")
        self._failed_in_a_row += self._reached  # one that was gone before it had the job says nothing about the job
        self._watch.failover(worker.id, error.kind if isinstance(error, WorkerFailed) else "connection")
        self._dispatcher.fleet.failed(worker, reason, certain=not isinstance(error, EngineError))
        log.warning("%s: worker %s %s after %d tokens", self.job.id, worker.address, reason, self.completion_tokens)

    # ------------------------------------------------------------------------------------- one worker's share
    async def _from_worker(self, ticket: Ticket) -> AsyncGenerator[list[Part], None]:
        self._watch.dispatched(ticket.worker.id)
        self._tried += 1
        self._reached = self._held_up = False
        self._token_at = time.monotonic()
        call = self._client.post(ticket.worker, "/generate", self._body(), self.job.id, self._watch.headers())
        async with call as reply:
            self._reply, self._reached = reply, True
            if reply.status != 200:
                raise self._judged(_refusal(reply.status, await reply.rest()))
            rest = b""
            while not self._finished and (data := await reply.some()):
                *lines, rest = (rest + data).split(b"\n")
                batch, error = self._read(lines)
                self._check_clocks()
                if batch:
                    self._note_share(ticket)
                    before = time.monotonic()
                    yield batch
                    self._held_up |= time.monotonic() - before > HELD_UP
                if error is not None:
                    raise self._judged(error)
            if not self._finished:
                raise WorkerFailed("closed the connection")
            await _read_end(reply)

    def _judged(self, error: Exception) -> Exception:
        """A request whose answer has begun is not at fault any more; a worker with less room may refuse to go on."""
        begun = isinstance(error, Fault) and self._started
        return EngineError(f"refused to continue the answer: {error}") if begun else error

    def _note_share(self, ticket: Ticket) -> None:
        self.version = ticket.model
        if not self.served_by or self.served_by[-1] != ticket.worker.id:
            self.served_by.append(ticket.worker.id)

    def _body(self) -> bytes:
        job = self.job
        if self._started:
            job = job.model_copy(update={"emitted": tuple(self.ids), "shown": self.text})
        return job.model_dump_json(exclude_defaults=True).encode()

    def _read(self, lines: list[bytes]) -> tuple[list[Part], Exception | None]:
        """Take note of what a worker sent; what came before an error is still part of the answer."""
        batch: list[Part] = []
        before = len(self.ids)
        error: Exception | None = None
        try:
            for line in filter(None, lines):
                row = decode(line)
                if "text" in row:
                    batch.append(self._take(row))
                elif "prompt_tokens" in row:
                    self.prompt_tokens = int(row["prompt_tokens"])
                elif "moved" in row:
                    error = _Full() if row["moved"] == "full" else _Declined(f"handed the answer over ({row['moved']})")
                    break
                else:
                    error = _fault_of(row["error"])
                    break
        except (ValueError, KeyError, TypeError, AttributeError):
            error = WorkerFailed("sent something that is not of the protocol")
        if batch:  # progress: what failed before may be well again
            self._started = True
            self._failed_in_a_row = 0
            self._avoid.clear()
            self._token_at = self._watch.tokens(len(self.ids) - before or sum(bool(part.text) for part in batch))
        return batch, error

    def _take(self, row: dict[str, Any]) -> Part:
        text, finish = row["text"], row.get("finish")
        self.ids += row["ids"]
        if text:
            self._shown.append(text)
        if "usage" in row:
            self.prompt_tokens, self._counted = row["usage"]
        if row.get("delta"):  # what is not text cannot be told to a worker that goes on from text
            self._past_text = True
        self._finished = finish is not None
        return Part(text, finish, row.get("logprobs"), row.get("delta"))

    def _check_clocks(self) -> None:
        # Workers give a sign of life every second, so looking at the clock here is often enough.
        if self._finished:
            return
        now = time.monotonic()
        if now > self._deadline:
            raise faults.timeout(self._limits.request if self.ask.deadline > self._deadline else None)
        if now - self._token_at > self._limits.token_stall:
            raise TokensStalled(f"gave no token for {self._limits.token_stall:g} s")


async def _read_end(reply: wire.Connection) -> None:
    """Read to the end, so that the connection can be used again; a worker that hangs here has done its work."""
    if reply.complete:
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(TAIL):
            await reply.rest()


def _refusal(status: int, body: bytes) -> Exception:
    fault = faults.from_body(status, body)
    if status == 503:
        return _Full() if fault.code == "full" else _Declined(str(fault))
    if status == MISDIRECTED:
        return WorkerFailed("is gone; another process has its address")
    if status == 401:  # the client's request is not at fault
        return WorkerFailed(f"does not accept this controller: {fault}")
    return fault if status < 500 else EngineError(f"answered with status {status}: {fault}")


def _fault_of(error: dict[str, Any]) -> Exception:
    status = int(error.get("status", 500))
    if status >= 500:
        return EngineError(f"failed: {error.get('message')}")
    return faults.from_said(status, {"error": error})


def _describe(error: Exception, limits: LimitsConfig) -> str:
    if isinstance(error, wire.Silent):
        return f"gave no sign of life for {limits.stall:g} s"
    if isinstance(error, wire.Unreachable):
        return "cannot be reached"
    if isinstance(error, Impostor):
        return str(error)
    if isinstance(error, OSError):
        return "closed the connection"
    return str(error)
