"""Clients that are slow, greedy or rude, against a real server on real sockets."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import aiohttp
import pytest
import uvloop
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vicuna.errors import ConfigError
from vicuna.serve.api.handlers import ERROR_HANDLERS
from vicuna.serve.config import LimitsConfig, TlsConfig
from vicuna.serve.net import server
from vicuna.serve.net.asgi import Sealed, Stream, read_body, read_signed, while_connected
from vicuna.serve.net.signing import Signer
from vicuna.serve.net.tls import serving, trust
from vicuna.serve.protocol import ADDRESSEE

LIMITS = LimitsConfig(slow=1.5, header=4096, body=1_000_000, depth=8, request=8.0)
PATIENCE = 30.0
SIGNER = Signer(b"not a secret to anybody")


class Service:
    """A few routes, and what happened in them."""

    def __init__(self) -> None:
        self.open = 0
        self.begun = 0

    def app(self) -> Starlette:
        """The routes as an application."""
        routes = [
            Route("/echo", self.echo, methods=["POST"]),
            Route("/signed", self.signed, methods=["POST"]),
            Route("/flood", self.flood),
            Route("/quiet", self.quiet),
            Route("/wait", self.wait, methods=["POST"]),
        ]
        middleware = [
            Middleware(CORSMiddleware, allow_origins=["https://page.example"], allow_headers=["authorization"]),
            Middleware(Sealed, signer=SIGNER, me="w-1"),
        ]
        return Starlette(routes=routes, middleware=middleware, exception_handlers=ERROR_HANDLERS)

    async def echo(self, request: Request) -> Response:
        """The body's length."""
        body = await read_body(request, LIMITS.body, LIMITS.depth)
        return JSONResponse({"length": len(body)})

    async def signed(self, request: Request) -> Response:
        """The same, for members of the fleet."""
        return JSONResponse({"length": len(await read_signed(request, SIGNER, LIMITS.body))})

    async def flood(self, request: Request) -> Response:
        """More than anybody wants."""
        return self._stream(b"x" * 65_536, 0.0)

    async def quiet(self, request: Request) -> Response:
        """Nothing but signs of life, like a model that reads a long prompt."""
        return self._stream(b"", 3600.0)

    async def wait(self, request: Request) -> Response:
        """An answer that is one body at the end of a long time."""
        await read_body(request, LIMITS.body)
        self._begin()
        try:
            await while_connected(request.receive, asyncio.sleep(3600))
        finally:
            self.open -= 1
        return Response(b"late")

    def _begin(self) -> None:
        self.open += 1
        self.begun += 1

    def _stream(self, part: bytes, pause: float) -> Stream:
        async def parts() -> AsyncGenerator[bytes, None]:
            while True:
                await asyncio.sleep(pause)
                yield part

        async def end() -> None:
            self.open -= 1

        self._begin()
        return Stream(parts(), "text/event-stream", {}, end, lambda: b": well\n\n")


class Running:
    """A server in a thread."""

    def __init__(self, tls: TlsConfig | None = None) -> None:
        self.service = Service()
        self._sock = server.listen("127.0.0.1", 0)
        self.port = server.port_of(self._sock)
        self.made = server.make(self.service.app(), grace=1, limits=LIMITS, tls=tls)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self.made.serve(sockets=[self._sock]))

    def stop(self) -> None:
        """End it."""
        self.made.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def client(self, buffer: int = 0) -> socket.socket:
        """A new connection."""
        sock = socket.socket()
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", self.port))
        return sock

    def until_open(self, count: int, seconds: float = PATIENCE) -> None:
        """Wait until so many answers are being made."""
        end = time.monotonic() + seconds
        while self.service.open != count:
            assert time.monotonic() < end, f"{self.service.open} answers are open, not {count}"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    made = Running()
    yield made
    made.stop()


def everything(sock: socket.socket) -> bytes:
    """What comes until the server closes."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(65_536):
            parts.append(part)
    return b"".join(parts)


def error(reply: bytes) -> tuple[int, dict[str, object]]:
    """Status and error of a reply, which has to be of OpenAI's shape."""
    head, body = reply.split(b"\r\n\r\n", 1)
    assert b"content-type: application/json" in head
    assert b"x-request-id: " in head
    found = json.loads(body)["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return int(head.split()[1]), found


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A request's bytes."""
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def reply_of(sock: socket.socket) -> tuple[int, bytes]:
    """Status and body of one reply with a length."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = sock.recv(65_536)
        assert part, f"the server closed the connection after {data!r}"
        data += part
    head, body = data.split(b"\r\n\r\n", 1)
    length = int(next(line for line in head.split(b"\r\n") if line.startswith(b"content-length")).split()[1])
    while len(body) < length:
        body += sock.recv(65_536)
    return int(head.split()[1]), body


# ------------------------------------------------------------------------------------------- what comes in
def test_requests_follow_each_other_on_one_connection(running):
    with running.client() as sock:
        for body in (b"{}", b'"' + b"x" * 500_000 + b'"', b"[]"):
            sock.sendall(post("/echo", body))
            assert reply_of(sock) == (200, b'{"length":%d}' % len(body))


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 9])
def test_what_is_no_http_gets_an_error_in_openais_shape(running, junk):
    with running.client() as sock:
        sock.sendall(junk)
        status, found = error(everything(sock))
    assert (status, found["code"]) == (400, "malformed_request")


@pytest.mark.parametrize("whole", [True, False])
def test_a_head_that_is_too_large_is_refused(running, whole):
    with running.client() as sock:
        sock.sendall(b"GET /quiet HTTP/1.1\r\nhost: x\r\nlong: " + b"x" * 10_000)
        if whole:
            with contextlib.suppress(OSError):
                sock.sendall(b"\r\n\r\n")
        status, found = error(everything(sock))
    assert (status, found["code"]) == (431, "headers_too_large")
    with running.client() as sock:
        sock.sendall(post("/echo", b"{}", "long: " + "x" * 3000))
        assert reply_of(sock)[0] == 200


def test_a_body_that_says_it_is_too_large_is_refused_before_it_comes(running):
    with running.client() as sock:
        sock.sendall(post("/echo", b"")[:-4].replace(b"length: 0", b"length: 9999999999") + b"\r\n\r\n")
        status, body = reply_of(sock)
    assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")


def test_a_body_in_chunks_that_grows_too_large_is_refused(running):
    with running.client() as sock:
        sock.sendall(b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(20):
                sock.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        status, body = reply_of(sock)
    assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")


def test_a_body_of_a_shape_that_is_refused_says_so_and_the_connection_goes_on(running):
    with running.client() as sock:
        sock.sendall(post("/echo", b"[" * 9 + b"]" * 9))
        status, body = reply_of(sock)
        assert (status, json.loads(body)["error"]["code"]) == (400, "body_too_deep")
        sock.sendall(post("/echo", b"[" * 8 + b"]" * 8))
        assert reply_of(sock)[0] == 200


@pytest.mark.parametrize("offer", ["h2c", "websocket"])
@pytest.mark.parametrize("split", [0, 40, -5])
def test_who_offers_another_protocol_is_answered_in_http_with_its_body_read(running, offer, split):
    asked = post("/echo", b'"body"', "connection: Upgrade, HTTP2-Settings", f"upgrade: {offer}", "http2-settings: AAMA")
    with running.client() as sock:
        for _ in range(2):
            sock.sendall(asked[:split])
            time.sleep(0.05)
            sock.sendall(asked[split:])
            assert reply_of(sock) == (200, b'{"length":6}')


def test_nobody_is_connected_through_to_elsewhere(running):
    for target in (b"x.example:443", b"/echo"):
        with running.client() as sock:
            sock.sendall(b"CONNECT " + target + b" HTTP/1.1\r\nhost: x\r\n\r\nmore")
            assert error(everything(sock))[0] in (400, 405)


# ------------------------------------------------------------------------------------------- slow clients
def test_a_head_that_trickles_in_is_cut_off_as_is_a_client_that_says_nothing(running):
    with running.client() as slow, running.client() as silent:
        began = time.monotonic()
        slow.sendall(b"GET /echo HTTP/1.1\r\n")
        trickle = threading.Thread(target=_trickle, args=(slow, b"a: b\r\n"))
        trickle.start()
        status, found = error(everything(slow))
        assert (status, found["code"]) == (408, "request_timeout")
        assert time.monotonic() - began >= LIMITS.slow
        assert everything(silent) == b""
        trickle.join(PATIENCE)


def _trickle(sock: socket.socket, bit: bytes) -> None:
    with contextlib.suppress(OSError):
        for _ in range(100):
            sock.sendall(bit)
            time.sleep(0.1)


def test_line_breaks_for_ever_are_no_sign_of_a_request(running):
    with running.client() as sock:
        sock.sendall(post("/echo", b"{}"))
        assert reply_of(sock)[0] == 200
        trickle = threading.Thread(target=_trickle, args=(sock, b"\r\n"))
        trickle.start()
        assert error(everything(sock))[0] == 408
        trickle.join(PATIENCE)


def test_a_body_that_stops_coming_or_trickles_is_cut_off_and_one_that_goes_on_is_not(running):
    with running.client() as stuck, running.client() as trickling, running.client() as slow:
        head = post("/echo", b"x" * 60_000)[:-60_000]
        stuck.sendall(head + b'"' + b"x" * 50_000)
        trickling.sendall(head + b'"')
        slow.sendall(head + b'"')
        trickle = threading.Thread(target=_trickle, args=(trickling, b"x" * 10))
        trickle.start()
        for _ in range(5):
            time.sleep(LIMITS.slow / 3)
            slow.sendall(b"x" * 10_000)
        slow.sendall(b"x" * 9998 + b'"')
        assert reply_of(slow) == (200, b'{"length":60000}')
        for cut in (stuck, trickling):
            status, found = error(everything(cut))
            assert (status, found["code"]) == (408, "request_timeout")
        trickle.join(PATIENCE)


def test_what_comes_of_a_body_after_its_answer_is_not_read_for_ever(running):
    with running.client() as sock:
        sock.sendall(post("/echo", b"")[:-4].replace(b"length: 0", b"length: 9999999999") + b"\r\n\r\n")
        assert reply_of(sock)[0] == 413
        end = time.monotonic() + PATIENCE
        with pytest.raises(OSError, match=r"(?i)reset|broken"):
            while time.monotonic() < end:
                sock.sendall(b"x" * 10_000)
                time.sleep(0.05)


def test_a_client_that_takes_nothing_is_cut_off_and_its_answer_ends(running):
    with running.client(buffer=4096) as sock:
        sock.sendall(b"GET /flood HTTP/1.1\r\nhost: x\r\n\r\n")
        running.until_open(1)
        running.until_open(0)


def test_a_client_that_reads_slowly_but_reads_is_served(running):
    with running.client(buffer=65_536) as sock:
        sock.sendall(b"GET /flood HTTP/1.1\r\nhost: x\r\n\r\n")
        for _ in range(12):
            time.sleep(LIMITS.slow / 4)
            taken = 0
            while taken < 250_000:
                taken += len(sock.recv(65_536))
        assert running.service.open == 1
    running.until_open(0)


def test_who_takes_its_answer_little_by_little_does_not_keep_it_open_for_ever(running):
    with running.client(buffer=65_536) as sock:
        sock.sendall(b"GET /flood HTTP/1.1\r\nhost: x\r\n\r\n")
        running.until_open(1)
        began = time.monotonic()
        while running.service.open:
            assert time.monotonic() < began + PATIENCE
            time.sleep(0.01)
            with contextlib.suppress(ConnectionResetError):
                sock.recv(10_000)
        assert time.monotonic() - began >= LIMITS.request


def test_a_stream_with_nothing_but_signs_of_life_is_left_alone(running):
    with running.client() as sock:
        sock.sendall(b"GET /quiet HTTP/1.1\r\nhost: x\r\n\r\n")
        seen, end = b"", time.monotonic() + 3 * LIMITS.slow
        while time.monotonic() < end:
            seen += sock.recv(65_536)
        assert seen.count(b": well") >= 2
        assert running.service.open == 1
    running.until_open(0)


# ------------------------------------------------------------------------------------------- clients that leave
@pytest.mark.parametrize("ahead", [b"", post("/echo", b"{}"), post("/echo", b"{}") * 20, b"half a req"])
@pytest.mark.parametrize("path", ["/wait", "/quiet"])
def test_the_answer_ends_within_a_second_of_its_client_leaving_whatever_was_sent_ahead(running, path, ahead):
    request = post(path, b"{}") if path == "/wait" else b"GET /quiet HTTP/1.1\r\nhost: x\r\n\r\n"
    begun = running.service.begun
    with running.client() as sock:
        sock.sendall(request + ahead)
        running.until_open(1)
        sock.sendall(ahead)
        time.sleep(0.1)
    running.until_open(0)
    assert running.service.begun == begun + 1


def test_requests_sent_ahead_are_not_answered_and_the_connection_says_so(running):
    with running.client() as sock:
        sock.sendall(post("/echo", b"{}") + post("/echo", b"{}"))
        reply = everything(sock)
    assert reply.count(b"HTTP/1.1 200") == 1
    assert b"connection: close" in reply


def test_who_sends_ahead_without_end_is_cut_off(running):
    with running.client() as sock:
        sock.sendall(post("/wait", b"{}"))
        running.until_open(1)
        with contextlib.suppress(OSError):
            for _ in range(100):
                sock.sendall(post("/echo", b"x" * 1000))
        running.until_open(0)


def test_pages_of_other_origins_stream_too_where_they_are_allowed(running):
    with running.client() as sock:
        sock.sendall(b"GET /quiet HTTP/1.1\r\nhost: x\r\norigin: https://page.example\r\n\r\n")
        seen = b""
        while b": well" not in seen:
            seen += sock.recv(65_536)
        assert b"access-control-allow-origin: https://page.example" in seen
    running.until_open(0)


# ------------------------------------------------------------------------------------------- calls within the fleet
def call(path: str, body: bytes, to: str) -> tuple[bytes, dict[str, str]]:
    """A signed call and its signature."""
    signature = SIGNER.headers("POST", path, body, to)
    lines = [f"{name}: {value}" for name, value in {ADDRESSEE: to, **signature}.items()]
    return post(path, body, *lines), signature


def test_a_signed_call_is_answered_with_a_seal(running):
    request, signature = call("/signed", b"{}", "w-1")
    with running.client() as sock:
        sock.sendall(request.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1))
        head = everything(sock).split(b"\r\n\r\n")[0].decode()
    assert " 200 " in head
    headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
    assert SIGNER.sealed(signature, headers, "w-1")
    assert not SIGNER.sealed(signature, headers, "w-2")


def test_a_stranger_is_refused_before_the_body_is_read(running):
    with running.client() as sock:
        sock.sendall(post("/signed", b"x" * 100)[:-100])
        status, body = reply_of(sock)
    assert (status, json.loads(body)["error"]["code"]) == (401, "unsigned_call")


def test_a_body_that_was_altered_is_refused(running):
    request, _ = call("/signed", b"{}", "w-1")
    with running.client() as sock:
        sock.sendall(request[:-2] + b"[]")
        status, body = reply_of(sock)
    assert (status, json.loads(body)["error"]["code"]) == (401, "wrong_secret")


# ------------------------------------------------------------------------------------------- encryption
@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> TlsConfig:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(key)]
    names = ["-days", "2", "-subj", "/CN=here", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run(["openssl", "req", "-x509", *kind, *names, "-out", str(cert)], check=True, capture_output=True)
    return TlsConfig(cert=str(cert), key=str(key), ca=str(cert))


def test_https_round_trip_for_those_who_trust_the_certificate(certificate):
    running = Running(certificate)

    async def fetch(trusted: ssl.SSLContext | bool) -> int:
        connector = aiohttp.TCPConnector(ssl=trusted)
        async with aiohttp.ClientSession(connector=connector) as session:
            address = server.url("127.0.0.1", running.port, certificate.scheme)
            async with session.post(f"{address}/echo", data=b"{}") as reply:
                return reply.status

    try:
        assert asyncio.run(fetch(trust(certificate))) == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            asyncio.run(fetch(trust(TlsConfig())))
        with running.client() as sock:
            sock.sendall(post("/echo", b"{}"))
            assert b"HTTP" not in everything(sock)
    finally:
        running.stop()


def test_files_that_cannot_be_used_are_one_line(certificate, tmp_path):
    (tmp_path / "text").write_text("no certificate\n")
    other = tmp_path / "other.pem"
    words = f"openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -out {other}".split()
    subprocess.run(words, check=True, capture_output=True)
    locked = tmp_path / "locked.pem"
    subprocess.run(
        f"openssl pkey -in {other} -aes256 -passout pass:word -out {locked}".split(), check=True, capture_output=True
    )
    cert, text = certificate.cert, str(tmp_path / "text")
    for tls, said in [
        (TlsConfig(cert=cert, key=str(tmp_path / "none")), "tls.key: cannot read .*No such file"),
        (TlsConfig(cert=str(tmp_path), key=certificate.key), "tls.cert: cannot read .*directory"),
        (TlsConfig(cert=text, key=certificate.key), "are not a certificate and its key"),
        (TlsConfig(cert=cert, key=text), "are not a certificate and its key"),
        (TlsConfig(cert=cert, key=str(other)), "do not belong together"),
        (TlsConfig(cert=cert, key=str(locked)), "needs a password"),
    ]:
        with pytest.raises(ConfigError, match=said) as caught:
            serving(tls)
        assert "\n" not in str(caught.value)
    for ca, said in [(text, "has no certificates"), (str(tmp_path / "none"), "tls.ca: cannot read")]:
        with pytest.raises(ConfigError, match=said):
            trust(TlsConfig(ca=ca))


# ------------------------------------------------------------------------------------------- the end
PROGRAM = """
import asyncio, sys
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from vicuna.serve.net import server

async def slow(request):
    print("asked", flush=True)
    await asyncio.sleep(float(request.query_params["seconds"]))
    return PlainTextResponse("done")

sock = server.listen("127.0.0.1", 0)
print(server.port_of(sock), flush=True)
made = server.make(Starlette(routes=[Route("/slow", slow)]), grace=float(sys.argv[1]))

async def body():
    await server.run(made, sock)

server.run_loop(body)
print("ended", flush=True)
"""


@contextlib.contextmanager
def process(grace: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server in a process of its own."""
    words = [sys.executable, "-c", PROGRAM, grace]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=Path.cwd()) as made:
        try:
            assert made.stdout is not None
            yield made, int(made.stdout.readline())
        finally:
            made.kill()


def ask(port: int, seconds: float) -> socket.socket:
    """Begin a request that takes so long."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    sock.sendall(f"GET /slow?seconds={seconds} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    return sock


def test_told_to_stop_it_takes_nobody_new_finishes_what_it_has_and_ends():
    with process(grace="60") as (made, port):
        idle = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        with ask(port, 3) as sock, idle:
            assert made.stdout.readline() == "asked\n"
            os.kill(made.pid, signal.SIGTERM)
            assert everything(idle) == b""
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
            assert everything(sock).endswith(b"done")
        assert made.wait(PATIENCE) == 0
        assert made.stdout.read() == "ended\n"


@pytest.mark.parametrize(("grace", "signals"), [("1", 1), ("3600", 2)])
def test_it_ends_when_its_grace_is_over_or_at_a_second_signal(grace, signals):
    with process(grace) as (made, port), ask(port, 3600) as sock:
        assert made.stdout.readline() == "asked\n"
        for _ in range(signals):
            os.kill(made.pid, signal.SIGTERM)
            time.sleep(0.3)
        assert b"done" not in everything(sock)
        assert made.wait(PATIENCE) == 0
