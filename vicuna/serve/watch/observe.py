"""Around a whole application: each request gets its id, its span, its line in the log and its place in the metrics."""

import logging
import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vicuna.serve.net.asgi import request_id
from vicuna.serve.watch import logs
from vicuna.serve.watch.tracing import NOBODY, Tracer

log = logging.getLogger("vicuna.access")
CLIENT_LEFT = 499
"""What web servers write down where the client left before it had its answer."""
LONGEST_PATH = 200
"""Characters of a path that no route matches; it may be anything."""
_QUIET = ("/health", "/metrics", "/fleet")
"""Beginnings of routes that are asked every second, or that say themselves what has happened."""


class Observed:
    """An ASGI application, watched."""

    def __init__(
        self, app: ASGIApp, tracer: Tracer = NOBODY, record: Callable[[str, str, int, float, str], None] | None = None
    ) -> None:
        """
        Args:
            app: a Starlette application.
            tracer: where spans begin.
            record: called after each request with its route, model, status, seconds and error (`Metrics.request`).
        """
        self._app = app
        self._tracer = tracer
        self._record = record

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer, and take note of how it did."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        span = self._tracer.request(scope["method"], Headers(scope=scope))
        visit = _Visit(scope, logs.Entry(request_id(Request(scope)), span))
        token = logs.current.set(visit.entry)
        try:
            await self._app(scope, visit.receiving(receive), visit.sending(send))
        finally:
            self._end(visit)
            logs.current.reset(token)

    def _end(self, visit: "_Visit") -> None:
        entry, seconds = visit.entry, time.monotonic() - visit.began
        route, status = visit.route, visit.outcome
        if self._record is not None:
            self._record(route, entry.model, status, seconds, entry.error)
        failed = (entry.error or f"status {status}") if status >= 500 else ""
        entry.span.end(f"{visit.method} {route}".strip(), failed, **{"http.response.status_code": status})
        level = logging.WARNING if status >= 500 else logging.INFO
        level = logging.DEBUG if route.startswith(_QUIET) and status < 400 else level
        if log.isEnabledFor(level):
            log.log(level, visit.word, extra=visit.fields(seconds))


class _Visit:
    """One request from its arrival to its end."""

    def __init__(self, scope: Scope, entry: logs.Entry) -> None:
        self.entry = entry
        self.began = time.monotonic()
        self.method: str = scope["method"]
        self._path: str = scope["path"]
        self._scope = scope
        self._status = 0
        self._sent = False
        self._left = False

    def receiving(self, receive: Receive) -> Receive:
        """`receive` that notices a client that leaves."""

        async def noticing() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and not self._sent:
                self._left = True
            return message

        return noticing

    def sending(self, send: Send) -> Send:
        """`send` that notices the status and the end."""

        async def noticing(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._status = message["status"]
            elif not message.get("more_body", False):
                self._sent = True
            await send(message)

        return noticing

    @property
    def route(self) -> str:
        """The route's pattern, which unlike the path has few values; "" where there is no such route."""
        return str(getattr(self._scope.get("route"), "path", ""))

    @property
    def outcome(self) -> int:
        """The status that the client has got, or would have got had it stayed."""
        if self._left:
            return CLIENT_LEFT
        return self.entry.status or self._status or 500

    @property
    def word(self) -> str:
        """How it went."""
        if self._left:
            return "client left"
        return "answered" if self.outcome < 400 else "refused" if self.outcome < 500 else "failed"

    def fields(self, seconds: float) -> dict[str, object]:
        """The values of its line in the log; times in milliseconds."""
        entry = self.entry
        return logs.fields(
            method=self.method,
            route=self.route,
            path="" if self.route else self._path[:LONGEST_PATH],
            status=self.outcome,
            model=entry.model,
            workers=entry.workers,
            key=entry.key,
            prompt_tokens=entry.prompt_tokens or None,
            completion_tokens=entry.completion_tokens or None,
            queue_ms=_milliseconds(entry.queued),
            first_token_ms=_milliseconds(entry.first_token),
            total_ms=_milliseconds(seconds),
            error=entry.error,
        )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 2)
