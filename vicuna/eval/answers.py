"""Answers: ask every model every question, keep each answer as soon as it is there, ask only what is missing."""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vicuna.config import SamplingConfig
from vicuna.errors import InputError
from vicuna.eval.client import Client, Refused, Unanswered, for_each
from vicuna.eval.progress import Progress
from vicuna.eval.questions import Question
from vicuna.files import AppendLog, read_jsonl, sha256_text

FOLDER = "answers"


@dataclass(frozen=True)
class Answer:
    """What one model said to one question, and how it was asked."""

    key: str
    """Identity of question, model, weights, system message and sampling."""
    question_id: str
    model: str
    turns: tuple[str, ...]
    """One text for each turn of the question."""
    finish_reasons: tuple[str, ...]
    """For each turn: "stop", "length", ..."""
    sampling: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    refused: str = ""
    """Why the server will never answer this request; the turns are empty then."""
    worker: str = ""
    """The worker that answered the last turn, where the server says so."""
    checkpoint: str = ""
    """Hash of the answering weights, where the server says so."""
    template: str = ""
    """Hash of the prompt template, where the server says so."""
    prompt_tokens: int | None = None
    """Tokens of all prompts of the question, where the server counts them."""
    completion_tokens: int | None = None
    """Tokens of all answers of the question, where the server counts them."""
    seconds: float = 0.0
    """Time for all turns."""

    @property
    def length(self) -> int:
        """Characters of all turns."""
        return sum(map(len, self.turns))


@dataclass(frozen=True)
class Asking:
    """How one model is asked."""

    model: str
    client: Client
    sampling: SamplingConfig
    concurrency: int
    weights: str = ""
    """What the server's model list tells about the weights: new weights under an old name are asked again."""
    system: str = ""

    def key(self, question: Question) -> str:
        """Identity of one answer: the same key is never asked twice."""
        return answer_key(question, self.model, self.weights, self.system, self.sampling)


def answer_key(question: Question, model: str, weights: str, system: str, sampling: SamplingConfig) -> str:
    """Identity of one answer: 32 hexadecimal digits over all that decides what is asked, and of whom."""
    parts = [question.hash, model, weights, system, dataclasses.asdict(sampling)]
    return sha256_text(json.dumps(parts, sort_keys=True))[:32]


def path_of(run: Path, model: str) -> Path:
    """The answers file of a model; names with characters unfit for files are made unique by a hash."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", model)
    if safe != model or safe.startswith("."):
        safe = f"{safe.lstrip('.')}-{sha256_text(model)[:8]}"
    return run / FOLDER / f"{safe}.jsonl"


async def collect(run: Path, questions: Sequence[Question], asking: Asking, progress: Progress) -> None:
    """Ask one model what its answers file does not hold yet.

    Raises:
        Unanswered: some questions had no answer after every try; the others are kept, and a second run asks
            only these.
    """
    path = path_of(run, asking.model)
    failed: list[str] = []
    with AppendLog(path) as log:
        done = {str(row.get("key")) for row in log.rows()}
        missing = [question for question in questions if asking.key(question) not in done]
        progress.start(f"answers of {asking.model}", len(questions), len(questions) - len(missing))

        async def work(question: Question) -> None:
            try:
                log.append(dataclasses.asdict(await _answer(question, asking)))
            except Unanswered as error:
                failed.append(str(error))
            progress.step()

        await for_each(missing, asking.concurrency, work)
    if failed:
        raise Unanswered(
            f"{len(failed)} of {len(questions)} questions have no answer from {asking.model} ({failed[0]}); "
            "the others are kept: run the same command again to ask only these"
        )


async def _answer(question: Question, asking: Asking) -> Answer:
    history: list[dict[str, str]] = [{"role": "system", "content": asking.system}] if asking.system else []
    replies = []
    answer = Answer(asking.key(question), question.id, asking.model, (), (), dataclasses.asdict(asking.sampling))
    for turn in question.turns:
        history.append({"role": "user", "content": turn})
        try:
            reply = await asking.client.ask(asking.model, history, asking.sampling.max_tokens, _fields(asking.sampling))
        except Refused as error:
            nothing = ("",) * len(question.turns)
            return dataclasses.replace(answer, turns=nothing, finish_reasons=nothing, refused=str(error))
        history.append({"role": "assistant", "content": reply.text})
        replies.append(reply)
    last = replies[-1]
    return dataclasses.replace(
        answer,
        turns=tuple(reply.text for reply in replies),
        finish_reasons=tuple(reply.finish_reason for reply in replies),
        worker=last.worker,
        checkpoint=last.checkpoint,
        template=last.template,
        prompt_tokens=_sum(reply.prompt_tokens for reply in replies),
        completion_tokens=_sum(reply.completion_tokens for reply in replies),
        seconds=round(sum(reply.seconds for reply in replies), 4),
    )


def _fields(sampling: SamplingConfig) -> dict[str, Any]:
    """Request fields; what OpenAI's API does not have is sent only where it was asked for."""
    fields: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    if sampling.seed is not None:
        fields["seed"] = sampling.seed
    extra = {"top_k": sampling.top_k, "min_p": sampling.min_p}
    extra = {name: value for name, value in extra.items() if value}
    return fields | ({"extra_body": extra} if extra else {})


def _sum(counts: Iterable[int | None]) -> int | None:
    counts = list(counts)
    return None if None in counts else sum(count for count in counts if count is not None)


def read_answers(path: Path, keys: Mapping[str, str] | None = None) -> dict[str, Answer]:
    """Question id → answer; a question that was asked in several ways keeps the asked-for key, else the latest.

    Args:
        path: an answers file of a run.
        keys: question id → the key to take; others are left out.

    Raises:
        InputError: the file is missing or holds something else.
    """
    found: dict[str, Answer] = {}
    names = {field.name for field in dataclasses.fields(Answer)}
    for line, row in read_jsonl(path):
        if not {"key", "question_id", "model", "turns"} <= row.keys() <= names:
            raise InputError(f"{path}:{line}: not an answer of a run")
        answer = Answer(**row | {"turns": tuple(row["turns"]), "finish_reasons": tuple(row["finish_reasons"])})
        if keys is None or keys.get(answer.question_id) == answer.key:
            found[answer.question_id] = answer
    return found
