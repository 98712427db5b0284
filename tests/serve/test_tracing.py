"""Traces: a real collector's address gets the spans of gateway, attempts and workers, as one tree."""

import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from serve_stack import free_port, site, until

proto = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """Takes spans over OTLP/HTTP and keeps them."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []
        keep = self._keep

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                keep(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *words: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _keep(self, body: bytes) -> None:
        for resource in proto.ExportTraceServiceRequest.FromString(body).resource_spans:
            service = {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"]
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                self.spans.append(
                    {
                        "service": service,
                        "name": span.name,
                        "trace": span.trace_id.hex(),
                        "id": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "error": span.status.message,
                    }
                )

    def of(self, trace: str) -> list[dict[str, Any]]:
        return [span for span in self.spans if span["trace"] == trace]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def ask(api: str, trace: str = TRACE, text: str = "hello") -> bytes:
    body = {"model": "echo", "messages": [{"role": "user", "content": text}]}
    headers = {"traceparent": f"00-{trace}-{PARENT}-01", "content-type": "application/json"}
    request = urllib.request.Request(f"{api}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as reply:
        found: bytes = reply.read()
        return found


def test_a_clients_trace_goes_on_in_the_gateway_and_in_the_worker(tmp_path: Path, collector: Collector) -> None:
    with site(tmp_path, "--log.traces", collector.address) as made:
        made.worker("echo", "", "--log.traces", collector.address)
        ask(made.api)
        spans = until(lambda: (found := collector.of(TRACE)) and len(found) >= 3 and found, "the spans")
    by_name = {span["name"]: span for span in spans}
    gateway, attempt = by_name["POST /v1/chat/completions"], by_name["attempt"]
    worker = by_name["POST /generate"]
    assert gateway["parent"] == PARENT
    assert attempt["parent"] == gateway["id"]
    assert worker["parent"] == attempt["id"]
    assert (gateway["service"], worker["service"]) == ("vicuna-controller", "vicuna-worker")
    assert not any(span["error"] for span in spans)


def test_each_worker_that_was_tried_is_an_attempt_of_its_own(tmp_path: Path, collector: Collector) -> None:
    with site(tmp_path, "--log.traces", collector.address) as made:
        made.worker("echo", "rules: [{answer: one two three, fail: crash, after: 1}]")
        made.worker("echo", "rules: [{answer: one two three}]")
        for trace in (TRACE, TRACE[::-1]):  # equal workers take turns, so one of the two begins at the failing one
            ask(made.api, trace)
        failed = until(lambda: [span for span in collector.spans if span["error"]], "the failed attempt")[0]
        attempts = until(
            lambda: [span for span in collector.of(failed["trace"]) if span["name"] == "attempt"][1:], "both"
        )
    assert failed["error"] == "connection"
    assert attempts[-1]["parent"] == failed["parent"]


def test_a_dead_collector_slows_nothing_and_is_mentioned_once(tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with site(tmp_path, "--log.traces", nobody) as made:
        made.worker("echo")
        began = time.monotonic()
        for _ in range(20):
            ask(made.api)
        assert time.monotonic() - began < 20  # each alone would wait for the collector otherwise
        controller = made.commands[0]
        until(lambda: "spans are lost" in controller.output(), "the complaint")
        ask(made.api)
        controller.signal(15)
        assert controller.wait() == 0
        assert controller.output().count("spans are lost") == 1
        assert "Traceback" not in controller.output()


def test_without_the_extra_the_error_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['opentelemetry.exporter'] = None\n"
        "from vicuna.serve.watch import tracing\n"
        "try: tracing.start('http://127.0.0.1:4318', 'worker')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.startswith("ConfigError")
    assert "pip install 'vicuna[otel]'" in said


def test_opentelemetry_is_not_imported_unless_it_is_asked_for() -> None:
    program = (
        "import sys, vicuna.serve.controller\n"
        "from vicuna.serve.watch import tracing\n"
        "assert tracing.start('', 'worker').request('GET', {}).child('attempt').headers() == {}\n"
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
