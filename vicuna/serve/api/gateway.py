"""The OpenAI-compatible API in front of the fleet."""

import contextlib
import logging
import math
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vicuna.serve import faults
from vicuna.serve.access.callers import Access, Caller, model_forbidden
from vicuna.serve.access.keyfile import Scope
from vicuna.serve.access.rates import Admission
from vicuna.serve.api import embeddings, gather
from vicuna.serve.api.handlers import JSON, as_json
from vicuna.serve.api.messages import ChatMessage
from vicuna.serve.api.openapi import document
from vicuna.serve.api.replies import ChatReply, CompletionReply, Reply, named, served_by, versions_of
from vicuna.serve.api.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    TokenizeRequest,
    extras,
    timeout,
)
from vicuna.serve.config import LimitsConfig, LogConfig
from vicuna.serve.fleet import policies
from vicuna.serve.fleet.ask import Ask
from vicuna.serve.fleet.calls import Call
from vicuna.serve.fleet.client import WorkerClient
from vicuna.serve.fleet.dispatch import Dispatcher
from vicuna.serve.fleet.failover import Answer
from vicuna.serve.fleet.table import Ticket
from vicuna.serve.net.asgi import Stream, read_body, request_id, while_connected
from vicuna.serve.protocol import EmbedJob, Job, ModelT, ServedModel, parse
from vicuna.serve.watch import logs
from vicuna.serve.watch.metrics import Metrics

log = logging.getLogger(__name__)
CHARACTERS_PER_TOKEN = 4
"""Roughly, to guess what a request will use; it is settled with the true number."""
USUAL_ANSWER = 512
"""Tokens that an answer without a limit is thought to have."""
LONGEST_GUESS = 4096
"""Tokens that an answer is thought to have at most, whatever limit it was given."""


class Gateway:
    """The routes under /v1. One per controller."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        client: WorkerClient,
        limits: LimitsConfig,
        *,
        access: Access,
        metrics: Metrics,
        log: LogConfig,
    ) -> None:
        self._dispatcher = dispatcher
        self._client = client
        self._limits = limits
        self._access = access
        self._metrics = metrics
        self._log_prompts = log.prompts
        self._created = int(time.time())
        self._answers: set[Answer] = set()
        """Those in the making."""

    def routes(self) -> list[Route]:
        """What this part answers."""
        return [
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{model:path}", self.model, methods=["GET"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/embeddings", self.embeddings, methods=["POST"]),
            Route("/tokenize", self.tokenize, methods=["POST"]),
            Route("/openapi.json", self.openapi, methods=["GET"]),
        ]

    def allow(self, request: Request, scope: Scope | None) -> Caller:
        """Who asks, if it may.

        Raises:
            Fault: 401 no valid API key, 403 one that does not open this.
        """
        client = request.client.host if request.client else ""
        caller = self._access.caller(request.headers, client, scope)
        logs.note(key=caller.name)
        return caller

    def end_answers(self) -> None:
        """End every answer that waits or runs, because this process is about to end."""
        self._dispatcher.close()
        for answer in list(self._answers):
            answer.break_off()

    # ------------------------------------------------------------------------------------- what there is
    async def models(self, request: Request) -> Response:
        """What is served now, of what the caller may use."""
        caller = self.allow(request, None)
        served = self._dispatcher.fleet.models()
        rows = [self._model_row(name, model) for name, model in served.items() if caller.may_use(name)]
        return as_json({"object": "list", "data": rows}, request)

    async def model(self, request: Request) -> Response:
        """One model, if it is served now."""
        caller = self.allow(request, None)
        served = {name: model for name, model in self._dispatcher.fleet.models().items() if caller.may_use(name)}
        name = request.path_params["model"]
        if name not in served:
            raise faults.model_not_found(name[: faults.LONGEST_WORDS], list(served))
        return as_json(self._model_row(name, served[name]), request)

    def _model_row(self, name: str, model: ServedModel) -> dict[str, object]:
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "vicuna",
            "max_model_len": model.max_length,
            "version": model.version,
            "checkpoint_hash": model.checkpoint_hash,
            "template_hash": model.template_hash,
            "features": sorted(model.features),
        }

    async def openapi(self, request: Request) -> Response:
        """This API, described for programs."""
        return as_json(document(), request)

    # ------------------------------------------------------------------------------------- answers
    async def chat(self, request: Request) -> Response:
        """Answer a chat, as one body or as server-sent events."""
        caller, asked, content = await self._read(request, "chat", ChatRequest)
        needs = asked.needs()
        common = {"logprobs": asked.alternatives(), "extras": extras(needs, content)}
        jobs = self._jobs(request, asked, [{"messages": _turns(asked.messages), **common}])
        asks = [self._ask(request, asked, caller, needs, jobs[0])] * asked.n
        return await self._answer(request, caller, ChatReply(asked.model), asked, jobs, asks, [])

    async def completions(self, request: Request) -> Response:
        """Continue one or several prompts."""
        caller, asked, content = await self._read(request, "chat", CompletionRequest)
        needs = asked.needs()
        common = {"logprobs": asked.logprobs, "extras": extras(needs, content)}
        prompts = [
            {"prompt": prompt, **common} if isinstance(prompt, str) else {"tokens": tuple(prompt), **common}
            for prompt in asked.prompts()
        ]
        jobs = self._jobs(request, asked, prompts)
        asks = [self._ask(request, asked, caller, needs, job) for job in jobs[:: asked.n] for _ in range(asked.n)]
        echo = [job.prompt or "" for job in jobs] if asked.echo else []
        return await self._answer(request, caller, CompletionReply(asked.model), asked, jobs, asks, echo)

    def _jobs(
        self, request: Request, asked: ChatRequest | CompletionRequest, prompts: Sequence[Mapping[str, Any]]
    ) -> list[Job]:
        """The `n` answers to each prompt, side by side.

        There is always a seed, so that a worker that takes over draws the tokens that the first one would have drawn.
        """
        count, name, model = len(prompts) * asked.n, request_id(request), _name(asked.model)
        if count > self._limits.choices:
            message = f"one request may ask for {self._limits.choices} answers; this one asks for {count}"
            raise faults.invalid(message, param="n" if asked.n > 1 else "prompt")
        seed = random.getrandbits(48) if asked.seed is None else asked.seed & (2**62 - 1)
        return [
            Job.model_construct(
                id=name if index == 0 else f"{name}-{index}",
                model=model,
                sampling=asked.sampling(seed + index),
                **prompts[index // asked.n],
            )
            for index in range(count)
        ]

    async def _answer(
        self,
        request: Request,
        caller: Caller,
        reply: Reply,
        asked: ChatRequest | CompletionRequest,
        jobs: Sequence[Job],
        asks: Sequence[Ask],
        echo: Sequence[str],
    ) -> Response:
        """Compute the answers. What the request was let in for is settled when its reply has ended."""
        admission = self._access.admit(caller, _guess(asked, jobs))
        answers = [
            Answer(job, ask, self._dispatcher, self._client, self._limits, self._metrics)
            for job, ask in zip(jobs, asks, strict=True)
        ]
        self._answers.update(answers)
        async with contextlib.AsyncExitStack() as ends:
            ends.callback(self._settle, admission, answers, asked.n)
            if not asked.stream:
                wholes = await while_connected(request.receive, gather.wholes(answers, echo))
                content = reply.body(wholes, gather.usage(answers, asked.n), answers)
                return Response(
                    content, 200, _headers(request, versions_of(answers), served_by(answers), admission), JSON
                )
            batches = gather.merged(answers)
            ends.push_async_callback(batches.aclose)
            first = await while_connected(request.receive, anext(batches))
            end = ends.pop_all().aclose
        writer = reply.stream(answers[0].version, asked.include_usage, echo)
        events = gather.events(writer, answers, first, batches, asked.n)
        headers = _headers(request, versions_of(answers), served_by(answers), admission)
        headers |= {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return Stream(events, "text/event-stream", headers, end)

    def _settle(self, admission: Admission, answers: Sequence[Answer], n: int) -> None:
        self._answers.difference_update(answers)
        admission.settle(gather.usage(answers, n).total)
        if self._log_prompts:
            for answer in answers:
                asked = answer.job.model_dump(include={"messages", "prompt", "tokens"}, exclude_none=True)
                log.info("asked and answered", extra=logs.fields(prompt=asked, answer=answer.text))

    # ------------------------------------------------------------------------------------- vectors and token ids
    async def embeddings(self, request: Request) -> Response:
        """A vector for each text."""
        caller, asked, _ = await self._read(request, "embeddings", EmbeddingRequest)
        job = embeddings.job(asked, request_id(request), _name(asked.model))
        ask = self._ask(request, asked, caller, {"embeddings"})
        guess = sum(map(len, job.texts)) // CHARACTERS_PER_TOKEN + sum(map(len, job.tokens))
        admission = self._access.admit(caller, guess)
        tokens = 0
        try:
            reply, ticket = await self._call(request, ask, "/embed", job)
            vectors, tokens = embeddings.vectors(reply, len(job.texts) or len(job.tokens))
        finally:
            admission.settle(tokens)
        headers = _headers(request, [ticket.model], [ticket.worker.id], admission)
        hashes = {"checkpoint_hash": ticket.model.checkpoint_hash, "version": ticket.model.version}
        parts = embeddings.body(asked, vectors, tokens, {"workers": [ticket.worker.id], **hashes})
        return Stream(parts, JSON, headers, parts.aclose)

    async def tokenize(self, request: Request) -> Response:
        """The token ids of a prompt, or of a chat with its template around it."""
        caller, asked, _ = await self._read(request, "chat", TokenizeRequest)
        needs = asked.needs()
        messages = None if asked.messages is None else _turns(asked.messages)
        name = _name(asked.model)
        job = Job.model_construct(id=request_id(request), model=name, prompt=asked.prompt, messages=messages)
        ask = self._ask(request, asked, caller, needs)
        self._access.admit(caller, 0).settle(0)
        reply, ticket = await self._call(request, ask, "/tokenize", job)
        tokens = reply["tokens"]
        return as_json({"tokens": tokens, "count": len(tokens), "max_model_len": ticket.model.max_length}, request)

    async def _call(
        self, request: Request, ask: Ask, path: str, job: Job | EmbedJob
    ) -> tuple[Mapping[str, Any], Ticket]:
        content = job.model_dump_json(exclude_defaults=True).encode()
        call = Call(ask, path, content, job.id, self._dispatcher, self._client, self._limits, self._metrics)
        return await while_connected(request.receive, call.answer())

    # ------------------------------------------------------------------------------------- what they share
    async def _read(self, request: Request, scope: Scope, cls: type[ModelT]) -> tuple[Caller, ModelT, bytes]:
        caller = self.allow(request, scope)
        content = await read_body(request, self._limits.body, self._limits.depth)
        return caller, parse(cls, content), content

    def _ask(
        self,
        request: Request,
        asked: ChatRequest | CompletionRequest | EmbeddingRequest | TokenizeRequest,
        caller: Caller,
        needs: set[str],
        job: Job | None = None,
    ) -> Ask:
        logs.note(model=asked.model)
        if not caller.may_use(asked.model):
            raise model_forbidden(asked.model)
        seconds = timeout(request.headers.get("x-vicuna-timeout"))
        chain = policies.chain(job) if job is not None and self._dispatcher.fleet.policy.uses_prefix else ()
        return Ask(
            model=asked.model,
            needs=frozenset(needs),
            chain=chain,
            key=caller.name,
            priority=caller.priority(asked.priority),
            deadline=time.monotonic() + seconds,
        )


def _name(model: str) -> str:
    """What a worker calls the model; which version is meant is the dispatcher's business."""
    return model.partition("@")[0]


def _headers(
    request: Request, versions: Sequence[ServedModel], workers: Sequence[str], admission: Admission
) -> dict[str, str]:
    """Headers of a reply: whose it is, and what the caller may still ask for."""
    return {
        "x-request-id": request_id(request),
        "x-vicuna-worker": ",".join(workers),
        "x-vicuna-checkpoint": named(version.checkpoint_hash for version in versions),
        "x-vicuna-template": named(version.template_hash for version in versions),
        **admission.headers(),
    }


def _turns(messages: Sequence[ChatMessage]) -> tuple[Any, ...]:
    return tuple(message.turn(index) for index, message in enumerate(messages))


def _guess(asked: ChatRequest | CompletionRequest, jobs: Sequence[Job]) -> int:
    """Tokens that a request will use, as far as one can tell before it is tokenised."""
    total = len(jobs) * min(asked.limit() or USUAL_ANSWER, LONGEST_GUESS)
    for job in jobs[:: asked.n]:
        characters = sum(len(turn.content) for turn in job.messages or ()) + len(job.prompt or "")
        total += math.ceil(characters / CHARACTERS_PER_TOKEN) + len(job.tokens or ())
    return total
