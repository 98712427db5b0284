"""What can go wrong with one request, as types that carry their HTTP status and OpenAI's error body."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vicuna.errors import VicunaError

_BRANCH = re.compile(r"[\[(-]|^(str|int|float|bool)$")
"""Parts of pydantic's error paths that name a branch of a union, not a field."""


MISDIRECTED = 421
"""HTTP's status for a request that has reached another server than it was meant for."""
LONGEST_WORDS = 300
"""Characters of what a client sent that an error repeats."""
MOST_NAMES = 20
"""Models that an error names."""


class Fault(VicunaError):
    """A request that cannot be answered. Every part travels: worker → controller → client.

    Source of statuses, types and codes: the error object of OpenAI's API reference.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        type: str = "invalid_request_error",  # noqa: A002 (OpenAI's word)
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            message: what is wrong, and what to do.
            status: of HTTP.
            type: OpenAI's kind of error.
            code: for programs.
            param: the field of the request that is at fault.
            retry_after: seconds after which the same request may be answered.
            headers: more headers of the reply.
        """
        super().__init__(message)
        self.status = status
        self.type = type
        self.code = code
        self.param = param
        self.retry_after = retry_after
        self._headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """OpenAI's error body."""
        return {"error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}}

    def encoded(self) -> bytes:
        """The body as JSON."""
        return json.dumps(self.body(), ensure_ascii=False).encode("utf-8", "replace")

    def headers(self) -> dict[str, str]:
        """Headers that belong to the error; `retry-after-ms` is what OpenAI's own client looks at first."""
        if self.retry_after is None:
            return self._headers
        seconds = max(0.0, self.retry_after)
        times = {"retry-after": str(max(1, math.ceil(seconds))), "retry-after-ms": str(math.ceil(seconds * 1000))}
        return times | self._headers


def from_body(status: int, body: bytes) -> Fault:
    """The fault that a worker sent with a status other than 200."""
    try:
        return from_said(status, json.loads(body))
    except ValueError:
        return from_said(status, None)


def from_said(status: int, said: Any) -> Fault:
    """The fault in what a worker said, OpenAI's error body decoded."""
    try:
        error = said["error"]
        return Fault(
            str(error["message"]),
            status=status,
            type=str(error["type"]),
            code=error.get("code"),
            param=error.get("param"),
        )
    except (KeyError, TypeError, AttributeError):
        return server_error(f"the worker answered with status {status}", status=502, code="bad_worker_reply")


def invalid(message: str, param: str | None = None, code: str | None = None, status: int = 400) -> Fault:
    """The request itself is wrong."""
    return Fault(message, status=status, code=code, param=param)


def server_error(message: str, status: int = 500, code: str | None = None, retry_after: float | None = None) -> Fault:
    """The request was fine, the service was not."""
    return Fault(message, status=status, type="server_error", code=code, retry_after=retry_after)


def model_not_found(model: str, served: Sequence[str]) -> Fault:
    """Nobody serves the model that was asked for."""
    more = f", and {len(served) - MOST_NAMES} more" if len(served) > MOST_NAMES else ""
    choices = ", ".join(served[:MOST_NAMES]) + more or "none yet; start one with: python -m vicuna.serve worker"
    message = f"no worker serves the model {model!r}. Served now: {choices}"
    return Fault(message, status=404, code="model_not_found", param="model")


def no_worker(model: str, gap: float) -> Fault:
    """The model is known, but all its workers are away."""
    message = f"every worker of {model!r} is away at the moment; try again in a few seconds"
    return server_error(message, status=503, code="no_worker", retry_after=max(1.0, gap))


def timeout(seconds: float | None) -> Fault:
    """The answer took longer than this service (or, with None, than the request itself) allows.

    The header keeps OpenAI's own client from asking twice more for what took too long.
    """
    said = "the request's own deadline" if seconds is None else f"{seconds:g} seconds"
    message = f"the answer was not finished within {said}"
    return Fault(message, status=504, type="server_error", code="timeout", headers={"x-should-retry": "false"})


def stopping() -> Fault:
    """This process ends before the answer does."""
    return server_error("this service is stopping; try again in a moment", 503, "stopping", retry_after=1.0)


def overloaded(model: str, waiting: int, retry_after: float = 1.0) -> Fault:
    """Too many requests wait already."""
    message = f"every worker of {model!r} is busy and {waiting} requests wait already; try again later"
    return Fault(message, status=429, type="rate_limit_error", code="rate_limit_exceeded", retry_after=retry_after)


def text_too_long(size: str, max_length: int) -> Fault:
    """A text to embed, of such a size, is longer than the model's context."""
    message = f"this model's context is {max_length} tokens and the text has {size}; embed it in parts"
    return Fault(message, status=400, code="context_length_exceeded", param="input")


def context_exceeded(size: str, max_length: int, param: str) -> Fault:
    """The prompt, of such a size ("51 tokens"), leaves no room for an answer."""
    message = (
        f"this model's context is {max_length} tokens and the prompt has {size}, which leaves no room for an answer; "
        "shorten it"
    )
    return Fault(message, status=400, code="context_length_exceeded", param=param)


def unsupported(field: str, what: str) -> Fault:
    """A setting that the engine lacks."""
    return Fault(f"{field}: {what}", status=400, code="unsupported_parameter", param=field)


def first_problem(errors: Sequence[Mapping[str, Any]]) -> Fault:
    """The first of pydantic's errors in words, with the field's path as `param`.

    Where a field may be of several types there is an error for each; the one that says more than "of another type", or
    that lies deepest, is about the type that was meant.
    """
    same_field = [each for each in errors if each["loc"][:1] == errors[0]["loc"][:1]]
    error = max(same_field, key=lambda each: (not each["type"].endswith("_type"), len(each["loc"])))
    where = ".".join(str(part) for part in error["loc"] if not _BRANCH.search(str(part)))
    where = where if len(where) <= LONGEST_WORDS else where[:LONGEST_WORDS] + "..."
    if error["type"].startswith("json_"):
        return invalid(f"the request's body is not JSON: {error['msg']}")
    return invalid(f"{where}: {error['msg']}" if where else str(error["msg"]), param=where or None)
