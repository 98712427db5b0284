"""The page's side of the API: what is served, and answers as they grow. Uses OpenAI's own client."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import openai

MODELS_AGE = 1.0
"""Seconds for which a list of models serves every open page."""


@dataclass(frozen=True)
class Problem:
    """Why there is no (whole) answer, in words for people."""

    title: str
    message: str
    request_id: str = ""


@dataclass
class Answer:
    """An answer as it grows."""

    text: str = ""
    model: str = ""
    worker: str = ""
    request_id: str = ""
    checkpoint: str = ""
    tokens: int = 0
    finish: str = ""
    seconds: float = 0.0
    problem: Problem | None = None
    started: float = field(default_factory=time.monotonic)


class Service:
    """An OpenAI-compatible API."""

    def __init__(self, api: str, key: str) -> None:
        """
        Args:
            api: address without /v1.
            key: API key; the service may want none.
        """
        self.api = api.rstrip("/")
        self._client = openai.AsyncOpenAI(base_url=f"{self.api}/v1", api_key=key or "none", max_retries=0)
        self._models: list[str] = []
        self._problem: Problem | None = None
        self._asked = -MODELS_AGE
        self._asking = asyncio.Lock()

    async def models(self) -> tuple[list[str], Problem | None]:
        """The names of what is served now, or why they are not known."""
        async with self._asking:
            if time.monotonic() - self._asked >= MODELS_AGE:
                try:
                    page = await self._client.with_options(timeout=5.0).models.list()
                    self._models, self._problem = [model.id for model in page.data], None
                except openai.OpenAIError as error:
                    self._models, self._problem = [], explain(error, self.api)
                self._asked = time.monotonic()
            return self._models, self._problem

    async def answer(
        self, model: str, messages: Sequence[Mapping[str, str]], sampling: Mapping[str, Any], stop: asyncio.Event
    ) -> AsyncGenerator[Answer, None]:
        """The answer again and again, each time with more text; ends early when `stop` is set.

        Ending early closes the connection, which ends the computation at the worker.
        """
        answer, changed = Answer(model=model), asyncio.Event()
        reader = asyncio.ensure_future(self._read(answer, changed, messages, sampling))
        stopped = asyncio.ensure_future(stop.wait())
        try:
            while not reader.done() and not stop.is_set():
                waiting = asyncio.ensure_future(changed.wait())
                await asyncio.wait({reader, stopped, waiting}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if changed.is_set() and not reader.done():
                    changed.clear()
                    yield answer
                    await asyncio.wait({reader, stopped}, timeout=PAUSE)
            if reader.done():
                reader.result()
            else:
                answer.finish = "stopped"
            answer.seconds = time.monotonic() - answer.started
            yield answer
        finally:
            stopped.cancel()
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(
        self,
        answer: Answer,
        changed: asyncio.Event,
        messages: Sequence[Mapping[str, str]],
        sampling: Mapping[str, Any],
    ) -> None:
        try:
            async with self._stream(answer, messages, sampling) as chunks:
                async for chunk in chunks:
                    _take(answer, chunk)
                    changed.set()
        except openai.OpenAIError as error:
            answer.problem = explain(error, self.api, answer.request_id)

    @contextlib.asynccontextmanager
    async def _stream(
        self, answer: Answer, messages: Sequence[Mapping[str, str]], sampling: Mapping[str, Any]
    ) -> AsyncIterator[AsyncIterator[Any]]:
        asked: dict[str, Any] = {"model": answer.model, "messages": list(messages), **sampling}
        reply = await self._client.chat.completions.with_raw_response.create(
            stream=True, stream_options={"include_usage": True}, **asked
        )
        answer.request_id = reply.headers.get("x-request-id", "")
        answer.worker = reply.headers.get("x-vicuna-worker", "")
        answer.checkpoint = reply.headers.get("x-vicuna-checkpoint", "")
        stream: Any = reply.parse()
        try:
            yield stream
        finally:
            await stream.close()


PAUSE = 0.04
"""Seconds between two updates of the page while an answer grows; the first one is not delayed."""


def _take(answer: Answer, chunk: Any) -> None:
    if chunk.usage is not None:
        answer.tokens = chunk.usage.completion_tokens
    if not chunk.choices:
        return
    choice = chunk.choices[0]
    answer.text += choice.delta.content or ""
    answer.finish = choice.finish_reason or answer.finish
    workers = (getattr(chunk, "vicuna", None) or {}).get("workers", [])
    if workers:
        answer.worker = " → ".join(workers)


def explain(error: openai.OpenAIError, api: str, request_id: str = "") -> Problem:
    """An error of the API in words."""
    if isinstance(error, openai.APITimeoutError):
        return Problem("The service did not answer in time", f"Nothing came from {api}.", request_id)
    if isinstance(error, openai.APIConnectionError):
        cause = str(error.__cause__ or error)
        return Problem("The service cannot be reached", f"Nothing answers at {api} ({cause}).", request_id)
    if isinstance(error, openai.APIStatusError):
        given = error.request_id or request_id
        titles = {
            400: "The request was not accepted",
            401: "The service wants a key",
            403: "The service's key does not allow this",
            404: "This model is not served now",
            413: "The conversation is too long",
            429: "The service is busy",
            503: "This model is not available at the moment",
            504: "The answer took too long",
        }
        return Problem(titles.get(error.status_code, "The service failed"), _message(error), given)
    if isinstance(error, openai.APIError):
        return Problem("The answer broke off", _message(error), request_id)
    return Problem("The request could not be made", str(error), request_id)


def _message(error: openai.APIError) -> str:
    body = error.body
    said = body.get("message") if isinstance(body, dict) else None
    hint = (
        ". Who runs this page gives it a key by VICUNA_API_KEY."
        if isinstance(error, openai.AuthenticationError)
        else ""
    )
    return str(said or error.message) + hint
