"""Asking an OpenAI-compatible server: retries, limits, and what went wrong in one line."""

import asyncio
import os
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import openai

from vicuna.errors import VicunaError

T = TypeVar("T")
Messages = Sequence[Mapping[str, str]]

WORKER_HEADER = "x-vicuna-worker"
CHECKPOINT_HEADER = "x-vicuna-checkpoint"
TEMPLATE_HEADER = "x-vicuna-template"
IDENTITY = ("checkpoint_hash", "template_hash")
"""Fields of our model listing that tell which weights are served; other servers list none."""


@dataclass(frozen=True)
class Reply:
    """One completed call."""

    text: str
    finish_reason: str
    """"stop", "length", ...; empty where the server gives none."""
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float
    """From the first try to the whole answer."""
    worker: str = ""
    checkpoint: str = ""
    template: str = ""


class Refused(VicunaError):
    """The server says that this very request cannot be answered, now or later (too long, filtered, malformed)."""


class Unanswered(VicunaError):
    """No answer after every try; a later run may have more luck."""


class Client:
    """One endpoint and how to call it. Use as an async context manager."""

    def __init__(self, base_url: str, key_env: str, *, timeout: float, attempts: int, flag: str) -> None:
        """Make a client; nothing is sent yet.

        Args:
            base_url: address up to and including /v1.
            key_env: environment variable with the key; empty, or unset for a keyless server, sends none.
            timeout: seconds for one try.
            attempts: tries for each call.
            flag: the group of settings that describes this endpoint ("endpoint" or "judge"), for messages.
        """
        self.base_url = base_url
        self._key_env = key_env
        self._flag = flag
        self._attempts = attempts
        # OpenAI's newer models refuse max_tokens; several other servers know nothing else.
        official = urllib.parse.urlsplit(base_url).hostname == "api.openai.com"
        self._limit = "max_completion_tokens" if official else "max_tokens"
        key = os.environ.get(key_env, "") if key_env else ""
        self._api = openai.AsyncOpenAI(
            base_url=base_url, api_key=key or "none", timeout=timeout, max_retries=attempts - 1
        )

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._api.close()

    async def models(self) -> dict[str, str]:
        """The served models: name → hashes of weights and template, where the server lists them, else "".

        Raises:
            VicunaError: no server answers there, or it wants a key.
        """
        try:
            listing = await self._api.with_options(max_retries=0, timeout=10).models.list()
            return {model.id: _weights(model.model_dump()) for model in listing.data}
        except openai.APIConnectionError as error:
            raise Unanswered(f"no server answers at {self.base_url}") from error
        except openai.APIStatusError as error:
            raise self._status_error(error, "") from error
        except (openai.OpenAIError, TypeError, AttributeError, ValueError) as error:
            raise VicunaError(f"{self.base_url}/models does not list models in OpenAI's manner") from error

    async def ask(self, model: str, messages: Messages, max_tokens: int, params: Mapping[str, Any]) -> Reply:
        """One chat completion.

        Args:
            model: name at the endpoint.
            messages: OpenAI chat messages.
            max_tokens: the most tokens of the answer.
            params: further request fields; those that OpenAI's API does not have go under "extra_body".

        Raises:
            Refused: this request can never be answered.
            Unanswered: no usable answer after every try.
            VicunaError: the endpoint does not serve the model or does not accept the key.
        """
        start = time.perf_counter()
        for attempt in range(1, self._attempts + 1):
            reply = await self._try(model, messages, {self._limit: max_tokens, **params}, start)
            if reply is not None:
                return reply
            if attempt < self._attempts:
                await asyncio.sleep(min(0.1 * 2**attempt, 8.0))
        raise Unanswered(f"{model} at {self.base_url}: the answers are no chat completions")

    async def _try(self, model: str, messages: Messages, params: Mapping[str, Any], start: float) -> Reply | None:
        """A reply, or None where the server's 200 holds no chat completion."""
        create: Callable[..., Awaitable[Any]] = self._api.chat.completions.with_raw_response.create
        try:
            raw = await create(model=model, messages=list(messages), **params)
            return _reply(raw.parse(), raw.headers, time.perf_counter() - start)
        except openai.APIStatusError as error:
            raise self._status_error(error, model) from error
        except openai.APITimeoutError as error:
            raise Unanswered(f"{model} at {self.base_url}: no answer within {self._api.timeout} s") from error
        except openai.APIConnectionError as error:
            raise Unanswered(f"{model} at {self.base_url}: the connection failed ({error.__cause__})") from error
        except (openai.APIResponseValidationError, AttributeError, IndexError, TypeError, ValueError):
            return None

    def _status_error(self, error: openai.APIStatusError, model: str) -> VicunaError:
        where = f"{self.base_url} ({error.status_code})"
        said = " ".join(str(error.message).split())[:300]
        if error.status_code in (401, 403):
            name = self._key_env or "NAME"
            return VicunaError(
                f"{where} does not accept the key: put it into the environment variable {name}"
                + ("" if self._key_env else f" and give --{self._flag}.key_env {name}")
            )
        if error.status_code == 404:
            return VicunaError(f"{where} does not serve {model or 'a model list'}: {said}")
        if error.status_code in (400, 413, 422):
            return Refused(f"{model} at {where}: {said}")
        return Unanswered(f"{model} at {where}: {said}")


def _weights(listing: Mapping[str, Any]) -> str:
    return "+".join(str(listing[key]) for key in IDENTITY if listing.get(key))


def _reply(completion: Any, headers: Mapping[str, str], seconds: float) -> Reply:
    choice, usage = completion.choices[0], completion.usage
    text = choice.message.content
    if text is not None and not isinstance(text, str):
        raise TypeError("the content of an answer is text")
    return Reply(
        text=text or "",
        finish_reason=choice.finish_reason or "",
        prompt_tokens=usage.prompt_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
        seconds=round(seconds, 4),
        worker=headers.get(WORKER_HEADER, ""),
        checkpoint=headers.get(CHECKPOINT_HEADER, ""),
        template=headers.get(TEMPLATE_HEADER, ""),
    )


async def for_each(items: Iterable[T], concurrency: int, work: Callable[[T], Awaitable[None]]) -> None:
    """Await `work(item)` for every item, at most `concurrency` at a time; the first error stops the rest."""
    queue = iter(items)

    async def worker() -> None:
        for item in queue:
            await work(item)

    tasks = [asyncio.create_task(worker()) for _ in range(concurrency)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
