"""One OpenAI-compatible service: what it serves, and answers as they grow. Uses OpenAI's own client."""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import openai

from vicuna.config import SamplingConfig
from vicuna.conversation import Message
from vicuna.errors import VicunaError

LISTING = 10.0
"""Seconds that a service may take to list its models."""


class ServiceError(VicunaError):
    """The service did not give (the whole of) what was asked for; the message is one line with the cause."""


@dataclass(frozen=True)
class Served:
    """A model that can be talked to."""

    name: str
    context: int | None
    """Most tokens that prompt and answer may have together; None where the service does not say."""


class Answer:
    """An answer as it grows."""

    def __init__(self, client: openai.OpenAI, asked: dict[str, Any]) -> None:
        self.text = ""
        self.finish = ""
        """Why it ended, in the API's words; "" while it grows, or where it broke off."""
        self.prompt_tokens = 0
        self.tokens = 0
        """Of the answer; 0 where the service does not count."""
        self.workers: list[str] = []
        """Who computed it, where a vicuna fleet answers."""
        self.seconds = 0.0
        self._client = client
        self._asked = asked

    def pieces(self) -> Generator[str, None, None]:
        """The answer's text as it comes, once. Closing the generator closes the connection, which ends the computation
        at the service.

        Raises:
            ServiceError: there is no answer, or it broke off; `text` has what came before.
        """
        began = time.monotonic()
        request_id: str | None = None
        try:
            reply = self._client.chat.completions.with_raw_response.create(
                stream=True, stream_options={"include_usage": True}, **self._asked
            )
            request_id = reply.headers.get("x-request-id", "")
            with reply.parse() as chunks:
                for chunk in chunks:
                    if piece := self._take(chunk):
                        yield piece
            if not self.finish:
                raise ServiceError(_line("the service ended the answer in the middle", request_id))
        except openai.OpenAIError as error:
            raise explain(error, str(self._client.base_url), request_id) from error
        finally:
            self.seconds = time.monotonic() - began

    def _take(self, chunk: Any) -> str:
        if chunk.usage is not None:
            self.prompt_tokens, self.tokens = chunk.usage.prompt_tokens, chunk.usage.completion_tokens
        self.workers = (getattr(chunk, "vicuna", None) or {}).get("workers", self.workers)
        if not chunk.choices:
            return ""
        choice = chunk.choices[0]
        self.finish = choice.finish_reason or self.finish
        piece = (choice.delta.content or "").encode("utf-8", "replace").decode()  # half a surrogate pair is no text
        self.text += piece
        return piece


class Service:
    """A service behind one address."""

    def __init__(self, base_url: str, key: str) -> None:
        """
        Args:
            base_url: what stands before /chat/completions.
            key: API key; empty where the service wants none.
        """
        self.base_url = base_url
        # A fleet of ours tries again by itself; anybody else's error is for the person to see.
        self._client = openai.OpenAI(base_url=base_url, api_key=key or "none", max_retries=0)

    def models(self) -> list[Served]:
        """What is served now.

        Raises:
            ServiceError: it does not say.
        """
        try:
            page = self._client.with_options(timeout=LISTING).models.list()
        except openai.OpenAIError as error:
            raise explain(error, self.base_url) from error
        return [Served(model.id, getattr(model, "max_model_len", None)) for model in page.data]

    def answer(self, model: str, messages: Sequence[Message], sampling: SamplingConfig) -> Answer:
        """The answer to the last message; nothing is sent before it is iterated."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        return Answer(self._client, {"model": model, "messages": turns, **_settings(sampling)})


def _settings(sampling: SamplingConfig) -> dict[str, Any]:
    """The fields of a request; those that OpenAI does not have are sent only where they change something."""
    settings: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
    }
    if sampling.seed is not None:
        settings["seed"] = sampling.seed
    extra = {name: getattr(sampling, name) for name in ("top_k", "min_p") if getattr(sampling, name)}
    return settings | ({"extra_body": extra} if extra else {})


def explain(error: openai.OpenAIError, address: str, request_id: str | None = None) -> ServiceError:
    """An error of the API as one line: cause, status, code, and the request's id to find it in the service's log.

    Args:
        error: from OpenAI's client.
        address: of the service.
        request_id: of a reply that had begun; "" where it has none.
    """
    cause = error.__cause__ or error
    if isinstance(error, openai.APIConnectionError) and request_id is not None:
        return ServiceError(_line(f"the connection broke off ({cause})", request_id))
    if isinstance(error, openai.APITimeoutError):
        return ServiceError(f"{address} did not answer in time")
    if isinstance(error, openai.APIConnectionError):
        return ServiceError(f"nothing answers at {address} ({cause}); --api sets another address")
    if not isinstance(error, openai.APIError):
        return ServiceError(str(error))
    said = error.body.get("message") if isinstance(error.body, dict) else None
    status, found = "", request_id or ""
    if isinstance(error, openai.APIStatusError):
        status, found = str(error.status_code), error.request_id or found
    label = " ".join(str(word) for word in (status, error.code) if word)
    text = str(said or error.message)
    if isinstance(error, openai.AuthenticationError):
        text += "; the environment variable VICUNA_API_KEY holds the key to send"
    return ServiceError(_line(f"{label}: {text}" if label else text, found))


def _line(text: str, request_id: str) -> str:
    words = " ".join(text.split())
    return f"{words} (request {request_id})" if request_id else words
