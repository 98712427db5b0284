"""What the engine `upstream` says and hears: OpenAI's requests, streams and errors, November 2026."""

import json
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from typing import Any

from vicuna.serve import faults
from vicuna.serve.engines import Piece
from vicuna.serve.faults import Fault
from vicuna.serve.protocol import Job, Sampling

LONGEST_EVENT = 16 * 1024 * 1024
"""Bytes of one event; a stream without line ends is not read for ever."""
LONGEST_MESSAGE = 2000
IMPOSSIBLE = -9999.0
_SEED_BITS = 31
"""Some servers take a seed of 32 bits with a sign."""
_TO_CLIENT = (400, 413, 415, 422)
"""Statuses for which the request itself is at fault."""
_UNASKED = Sampling()
_SAME_NAME = ("top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "ignore_eos")


class Full(Exception):
    """The server has no room for the request at the moment."""


# ------------------------------------------------------------------------------------------- requests
def request(job: Job, model: str, resume: str, limit: str) -> tuple[str, dict[str, Any]]:
    """Path and body for one answer.

    Args:
        job: what to answer. Of an answer that is continued, the white space at the end of `shown` is left out, because
            it belongs to the token that comes next.
        model: the model's name there.
        resume: how a chat is continued, see UpstreamConfig.
        limit: the field that holds the most tokens of a chat's answer.
    """
    body = {"model": model, "stream": True, "stream_options": {"include_usage": True}, **_sampling(job.sampling)}
    shown = job.shown.rstrip()
    if job.messages is None:
        body["prompt"] = list(job.tokens) if job.tokens is not None else (job.prompt or "") + shown
        return "/completions", body | _logprobs(job, "logprobs") | _limit(job, "max_tokens") | job.extras
    body["messages"] = [{"role": turn.role, "content": turn.content} for turn in job.messages]
    body |= _logprobs(job, "top_logprobs") | _limit(job, limit) | job.extras
    if job.shown:
        body["messages"] = [*body["messages"], {"role": "assistant", "content": shown}]
        if resume == "continue_final_message":
            body |= {"continue_final_message": True, "add_generation_prompt": False}
    return "/chat/completions", body


def _sampling(sampling: Sampling) -> dict[str, Any]:
    """Only what differs from OpenAI's defaults: some servers refuse a setting that they lack, whatever its value."""
    given: dict[str, Any] = {"temperature": sampling.temperature, "seed": sampling.seed & (2**_SEED_BITS - 1)}
    for name in _SAME_NAME:
        if getattr(sampling, name) != getattr(_UNASKED, name):
            given[name] = getattr(sampling, name)
    if sampling.stop:
        given["stop"] = list(sampling.stop)
    if sampling.stop_token_ids:
        given["stop_token_ids"] = list(sampling.stop_token_ids)
    return given


def _limit(job: Job, name: str) -> dict[str, Any]:
    return {} if job.sampling.max_tokens is None else {name: job.sampling.max_tokens}


def _logprobs(job: Job, name: str) -> dict[str, Any]:
    if job.logprobs is None:
        return {}
    return {"logprobs": True, name: job.logprobs} if job.messages is not None else {name: job.logprobs}


# ------------------------------------------------------------------------------------------- streams
async def events(parts: AsyncIterable[bytes]) -> AsyncGenerator[Any, None]:
    """The JSON of each server-sent event, up to `[DONE]` or the end.

    Raises:
        ValueError: what comes is not that.
    """
    rest = b""
    async for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        if len(rest) > LONGEST_EVENT:
            raise ValueError("an event has no end")
        for line in lines:
            field, _, value = line.strip().partition(b":")
            if field != b"data":  # comments, and fields that say nothing here
                continue
            if value.strip() == b"[DONE]":
                return
            yield json.loads(value)


class Reading:
    """Makes an answer's pieces of a stream's events."""

    def __init__(self, job: Job) -> None:
        self.finish: str | None = None
        self._usage: tuple[int, int] | None = None
        self._said = 0
        self._overlap = job.shown[len(job.shown.rstrip()) :]

    def piece(self, event: Mapping[str, Any]) -> Piece | None:
        """What an event adds to the answer.

        Raises:
            Fault: the server says that something went wrong.
            ValueError, KeyError, TypeError, AttributeError: it is not of OpenAI's shape.
        """
        if "error" in event:
            raise stream_fault(event["error"])
        if usage := event.get("usage"):
            self._usage = int(usage["prompt_tokens"]), int(usage.get("completion_tokens") or 0)
        if not event.get("choices"):
            return None
        choice = event["choices"][0]
        self.finish = choice.get("finish_reason") or self.finish
        delta = choice.get("delta") or {}
        text = self._beyond_overlap(choice.get("text") or delta.get("content") or "")
        more = {name: value for name, value in delta.items() if name not in ("role", "content") and value}
        rows = _rows(choice["logprobs"]) if choice.get("logprobs") else None
        if not (text or more or rows):
            return None
        self._said += 1
        return Piece(text, logprobs=rows, delta=more or None)

    def last(self) -> Piece:
        """The piece that ends the answer. A server that does not count is taken to send a token with each piece."""
        return Piece(finish=self.finish, usage=self._usage or (0, self._said))

    def _beyond_overlap(self, text: str) -> str:
        """The text without the white space that the client has already from before."""
        while self._overlap and text:
            if text[0] != self._overlap[0]:
                self._overlap = ""
                break
            text, self._overlap = text[1:], self._overlap[1:]
        return text


def _rows(logprobs: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Rows in a chat's shape, also from the older one of plain completions."""
    if "tokens" not in logprobs:
        return [
            _row(**each) | {"top_logprobs": [_row(**other) for other in each.get("top_logprobs") or ()]}
            for each in logprobs.get("content") or ()
        ]
    tops = logprobs.get("top_logprobs") or [{}] * len(logprobs["tokens"])
    return [
        _row(token, logprob) | {"top_logprobs": [_row(*pair) for pair in (top or {}).items()]}
        for token, logprob, top in zip(logprobs["tokens"], logprobs["token_logprobs"], tops, strict=True)
    ]


def _row(token: str, logprob: float | None, bytes: Any = None, **more: Any) -> dict[str, Any]:  # noqa: A002
    """JSON has no infinity, and OpenAI says -9999 where a token is impossible."""
    number = 0.0 if logprob is None else max(IMPOSSIBLE, float(logprob))
    return {"token": token, "logprob": number, "bytes": bytes or list(token.encode("utf-8", "replace"))}


# ------------------------------------------------------------------------------------------- errors
def failed(what: str) -> Fault:
    """The server behind this worker did not do its part; another worker may."""
    return faults.server_error(f"the server behind this worker {what}", status=502, code="engine_failed")


def stream_fault(error: Any) -> Fault:
    """An error in the middle of a stream."""
    said = _said(error)
    if isinstance(error, dict) and error.get("type") == "invalid_request_error":
        return Fault(said, status=400, code=_text(error.get("code")), param=_text(error.get("param")))
    return failed(f"broke its answer off: {said}")


def refusal(status: int, content: bytes) -> Fault:
    """A reply with a status other than 200.

    Raises:
        Full: the server is only busy.
    """
    if status == 429:
        raise Full
    try:
        body = json.loads(content)
        error = body.get("error", body)
    except (ValueError, AttributeError, RecursionError):
        error = None
    said = _said(error)
    if status not in _TO_CLIENT:
        return failed(f"answered with status {status}: {said}")
    details = error if isinstance(error, dict) else {}
    return Fault(said, status=status, code=_text(details.get("code")), param=_text(details.get("param")))


def _said(error: Any) -> str:
    said = error.get("message") or error.get("detail") if isinstance(error, dict) else error
    return str(said or "it does not say why")[:LONGEST_MESSAGE]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
