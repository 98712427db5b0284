"""What computes answers: one Protocol, and the kinds that there are."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from vicuna.errors import ConfigError
from vicuna.serve.config import HostedConfig, TlsConfig
from vicuna.serve.protocol import EmbedJob, Job, ServedModel

STUCK = 60.0
"""Seconds without a step after which an engine with work to do counts as hung."""
SLOTS = 16
"""Most answers at once where nothing else says how many."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What an engine yields: first the size of the prompt, then the answer bit by bit."""

    text: str = ""
    """New text; it may lag behind the ids while a character or a stop string is incomplete."""
    ids: list[int] = field(default_factory=list)
    """New token ids, the one that ends the answer included."""
    finish: str | None = None
    """Why the answer ended: "stop", "length", ...; None while it goes on."""
    prompt_tokens: int | None = None
    """Tokens of the prompt; only in the first piece, which has no text."""
    logprobs: list[dict[str, Any]] | None = None
    """For each new token OpenAI's row of a chat (token, logprob, bytes, top_logprobs), where the job asks for it."""
    delta: Mapping[str, Any] | None = None
    """What else a chat's answer has beside text, in OpenAI's shape of a stream (`tool_calls`, `refusal`, ...)."""
    usage: tuple[int, int] | None = None
    """Tokens of prompt and answer as an engine that gives no ids has counted them; only in the last piece."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """What an engine makes of an EmbedJob."""

    vectors: Sequence[Sequence[float]]
    """One for each text, of length 1 (Euclidean)."""
    tokens: int
    """Tokens of all texts."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of an engine that batches by itself has done, and how full it is after it."""

    seconds: float
    """How long it took."""
    prompt_tokens: int
    """Tokens of prompts that were computed."""
    answer_tokens: int
    """Answers that got a token."""
    running: int
    """Answers in the batch, those whose last step it was included."""
    waiting: int
    """Answers that wait for a place or for memory."""
    used: int
    """Tokens in memory that belong to answers in the batch; those of a shared beginning count once."""
    kept: int
    """Tokens in memory of prompts and answers that are kept for later."""
    room: int
    """Tokens that fit into memory."""
    looked_up: int
    """Prompt tokens of the answers that joined."""
    found: int
    """How many of them were in memory already."""
    queued: tuple[float, ...] = ()
    """Seconds that each answer which joined had waited."""
    put_back: int = 0
    """Answers that gave up their place for want of memory; they are computed on later."""


class Engine(Protocol):
    """Computes answers for one model and its adapters.

    `generate` is an asynchronous generator: closing it aborts the answer and frees what it held. It raises a Fault
    (before the first piece, where the request is at fault). A job with `emitted` ids is continued from exactly there;
    an engine that knows no ids continues from the text `shown`. It is only asked for what `features` name.
    """

    kind: str
    capacity: int
    """Most answers at once; known after `start`."""

    async def start(self) -> None:
        """Load the model and make a first small computation, so that the first request is not the slow one."""
        ...

    def models(self) -> Sequence[ServedModel]:
        """What is served, under each of its names."""
        ...

    def generate(self, job: Job) -> AsyncGenerator[Piece, None]:
        """The answer's pieces; `job.model` is one of the names."""
        ...

    async def tokenize(self, job: Job) -> list[int]:
        """Token ids of the job's prompt."""
        ...

    async def embed(self, job: EmbedJob) -> Embedded:
        """Vectors of the job's texts; a Fault where one is too long."""
        ...

    def load(self) -> Mapping[str, float]:
        """How busy the engine is, by name."""
        ...

    def observe(self, watch: Callable[[Step], None]) -> None:
        """Tell of each step from now on, in the event loop's thread; an engine that sees no steps tells nothing."""
        ...

    def trouble(self) -> str | None:
        """Why the engine cannot work at the moment; None when it is well."""
        ...

    async def close(self) -> None:
        """End what runs and give everything back."""
        ...


def make(config: HostedConfig, tls: TlsConfig, share: float = 1.0) -> Engine:
    """The engine that the settings name; only that kind's libraries are imported.

    Args:
        config: the model and its settings.
        tls: whom to trust when connecting to others.
        share: of the memory that it may take, where others of the same process start later.
    """
    match config.engine.kind:
        case "scripted":
            from vicuna.serve.engines.scripted import ScriptedEngine

            return ScriptedEngine(config)
        case "upstream":
            from vicuna.serve.engines.upstream import UpstreamEngine

            return UpstreamEngine(config, tls)
        case "transformers":
            from vicuna.serve.engines.transformers import TransformersEngine

            return TransformersEngine(config, share)
        case "vllm":
            from vicuna.serve.engines.vllm import VllmEngine

            return VllmEngine(config)
    raise ConfigError(f"there is no engine {config.engine.kind}")
