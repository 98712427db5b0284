"""The OpenAI-compatible API in front of the fleet."""

import asyncio
import contextlib
import logging
import random
import time
import weakref
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any, TypeVar, cast

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vicuna.serve import faults
from vicuna.serve.asgi import ClientGone, Stream, read_body, request_id, while_connected
from vicuna.serve.ask import Ask
from vicuna.serve.client import WorkerClient
from vicuna.serve.config import LimitsConfig
from vicuna.serve.dispatch import Dispatcher
from vicuna.serve.failover import Answer, Part
from vicuna.serve.faults import Fault
from vicuna.serve.metrics import Metrics
from vicuna.serve.protocol import Job, ServedModel, parse
from vicuna.serve.replies import ChatReply, CompletionReply, Finished, Reply, StreamWriter, Usage, encode, error_event
from vicuna.serve.requests import ChatRequest, CompletionRequest

log = logging.getLogger(__name__)
JSON = "application/json"
Batch = tuple[int, list[Part]]
T = TypeVar("T")


class Gateway:
    """The routes under /v1. One per controller."""

    def __init__(self, dispatcher: Dispatcher, client: WorkerClient, limits: LimitsConfig) -> None:
        self._dispatcher = dispatcher
        self._client = client
        self._limits = limits
        self._metrics = Metrics()
        self._created = int(time.time())
        self._answers: weakref.WeakSet[Answer] = weakref.WeakSet()

    def routes(self) -> list[Route]:
        """What this part answers."""
        return [
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{model:path}", self.model, methods=["GET"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.completions, methods=["POST"]),
        ]

    async def models(self, request: Request) -> Response:
        """What is served now."""
        served = self._dispatcher.fleet.models()
        rows = [self._model_row(model) for model in served.values()]
        return as_json({"object": "list", "data": rows}, request)

    async def model(self, request: Request) -> Response:
        """One model, if it is served now."""
        name, served = request.path_params["model"], self._dispatcher.fleet.models()
        if name not in served:
            raise faults.model_not_found(name, list(served))
        return as_json(self._model_row(served[name]), request)

    def _model_row(self, model: ServedModel) -> dict[str, object]:
        return {
            "id": model.name,
            "object": "model",
            "created": self._created,
            "owned_by": "vicuna",
            "max_model_len": model.max_length,
            "checkpoint_hash": model.checkpoint_hash,
            "template_hash": model.template_hash,
        }

    async def chat(self, request: Request) -> Response:
        """Answer a chat, as one body or as server-sent events."""
        asked = parse(ChatRequest, await read_body(request, self._limits.body))
        asked.refuse_unsupported()
        turns = tuple(message.turn(index) for index, message in enumerate(asked.messages))
        self._refuse_too_many(asked.n)
        seed, name = _seed(asked.seed), request_id(request)
        jobs = [
            Job.model_construct(
                id=_job_id(name, index), model=asked.model, messages=turns, sampling=asked.sampling(seed + index)
            )
            for index in range(asked.n)
        ]
        return await self._answer(request, ChatReply(asked.model), jobs, asked, [])

    async def completions(self, request: Request) -> Response:
        """Continue one or several prompts."""
        asked = parse(CompletionRequest, await read_body(request, self._limits.body))
        asked.refuse_unsupported()
        seed, name = _seed(asked.seed), request_id(request)
        jobs: list[Job] = []
        self._refuse_too_many(len(asked.prompts()) * asked.n)
        for prompt in asked.prompts():
            given: dict[str, Any] = {"prompt": prompt} if isinstance(prompt, str) else {"tokens": tuple(prompt)}
            for _ in range(asked.n):
                sampling, index = asked.sampling(seed + len(jobs)), len(jobs)
                jobs.append(Job.model_construct(id=_job_id(name, index), model=asked.model, sampling=sampling, **given))
        echo = [job.prompt or "" for job in jobs] if asked.echo else []
        return await self._answer(request, CompletionReply(asked.model), jobs, asked, echo)

    def _refuse_too_many(self, choices: int) -> None:
        if choices > self._limits.choices:
            message = f"one request may ask for {self._limits.choices} answers; this one asks for {choices}"
            raise faults.invalid(message, param="n")

    async def _answer(
        self, request: Request, reply: Reply, jobs: list[Job], asked: ChatRequest | CompletionRequest, echo: list[str]
    ) -> Response:
        answers = [
            Answer(job, Ask(model=job.model), self._dispatcher, self._client, self._limits, self._metrics)
            for job in jobs
        ]
        self._answers.update(answers)
        if not asked.stream:
            finished = await while_connected(request.receive, _collect_all(answers, echo))
            body = reply.body(finished, _usage(answers, asked.n), answers[0].version, _served_by(answers))
            return Response(body, 200, self._headers(request, answers), JSON)
        batches = _merged(answers)
        try:
            first = await while_connected(request.receive, anext(batches))
        except BaseException:
            await batches.aclose()
            raise
        writer = reply.stream(answers[0].version, asked.include_usage)
        events = _events(writer, answers, first, batches, echo, asked.n)
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no", **self._headers(request, answers)}
        return Stream(events, "text/event-stream", headers, batches.aclose)

    def end_answers(self) -> None:
        """End every answer that waits or runs, because this process is about to end."""
        self._dispatcher.close()
        for answer in list(self._answers):
            answer.break_off()

    def _headers(self, request: Request, answers: Sequence[Answer]) -> dict[str, str]:
        version = answers[0].version
        return {
            "x-request-id": request_id(request),
            "x-vicuna-worker": ",".join(_served_by(answers)),
            "x-vicuna-checkpoint": version.checkpoint_hash if version else "",
            "x-vicuna-template": version.template_hash if version else "",
        }


# ------------------------------------------------------------------------------------------- answers
async def _collect(answer: Answer) -> Finished:
    texts: list[str] = []
    reason = "stop"
    async with contextlib.aclosing(answer.pieces()) as batches:
        async for batch in batches:
            for part in batch:
                texts.append(part.text)
                reason = part.finish or reason
    return Finished("".join(texts), reason)


async def _collect_all(answers: Sequence[Answer], echo: Sequence[str]) -> list[Finished]:
    if len(answers) == 1:
        finished = [await _collect(answers[0])]
    else:
        finished = await _together([_collect(answer) for answer in answers])
    if not echo:
        return finished
    return [Finished(before + each.text, each.finish) for before, each in zip(echo, finished, strict=True)]


async def _together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; the first error ends the others and is raised as it is."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _merged(answers: Sequence[Answer]) -> AsyncGenerator[Batch, None]:
    """The pieces of all answers as they come, each batch with its answer's index."""
    if len(answers) == 1:
        async with contextlib.aclosing(answers[0].pieces()) as batches:
            async for batch in batches:
                yield 0, batch
        return
    queue: asyncio.Queue[Batch | BaseException | None] = asyncio.Queue(maxsize=4 * len(answers))
    tasks = [asyncio.ensure_future(_feed(queue, index, answer)) for index, answer in enumerate(answers)]
    try:
        running = len(tasks)
        while running:
            item = await queue.get()
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _feed(queue: "asyncio.Queue[Batch | BaseException | None]", index: int, answer: Answer) -> None:
    try:
        async with contextlib.aclosing(answer.pieces()) as batches:
            async for batch in batches:
                await queue.put((index, batch))
        await queue.put(None)
    except Exception as error:  # noqa: BLE001 (raised by the reader of the queue)
        await queue.put(error)


async def _events(
    writer: StreamWriter,
    answers: Sequence[Answer],
    first: Batch,
    batches: AsyncGenerator[Batch, None],
    echo: Sequence[str],
    n: int,
) -> AsyncGenerator[bytes, None]:
    def opening(index: int) -> bytes:
        return writer.opening(index) + (writer.text(index, echo[index]) if echo else b"")

    def written(batch: Batch) -> bytes:
        index, pieces = batch
        parts = [writer.text(index, part.text) for part in pieces if part.text]
        finish = pieces[-1].finish
        if finish:
            parts.append(writer.closing(index, finish, answers[index].served_by))
        return b"".join(parts)

    yield b"".join(opening(index) for index in range(len(answers))) + written(first)
    try:
        async for batch in batches:
            yield written(batch)
    except Fault as fault:
        yield error_event(fault)
        return
    except Exception:
        log.exception("a stream ended with a mistake of ours")
        yield error_event(faults.server_error("internal error; the service's log has the details"))
        return
    yield writer.ending(_usage(answers, n))


def _usage(answers: Sequence[Answer], n: int) -> Usage:
    """Each prompt is counted once, however many answers it has; the `n` answers of a prompt stand together."""
    return Usage(
        sum(answer.prompt_tokens for answer in answers[::n]), sum(answer.completion_tokens for answer in answers)
    )


def _served_by(answers: Sequence[Answer]) -> list[str]:
    return list(dict.fromkeys(worker for answer in answers for worker in answer.served_by))


def _seed(given: int | None) -> int:
    """Always a seed, so that a worker that takes over draws the tokens that the first one would have drawn."""
    return random.getrandbits(48) if given is None else given & (2**62 - 1)


def _job_id(name: str, index: int) -> str:
    return name if index == 0 else f"{name}-{index}"


# ------------------------------------------------------------------------------------------- errors
def as_json(value: object, request: Request, status: int = 200) -> Response:
    return Response(encode(value), status, {"x-request-id": request_id(request)}, JSON)


async def on_fault(request: Request, error: Exception) -> Response:
    """A request that cannot be answered, in OpenAI's shape."""
    fault = cast(Fault, error)  # registered for this type only
    headers = {"x-request-id": request_id(request), **fault.headers()}
    return Response(fault.encoded(), fault.status, headers, JSON)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Routes and methods that do not exist."""
    status = getattr(error, "status_code", 500)
    known = {404: f"there is no {request.url.path} here", 405: f"{request.method} is not answered here"}
    message = known.get(status, str(getattr(error, "detail", error)))
    extra = getattr(error, "headers", None) or {}
    body = Fault(message, status=status, code={404: "not_found", 405: "method_not_allowed"}.get(status)).encoded()
    return Response(body, status, {"x-request-id": request_id(request), **extra}, JSON)


async def on_client_gone(request: Request, error: Exception) -> Response:
    """Nobody reads this; 499 is what web servers log for it."""
    return Response(b"", 499)


async def on_mistake(request: Request, error: Exception) -> Response:
    """A mistake of ours: the log has the traceback, the client only the request id."""
    body = faults.server_error("internal error; the service's log has the details").encoded()
    return Response(body, 500, {"x-request-id": request_id(request)}, JSON)


ERROR_HANDLERS = {
    Fault: on_fault,
    HTTPException: on_http_error,
    ClientGone: on_client_gone,
    Exception: on_mistake,
}
