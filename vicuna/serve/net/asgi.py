"""Small pieces between our handlers and the web server: bodies with a limit, streams, clients that go away."""

import asyncio
import hashlib
import random
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, TypeVar, cast

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vicuna.serve import faults
from vicuna.serve.faults import Fault
from vicuna.serve.net.shape import check_shape
from vicuna.serve.net.signing import Signer

T = TypeVar("T")
SIGN_OF_LIFE = 1.0
"""Most seconds without a byte on a stream that says that it is still alive."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class ClientGone(Exception):
    """The client closed the connection before it had its answer."""


def request_id(request: Request) -> str:
    """The client's own `x-request-id` if it is a plain word, else a new one; the same for the whole request."""
    known = request.scope.get("vicuna.request_id")
    if known is None:
        given = request.headers.get("x-request-id", "")
        known = given if _REQUEST_ID.fullmatch(given) else f"req-{random.getrandbits(128):032x}"
        request.scope["vicuna.request_id"] = known
    return str(known)


async def read_body(request: Request, limit: int, depth: int = 0) -> bytes:
    """The whole body.

    Args:
        request: whose body was not read yet.
        limit: most bytes.
        depth: deepest nesting of lists and objects; 0 does not look at the body.

    Raises:
        Fault: it is larger (status 413), or its shape is refused (`check_shape`).
        ClientGone: the client left while sending.
    """
    body = b"".join([part async for part in _parts(request, limit)])
    if depth:
        check_shape(body, depth)
    return body


async def read_signed(request: Request, signer: Signer, limit: int) -> bytes:
    """The whole body of a call within the fleet. From strangers not one byte of it is read.

    Raises:
        Fault: the call is not from a member of the fleet (status 401), or too large (413).
        ClientGone: the caller left while sending.
    """
    expected = signer.check_head(request.method, request.scope["path"], request.headers)
    parts, digest = [], hashlib.sha256()
    async for part in _parts(request, limit):
        digest.update(part)
        parts.append(part)
    signer.check_body(expected, digest.hexdigest())
    return b"".join(parts)


async def _parts(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    said, size = request.headers.get("content-length", ""), 0
    if said.isdecimal() and int(said) > limit:
        raise _too_large(limit)
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            yield part
    except ClientDisconnect as error:
        raise ClientGone from error


def _too_large(limit: int) -> Fault:
    return faults.invalid(f"the request's body is larger than {limit} bytes", status=413, code="request_too_large")


class Sealed:
    """Middleware: whoever signed a call can tell from the reply that it comes from a member of the fleet."""

    def __init__(self, app: ASGIApp, signer: Signer, me: str = "") -> None:
        """`me` is this worker's id; "" a controller."""
        self._app = app
        self._signer = signer
        self._me = me

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the seal to the headers of the reply."""
        seal = self._signer.seal(Headers(scope=scope), self._me) if scope["type"] == "http" else {}
        if not seal:
            await self._app(scope, receive, send)
            return
        headers = [(name.encode(), value.encode()) for name, value in seal.items()]

        async def sealing(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        await self._app(scope, receive, sealing)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client goes away (the body must have been read).

    It is done in the caller's own task; only the watch over the client is another one.

    Raises:
        ClientGone: it did.
    """
    task = cast("asyncio.Task[Any]", asyncio.current_task())  # there is one wherever somebody awaits
    left = over = False

    def leave(_: "asyncio.Future[None]") -> None:
        nonlocal left
        if not over:
            left = True
            task.cancel()

    watch = asyncio.ensure_future(_gone(receive))
    watch.add_done_callback(leave)
    try:
        return await work
    except (Exception, asyncio.CancelledError):
        if left and not task.uncancel():  # else somebody else cancels us too
            raise ClientGone from None
        raise
    finally:
        over = True
        watch.cancel()


class Stream(Response):
    """A body that is sent as it comes. When the client goes away, the sending ends at once."""

    def __init__(
        self,
        parts: AsyncGenerator[bytes, None],
        media_type: str,
        headers: Mapping[str, str],
        on_end: Callable[[], Awaitable[None]],
        sign: Callable[[], bytes] | None = None,
    ) -> None:
        """
        Args:
            parts: the body.
            media_type: its type.
            headers: more headers.
            on_end: called once whatever happens, also when not one part was asked for; gives back what the parts hold.
            sign: called when nothing was sent for a while, the first part included; what it returns is sent as a sign
                of life.
        """
        super().__init__(None, 200, dict(headers), media_type)
        del self.headers["content-length"]
        self._parts = parts
        self._on_end = on_end
        self._sign = sign
        self._sent = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or as much as the client wants."""
        signs = asyncio.ensure_future(self._give_signs(send)) if self._sign else None
        try:
            await while_connected(receive, self._write(send, signs))
        except ClientGone:
            return
        finally:
            if signs is not None:
                signs.cancel()
            try:
                await self._parts.aclose()
            finally:
                await self._on_end()

    async def _write(self, send: Send, signs: "asyncio.Future[None] | None") -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self._sent += 1
        async for part in self._parts:
            self._sent += 1
            await send({"type": "http.response.body", "body": part, "more_body": True})
        if signs is not None:
            signs.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _give_signs(self, send: Send) -> None:
        while self._sign is not None:
            before = self._sent
            await asyncio.sleep(SIGN_OF_LIFE / 2)  # the last byte may be from just after the last look
            if before == self._sent > 0 and (sign := self._sign()):
                await send({"type": "http.response.body", "body": sign, "more_body": True})
