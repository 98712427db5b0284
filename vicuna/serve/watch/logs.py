"""What is written down while serving: a line per event, as text for people or as JSON for programs.

Every line of a request carries its id, from the gateway to the worker. Nothing that a client sends can break a line in
two, and keys are struck out wherever they turn up. A thread writes, so that a slow terminal holds up no answer.
"""

import contextvars
import json
import logging
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from vicuna.serve.config import LogConfig
from vicuna.serve.watch.tracing import OFF, Span
from vicuna.settings.tree import printable

LONGEST = 8192
"""Characters of a message, of one value, and of a traceback; what is longer is cut, and says so."""
BACKLOG = 10_000
"""Lines that may wait to be written; while nobody reads them, further ones are dropped and counted."""
GATHER = 0.02
"""Seconds in which lines gather, so that they are written together."""
LAST_WORDS = 2.0
"""Seconds that the end of the process waits for the last lines to be written."""


@dataclass(slots=True)
class Entry:
    """What is known of one request; the fields of its line in the log."""

    request_id: str
    span: Span = OFF
    key: str = ""
    """Who asks: the id of the API key, never the key."""
    model: str = ""
    workers: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    queued: float | None = None
    """Seconds until a worker was found; of several answers the longest."""
    first_token: float | None = None
    """Seconds until the first token; of several answers the shortest."""
    status: int = 0
    """Of the whole request, where it is not that of the reply's first line: a stream that broke off."""
    error: str = ""


current: contextvars.ContextVar[Entry | None] = contextvars.ContextVar("vicuna_request", default=None)
"""The request for which this task works."""


def note(*, key: str = "", model: str = "", error: str = "", status: int = 0) -> None:
    """Write something down about the current request; outside of one, nothing."""
    entry = current.get()
    if entry is not None:
        entry.key = key or entry.key
        entry.model = model or entry.model
        entry.error = error or entry.error
        entry.status = status or entry.status


def fields(**values: Any) -> dict[str, Any]:
    """Values that stand beside the message: `log.info("worker joined", extra=fields(worker=worker.id))`."""
    return {"fields": values}


# ------------------------------------------------------------------------------------------- secrets
_TELLTALES = ("bearer", "authorization", "sk-", "vk-")
_SECRET = re.compile(
    r"(?i)(bearer[\s:]+|authorization[\\'\"]*\s*[:=,]\s*(?:b?[\\'\"]+)?(?:basic\s+|bearer\s+)?|\bsk-|\bvk-\w+-)"
    r"[^\s'\"\\,)]+"
)
_SECRET_VARIABLES = ("VICUNA_FLEET_SECRET", "VICUNA_API_KEY", "OPENAI_API_KEY")
LIKELY_SECRET = 12
"""Characters; what is shorter in such a variable ("none", "test") stands for no secret."""
_hidden: set[str] = set()


def hide(secret: str) -> None:
    """Strike this text out of every line from now on."""
    if secret:
        _hidden.update((secret, json.dumps(secret)[1:-1]))


def redacted(line: str) -> str:
    """The line without keys, tokens and hidden texts."""
    for secret in _hidden:
        line = line.replace(secret, "***")
    lowered = line.lower()
    if any(word in lowered for word in _TELLTALES):
        line = _SECRET.sub(r"\1***", line)
    return line


# ------------------------------------------------------------------------------------------- lines
def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text) - LONGEST} more characters)"


def _one_line(text: str) -> str:
    short = _cut(text)
    return short if short.isprintable() else printable(short)


class _Formatter(logging.Formatter):
    """What both kinds of lines share."""

    def traceback(self, record: logging.LogRecord) -> list[str]:
        """Its lines; the end, which names the error, is what must not be cut."""
        if not record.exc_info:
            return []
        text = self.formatException(record.exc_info)
        return [_one_line(line) for line in text[-LONGEST:].splitlines()]

    @staticmethod
    def about(record: logging.LogRecord) -> dict[str, Any]:
        """The request's id and the values beside the message, without the empty ones."""
        entry = current.get()
        values: Mapping[str, Any] = getattr(record, "fields", {})
        found = {"request_id": entry.request_id if entry else "", **values}
        return {name: value for name, value in found.items() if value not in ("", None, [])}


class _TextFormatter(_Formatter):
    """`12:30:01 INFO vicuna.serve.worker: message name=value ...`, tracebacks indented below it."""

    def format(self, record: logging.LogRecord) -> str:
        message = _one_line(record.getMessage())
        head = f"{self.formatTime(record, '%H:%M:%S')} {record.levelname} {record.name}: {message}"
        about = self.about(record)
        if about.get("request_id", "") in message:
            about.pop("request_id", None)
        pairs = [f"{name}={_text_value(value)}" for name, value in about.items()]
        trace = [f"    {line}" for line in self.traceback(record)]
        return redacted("\n".join([" ".join([head, *pairs]), *trace]))


_PLAIN = re.compile(r"[A-Za-z0-9._:/-]{1,200}")
"""Most values; the others are looked at more closely."""
_NEEDS_QUOTES = re.compile(r'[\s="]')


def _text_value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        return ",".join(_text_value(each) for each in value)
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    text = _one_line(text)
    return json.dumps(text, ensure_ascii=False) if _NEEDS_QUOTES.search(text) else text


class _JsonFormatter(_Formatter):
    """One JSON object per line; times in RFC 3339, UTC."""

    def format(self, record: logging.LogRecord) -> str:
        row: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _one_line(record.getMessage()),
        }
        row |= {name: _json_value(value) for name, value in self.about(record).items() if name not in row}
        if trace := self.traceback(record):
            row["exception"] = "\n".join(trace)
        return redacted(json.dumps(row, ensure_ascii=False))


def _json_value(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_json_value(each) for each in value]
    return _one_line(str(value))


def formatter(form: Literal["text", "json"]) -> logging.Formatter:
    """What makes a line of a record."""
    return _JsonFormatter() if form == "json" else _TextFormatter()


# ------------------------------------------------------------------------------------------- writing
class _Writer(logging.Handler):
    """Hands finished lines to a thread: a pipe that nobody reads must not hold up the event loop."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        if self._lines.qsize() >= BACKLOG:
            self._dropped += 1
            return
        try:
            self._lines.put(self.format(record) + "\n")
        except Exception:  # noqa: BLE001 (as every handler of the standard library: a wrong log call ends no answer)
            self.handleError(record)

    def _write(self) -> None:
        more = True
        while more:
            lines = [self._lines.get()]
            time.sleep(GATHER)
            lines += [self._lines.get() for _ in range(self._lines.qsize())]
            more = None not in lines
            try:
                self._stream.write("".join(filter(None, lines)))
                self._stream.flush()
            except (OSError, ValueError):  # nobody reads any more, and there is no other place to say it
                return
            self._mention_dropped()

    def _mention_dropped(self) -> None:
        if self._dropped:
            count, self._dropped = self._dropped, 0
            text = "%d lines are missing here: nobody read them in time"
            self.emit(logging.LogRecord(__name__, logging.WARNING, "", 0, text, (count,), None))

    def close(self) -> None:
        """Write what waits; `logging` calls this at the end of the process."""
        self._lines.put(None)
        self._thread.join(LAST_WORDS)
        super().close()


def start(config: LogConfig) -> None:
    """Write the package's lines, and the warnings of the libraries, to standard error from now on.

    The level is that of the environment variable VICUNA_LOG, which `vicuna.command` has read.
    """
    for name in _SECRET_VARIABLES:
        if len(value := os.environ.get(name, "")) >= LIKELY_SECRET:
            hide(value)
    writer = _Writer(sys.stderr)
    writer.setFormatter(formatter(config.format))
    logging.getLogger().handlers = [writer]
    ours = logging.getLogger("vicuna")
    ours.handlers, ours.propagate = [], True
