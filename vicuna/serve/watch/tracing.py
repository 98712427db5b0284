"""Traces of requests for OpenTelemetry: gateway → each worker that was tried → the worker's own part.

Off unless a collector is named; only then is OpenTelemetry imported. A trace that a client began (W3C `traceparent`)
goes on here.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vicuna.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry import trace as api

log = logging.getLogger(__name__)
SEND = 5.0
"""Seconds that one parcel of spans may take to the collector, attempts included."""
LAST_WORDS = 2.0
"""Seconds that the end of the process waits for the last spans to be sent."""
SILENCE = 60.0
"""Seconds between two complaints about a collector that takes no spans."""


class Span:
    """A stretch of time in a trace. This one stands where nothing is traced."""

    def child(self, name: str, **about: str | int) -> "Span":
        """A stretch within this one, which begins now."""
        return self

    def headers(self) -> dict[str, str]:
        """What tells a worker that its part belongs to this span."""
        return {}

    def end(self, name: str = "", error: str = "", **about: str | int | float) -> None:
        """It ends now.

        Args:
            name: a better name than it began with.
            error: what went wrong; empty where nothing did.
            about: attributes.
        """


class Tracer:
    """Begins the spans of requests. This one traces nothing."""

    def request(self, name: str, headers: Mapping[str, str]) -> Span:
        """A request that arrived with these headers."""
        return OFF

    def close(self) -> None:
        """Send what is left; waits at most LAST_WORDS seconds."""


OFF = Span()
NOBODY = Tracer()


def start(collector: str, service: str) -> Tracer:
    """The tracer for this process.

    Args:
        collector: address that takes OTLP over HTTP (http://127.0.0.1:4318); empty traces nothing.
        service: what this process is called in traces.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """
    if not collector:
        return NOBODY
    try:
        return _Recorder(collector, service)
    except ImportError as error:
        raise ConfigError(
            f"log.traces needs OpenTelemetry ({error}); install it with: pip install 'vicuna[otel]'"
        ) from error


class _RecordedSpan(Span):
    def __init__(self, span: "api.Span", recorder: "_Recorder") -> None:
        self._span = span
        self._recorder = recorder

    def child(self, name: str, **about: str | int) -> Span:
        return self._recorder.begin(name, self._recorder.within(self._span), "client", about)

    def headers(self) -> dict[str, str]:
        carrier: dict[str, str] = {}
        self._recorder.w3c.inject(carrier, context=self._recorder.within(self._span))
        return carrier

    def end(self, name: str = "", error: str = "", **about: str | int | float) -> None:
        from opentelemetry.trace import Status, StatusCode

        if name:
            self._span.update_name(name)
        self._span.set_attributes(about)
        if error:
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end()


class _Recorder(Tracer):
    """Records spans; a thread of the SDK sends them, so that nothing here waits for the collector."""

    def __init__(self, collector: str, service: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        _complain_seldom(collector)
        path = "" if collector.rstrip("/").endswith("/v1/traces") else "/v1/traces"
        exporter = OTLPSpanExporter(endpoint=collector.rstrip("/") + path, timeout=SEND)
        resource = Resource.create({"service.name": f"vicuna-{service}"})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
        self._tracer = self._provider.get_tracer("vicuna.serve")
        self.w3c = TraceContextTextMapPropagator()
        self.within = set_span_in_context

    def request(self, name: str, headers: Mapping[str, str]) -> Span:
        return self.begin(name, self.w3c.extract(headers), "server", {})

    def begin(self, name: str, context: Any, kind: str, about: Mapping[str, str | int]) -> Span:
        """A span that begins now; nothing is made current, because answers outlive the task that began them."""
        from opentelemetry.trace import SpanKind

        span = self._tracer.start_span(name, context, SpanKind[kind.upper()], about)
        return _RecordedSpan(span, self)

    def close(self) -> None:
        # The SDK would wait half a minute for a collector that does not answer.
        end = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        end.start()
        end.join(LAST_WORDS)


class _Seldom(logging.Handler):
    """Passes on one complaint of the SDK a minute as a warning of ours."""

    def __init__(self, collector: str) -> None:
        super().__init__(logging.WARNING)
        self._collector = collector
        self._next = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + SILENCE
        with contextlib.suppress(ValueError, TypeError):  # a message of theirs that does not fit its arguments
            log.warning("spans are lost; the collector at %s: %s", self._collector, record.getMessage())


def _complain_seldom(collector: str) -> None:
    theirs = logging.getLogger("opentelemetry")
    theirs.handlers = [_Seldom(collector)]
    theirs.propagate = False
