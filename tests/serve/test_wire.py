"""The controller's HTTP client: connections are kept and given back, and each way to fail has its name and time."""

import asyncio
import contextlib
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicuna.serve.net import wire

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nX-Seal: Yes\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Server:
    """Says what it is told to; counts its connections."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.connections = 0
        self.open = 0
        self.origin = ""

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self.talk(reader, writer)
        self.open -= 1
        writer.close()


@contextlib.asynccontextmanager
async def server(talk: Talk) -> AsyncIterator[Server]:
    made = Server(talk)
    listening = await asyncio.start_server(made.meet, "127.0.0.1", 0)
    made.origin = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        listening.close()


def pool(silence: float = 20.0, idle: float = 20.0, **more: Any) -> wire.Pool:
    return wire.Pool(connect=5.0, silence=silence, idle=idle, **more)


async def asked(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def always(reply: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await asked(reader)
            writer.write(reply)

    return talk


async def call(through: wire.Pool, origin: str, body: bytes = b"") -> tuple[int, bytes]:
    reply = await through.connection(origin)
    try:
        await reply.ask(wire.request("POST", origin, "/generate", {"x-request-id": "r"}, body))
        return reply.status, await reply.rest()
    finally:
        through.release(reply)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (what it looks at is no event)
            await asyncio.sleep(0.01)


def test_a_connection_is_used_again_when_its_reply_was_read() -> None:
    async def body() -> None:
        async with server(always(OK)) as there:
            through = pool()
            assert [await call(through, there.origin) for _ in range(3)] == [(200, b"hello")] * 3
            assert there.connections == 1
            through.close()
            await until(lambda: not there.open)

    asyncio.run(body())


def test_a_reply_that_was_not_read_to_its_end_takes_its_connection_with_it() -> None:
    async def body() -> None:
        async with server(always(CHUNKED + b"5\r\nhello\r\n")) as there:
            through = pool()
            reply = await through.connection(there.origin)
            await reply.ask(wire.request("POST", there.origin, "/", {}))
            assert await reply.some() == b"hello"
            through.release(reply)
            await until(lambda: not there.open)

    asyncio.run(body())


def test_an_idle_connection_is_closed_after_its_time_and_forgotten() -> None:
    async def body() -> None:
        async with server(always(OK)) as there:
            through = pool(idle=0.05)
            await call(through, there.origin)
            await until(lambda: not there.open)
            assert await call(through, there.origin) == (200, b"hello")
            assert there.connections == 2
            await until(lambda: not there.open)
            await asyncio.sleep(0.05)
            assert not len(through)

    asyncio.run(body())


def test_a_server_that_closes_after_its_reply_gets_a_new_connection() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(OK.replace(b"X-Seal: Yes", b"connection: close"))
        await asked(reader)

    async def body() -> None:
        async with server(talk) as there:
            through = pool()
            assert [await call(through, there.origin) for _ in range(2)] == [(200, b"hello")] * 2
            assert there.connections == 2

    asyncio.run(body())


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=8), st.lists(st.integers(1, 700), max_size=12))
def test_however_a_reply_is_cut_into_packets_its_body_is_the_same(chunks: list[bytes], cuts: list[int]) -> None:
    reply = CHUNKED + b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in chunks) + b"0\r\n\r\n"
    places = [0, *sorted({cut for cut in cuts if cut < len(reply)}), len(reply)]

    class Transport(asyncio.Transport):
        def write(self, data: Any) -> None:
            pass

        def abort(self) -> None:
            pass

        def get_write_buffer_size(self) -> int:
            return 0

    async def body() -> None:
        connection = wire.Connection(asyncio.get_running_loop(), 20.0, lambda _: None)
        connection.connection_made(Transport())
        asking = asyncio.ensure_future(connection.ask(b""))
        await asyncio.sleep(0)
        for begin, end in zip(places, places[1:], strict=False):
            connection.data_received(reply[begin:end])
        await asking
        assert (connection.status, await connection.rest()) == (200, b"".join(chunks))
        assert connection.usable
        connection.close()
        connection.connection_lost(None)

    asyncio.run(body())


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello",
        CHUNKED + b"5\r\nhello\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000,
    ],
)
def test_what_is_no_whole_reply_is_an_error_at_once(said: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(said)

    async def body() -> None:
        async with server(talk) as there, asyncio.timeout(10):
            with pytest.raises(wire.Broken):
                await call(pool(), there.origin)

    asyncio.run(body())


def test_what_came_before_the_break_can_be_read() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(CHUNKED + b"5\r\nhello\r\n")

    async def body() -> None:
        async with server(talk) as there:
            reply = await pool().connection(there.origin)
            await reply.ask(wire.request("POST", there.origin, "/", {}))
            await until(lambda: not there.open)
            await asyncio.sleep(0.05)
            assert await reply.some() == b"hello"
            with pytest.raises(wire.Broken):
                await reply.some()

    asyncio.run(body())


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\n", CHUNKED + b"5\r\nhello\r\n"])
def test_silence_ends_a_call_before_the_head_and_within_the_body(said: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(said)
        await reader.read()

    async def body() -> None:
        async with server(talk) as there, asyncio.timeout(10):
            with pytest.raises(wire.Silent):
                await call(pool(silence=0.2), there.origin)
            await until(lambda: not there.open)

    asyncio.run(body())


def test_a_server_that_does_not_take_a_large_request_counts_as_silent() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(5)

    async def body() -> None:
        async with server(talk) as there, asyncio.timeout(4):
            with pytest.raises(wire.Silent):
                await call(pool(silence=0.2), there.origin, bytes(8 * 1024 * 1024))

    asyncio.run(body())


def test_signs_of_life_keep_a_call_alive() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(CHUNKED)
        for _ in range(10):
            await asyncio.sleep(0.1)
            writer.write(b"1\r\n\n\r\n")
        writer.write(b"0\r\n\r\n")

    async def body() -> None:
        async with server(talk) as there:
            assert await call(pool(silence=0.6), there.origin) == (200, b"\n" * 10)

    asyncio.run(body())


def test_a_reader_that_is_slow_holds_up_the_server_and_is_not_its_silence() -> None:
    size = 8 * 1024 * 1024

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(size // 65_536):
            writer.write(bytes(65_536))
            await writer.drain()
        await reader.read()

    async def body() -> None:
        async with server(talk) as there:
            reply = await pool(silence=0.2).connection(there.origin)
            await reply.ask(wire.request("POST", there.origin, "/", {}))
            await asyncio.sleep(0.7)
            first = await reply.some()
            assert len(first) < size / 4
            assert len(first) + len(await reply.rest()) == size

    asyncio.run(body())


def test_nobody_listening_is_unreachable_and_so_is_an_address_that_is_not_allowed() -> None:
    def refuse(info: Any) -> socket.socket:
        raise OSError("not allowed")

    async def body() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            with pytest.raises(wire.Unreachable):
                await call(pool(), f"http://127.0.0.1:{taken.getsockname()[1]}")
        async with server(always(OK)) as there:
            with pytest.raises(wire.Unreachable, match="not allowed"):
                await call(pool(make_socket=refuse), there.origin)
            assert not there.connections
        with pytest.raises(wire.Unreachable):
            await call(pool(), "http://no-such-host.invalid:80")

    asyncio.run(body())


def test_a_call_that_is_cancelled_closes_its_connection() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        await reader.read()

    async def body() -> None:
        async with server(talk) as there:
            calling = asyncio.create_task(call(pool(), there.origin))
            await until(lambda: there.open == 1)
            calling.cancel()
            await until(lambda: not there.open)

    asyncio.run(body())


def test_a_header_with_a_line_break_never_goes_out() -> None:
    for value in ("a\r\nx-evil: b", "a\nb", "a\0b"):
        with pytest.raises(ValueError, match="line break"):
            wire.request("POST", "http://h", "/", {"x-vicuna-worker": value})


def test_an_https_server_is_believed_by_those_who_trust_its_certificate_and_by_nobody_else(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=there"]
    words = ["openssl", "req", "-x509", *kind, "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert]
    subprocess.run(words, check=True, capture_output=True)
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(cert, key)

    async def body() -> None:
        made = Server(always(OK))
        listening = await asyncio.start_server(made.meet, "127.0.0.1", 0, ssl=serving)
        origin = f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        trusting = pool(trusted=ssl.create_default_context(cafile=str(cert)))
        assert [await call(trusting, origin) for _ in range(2)] == [(200, b"hello")] * 2
        assert made.connections == 1
        with pytest.raises(wire.Unreachable, match="certificate"):
            await call(pool(), origin)
        trusting.close()
        listening.close()

    asyncio.run(body())
