"""OpenAI's reply bodies and stream events, November 2026.

A stream's events differ only in their text, so everything around it is encoded once per stream: a gateway that passes
thousands of small pieces per second on must not build each one from objects.
"""

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vicuna.serve.api import logprobs
from vicuna.serve.api.whole import Whole
from vicuna.serve.encoding import encode
from vicuna.serve.faults import Fault
from vicuna.serve.fleet.failover import Answer, Part
from vicuna.serve.protocol import ServedModel

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Usage:
    """Tokens of a request and its answers."""

    prompt: int
    completion: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.prompt + self.completion

    def body(self) -> dict[str, Any]:
        """OpenAI's usage object."""
        return {"prompt_tokens": self.prompt, "completion_tokens": self.completion, "total_tokens": self.total}


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + encode(value) + b"\n\n"


def error_event(fault: Fault) -> bytes:
    """An error in the middle of a stream, as OpenAI's clients understand it."""
    return event(fault.body())


def fingerprint(version: ServedModel | None) -> str | None:
    """OpenAI's `system_fingerprint`: which weights answered."""
    return f"fp_{version.checkpoint_hash[:16]}" if version and version.checkpoint_hash else None


def served_by(answers: Sequence[Answer]) -> list[str]:
    """The workers that had a part in the answers, in order."""
    return list(dict.fromkeys(worker for answer in answers for worker in answer.served_by))


def extension(answers: Sequence[Answer]) -> dict[str, Any]:
    """What a reply says beside OpenAI's fields: who answered, with which weights.

    The choices of one request may come from two versions, where a new one takes over in between; then both are named.
    """
    versions = versions_of(answers)
    return {
        "workers": served_by(answers),
        "checkpoint_hash": named(version.checkpoint_hash for version in versions),
        "version": named(version.version for version in versions),
    }


def versions_of(answers: Sequence[Answer]) -> list[ServedModel]:
    """What computed the answers that have begun."""
    return [answer.version for answer in answers if answer.version]


def named(each: Iterable[str]) -> str:
    """Different ones, in order."""
    return ",".join(dict.fromkeys(filter(None, each)))


class Reply:
    """What chat and plain completions share: id, time, model. One object per request."""

    prefix = ""
    whole = ""
    chunk = ""

    def __init__(self, model: str) -> None:
        self.id = f"{self.prefix}-{random.getrandbits(128):032x}"
        self.created = int(time.time())
        self.model = model

    def head(self, kind: str, version: ServedModel | None) -> dict[str, Any]:
        """The fields with which bodies and events begin."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": fingerprint(version),
        }

    def body(self, wholes: Sequence[Whole], usage: Usage, answers: Sequence[Answer]) -> bytes:
        """The whole reply."""
        head = self.head(self.whole, answers[0].version)
        choices = [
            {"index": index, **self.content(whole), "finish_reason": whole.finish} for index, whole in enumerate(wholes)
        ]
        return encode({**head, "choices": choices, "usage": usage.body(), "vicuna": extension(answers)})

    def stream(self, version: ServedModel | None, include_usage: bool, echo: Sequence[str]) -> "StreamWriter":
        """The writer of this reply's events; `echo`: what stands before each choice's text, or nothing."""
        return StreamWriter(self, version, include_usage, echo)

    def content(self, whole: Whole) -> dict[str, Any]:
        """What a choice of a body says."""
        raise NotImplementedError

    def opening(self) -> dict[str, Any] | None:
        """What the first event of a choice says; None: there is no such event."""
        raise NotImplementedError

    def piece(self, part: Part, columns: logprobs.Columns) -> dict[str, Any]:
        """What an event of a choice says."""
        raise NotImplementedError

    def closing(self) -> dict[str, Any]:
        """What the last event of a choice says."""
        raise NotImplementedError


class ChatReply(Reply):
    """Replies of /v1/chat/completions."""

    prefix, whole, chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def content(self, whole: Whole) -> dict[str, Any]:
        rows = None if whole.logprobs is None else logprobs.chat(whole.logprobs)
        return {"message": whole.message(), "logprobs": rows}

    def opening(self) -> dict[str, Any] | None:
        return {"delta": {"role": "assistant", "content": ""}, "logprobs": None}

    def piece(self, part: Part, columns: logprobs.Columns) -> dict[str, Any]:
        delta: Mapping[str, Any] = part.delta or {}
        if part.text or not delta:
            delta = {"content": part.text, **delta}
        return {"delta": delta, "logprobs": None if part.logprobs is None else logprobs.chat(part.logprobs)}

    def closing(self) -> dict[str, Any]:
        return {"delta": {}, "logprobs": None}


class CompletionReply(Reply):
    """Replies of /v1/completions."""

    prefix, whole, chunk = "cmpl", "text_completion", "text_completion"

    def content(self, whole: Whole) -> dict[str, Any]:
        rows = None if whole.logprobs is None else logprobs.Columns(len(whole.echo)).of(whole.logprobs)
        return {"text": whole.text, "logprobs": rows}

    def opening(self) -> dict[str, Any] | None:
        return None

    def piece(self, part: Part, columns: logprobs.Columns) -> dict[str, Any]:
        return {"text": part.text, "logprobs": None if part.logprobs is None else columns.of(part.logprobs)}

    def closing(self) -> dict[str, Any]:
        return {"text": "", "logprobs": None}


class StreamWriter:
    """Writes one reply's events."""

    _MARK = "\x00text\x00"

    def __init__(self, reply: Reply, version: ServedModel | None, include_usage: bool, echo: Sequence[str]) -> None:
        self._reply = reply
        self._head = reply.head(reply.chunk, version)
        self._include_usage = include_usage
        self._echo = echo
        self._around: dict[int, tuple[bytes, bytes]] = {}
        self._columns: dict[int, logprobs.Columns] = {}

    def opening(self, index: int) -> bytes:
        """The events that come before a choice's own text."""
        said = self._reply.opening()
        first = b"" if said is None else self._event(index, said)
        return first + self.parts(index, [Part(self._echo[index])]) if self._echo else first

    def parts(self, index: int, parts: Sequence[Part]) -> bytes:
        """The events of a choice's next parts, but for its last event."""
        before, after = self._around.get(index) or self._split(index)
        events = []
        for part in parts:
            if part.logprobs is not None or part.delta is not None:
                events.append(self._event(index, self._reply.piece(part, self._columns_of(index))))
            elif part.text:
                events.append(before + encode(part.text) + after)
        return b"".join(events)

    def closing(self, index: int, finish: str, answer: Answer) -> bytes:
        """The last event of a choice."""
        return self._event(index, self._reply.closing(), finish, {"vicuna": extension([answer])})

    def ending(self, usage: Usage) -> bytes:
        """What comes after all choices: the usage if it was asked for, and the end mark."""
        if not self._include_usage:
            return DONE
        return event({**self._head, "choices": [], "usage": usage.body()}) + DONE

    def _event(
        self, index: int, said: Mapping[str, Any], finish: str | None = None, extra: Mapping[str, Any] | None = None
    ) -> bytes:
        choice = {"index": index, **said, "finish_reason": finish}
        usage = {"usage": None} if self._include_usage else {}
        return event({**self._head, "choices": [choice], **usage, **(extra or {})})

    def _split(self, index: int) -> tuple[bytes, bytes]:
        """What stands before and behind the text in a choice's events."""
        whole = self._event(index, self._reply.piece(Part(self._MARK), self._columns_of(index)))
        before, _, after = whole.rpartition(encode(self._MARK))
        self._around[index] = before, after
        return before, after

    def _columns_of(self, index: int) -> logprobs.Columns:
        if index not in self._columns:
            self._columns[index] = logprobs.Columns(len(self._echo[index]) if self._echo else 0)
        return self._columns[index]
