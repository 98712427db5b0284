"""What computes answers: one Protocol, and the kinds that there are."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from vicuna.serve.config import WorkerConfig
from vicuna.serve.protocol import EmbedJob, Job, ServedModel


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


class Engine(Protocol):
    """Computes answers for one model.

    `generate` is an asynchronous generator: closing it aborts the answer and frees what it held. It raises a Fault
    (before the first piece, where the request is at fault). A job with `emitted` ids is continued from exactly there;
    an engine that knows no ids continues from the text `shown`. It is only asked for what `features` name.
    """

    kind: str
    capacity: int

    async def start(self) -> None:
        """Load the model and make a first small computation, so that the first request is not the slow one."""
        ...

    def model(self, name: str) -> ServedModel:
        """What is served, under that name."""
        ...

    def generate(self, job: Job) -> AsyncGenerator[Piece, None]:
        """The answer's pieces."""
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

    def trouble(self) -> str | None:
        """Why the engine cannot work at the moment; None when it is well."""
        ...

    async def close(self) -> None:
        """End what runs and give everything back."""
        ...


def make(config: WorkerConfig) -> Engine:
    """The engine that the settings name; only that kind's libraries are imported."""
    if config.engine.kind == "scripted":
        from vicuna.serve.engines.scripted import ScriptedEngine

        return ScriptedEngine(config)
    if config.engine.kind == "upstream":
        from vicuna.serve.engines.upstream import UpstreamEngine

        return UpstreamEngine(config)
    from vicuna.serve.engines.transformers import TransformersEngine

    return TransformersEngine(config)
