"""Several models in one worker: an engine for each, behind one face."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

from vicuna.serve.engines import Embedded, Engine, Piece, Step
from vicuna.serve.protocol import EmbedJob, Job, ServedModel


class Several:
    """See the module."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.kind = "+".join(dict.fromkeys(engine.kind for engine in engines))
        self.capacity = 0
        self._engines = list(engines)
        self._of: dict[str, Engine] = {}

    async def start(self) -> None:
        """Load one model after the other: together they might not find the memory that each sees free."""
        for engine in self._engines:
            await engine.start()
            self._of |= {model.name: engine for model in engine.models()}
        self.capacity = sum(engine.capacity for engine in self._engines)

    def models(self) -> Sequence[ServedModel]:
        """What is served, under each of its names."""
        return [model for engine in self._engines for model in engine.models()]

    def generate(self, job: Job) -> AsyncGenerator[Piece, None]:
        """The answer's pieces."""
        return self._of[job.model].generate(job)

    async def tokenize(self, job: Job) -> list[int]:
        """Token ids of the job's prompt."""
        return await self._of[job.model].tokenize(job)

    async def embed(self, job: EmbedJob) -> Embedded:
        """Vectors of the job's texts."""
        return await self._of[job.model].embed(job)

    def load(self) -> Mapping[str, float]:
        """The sum over the engines."""
        total: dict[str, float] = {}
        for engine in self._engines:
            for name, value in engine.load().items():
                total[name] = total.get(name, 0.0) + value
        return total

    def observe(self, watch: Callable[[Step], None]) -> None:
        """Tell of the steps of each."""
        for engine in self._engines:
            engine.observe(watch)

    def trouble(self) -> str | None:
        """The first trouble that one has."""
        return next((trouble for engine in self._engines if (trouble := engine.trouble())), None)

    async def close(self) -> None:
        """Close each."""
        await asyncio.gather(*(engine.close() for engine in self._engines))
