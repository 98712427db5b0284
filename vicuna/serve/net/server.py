"""Listening: sockets with errors in words, and a server that ends on signals within a bounded time."""

import asyncio
import contextlib
import errno
import gc
import logging
import math
import resource
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import uvicorn

from vicuna.errors import ConfigError
from vicuna.serve.config import LimitsConfig, TlsConfig
from vicuna.serve.net.connection import Connection, limited
from vicuna.serve.net.tls import serving

log = logging.getLogger(__name__)
KEEP_ALIVE = 75
"""Seconds an idle connection stays open; longer than our own client keeps one, so that it never uses a closed one."""
BACKLOG = 2048
"""Connections that may wait to be accepted."""
UNSENT = 64 * 1024
"""Bytes that the system may keep for a client beyond what is on its way."""
LOOK = 10
"""Tenths of a second between two looks at all connections."""
FILES = 65_536
"""Open files, sockets included, that a process may have where the system lets it; many begin with 1,024."""


def listen(host: str, port: int, flag: str = "--port") -> socket.socket:
    """A socket that listens on `host:port` (0: any free port).

    Raises:
        ConfigError: the port is taken, not permitted, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # connections inherit it; else the system hides megabytes not yet taken
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
    try:
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _explain(error, host, port, flag) from error
    sock.setblocking(False)
    return sock


def port_of(sock: socket.socket) -> int:
    """The port that the socket listens on."""
    port: int = sock.getsockname()[1]
    return port


def url(host: str, port: int, scheme: str = "http") -> str:
    """The address to type into a browser on this machine."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"{scheme}://{shown}:{port}"


def _explain(error: OSError, host: str, port: int, flag: str) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(f"port {port} is in use by another program; choose another with {flag}, or stop that one")
    if error.errno == errno.EACCES:
        return ConfigError(f"port {port} needs more rights; choose one above 1023 with {flag}")
    host_flag = flag.replace("port", "host")
    return ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}; check {host_flag} and {flag}")


class _NoCancellations(logging.Filter):
    """Drops uvicorn's tracebacks of requests that it cancelled itself at the end; it also says how many they were."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError):
            return False
        return not record.getMessage().rstrip().endswith("CancelledError")  # the same, as text, of its lifespan


_no_cancellations = _NoCancellations()


class Server(uvicorn.Server):
    """Uvicorn, with the signals in our hands, and an eye on slow clients."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `run`."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Called every tenth of a second."""
        if counter % LOOK == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                cast(Connection, connection).look(now)
        return await super().on_tick(counter)


def make(app: Any, grace: float, limits: LimitsConfig | None = None, tls: TlsConfig | None = None) -> Server:
    """A server.

    Args:
        app: what answers the requests (ASGI).
        grace: seconds that open answers have after it was told to stop.
        limits: how large heads may be, and how slow clients.
        tls: certificate; none serves plain HTTP.

    Raises:
        ConfigError: the certificate cannot be used.
    """
    context = serving(tls) if tls else None
    logging.getLogger("uvicorn.error").addFilter(_no_cancellations)
    settings = uvicorn.Config(
        app,
        http=limited(limits or LimitsConfig()),
        loop="uvloop",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # any program on this machine could send them in another's name
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(grace),
        backlog=BACKLOG,
        ssl_context_factory=None if context is None else lambda *_: context,
    )
    return Server(settings)


async def run(server: Server, sock: socket.socket, on_stop: Callable[[], Awaitable[None]] | None = None) -> None:
    """Serve until SIGINT or SIGTERM; a second signal ends at once.

    Args:
        server: from `make`.
        sock: from `listen`.
        on_stop: what to do after the first signal while the server still answers (leave the fleet, drain).
    """
    stop = asyncio.Event()

    def stopped() -> None:
        if stop.is_set():
            server.force_exit = True
        stop.set()

    loop = asyncio.get_running_loop()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, stopped)
    _spare_the_collector()
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if on_stop is not None and not serving.done():
        last_words = asyncio.ensure_future(on_stop())
        while not last_words.done() and not server.force_exit:
            await asyncio.wait({last_words}, timeout=0.1)
        last_words.cancel()
    server.should_exit = True
    stopping.cancel()
    await serving


def run_loop(main: Callable[[], Awaitable[None]]) -> None:
    """`asyncio.run` on uvloop, with as many open files as the system gives."""
    import uvloop

    _allow_files()

    async def body() -> None:
        await main()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(body())


def _spare_the_collector() -> None:
    """What the process is made of stays: looking through it time and again costs a tenth of a gateway's time."""
    gc.collect()
    gc.freeze()


def _allow_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
