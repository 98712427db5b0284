"""Answers, delays and failures from a script: to test and to measure everything around the model.

The script is YAML. The first rule whose `match` (a regular expression) is found in the last message answers:

    pace: 0.05              # seconds per token, unless a rule says otherwise
    features: [chat]        # what the engine can do (protocol.FEATURES); without it, everything that it knows
    rules:
      - match: capital of France
        answer: Paris.
      - match: weather
        answer: ""
        tool_calls: [{name: weather, arguments: '{"place": "Paris"}'}]
      - match: crash
        answer: one two three four
        fail: crash         # crash | error | hang
        after: 2            # tokens before it fails
      - answer: "{last}"    # {last} is the last message, {chat} all of them with their roles

A token is a word with the space before it, or one call of a tool. Its id and its log probability depend on its place
in the answer alone.
"""

import asyncio
import hashlib
import math
import os
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from typing import Any, Literal

from vicuna.errors import InputError
from vicuna.files import read_text, sha256_text
from vicuna.serve import faults
from vicuna.serve.config import HostedConfig
from vicuna.serve.engines import SLOTS, Embedded, Piece, Step
from vicuna.serve.engines.text import StopScanner
from vicuna.serve.names import names_of
from vicuna.serve.protocol import FEATURES, EmbedJob, Job, ServedModel
from vicuna.settings import yamltree
from vicuna.settings.build import build
from vicuna.settings.given import Place, flatten
from vicuna.settings.tree import settings_of

_TOKEN = re.compile(r"\s*\S+|\s+$")
_KNOWN = ("chat", "completions", "token_prompts", "embeddings", "logprobs", "tools", "tokenize", "resume")
VECTOR = 16
"""Length of the vectors."""


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A call of a tool that the answer makes."""

    name: str
    """The tool's name."""
    arguments: str = "{}"
    """What it is called with, as JSON."""

    def delta(self, index: int) -> dict[str, Any]:
        """The call in a stream."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"tool_calls": [{"index": index, "id": f"call_{index}", "type": "function", "function": function}]}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What to answer when the last message matches."""

    match: str = ""
    """Regular expression, found anywhere in the last message; empty matches everything."""
    answer: str = "{last}"
    """The answer; {last} stands for the last message, {chat} for all messages with their roles."""
    repeat: int = 1
    """How many times the answer is said."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Calls of tools after the answer's text."""
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
    features: tuple[str, ...] = _KNOWN
    """What the engine says that it can do."""

    def __post_init__(self) -> None:
        for feature in self.features:
            if feature not in FEATURES:
                raise ValueError(f"features are of {', '.join(FEATURES)}; got {feature!r}")


Token = str | dict[str, Any]


class ScriptedEngine:
    """An engine without a model."""

    kind = "scripted"

    def __init__(self, config: HostedConfig) -> None:
        path = config.engine.script
        self.capacity = config.engine.slots or SLOTS
        self._names = names_of(config)
        self._max_length = config.model.max_length
        self._version = config.version
        self._script = _read(path) if path else Script()
        self._running = 0
        self._hanging = False

    async def start(self) -> None:
        """Nothing to load."""

    def models(self) -> Sequence[ServedModel]:
        """The hash of what the script says stands for the weights'; replicas may differ in how they fail."""
        return [self._model(name) for name in self._names]

    def _model(self, name: str) -> ServedModel:
        said = "\n".join(f"{rule.match}\t{rule.answer * rule.repeat}{rule.tool_calls}" for rule in self._script.rules)
        return ServedModel(
            name=name,
            checkpoint_hash=sha256_text(said),
            max_length=self._max_length,
            version=self._version,
            features=frozenset(self._script.features),
        )

    # ------------------------------------------------------------------------------------- one answer
    async def generate(self, job: Job) -> AsyncGenerator[Piece, None]:
        """The scripted answer; each token's id is its place in the answer."""
        prompt_tokens = self._prompt_tokens(job)
        yield Piece(prompt_tokens=prompt_tokens)
        rule = self._rule(_last(job))
        answer = rule.answer.replace("{chat}", _chat(job)).replace("{last}", _last(job))
        tokens: list[Token] = list(_TOKEN.findall(answer * rule.repeat))
        tokens += [call.delta(index) for index, call in enumerate(rule.tool_calls)]
        limit = min(job.sampling.max_tokens or self._max_length, self._max_length - prompt_tokens)
        self._running += 1
        try:
            async for piece in self._say(job, rule, tokens, limit):
                yield piece
        finally:
            self._running -= 1

    async def _say(self, job: Job, rule: Rule, tokens: Sequence[Token], limit: int) -> AsyncGenerator[Piece, None]:
        scanner, pace = StopScanner(job.sampling.stop), self._script.pace if rule.pace is None else rule.pace
        said = len(job.emitted) or _tokens_within(job.shown, tokens)
        skip = len(job.shown) - len(scanner.push("".join(map(_text, tokens[:said]))))
        await asyncio.sleep(rule.first)
        for index in range(said, min(len(tokens), limit)):
            if rule.fail and index == rule.after:
                await self._fail(rule)
            if index > said and pace:
                await asyncio.sleep(pace)
            token = tokens[index]
            text = scanner.push(_text(token))
            shown, skip = text[max(0, skip) :], skip - len(text)
            rows = None if job.logprobs is None else [_logprobs(_text(token), index, job.logprobs)]
            finish = "stop" if scanner.stopped else None
            yield Piece(shown, [index], finish, logprobs=rows, delta=None if isinstance(token, str) else token)
            if finish:
                return
        if rule.fail and rule.after >= len(tokens):
            await self._fail(rule)
        ended = "tool_calls" if rule.tool_calls else "stop"
        yield Piece(scanner.flush(), [], "length" if len(tokens) > limit else ended)

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

    # ------------------------------------------------------------------------------------- everything else
    async def tokenize(self, job: Job) -> list[int]:
        """A number for each word of the prompt."""
        return list(range(self._prompt_tokens(job)))

    async def embed(self, job: EmbedJob) -> Embedded:
        """A vector drawn from each text's hash."""
        texts = [*job.texts, *(" ".join(map(str, row)) for row in job.tokens)]
        await asyncio.sleep(self._script.pace)
        tokens = sum(len(_TOKEN.findall(text)) for text in texts)
        return Embedded([_vector(text, job.dimensions or VECTOR) for text in texts], tokens)

    def load(self) -> Mapping[str, float]:
        """Answers that run."""
        return {"running": float(self._running)}

    def observe(self, watch: Callable[[Step], None]) -> None:
        """A script has no steps."""

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


def _text(token: Token) -> str:
    return token if isinstance(token, str) else ""


def _tokens_within(shown: str, tokens: Sequence[Token]) -> int:
    """How many of the tokens were said by an engine that gives no ids."""
    ends = accumulate(len(token) for token in tokens if isinstance(token, str))
    return sum(1 for _ in takewhile(lambda end: end <= len(shown), ends))


def _logprobs(text: str, index: int, alternatives: int) -> dict[str, Any]:
    def row(token: str, rank: int) -> dict[str, Any]:
        logprob = -(1 + index % 9) / 10 - rank
        return {"token": token, "logprob": logprob, "bytes": list(token.encode("utf-8", "replace"))}

    top = [row(text if rank == 0 else f" other{rank}", rank) for rank in range(alternatives)]
    return row(text, 0) | {"top_logprobs": top}


def _read(path: str) -> Script:
    try:
        tree = yamltree.read(read_text(path))
    except yamltree.TreeError as error:
        raise InputError(f"{path}:{error.line}: {error}") from error
    if not isinstance(tree.value or {}, dict):
        raise InputError(f"{path}: expected `pace` and `rules`, got {type(tree.value).__name__}")
    entries = flatten(tree.value or {}, settings_of(Script), Place("", path, tree.lines))
    return build(Script, {entry.key: entry for entry in entries})


def _vector(text: str, size: int) -> list[float]:
    digest = hashlib.shake_256(text.encode("utf-8", "replace")).digest(2 * size)
    numbers = [int.from_bytes(digest[2 * i : 2 * i + 2], "little") - 32767.5 for i in range(size)]
    length = math.hypot(*numbers)
    return [number / length for number in numbers]
