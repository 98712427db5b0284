"""Judging pairs of answers: what a judge is shown, how its text is read, and the two kinds of judge.

Both kinds write the same text, in the March 2023 report's manner: "8 9", then why. So one grammar reads both, and their
ledgers look alike.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vicuna.eval import reference
from vicuna.eval.answers import Answer
from vicuna.eval.client import Client, Refused, Reply, Unanswered, for_each
from vicuna.eval.grammar import parse_rating, parse_scores, parse_verdict, read_scores
from vicuna.eval.ledger import Call, Ledger, request_hash
from vicuna.eval.progress import Progress
from vicuna.eval.prompting import filled, prompt_name, text_of, version_of
from vicuna.eval.questions import Question

UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Comparison:
    """One question with two answers in the order in which the judge sees them."""

    question: Question
    first: Answer
    second: Answer


class Judge(Protocol):
    """Something that can compare two answers."""

    label: str
    """Name for tables and files."""

    def first_call(self, comparison: Comparison) -> Call:
        """The call to make, its request hash filled in."""

    async def complete(self, call: Call, comparison: Comparison) -> Call:
        """The call with the judge's text."""

    def repair(self, call: Call) -> Call | None:
        """The one call that asks again after an unreadable text; None where asking again is of no use."""


def comparisons(
    questions: Sequence[Question], answers: Mapping[str, Mapping[str, Answer]], pairs: Sequence[tuple[str, str]]
) -> Iterator[Comparison]:
    """Every question of every pair of models, in both orders.

    Args:
        questions: in the order to judge.
        answers: model → question id → answer.
        pairs: (model, baseline).
    """
    for model, baseline in pairs:
        for question in questions:
            mine, theirs = answers[model][question.id], answers[baseline][question.id]
            yield Comparison(question, mine, theirs)
            yield Comparison(question, theirs, mine)


async def judge_all(
    todo: Sequence[Comparison], judge: Judge, ledger: Ledger, concurrency: int, progress: Progress
) -> None:
    """Put into the ledger what it does not hold yet: a call for each comparison, and a repair where it is unreadable.

    Raises:
        Unanswered: some calls had no answer after every try; the others are kept, and a second run makes only these.
    """
    missing = [each for each in todo if not _settled(each, judge, ledger)]
    progress.start(f"verdicts of the {judge.label}", len(todo), len(todo) - len(missing))
    failed: list[str] = []

    async def work(comparison: Comparison) -> None:
        try:
            await _judge(comparison, judge, ledger)
        except Unanswered as error:
            failed.append(str(error))
        progress.step()

    await for_each(missing, concurrency, work)
    if failed:
        raise Unanswered(
            f"{len(failed)} of {len(todo)} verdicts are missing ({failed[0]}); the others are kept: "
            "run the same command again to ask only for these"
        )


def _settled(comparison: Comparison, judge: Judge, ledger: Ledger) -> bool:
    call = ledger.find(judge.first_call(comparison).request)
    if call is None:
        return False
    again = None if readable(call) else judge.repair(call)
    return again is None or ledger.find(again.request) is not None


async def _judge(comparison: Comparison, judge: Judge, ledger: Ledger) -> None:
    wanted = judge.first_call(comparison)
    call = ledger.find(wanted.request)
    if call is None:
        call = await judge.complete(wanted, comparison)
        ledger.add(call)
    again = None if readable(call) else judge.repair(call)
    if again is not None and ledger.find(again.request) is None:
        ledger.add(await judge.complete(again, comparison))


def readable(call: Call) -> bool:
    """Whether the call's raw text states two scores."""
    return parse_scores(call.text) is not None


def _read(call: Call) -> str:
    reading = read_scores(call.text)
    return reading.path if reading else UNREADABLE


# ------------------------------------------------------------------------------------------------ the reference judge
class ReferenceJudge:
    """Grades each answer by itself against the known reference: 10 for right, 1 for wrong; equal is a tie."""

    label = reference.LABEL
    right, wrong = 10, 1

    def __init__(self, rivals: Mapping[str, frozenset[str]]) -> None:
        """`rivals`: category → every reference answer in it."""
        self._rivals = rivals

    def first_call(self, comparison: Comparison) -> Call:
        """The call, with the graded turns as its messages."""
        question, first, second = comparison.question, comparison.first, comparison.second
        turn = question.graded_turn
        shown = [{"role": "user", "content": _asked(question)}]
        for name, answer in (("Assistant 1", first), ("Assistant 2", second)):
            if turn is not None:
                shown.append({"role": name, "content": answer.turns[turn], "finish": answer.finish_reasons[turn]})
        params = {"accepted": list(question.reference), "rivals": sorted(self._rivals.get(question.category, ()))}
        call = Call("", question.id, first.model, second.model, self.label, "reference", shown, params)
        return dataclasses.replace(call, request=request_hash(call))

    async def complete(self, call: Call, comparison: Comparison) -> Call:
        """The verdict as text, scores first."""
        if not comparison.question.reference:
            return dataclasses.replace(call, text="No reference answer is known.", parse=UNREADABLE)
        grades = [grade_answer(comparison.question, each, self._rivals) for each in _shown(comparison)]
        scores = " ".join(str(self.right if grade.right else self.wrong) for grade in grades)
        reasons = [
            f"Assistant {number} is {'right' if grade.right else 'wrong'}: {grade.reason}."
            for number, grade in enumerate(grades, 1)
        ]
        call = dataclasses.replace(call, text="\n".join([scores, *reasons]), finish_reason="stop")
        return dataclasses.replace(call, parse=_read(call))

    def repair(self, call: Call) -> Call | None:
        """None: the same question gives the same verdict."""
        return None


def grade_answer(question: Question, answer: Answer, rivals: Mapping[str, frozenset[str]]) -> reference.Grade:
    """Whether the answer's graded turn is right; the question must have a reference."""
    turn = question.graded_turn
    if turn is None:
        raise ValueError(f"question {question.id} has no reference")
    if answer.refused:
        return reference.Grade(False, "the server refused the question")
    return reference.grade(
        answer.turns[turn],
        question.reference,
        _asked(question),
        finish_reason=answer.finish_reasons[turn],
        rivals=rivals.get(question.category, frozenset()),
    )


def rivals_of(questions: Sequence[Question]) -> dict[str, frozenset[str]]:
    """Category → every reference answer in it that is a name of its own (no number, no letter)."""
    found: dict[str, set[str]] = {}
    for question in questions:
        found.setdefault(question.category, set()).update(filter(reference.is_name, question.reference))
    return {category: frozenset(names) for category, names in found.items()}


def _asked(question: Question) -> str:
    """The user's turns up to the graded one."""
    return "\n".join(question.turns[: (question.graded_turn or 0) + 1])


def _shown(comparison: Comparison) -> tuple[Answer, Answer]:
    return comparison.first, comparison.second


# ------------------------------------------------------------------------------------------------ the LLM judge
class LLMJudge:
    """A language model behind an OpenAI-compatible endpoint, asked for two scores."""

    def __init__(self, client: Client, model: str, temperature: float | None, max_tokens: int) -> None:
        self.label = model
        self.client = client
        """Where the judge is asked; the caller closes it."""
        self._params: dict[str, Any] = {"max_tokens": max_tokens}
        if temperature is not None:
            self._params["temperature"] = temperature

    def first_call(self, comparison: Comparison) -> Call:
        """The prompt of the question's category with both answers in it."""
        question, first, second = comparison.question, comparison.first, comparison.second
        name = prompt_name(question.category)
        messages = [
            {"role": "system", "content": text_of("system")},
            {"role": "user", "content": filled(text_of(name), question, first, second)},
        ]
        call = Call("", question.id, first.model, second.model, self.label, version_of(name), messages, self._params)
        return dataclasses.replace(call, request=request_hash(call))

    async def complete(self, call: Call, comparison: Comparison) -> Call:
        """The call with the model's raw text; a request that the endpoint refuses is kept with its reason."""
        params = dict(self._params)
        try:
            reply = await self.client.ask(self.label, call.messages, params.pop("max_tokens"), params)
        except Refused as error:
            return dataclasses.replace(call, refused=str(error), parse=UNREADABLE)
        return _completed(call, reply)

    def repair(self, call: Call) -> Call | None:
        """The same talk, continued by a request for the two numbers only."""
        if call.refused:
            return None
        said = [{"role": "assistant", "content": call.text}] if call.text else []
        messages = [*call.messages, *said, {"role": "user", "content": text_of("repair")}]
        call = Call("", call.question_id, call.first, call.second, call.judge, version_of("repair"), messages,
                    call.params, repairs=call.request)  # fmt: skip
        return dataclasses.replace(call, request=request_hash(call))


def _completed(call: Call, reply: Reply) -> Call:
    call = dataclasses.replace(
        call,
        text=reply.text,
        finish_reason=reply.finish_reason,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        seconds=reply.seconds,
    )
    return dataclasses.replace(call, parse=_read(call))


__all__ = [
    "Comparison", "Judge", "LLMJudge", "ReferenceJudge", "comparisons", "grade_answer", "judge_all", "parse_rating",
    "parse_scores", "parse_verdict", "read_scores", "rivals_of",
]  # fmt: skip
