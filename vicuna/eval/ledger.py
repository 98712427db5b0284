"""The ledger of verdicts: every judge call with its prompt and raw text, so that scores can be read again for free."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from vicuna.errors import InputError
from vicuna.files import AppendLog, read_jsonl, sha256_text

NAME = "judgments.jsonl"


@dataclass(frozen=True)
class Call:
    """One request to a judge and what came back."""

    request: str
    """Hash of everything below that was known before the call: the same request is never made twice."""
    question_id: str
    first: str
    """The model shown as Assistant 1."""
    second: str
    """The model shown as Assistant 2."""
    judge: str
    """The judge's label."""
    prompt: str
    """Name and hash of the prompt text, like "general@1f0c2a9b"."""
    messages: Sequence[Mapping[str, str]]
    """The prompt as it was sent."""
    params: Mapping[str, Any]
    repairs: str = ""
    """Request hash of the call whose unreadable text this one asks to put right; empty for a first call."""
    text: str = ""
    """The judge's raw answer."""
    finish_reason: str = ""
    parse: str = ""
    """How the scores were read from the text when it came, or "unreadable"; scoring always reads the text again."""
    refused: str = ""
    """Why the judge's endpoint will never answer this request."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0


def request_hash(call: Call) -> str:
    """Hash over what is asked, of whom, and for which question, pair and order."""
    parts = [
        call.question_id, call.first, call.second, call.judge, call.prompt, list(map(dict, call.messages)),
        dict(call.params), call.repairs,
    ]  # fmt: skip
    return sha256_text(json.dumps(parts, sort_keys=True, ensure_ascii=False))[:32]


class Ledger:
    """The calls of a run, in memory by request hash and on disk in order. Use as a context manager."""

    def __init__(self, run: Path) -> None:
        self._log = AppendLog(run / NAME)
        self._calls = {call.request: call for call in read_calls(run)}

    def find(self, request: str) -> Call | None:
        """The finished call with this request hash."""
        return self._calls.get(request)

    def add(self, call: Call) -> None:
        """Keep a finished call; one that is there already is not kept twice."""
        if call.request not in self._calls:
            self._calls[call.request] = call
            self._log.append(dataclasses.asdict(call))

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.close()


def read_calls(run: Path) -> Iterable[Call]:
    """Every call of a run's ledger, oldest first.

    Raises:
        InputError: there is no ledger, or a row is no call.
    """
    names = {field.name for field in dataclasses.fields(Call)}
    for line, row in read_jsonl(run / NAME):
        if not {"request", "question_id", "first", "second", "text"} <= row.keys() <= names:
            raise InputError(f"{run / NAME}:{line}: not a judge call of a run")
        yield Call(**row)
