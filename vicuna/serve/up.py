"""A whole stack on one machine: start its processes, keep them running, end them all."""

import asyncio
import collections
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp

from vicuna import lifeline
from vicuna.command import run as run_command
from vicuna.config import dump
from vicuna.errors import ConfigError, VicunaError
from vicuna.files import write_text
from vicuna.serve.config import ControllerConfig, StackConfig, WebConfig, WorkerConfig
from vicuna.serve.hosting import split, threads_each, with_threads
from vicuna.serve.names import served_names
from vicuna.serve.net import server, signing
from vicuna.serve.watch.stack_log import StackLog, lines

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
STEADY = 30.0
"""Seconds after which a process counts as well, so that its next restart is quick again."""


class ChildFailed(VicunaError):
    """A process of the stack ended before the stack was ready."""


@dataclass(eq=False)
class Child:
    """One process of the stack."""

    name: str
    command: str
    config: ControllerConfig | WorkerConfig | WebConfig
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables for this process alone."""
    process: asyncio.subprocess.Process | None = None
    last_lines: collections.deque[str] = field(default_factory=lambda: collections.deque(maxlen=20))


def with_ports(config: StackConfig) -> StackConfig:
    """The stack with every port chosen and free, its workers pointed at all controllers and its page at the first one.

    Workers without a fleet secret of their own take the first controller's.

    Raises:
        ConfigError: a port is in use, or given twice; the message names the setting.
    """
    given: dict[tuple[str, int], str] = {}
    with contextlib.ExitStack() as held:

        def free(host: str, port: int, flag: str) -> int:
            first = given.setdefault((host, port), flag)
            if port and first != flag:
                raise ConfigError(f"{first} and {flag} are both {port}; every process needs a port of its own")
            sock: socket.socket = held.enter_context(server.listen(host, port, flag))
            return server.port_of(sock)

        controllers = tuple(
            replace(each, port=free(each.host, each.port, f"`port` of controller {number} in the stack's file"))
            for number, each in enumerate(config.controllers or (ControllerConfig(),), 1)
        )
        web = config.web
        if config.page:
            web = replace(web, port=free(web.host, web.port, "--web.port"))
        for number, worker in enumerate(config.workers, 1):
            for each in split(worker):
                if each.port:
                    free(each.host, each.port, f"`port` of worker {number} in the stack's file")
    apis = tuple(_address(each) for each in controllers)
    secret = controllers[0].fleet.secret
    threads = threads_each(config.workers)
    workers = tuple(
        with_threads(replace(worker, controllers=apis, secret=worker.secret or secret), threads)
        for worker in config.workers
    )
    return replace(config, controllers=controllers, workers=workers, web=replace(web, api=apis[0]))


def fleet_secret(config: StackConfig) -> dict[str, str]:
    """The environment variable with a new secret for this stack; empty where the operator has set one."""
    files = [each.fleet.secret for each in config.controllers] + [each.secret for each in config.workers]
    if any(files) or os.environ.get(signing.VARIABLE):
        return {}
    return {signing.VARIABLE: secrets.token_hex(32)}


class Stack:
    """The processes of one stack."""

    def __init__(self, config: StackConfig, folder: Path, environment: Mapping[str, str]) -> None:
        """
        Args:
            config: with the ports chosen, from `with_ports`.
            folder: where the processes' settings are written.
            environment: more variables for the processes.
        """
        self._config = config
        self._environment = environment
        self._folder = folder
        self._read_end, self._write_end = os.pipe()
        self._stopping = False
        self._ready = False
        models = [served_names(worker, f"workers[{index}].") for index, worker in enumerate(config.workers)]
        self.models = sorted({name for names in models for name in names})
        self._controllers = [
            Child(_numbered("controller", i, len(config.controllers)), "controller", each)
            for i, each in enumerate(config.controllers)
        ]
        self._others = [Child(_worker_name(models, i), "worker", w) for i, w in enumerate(config.workers)]
        if config.page:
            self._others.append(Child("web", "web", config.web, _trust(config.controllers[0])))
        self._log = StackLog((child.name for child in self._children), config.controllers[0].log.format)

    @property
    def _children(self) -> list[Child]:
        return [*self._controllers, *self._others]

    async def run(self) -> None:
        """Run until SIGINT, SIGTERM or SIGHUP, or until a process fails before everything is ready.

        A second signal kills what has not ended yet.
        """
        stop, loop = asyncio.Event(), asyncio.get_running_loop()

        def on_signal() -> None:
            if stop.is_set():  # asked twice: no more patience
                self._kill(self._children)
            stop.set()

        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(each, on_signal)
        keepers = [asyncio.create_task(self._keep(child)) for child in self._children]
        announce, stopped = asyncio.create_task(self._announce()), asyncio.create_task(stop.wait())
        try:
            await self._watch(stopped, [*keepers, announce])
        finally:
            self._stopping = True
            announce.cancel()
            stopped.cancel()
            await self._end()
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)

    async def _watch(self, stopped: "asyncio.Task[bool]", tasks: Sequence["asyncio.Task[None]"]) -> None:
        """Wait for the signal to stop; a task's error ends the stack."""
        waiting = {stopped, *tasks}
        while not stopped.done():
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            waiting -= done

    # ------------------------------------------------------------------------------------- one process
    async def _keep(self, child: Child) -> None:
        """Start a process again and again; the pause doubles while it keeps ending early."""
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            status = await self._run_once(child)
            if self._stopping:
                return
            if not self._ready and status in (1, ConfigError.exit_status):
                said = next((line for line in reversed(child.last_lines) if line.startswith("error: ")), "")
                reason = said.removeprefix("error: ") or f"ended with status {status}; its output is above"
                raise ChildFailed(f"{child.name}: {reason}")
            pause = FIRST_PAUSE if time.monotonic() - began > STEADY else pause
            self._log.say("up", f"{child.name} {_how(child, status)}; starting it again in {pause:g} s")
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 2)

    async def _run_once(self, child: Child) -> int:
        path = self._folder / f"{child.name.replace('/', '_')}.yaml"
        write_text(path, dump(child.config))
        child.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "vicuna.serve", child.command, "--config", str(path)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={
                **os.environ,
                **self._environment,
                **child.environment,
                lifeline.VARIABLE: str(self._read_end),
                "PYTHONUNBUFFERED": "1",
            },
            pass_fds=(self._read_end,),
            start_new_session=True,  # Ctrl-C reaches us alone, and we end the children in order
        )
        if self._stopping:  # the stack was told to stop while this one was being started
            child.process.kill()
        assert child.process.stdout is not None
        async for text in lines(child.process.stdout):
            child.last_lines.append(text)
            self._log.say(child.name, text)
        return await child.process.wait()

    async def _end(self) -> None:
        """Workers and page first, so that what runs can finish; controllers last; who does not end is killed."""
        await self._terminate(self._others, self._config.stop)
        await self._terminate(self._controllers, self._config.stop)
        os.close(self._write_end)
        os.close(self._read_end)

    async def _terminate(self, children: Sequence[Child], seconds: float) -> None:
        running = [c.process for c in children if c.process is not None and c.process.returncode is None]
        for process in running:
            process.terminate()
        waits = [asyncio.ensure_future(process.wait()) for process in running]
        if waits:
            await asyncio.wait(waits, timeout=seconds)
        self._kill(children)
        await asyncio.gather(*waits)

    @staticmethod
    def _kill(children: Sequence[Child]) -> None:
        for child in children:
            if child.process is not None and child.process.returncode is None:
                child.process.kill()

    # ------------------------------------------------------------------------------------- saying what is
    async def _announce(self) -> None:
        """Wait until every controller serves every model and the page answers, and say so."""
        web, apis = self._config.web, [_address(each) for each in self._config.controllers]
        page = server.url(web.host, web.port)
        timeout = aiohttp.ClientTimeout(total=5)
        connector = aiohttp.TCPConnector(ssl=False)  # our own processes, which are asked nothing that is secret
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            while not (await self._all_served(session, apis) and await self._page_answers(session, page)):  # noqa: ASYNC110
                await asyncio.sleep(0.2)  # other processes; there is no event to wait for
        self._ready = True
        models = ", ".join(self.models) or "none"
        listed = ", ".join(f"{api}/v1" for api in apis)
        shown = f", chat page: {page}" if self._config.page else ""
        self._log.say("up", f"ready. API: {listed} (models: {models}){shown}. Ctrl-C ends everything.")

    async def _all_served(self, session: aiohttp.ClientSession, apis: Sequence[str]) -> bool:
        bodies = [await _get(session, f"{api}/health") for api in apis]
        return all(body is not None and set(self.models) <= set(json.loads(body)["models"]) for body in bodies)

    async def _page_answers(self, session: aiohttp.ClientSession, page: str) -> bool:
        return not self._config.page or await _get(session, page) is not None


async def _get(session: aiohttp.ClientSession, address: str) -> bytes | None:
    """The body, or None while nothing answers there."""
    try:
        async with session.get(address) as reply:
            return await reply.read() if reply.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None


def _address(controller: ControllerConfig) -> str:
    return server.url(controller.host, controller.port, controller.tls.scheme)


def _trust(controller: ControllerConfig) -> dict[str, str]:
    """What makes OpenAI's client, and so the page, trust the same authority as the fleet."""
    return {"SSL_CERT_FILE": controller.tls.ca} if controller.tls.ca else {}


def _numbered(name: str, index: int, count: int) -> str:
    return name if count == 1 else f"{name} {index + 1}"


def _worker_name(models: Sequence[tuple[str, ...]], index: int) -> str:
    """A worker is called after its first model, with a number where others are too."""
    name = models[index][0]
    twins = [i for i, names in enumerate(models) if names[0] == name]
    return f"worker {name}" if len(twins) == 1 else f"worker {name} {twins.index(index) + 1}"


def _how(child: Child, status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return "has drained and left" if child.command == "worker" and status == 0 else f"ended with status {status}"


def main(config: StackConfig) -> None:
    """Run the stack until told to stop."""
    chosen = with_ports(config)
    with tempfile.TemporaryDirectory(prefix="vicuna-up-") as folder:
        asyncio.run(Stack(chosen, Path(folder), fleet_secret(chosen)).run())


def command(argv: list[str]) -> int:
    """`python -m vicuna.serve up FILE`, which is short for `up --config FILE`."""
    words = ["--config", *argv] if argv and not argv[0].startswith("-") else argv
    return run_command(StackConfig, main, words, "python -m vicuna.serve up")
