"""OpenAI's reply bodies and stream events, November 2026.

A stream's events differ only in their text, so everything around it is encoded once per stream: a gateway that passes
thousands of small pieces per second on must not build each one from objects.
"""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vicuna.serve.faults import Fault
from vicuna.serve.protocol import ServedModel

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Usage:
    """Tokens of a request and its answers."""

    prompt: int
    completion: int

    def body(self) -> dict[str, Any]:
        """OpenAI's usage object."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }


@dataclass(frozen=True)
class Finished:
    """One finished answer."""

    text: str
    finish: str


def encode(value: Any) -> bytes:
    """JSON in UTF-8; lone surrogates, which UTF-8 cannot hold, become question marks."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + encode(value) + b"\n\n"


def error_event(fault: Fault) -> bytes:
    """An error in the middle of a stream, as OpenAI's clients understand it."""
    return event(fault.body())


def fingerprint(version: ServedModel | None) -> str | None:
    """OpenAI's `system_fingerprint`: which weights answered."""
    return f"fp_{version.checkpoint_hash[:16]}" if version and version.checkpoint_hash else None


class Reply:
    """What chat and plain completions share: id, time, model. One object per request."""

    prefix = ""
    whole = ""
    chunk = ""

    def __init__(self, model: str) -> None:
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = model

    def _head(self, kind: str, version: ServedModel | None) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": fingerprint(version),
        }

    def body(
        self, answers: Sequence[Finished], usage: Usage, version: ServedModel | None, served_by: Sequence[str]
    ) -> bytes:
        """The whole reply."""
        choices = [self._choice(index, answer) for index, answer in enumerate(answers)]
        extension = {"workers": list(served_by), "checkpoint_hash": version.checkpoint_hash if version else ""}
        return encode(
            {**self._head(self.whole, version), "choices": choices, "usage": usage.body(), "vicuna": extension}
        )

    def _choice(self, index: int, answer: Finished) -> dict[str, Any]:
        raise NotImplementedError

    def _delta(self, index: int, delta: Any, finish: str | None) -> dict[str, Any]:
        raise NotImplementedError

    def _opening(self, index: int) -> Any:
        """What the first event of a choice carries; None: there is no such event."""
        return None

    def _text(self, text: str) -> Any:
        raise NotImplementedError

    def _closing(self) -> Any:
        raise NotImplementedError

    def stream(self, version: ServedModel | None, include_usage: bool) -> "StreamWriter":
        """The writer of this reply's events."""
        return StreamWriter(self, version, include_usage)


class ChatReply(Reply):
    """Replies of /v1/chat/completions."""

    prefix, whole, chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def _choice(self, index: int, answer: Finished) -> dict[str, Any]:
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": answer.finish}

    def _delta(self, index: int, delta: Any, finish: str | None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}

    def _opening(self, index: int) -> Any:
        return {"role": "assistant", "content": ""}

    def _text(self, text: str) -> Any:
        return {"content": text}

    def _closing(self) -> Any:
        return {}


class CompletionReply(Reply):
    """Replies of /v1/completions."""

    prefix, whole, chunk = "cmpl", "text_completion", "text_completion"

    def _choice(self, index: int, answer: Finished) -> dict[str, Any]:
        return {"index": index, "text": answer.text, "logprobs": None, "finish_reason": answer.finish}

    def _delta(self, index: int, delta: Any, finish: str | None) -> dict[str, Any]:
        return {"index": index, "text": delta, "logprobs": None, "finish_reason": finish}

    def _text(self, text: str) -> Any:
        return text

    def _closing(self) -> Any:
        return ""


class StreamWriter:
    """Writes one reply's events."""

    _MARK = "\x00text\x00"

    def __init__(self, reply: Reply, version: ServedModel | None, include_usage: bool) -> None:
        self._reply = reply
        self._head = reply._head(reply.chunk, version)
        self._include_usage = include_usage
        self._around: dict[int, tuple[bytes, bytes]] = {}

    def _event(self, choices: list[dict[str, Any]], extra: Mapping[str, Any] | None = None) -> bytes:
        usage = {"usage": None} if self._include_usage else {}
        return event({**self._head, "choices": choices, **usage, **(extra or {})})

    def opening(self, index: int) -> bytes:
        """The event that comes before a choice's text, if this kind of reply has one."""
        delta = self._reply._opening(index)
        return b"" if delta is None else self._event([self._reply._delta(index, delta, None)])

    def text(self, index: int, text: str) -> bytes:
        """A piece of a choice's text."""
        around = self._around.get(index)
        if around is None:
            whole = self._event([self._reply._delta(index, self._reply._text(self._MARK), None)])
            before, after = whole.split(encode(self._MARK))
            around = self._around[index] = (before, after)
        return around[0] + encode(text) + around[1]

    def closing(self, index: int, finish: str, served_by: Sequence[str]) -> bytes:
        """The last event of a choice; it names the workers when there was more than one."""
        extra = {"vicuna": {"workers": list(served_by)}} if len(served_by) > 1 else None
        return self._event([self._reply._delta(index, self._reply._closing(), finish)], extra)

    def ending(self, usage: Usage) -> bytes:
        """What comes after all choices: the usage if it was asked for, and the end mark."""
        if not self._include_usage:
            return DONE
        return self._event([], {"usage": usage.body()}) + DONE
