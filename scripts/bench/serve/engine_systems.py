"""The systems that engine.py compares, started one at a time: servers behind OpenAI's API, and loops in one process."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

import aiohttp
from engine_model import Prompts
from stacks import HERE, FastChat, Ours, Stack, free_port, get, peers, tree_cpu
from talk import Heard, Talker

ONE_THREAD = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
"""For all: two threads that wait for each other on shared cores measure the other programs."""
PATIENCE = 600.0


@dataclass(frozen=True)
class Place:
    """What there is to start systems with."""

    model: Path
    """Folder that engine_model made."""
    prompts: Prompts
    peers: str | None
    """Folder that peers.py made."""
    flags: Sequence[str] = ()
    """More for our worker."""

    def environments(self) -> str:
        """The peers' folder.

        Raises:
            SystemExit: there is none.
        """
        return self.peers or sys.exit("error: this system needs --peers")


class System(Protocol):
    """Something that answers prompts."""

    async def burst(self, prompts: Sequence[str], tokens: int) -> list[Heard]:
        """Ask all at the same time; every answer has so many tokens."""
        ...

    def cpu(self) -> float:
        """Seconds of the processor that all its processes have used."""
        ...


@dataclass
class Server:
    """Processes behind an address that speaks OpenAI's API."""

    stack: Stack
    base: str
    model: str = "lab"

    async def burst(self, prompts: Sequence[str], tokens: int) -> list[Heard]:
        async with self.talker() as talker:
            heard = await asyncio.gather(*(self.ask(talker, prompt, tokens) for prompt in prompts))
        self.stack.check()
        return heard

    @contextlib.asynccontextmanager
    async def talker(self) -> AsyncIterator[Talker]:
        """A client; each request is a connection of its own, which no server can have closed before."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as session:
            yield Talker(session, self.base)

    async def ask(self, talker: Talker, prompt: str, tokens: int, heard: Heard | None = None) -> Heard:
        return await talker.ask(prompt, self.model, patience=PATIENCE, heard=heard, max_tokens=tokens, temperature=0)

    def cpu(self) -> float:
        return self.stack.all_cpu()


@dataclass
class Loop:
    """A process of engine_floor.py."""

    process: subprocess.Popen[str]
    prompts: Prompts
    input: IO[str] = field(init=False)
    output: IO[str] = field(init=False)

    def __post_init__(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout

    async def burst(self, prompts: Sequence[str], tokens: int) -> list[Heard]:
        asked = {"prompts": [self.prompts.ids(prompt) for prompt in prompts], "tokens": tokens}
        self.input.write(json.dumps(asked) + "\n")
        self.input.flush()
        line = await asyncio.to_thread(self.output.readline)
        if not line:
            sys.exit("error: the process of engine_floor.py has ended")
        said = json.loads(line)
        return [
            Heard(said["began"], 200, self.prompts.text(ids), times=times, ended=times[-1])
            for ids, times in zip(said["answers"], said["times"], strict=True)
        ]

    def cpu(self) -> float:
        return tree_cpu(self.process.pid)


# ------------------------------------------------------------------------------------------------ how each is started
@contextmanager
def ours(place: Place, *flags: str) -> Iterator[System]:
    """Our controller and one worker."""
    with Ours(ONE_THREAD) as stack:
        stack.start_gateway()
        engine = ("--engine.device", "cpu", "--engine.threads", 1, "--model.max_length", 4096)
        stack.start_real_worker("worker", place.model, *engine, *flags, *place.flags)
        yield Server(stack, stack.base)


def ours_plain(place: Place) -> AbstractContextManager[System]:
    """The same without a prefix cache."""
    return ours(place, "--engine.prefix_cache", "false")


@contextmanager
def fastchat(place: Place) -> Iterator[System]:
    """FastChat's controller, API server and model worker, with its own limit of five answers at once."""
    with FastChat(place.environments(), peers.FASTCHAT_ENGINE, ONE_THREAD) as stack:
        stack.start_gateway()
        stack.start_real_worker("worker", place.model)
        yield Server(stack, stack.base)


@contextmanager
def transformers_serve(place: Place) -> Iterator[System]:
    """transformers' server with continuous batching. Left to itself it takes all memory for its cache and is slow."""
    python = peers.python_of(place.environments(), peers.TRANSFORMERS_SERVE)
    with Stack(ONE_THREAD) as stack:
        port = free_port()
        stack.start(
            "serve", python.with_name("transformers"), "serve", place.model, "--host", "127.0.0.1", "--port", port,
            "--device", "cpu", "--continuous-batching", "--cb-num-blocks", 128, "--cb-max-batch-tokens", 2048,
        )  # fmt: skip
        stack.wait("serve", lambda: get(f"http://127.0.0.1:{port}/health"))
        yield Server(stack, f"http://127.0.0.1:{port}", str(place.model))


@contextmanager
def llama_cpp(place: Place) -> Iterator[System]:
    """llama.cpp's server; weights in F32, keys and values in its usual F16."""
    python = peers.python_of(place.environments(), peers.LLAMA_CPP)
    with Stack(ONE_THREAD) as stack:
        port = free_port()
        stack.start(
            "llama", python, HERE / "engine_llama.py", place.model, place.model.with_suffix(".gguf"), "--port", port
        )
        stack.wait("llama", lambda: get(f"http://127.0.0.1:{port}/health"))
        yield Server(stack, f"http://127.0.0.1:{port}")


@contextmanager
def _loop(place: Place, way: str) -> Iterator[System]:
    with Stack(ONE_THREAD) as stack:
        words = (sys.executable, HERE / "engine_floor.py", place.model, "--way", way)
        yield Loop(stack.start("floor", *words, piped=True), place.prompts)


def generate(place: Place) -> AbstractContextManager[System]:
    """`generate` over one batch that nobody joins or leaves: the floor."""
    return _loop(place, "generate")


def continuous(place: Place) -> AbstractContextManager[System]:
    """transformers' continuous batching without its server."""
    return _loop(place, "continuous")


@dataclass(frozen=True)
class Known:
    """A system that can be named on the command line."""

    label: str
    start: Callable[[Place], AbstractContextManager[System]]
    cells: tuple[str, ...]
    """What is measured of it."""
    peer: bool = False
    """It needs an environment of its own."""


LENGTHS = ("64", "512")
SYSTEMS = {
    "ours": Known("ours", ours, (*LENGTHS, "shared", "stall")),
    "ours-plain": Known("ours, no prefix cache", ours_plain, (*LENGTHS, "shared")),
    "fastchat": Known("FastChat", fastchat, LENGTHS, peer=True),
    "serve": Known("transformers serve", transformers_serve, (*LENGTHS, "shared", "stall"), peer=True),
    "continuous": Known("transformers' batching, in process", continuous, LENGTHS),
    "generate": Known("one batch of `generate`, in process", generate, LENGTHS),
    "llama": Known("llama.cpp server", llama_cpp, (*LENGTHS, "shared", "stall"), peer=True),
}
