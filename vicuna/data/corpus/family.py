"""What a family of facts is: facts that are asked about in the same words."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

Reference = str | tuple[str, ...] | None
"""The short answer to grade against; several where more than one is right; None where there is nothing to grade."""


@dataclass(frozen=True)
class Round:
    """A user's message and the assistant's answer in markdown."""

    question: str
    answer: str
    fact: str = ""
    """The fact that the answer states, as `family:subject`; empty where it states none."""


@dataclass(frozen=True)
class Fact:
    """One fact: what fills the blanks of its family's phrasings."""

    key: str
    """`family:subject`."""
    slots: Mapping[str, str]
    """Blank -> text."""
    reference: Reference
    taught_by: tuple[str, ...] = ()
    """Other facts from which this one follows, should it be held out itself (3 + 4 from 4 + 3)."""
    questions: tuple[str, ...] = ()
    """Phrasings of its own; empty takes the family's."""
    answer: str = ""
    """Answer of its own; empty takes the family's."""


@dataclass(frozen=True)
class Family:
    """Facts that are asked about in the same words."""

    name: str
    category: str
    """Which category of the held-out questions it belongs to."""
    questions: tuple[str, ...]
    answer: str
    facts: tuple[Fact, ...]
    follow_up: str = ""
    """Blank that names the subject in "And what about ...?"; empty where such a follow-up would be unclear."""

    def phrasings(self, fact: Fact) -> list[str]:
        """Every question about `fact`, without a polite opening."""
        return [_filled(text, fact.slots) for text in fact.questions or self.questions]

    def say(self, fact: Fact) -> str:
        """The answer that states `fact`."""
        return _filled(fact.answer or self.answer, fact.slots)


def _filled(text: str, slots: Mapping[str, str]) -> str:
    filled = text.format_map(slots)
    return filled[0].upper() + filled[1:]


def normalised(text: str) -> str:
    """A question without what does not change it: case, punctuation, white space. Signs of arithmetic stay."""
    return " ".join(re.sub(r"[.,!?;:'\"]", "", text).casefold().split())


FOLLOW_UPS = ("And {}?", "And what about {}?", "How about {}?", "What about {}?")

OPENINGS = ("Please tell me: {}", "Hi! {}", "Quick question: {}", "I would like to know: {}", "Can you help me? {}")


def table(name: str, rows: Mapping[str, str], subject: str, value: str) -> tuple[Fact, ...]:
    """One fact for each row; `subject` and `value` name the blanks that its two columns fill."""
    return tuple(Fact(f"{name}:{key}", {subject: key, value: text}, text) for key, text in rows.items())
