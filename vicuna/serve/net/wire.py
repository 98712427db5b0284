"""HTTP/1.1 as a controller speaks it to workers: kept connections, replies that are read as they come.

A call costs 10 µs of CPU where a general client's costs 50 (aiohttp 3.14, uvloop, a server of 2026): there are
no redirects, cookies, proxies or compression here. The parser is that of Node.js (llhttp).
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import urlsplit

import aiohappyeyeballs
import httptools
from aiohappyeyeballs import AddrInfoType

MOST_UNREAD = 128 * 1024
"""Bytes that may wait to be read; beyond, the other side has to wait."""
MOST_OF_HEAD = 64 * 1024
"""Bytes of a reply's first line and headers."""
STAGGER = 0.25
"""Seconds until the next address of a name is tried beside one that does not answer (RFC 8305)."""
_BREAK = re.compile(r"[\r\n\0]")


class Unreachable(ConnectionError):
    """There is no connection."""


class Broken(ConnectionError):
    """The connection ended before the reply did, or what came was no reply."""


class Silent(TimeoutError):
    """Nothing came for too long."""


class Connection(asyncio.Protocol):
    """One connection, with one exchange at a time: a request, and its reply."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, silence: float, on_lost: "Callable[[Connection], None]"
    ) -> None:
        self.status = 0
        """Of the reply; 0 until its head is there."""
        self.headers: dict[str, str] = {}
        """Of the reply, names in lower case."""
        self._loop = loop
        self._silence = silence
        self._on_lost = on_lost
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._over = True
        """Whether the reply is complete, or none is awaited."""
        self._stays = False
        """Whether the other side keeps the connection open after the reply."""
        self._parts: list[bytes] = []
        self._unread = 0
        self._head = 0
        self._paused = False
        self._error: OSError | None = None
        self._news: asyncio.Future[None] | None = None
        self._heard_at = 0.0
        self._unsent = 0
        self._timer: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------------------------- for the caller
    async def ask(self, request: bytes) -> None:
        """Send a request, and wait for the head of its reply.

        Raises:
            Broken, Silent: there is none.
        """
        self.status, self.headers, self._head, self._over = 0, {}, 0, False
        self._heard_at = self._loop.time()
        self._watch(self._look, self._silence)
        self._transport.write(request)
        self._unsent = self._transport.get_write_buffer_size()
        while not self.status:
            await self._wait()

    async def some(self) -> bytes:
        """What has come of the reply's body since the last time, at least a byte; nothing at its end.

        Raises:
            Broken, Silent: it does not come to its end.
        """
        while not self._parts:
            if self._over:
                return b""
            await self._wait()
        data = b"".join(self._parts)
        self._parts.clear()
        self._unread = 0
        if self._paused:
            self._paused, self._heard_at = False, self._loop.time()
            self._transport.resume_reading()
        return data

    async def rest(self) -> bytes:
        """All that is left of the body.

        Raises:
            Broken, Silent: as for `some`.
        """
        parts = []
        while part := await self.some():
            parts.append(part)
        return b"".join(parts)

    @property
    def complete(self) -> bool:
        """Whether the reply was read to its end."""
        return self._over and not self._parts

    @property
    def usable(self) -> bool:
        """Whether it can take the next request."""
        return self.complete and self._stays and self._error is None

    def lie_idle(self, seconds: float) -> None:
        """Close after so long, unless there is another request."""
        self._watch(self.close, seconds)

    def close(self) -> None:
        """End it now; whoever waits for the reply gets an error."""
        self._fail(Broken("closed"))
        self._transport.abort()

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._news = self._loop.create_future()
        try:
            await self._news
        finally:
            self._news = None

    # ------------------------------------------------------------------------------------- from the event loop
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without being derived from it

    def data_received(self, data: bytes) -> None:
        """Something of a reply came."""
        if self._over:  # nobody asked
            self.close()
            return
        self._heard_at = self._loop.time()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(Broken("what answers there does not speak HTTP"))
            self._transport.abort()
        self._head += 0 if self.status else len(data)
        if self._head > MOST_OF_HEAD:
            self.close()
        if self._unread > MOST_UNREAD and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._tell()

    def connection_lost(self, error: Exception | None) -> None:
        """The other side closed it, or we did."""
        self._fail(Broken("the connection was closed"))
        if self._timer is not None:
            self._timer.cancel()
        self._on_lost(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self.status = self._parser.get_status_code()

    def on_body(self, part: bytes) -> None:
        """Called by the parser."""
        self._parts.append(part)
        self._unread += len(part)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._over = True
        self._stays = self._parser.should_keep_alive()

    def _look(self) -> None:
        """Give up on the other side when it neither says nor takes anything; a pause of ours is not its fault."""
        unsent = self._transport.get_write_buffer_size()
        if self._paused or unsent < self._unsent:
            self._heard_at = self._loop.time()
        self._unsent = unsent
        left = self._heard_at + self._silence - self._loop.time()
        if left > 0 or self._over:
            self._watch(self._look, left if left > 0 else self._silence / 2)
        else:
            self._fail(Silent(f"nothing came for {self._silence:g} s"))
            self._transport.abort()

    def _watch(self, look: Callable[[], None], seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, look)

    def _fail(self, error: OSError) -> None:
        if self._error is None:
            self._error = error
            self._tell()

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


class Pool:
    """Connections to many servers, kept for a while between two requests."""

    def __init__(
        self,
        *,
        connect: float,
        silence: float,
        idle: float,
        trusted: ssl.SSLContext | bool = True,
        make_socket: Callable[[AddrInfoType], socket.socket] | None = None,
    ) -> None:
        """
        Args:
            connect: seconds to wait for a connection.
            silence: seconds without a byte of a reply.
            idle: seconds that a connection is kept.
            trusted: whose certificates to believe; True: those that the system does.
            make_socket: makes the socket for an address, or raises an OSError.
        """
        self._connect = connect
        self._silence = silence
        self._idle = idle
        self._trusted = trusted
        self._make_socket = make_socket
        self._free: dict[str, list[Connection]] = {}
        self._all: dict[Connection, str] = {}

    def __len__(self) -> int:
        """Connections that are open."""
        return len(self._all)

    async def connection(self, origin: str) -> Connection:
        """A connection to `scheme://host:port` that nobody else uses; it must be released.

        Raises:
            Unreachable: there is none in time.
        """
        free = self._free.get(origin)
        if free:
            return free.pop()
        try:
            async with asyncio.timeout(self._connect):
                return await self._connected(origin)
        except TimeoutError as error:
            raise Unreachable(f"no connection within {self._connect:g} s") from error
        except OSError as error:
            raise Unreachable(error.strerror or str(error)) from error

    def release(self, connection: Connection) -> None:
        """Give it back; unless the reply was read to its end, it is closed."""
        if connection not in self._all:
            return
        if connection.usable:
            connection.lie_idle(self._idle)
            self._free.setdefault(self._all[connection], []).append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """End all connections."""
        for connection in list(self._all):
            connection.close()

    async def _connected(self, origin: str) -> Connection:
        loop, parts = asyncio.get_running_loop(), urlsplit(origin)
        secure = parts.scheme == "https"
        infos = await loop.getaddrinfo(parts.hostname, parts.port or (443 if secure else 80), type=socket.SOCK_STREAM)
        sock = await aiohappyeyeballs.start_connection(
            infos, happy_eyeballs_delay=STAGGER, socket_factory=self._make_socket
        )
        _, connection = await loop.create_connection(
            lambda: Connection(loop, self._silence, self._lost),
            sock=sock,
            ssl=self._trusted if secure else None,
            server_hostname=parts.hostname if secure else None,
        )
        self._all[connection] = origin
        return connection

    def _lost(self, connection: Connection) -> None:
        origin = self._all.pop(connection, "")
        free = self._free.get(origin, [])
        if connection in free:
            free.remove(connection)
        if not free:
            self._free.pop(origin, None)


def request(method: str, origin: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """A request as it goes over the wire.

    Raises:
        ValueError: a header would not be one.
    """
    host = origin.partition("://")[2]
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if any(map(_BREAK.search, lines)):
        raise ValueError("a header has a line break in it")
    return "\r\n".join([*lines, "", ""]).encode() + body
