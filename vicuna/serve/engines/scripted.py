"""Answers, delays and failures from a script: to test and to measure everything around the model.

The script is YAML. The first rule whose `match` (a regular expression) is found in the last message answers:

    pace: 0.05              # seconds per token, unless a rule says otherwise
    rules:
      - match: capital of France
        answer: Paris.
      - match: crash
        answer: one two three four
        fail: crash         # crash | error | hang
        after: 2            # tokens before it fails
      - answer: "{last}"    # {last} is the last message, {chat} all of them with their roles

A token is a word with the space before it.
"""

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Literal

from vicuna.config import from_dict
from vicuna.errors import InputError
from vicuna.files import read_text, sha256_text
from vicuna.serve import faults
from vicuna.serve.config import WorkerConfig
from vicuna.serve.engines import Embedded, Piece
from vicuna.serve.protocol import EmbedJob, Job, ServedModel
from vicuna.serve.text import StopScanner

_TOKEN = re.compile(r"\s*\S+|\s+$")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What to answer when the last message matches."""

    match: str = ""
    """Regular expression, found anywhere in the last message; empty matches everything."""
    answer: str = "{last}"
    """The answer; {last} stands for the last message, {chat} for all messages with their roles."""
    repeat: int = 1
    """How many times the answer is said."""
    first: float = 0.0
    """Seconds before the first token."""
    pace: float | None = None
    """Seconds between tokens; null takes the script's."""
    fail: Literal["", "crash", "error", "hang"] = ""
    """How the worker fails: its process ends, it answers with an error, or nothing comes any more."""
    after: int = 0
    """Tokens before it fails."""

    def __post_init__(self) -> None:
        try:
            re.compile(self.match)
        except re.error as error:
            raise ValueError(f"match is not a regular expression: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Script:
    """All rules."""

    rules: tuple[Rule, ...] = (Rule(),)
    """In order; the first that matches answers."""
    pace: float = 0.0
    """Seconds between tokens."""


class ScriptedEngine:
    """An engine without a model."""

    kind = "scripted"

    def __init__(self, config: WorkerConfig) -> None:
        path = config.engine.script
        self.capacity = config.engine.slots
        self._max_length = config.model.max_length
        self._version = config.version
        self._source = read_text(path) if path else ""
        self._script = _read(self._source, path)
        self._running = 0
        self._hanging = False

    async def start(self) -> None:
        """Nothing to load."""

    def model(self, name: str) -> ServedModel:
        """The hash of what the script says stands for the weights'; replicas may differ in how they fail."""
        said = "\n".join(f"{rule.match}\t{rule.answer * rule.repeat}" for rule in self._script.rules)
        return ServedModel(
            name=name,
            checkpoint_hash=sha256_text(said),
            max_length=self._max_length,
            version=self._version,
            features=frozenset({"chat", "completions", "token_prompts", "tokenize", "resume"}),
        )

    async def generate(self, job: Job) -> AsyncGenerator[Piece, None]:
        """The scripted answer; each token's id is its place in the answer."""
        prompt_tokens = self._prompt_tokens(job)
        yield Piece(prompt_tokens=prompt_tokens)
        rule = self._rule(_last(job))
        answer = rule.answer.replace("{chat}", _chat(job)).replace("{last}", _last(job))
        tokens = _TOKEN.findall(answer * rule.repeat)
        limit = min(job.sampling.max_tokens or self._max_length, self._max_length - prompt_tokens)
        self._running += 1
        try:
            async for piece in self._say(job, rule, tokens, limit):
                yield piece
        finally:
            self._running -= 1

    async def _say(self, job: Job, rule: Rule, tokens: list[str], limit: int) -> AsyncGenerator[Piece, None]:
        scanner, pace = StopScanner(job.sampling.stop), self._script.pace if rule.pace is None else rule.pace
        said = len(job.emitted)
        skip = len(job.shown) - len(scanner.push("".join(tokens[:said])))
        await asyncio.sleep(rule.first)
        for index in range(said, min(len(tokens), limit)):
            if rule.fail and index == rule.after:
                await self._fail(rule)
            if index > said and pace:
                await asyncio.sleep(pace)
            text = scanner.push(tokens[index])
            shown, skip = text[max(0, skip) :], skip - len(text)
            if scanner.stopped:
                yield Piece(shown, [index], "stop")
                return
            yield Piece(shown, [index])
        if rule.fail and rule.after >= len(tokens):
            await self._fail(rule)
        yield Piece(scanner.flush(), [], "length" if len(tokens) > limit else "stop")

    async def _fail(self, rule: Rule) -> None:
        if rule.fail == "crash":
            await asyncio.sleep(0.05)  # so that what was said before is on its way
            os._exit(70)
        if rule.fail == "error":
            raise faults.server_error("the script says that the engine fails here", code="engine_failed")
        self._hanging = True
        await asyncio.Event().wait()

    def _rule(self, last: str) -> Rule:
        for rule in self._script.rules:
            if re.search(rule.match, last):
                return rule
        raise faults.invalid("no rule of the script matches this message", param="messages")

    def _prompt_tokens(self, job: Job) -> int:
        if job.tokens is not None:
            count = len(job.tokens)
        elif job.messages is not None:
            count = sum(len(_TOKEN.findall(turn.content)) for turn in job.messages)
        else:
            count = len(_TOKEN.findall(job.prompt or ""))
        if count >= self._max_length:
            raise faults.context_exceeded(f"{count} tokens", self._max_length, job.prompt_field)
        return count

    async def tokenize(self, job: Job) -> list[int]:
        """A number for each word of the prompt."""
        return list(range(self._prompt_tokens(job)))

    async def embed(self, job: EmbedJob) -> Embedded:
        """Vectors of the job's texts."""
        raise faults.unsupported("model", "this engine has no embeddings")

    def load(self) -> Mapping[str, float]:
        """Answers that run."""
        return {"running": float(self._running)}

    def trouble(self) -> str | None:
        """A script can make the engine hang."""
        return "the script says that the engine hangs" if self._hanging else None

    async def close(self) -> None:
        """Nothing to give back."""


def _last(job: Job) -> str:
    if job.messages is not None:
        return job.messages[-1].content if job.messages else ""
    return job.prompt if job.prompt is not None else " ".join(map(str, job.tokens or ()))


def _chat(job: Job) -> str:
    return " / ".join(f"{turn.role}: {turn.content}" for turn in job.messages or ())


def _read(text: str, path: str) -> Script:
    import yaml

    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected `pace` and `rules`, got {type(tree).__name__}")
    return from_dict(Script, tree, path)
