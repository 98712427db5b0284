"""One log for the processes of a stack: each line with the name of the process that said it."""

import asyncio
import codecs
import json
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import Literal

LONGEST_LINE = 65_536
"""Characters; longer than any line of our own log."""


class StackLog:
    """Prints lines to standard output, as text or as JSON objects."""

    def __init__(self, names: Iterable[str], form: Literal["text", "json"]) -> None:
        self._width = max(map(len, names))
        self._json = form == "json"

    def say(self, name: str, text: str) -> None:
        """A process's line, or one of our own."""
        print(_as_json(name, text) if self._json else f"{name:<{self._width}} | {text}", flush=True)


def _as_json(name: str, text: str) -> str:
    """The process's own object with its name in it; what is none (a traceback, an error at the start) becomes one."""
    try:
        row = json.loads(text)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        row = {"time": now, "level": "info", "logger": "vicuna.serve.up", "message": text}
    return json.dumps({"process": name, **row}, ensure_ascii=False)


async def lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """A process's lines as they come; a very long one comes in pieces, where `readline` would refuse it."""
    decode, rest = codecs.getincrementaldecoder("utf-8")("replace").decode, ""
    while data := await stream.read(LONGEST_LINE):
        *whole, rest = (rest + decode(data)).split("\n")
        for line in whole:
            yield line.rstrip()
        if len(rest) >= LONGEST_LINE:
            yield rest
            rest = ""
    if rest:
        yield rest.rstrip()
