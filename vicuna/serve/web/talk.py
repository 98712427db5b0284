"""What the page does, apart from how it is laid out: models, questions, answers, stopping."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vicuna.serve.web import history
from vicuna.serve.web.client import Answer, Problem, Service
from vicuna.serve.web.history import Shown

PATIENCE = 2.0
"""Seconds to wait for the end of an answer that is dropped; it takes longer only when nobody reads it any more."""


@dataclass(frozen=True)
class View:
    """What the page shows next."""

    shown: Shown
    running: bool
    small_print: list[tuple[str, str]]


@dataclass(eq=False)
class _Run:
    """An answer that is being written."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    dropped: bool = False
    """The conversation went on without it, so it must not be shown any more."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Talk:
    """The conversations of all visitors with one service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._runs: dict[str, _Run] = {}

    async def answer(
        self, session: str, question: Shown, model: str | None, system: str, sampling: Mapping[str, Any]
    ) -> AsyncGenerator[View, None]:
        """Answer the last message of `question`, view by view; the last view says where the answer comes from.

        Args:
            session: the visitor's open page; a second answer of one page drops the first.
            question: the conversation, a user's message last.
            model: the chosen model, if there is any.
            system: system prompt; empty for none.
            sampling: settings for the API.
        """
        await self.drop(session)
        run = self._runs[session] = _Run()
        try:
            yield View(question, True, [])
            async with contextlib.aclosing(self._views(run, question, model, system, sampling)) as views:
                async for view in views:
                    if run.dropped:
                        return
                    yield view
        finally:
            run.ended.set()
            if self._runs.get(session) is run:
                del self._runs[session]

    async def _views(
        self, run: _Run, question: Shown, model: str | None, system: str, sampling: Mapping[str, Any]
    ) -> AsyncGenerator[View, None]:
        if not model:
            _, known = await self.service.models()
            problem = known or Problem("No model is available", f"No model is served at {self.service.api} now.")
            yield View([*question, history.note(problem)], False, [])
            return
        answer = Answer()
        answers = self.service.answer(model, history.for_model(question, system), sampling, run.stop)
        async with contextlib.aclosing(answers):
            async for answer in answers:
                if answer.text and not answer.seconds:
                    yield View([*question, history.assistant(answer.text)], True, [])
        said = [history.assistant(answer.text)] if answer.text or answer.problem is None else []
        noted = [history.note(answer.problem)] if answer.problem else []
        yield View([*question, *said, *noted], False, small_print(answer))

    def stop(self, session: str) -> None:
        """End the session's running answer, and with it the worker's computation; what there is of it stays."""
        running = self._runs.get(session)
        if running is not None:
            running.stop.set()

    async def drop(self, session: str) -> None:
        """The same, and nothing more of that answer is shown once this returns."""
        self.stop(session)
        running = self._runs.pop(session, None)
        if running is not None:
            running.dropped = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await running.ended.wait()


def small_print(answer: Answer) -> list[tuple[str, str]]:
    """Where an answer comes from: enough to find it in the logs and to walk back to the weights."""
    named = [
        ("model", answer.model),
        ("worker", answer.worker),
        ("weights", answer.checkpoint[:12]),
        ("request", answer.request_id),
    ]
    parts = [(name, value) for name, value in named if value]
    if answer.tokens:
        parts.append(("", f"{answer.tokens} tokens in {answer.seconds:.1f} s"))
    if answer.finish in ("stopped", "length"):
        parts.append(("", {"stopped": "stopped", "length": "cut at the token limit"}[answer.finish]))
    return parts
