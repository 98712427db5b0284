"""Cut the answer of a round that is too long by itself: leave its end out, or carry it on in further samples."""

import functools
from collections.abc import Callable, Sequence

from vicuna.conversation import Message
from vicuna.data.places import best_place, code_blocks

_ROOM = 8
"""An answer is cut only where its question leaves at least one part in so many of the context."""
_PART = 16
"""A part of an answer has room for at least one part in so many of the context."""
_TAIL = 4
"""A further sample begins with at most about one part in so many of the context."""

Sample = list[Message]


class Cutter:
    """Cuts one answer."""

    def __init__(
        self, count: Callable[[Sequence[Message]], int], limit: int, system: str | None, question: str, answer: str
    ) -> None:
        """
        Args:
            count: tokens of these messages as training counts them.
            limit: most tokens a sample may have.
            system: the system message, if there is one.
            question: what the answer answers; every sample has it.
            answer: text that does not fit.
        """
        self._count = count
        self._limit = limit
        self._answer = answer
        self._blocks = code_blocks(answer)
        self._question = [Message("user", question)]
        if system is not None:
            self._question.insert(0, Message("system", system))
        self.asked = count([*self._question, Message("assistant", "")])
        """Tokens of the question with an empty answer."""

    @property
    def has_room(self) -> bool:
        """Whether the question leaves enough of the context to its answer."""
        return self._limit - self.asked >= max(1, self._limit // _ROOM)

    def truncated(self) -> list[Sample]:
        """One sample with as much of the answer as fits and ends well; none if it could only end within code.

        It ends where a paragraph, a line, a sentence or at least a word ends, since what follows it is the stop.
        """
        end = self._end(self._question, 0, functools.partial(best_place, self._answer, 0, blocks=self._blocks))
        return [[*self._question, Message("assistant", self._answer[:end])]] if end else []

    def carried(self, prompt: str) -> list[Sample]:
        """Samples whose answers together are the whole answer; none if a part has no room or would be only white space.

        The first part answers the question. Each further one answers the request to go on, after the question and the
        end of what was said before, which is not learnt again.
        """
        samples: list[Sample] = []
        start = 0
        while start < len(self._answer):
            opening = self._going_on(start, prompt) if start else self._question
            if self._limit - self._count([*opening, Message("assistant", "")]) < self._limit // _PART:
                return []
            end = self._end(opening, start, functools.partial(self._place, start, prompt))
            if end is None:
                return []
            samples.append([*opening, Message("assistant", self._answer[start:end])])
            start = end
        spoken = (each.content for sample in samples for each in sample if each.role == "assistant")
        return samples if all(map(str.strip, spoken)) else []

    def _place(self, start: int, prompt: str, most: int) -> int | None:
        """Where to cut at or before `most`: before a code block that fits into the next sample, else inside of it."""
        block = next((each for each in self._blocks if each.start < most < each.end), None)
        if block and self._answer[start : block.start].strip():
            further = self._going_on(block.start, prompt)
            if self._fits(further, self._answer[block.start : block.end]):
                return block.start
        others = [each for each in self._blocks if each != block]
        return best_place(self._answer, start, most, others, characters=True)

    def _going_on(self, start: int, prompt: str) -> Sample:
        """The question, the end of what was said before `start`, and the request to go on."""
        most = self.asked + min(self._limit // _TAIL, (self._limit - self.asked) // 2)

        def fits(length: int) -> bool:
            tail = self._answer[start - length : start]
            return self._count([*self._question, Message("assistant", tail)]) <= most

        length = _last(fits, start, self._limit)
        tail = self._answer[start - length : start]
        if length < start:  # begin with a line, or else with a word
            half = tail[: length // 2]
            tail = tail[(half.find("\n") if "\n" in half else half.find(" ")) + 1 :].lstrip("\n")
        return [*self._question, Message("assistant", tail, train=False), Message("user", prompt)]

    def _end(self, opening: Sample, start: int, place: Callable[[int], int | None]) -> int | None:
        """The end of the answer if it fits, else the place that is found at or before the most that fits."""
        rest = len(self._answer) - start
        end: int | None = start + _last(
            lambda n: self._fits(opening, self._answer[start : start + n]), rest, self._limit
        )
        if end == len(self._answer):
            return end
        while end and (end := place(end)) and not self._fits(opening, self._answer[start:end]):
            end -= 1
        return end or None

    def _fits(self, opening: Sample, answer: str) -> bool:
        return self._count([*opening, Message("assistant", answer)]) <= self._limit


def _last(fits: Callable[[int], bool], most: int, guess: int) -> int:
    """The largest n in 0..most that fits, where smaller ones fit if larger ones do (0 if none does)."""
    low, high = 0, min(most, guess)
    while high < most and fits(high):
        low, high = high, min(most, 2 * high)
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
