"""One client's connection, with bounds on what it may send and how long it may take.

Uvicorn reads HTTP; added here are the bounds, and errors in OpenAI's shape for what never becomes a request. A
connection is looked at about once a second, so that no request pays for timers of its own.
"""

import asyncio
import logging
import uuid
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from vicuna.serve.config import LimitsConfig
from vicuna.serve.faults import Fault, invalid
from vicuna.serve.net.corked import Corked

log = logging.getLogger(__name__)
SLOWEST = 1024
"""Bytes per second that a body has to bring on average; `limits.slow` seconds may pass before that counts."""
LINGER = 2.0
"""Seconds that a refused client may go on sending: closing at once would take the refusal away from it."""


class Connection(HttpToolsProtocol):
    """Uvicorn's protocol, hardened. `limits` is set by `limited`."""

    limits: LimitsConfig

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        now = self.loop.time()
        self._head_since: float | None = now
        """When the request's head that is being read began; None outside heads."""
        self._head = 0
        """Bytes of it."""
        self._body_open = False
        self._body_until = now
        """When the patience with a body ends; what comes of it buys more."""
        self._asked_at = now
        """When the head of the last request was there."""
        self._unsent = 0
        self._taken_at = now
        """When the client last took something of what waits to be sent, or nothing waited."""
        self._refused_at: float | None = None
        self._ignored: int | None = None
        """Bytes of further requests that came while one was being answered; None: there were none."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(Corked(transport, self.loop))

    # ------------------------------------------------------------------------------------- what the client sends
    def data_received(self, data: bytes) -> None:
        """Parse what came, as far as it is welcome."""
        self._unset_keepalive_if_required()
        if self._refused_at is not None:
            return
        if self._answering and not self._body_open:
            self._ignore(data)
            return
        now = self.loop.time()
        if self._head_since is None and not self._body_open:
            self._head_since, self._head = now, 0
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._read_without_offer(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            self._stumble(data, error)
            return
        if self._head_since is not None:
            self._head += len(data)
            if self._head > self.limits.header:
                self._refuse(self._too_large())
        elif self._body_open and not self.cycle.response_complete:
            self._body_until = min(self._body_until + len(data) / SLOWEST, now + self.limits.slow)

    def on_message_begin(self) -> None:
        """A request begins. Only one is read at a time, so that a client that leaves is always noticed."""
        if self._answering:
            self._ignored = 0
            raise _Stop
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is there."""
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > self.limits.header:
            raise _Stop(self._too_large())
        if self._offers_upgrade:
            return
        self._head_since = None
        self._body_open = True
        self._asked_at = self.loop.time()
        self._body_until = self._asked_at + self.limits.slow
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is there."""
        if self._offers_upgrade:
            return
        self._body_open = False
        super().on_message_complete()

    @property
    def _offers_upgrade(self) -> bool:
        upgrade: bool = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        return upgrade

    def _read_without_offer(self, rest: bytes) -> None:
        """Answer in HTTP/1.1 who offers to speak WebSocket or HTTP/2, as Java's client always does.

        The parser takes the request to end with its head then, so it reads the head again without the offer.
        """
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([*lines, b"", rest]))

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _ignore(self, data: bytes) -> None:
        """Clients that send further requests ahead have to be ready to send them again (RFC 9112, 9.3.2)."""
        self._ignored = (self._ignored or 0) + len(data)
        self.cycle.keep_alive = False
        if self._ignored > self.limits.header:
            log.info("%s sends more while its request is being answered; cut off", self._who)
            self.transport.abort()

    def _stumble(self, data: bytes, error: httptools.HttpParserError) -> None:
        cause = error.__context__
        if self._ignored is not None:
            self._ignore(data)
        elif isinstance(cause, _Stop) and cause.fault is not None:
            self._refuse(cause.fault)
        else:
            self._refuse(invalid("this is not a request in HTTP/1.1", code="malformed_request"))

    def _too_large(self) -> Fault:
        message = f"the request's first line and headers have more than {self.limits.header} bytes"
        return invalid(message, status=431, code="headers_too_large")

    # ------------------------------------------------------------------------------------- looking after it
    def look(self, now: float) -> None:
        """End the connection if its client is too slow."""
        slow = self.limits.slow
        if now - self._last_taken(now) > slow:
            log.info("%s takes nothing of its answer for %g s; cut off", self._who, slow)
            self.transport.abort()
        elif self._refused_at is not None:
            if now - self._refused_at > LINGER:
                self.transport.close()
        elif self._head_since is not None:
            if now - self._head_since > slow:
                self._refuse_slow()
        elif self._body_open:
            if self.flow.read_paused:
                self._body_until = now + slow
            elif now > self._body_until:
                self._refuse_slow()
        elif self._answering and self.flow.write_paused and now - self._asked_at > self.limits.request + slow:
            log.info("%s has not taken its answer after %g s; cut off", self._who, self.limits.request)
            self.transport.abort()

    def resume_writing(self) -> None:
        """The client has taken nearly all that waited."""
        self._taken_at = self.loop.time()
        super().resume_writing()

    def _last_taken(self, now: float) -> float:
        """Nothing is added to what waits while writing is paused or the answer is complete, so less is progress."""
        waiting = self.transport.get_write_buffer_size()
        if waiting == 0 or waiting < self._unsent or (self._answering and not self.flow.write_paused):
            self._taken_at = now
        self._unsent = waiting
        return self._taken_at

    def _refuse_slow(self) -> None:
        if self._head_since is not None and not self._head:
            self.transport.close()  # it has never said anything
            return
        message = f"the request did not come within {self.limits.slow:g} seconds"
        self._refuse(invalid(message, status=408, code="request_timeout"))

    def _refuse(self, fault: Fault) -> None:
        """Answer what did not become a request, and close."""
        log.info("%s is refused: %s", self._who, fault)
        if self.cycle is not None and self._body_open:
            if self.cycle.response_started:
                self.transport.abort()
                return
            self.cycle.disconnected = True  # for whoever waits for the rest
            self.cycle.message_event.set()
        self._refused_at = self.loop.time()
        self.transport.write(_reply(fault))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    @property
    def _who(self) -> str:
        return f"{self.client[0]}:{self.client[1]}" if self.client else "a client"


class _Stop(Exception):
    """Ends the parser's work, from within one of its callbacks."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.fault = fault


def limited(limits: LimitsConfig) -> type[Connection]:
    """The class of a server's connections."""
    return type("LimitedConnection", (Connection,), {"limits": limits})


def _reply(fault: Fault) -> bytes:
    body = fault.encoded()
    head = (
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        f"x-request-id: req-{uuid.uuid4().hex}\r\nconnection: close\r\n\r\n"
    )
    return STATUS_LINE[fault.status] + head.encode() + body
