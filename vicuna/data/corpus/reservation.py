"""What is kept out of the conversations so that the held-out questions are new.

Kept out are phrasings of single facts (each fact stays learnable in its other phrasings), a few facts that follow from
their neighbours, statements to remember, and pairs of question and follow-up.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from vicuna.data.corpus import language, numbers, recipe, trivia
from vicuna.data.corpus.family import FOLLOW_UPS, Fact, Family, normalised
from vicuna.data.corpus.memory import RECALLS, Recall

FAMILIES: tuple[Family, ...] = (
    language.CAPITALS, language.OPPOSITES, language.PLURALS, language.PAST_TENSES, language.COLOURS, language.SOUNDS,
    language.YOUNG, language.LEGS, language.KINDS, numbers.DAYS, numbers.MONTHS, numbers.NUMBERS, numbers.ADDITION,
    numbers.SUBTRACTION, numbers.MULTIPLICATION, numbers.UNITS, numbers.FIRST_LETTERS, numbers.LAST_LETTERS,
    numbers.LETTER_COUNTS, numbers.REPEATING, trivia.SYMBOLS, trivia.SIDES, trivia.SCIENCE, trivia.IDENTITY,
)  # fmt: skip


@dataclass(frozen=True)
class FollowUp:
    """A question about one fact, and then "And what about ...?" for another."""

    family: Family
    first: Fact
    second: Fact
    template: str

    @property
    def question(self) -> str:
        """The second turn."""
        return self.template.format(self.second.slots[self.family.follow_up])


@dataclass(frozen=True)
class Reservation:
    """What the conversations leave out."""

    questions: Mapping[str, tuple[str, ...]]
    """Fact -> its reserved questions."""
    unseen: frozenset[str]
    """Facts that are reserved in every phrasing."""
    statements: Mapping[tuple[str, str], str]
    """(kind of thing to remember, value) -> its reserved statement."""
    follow_ups: tuple[FollowUp, ...]

    def asked(self, family: Family, fact: Fact) -> list[str]:
        """The questions about `fact` that conversations may use."""
        reserved = {normalised(question) for question in self.questions.get(fact.key, ())}
        return [question for question in family.phrasings(fact) if normalised(question) not in reserved]

    def told(self, recall: Recall, value: str) -> list[str]:
        """The statements of `value` that conversations may use."""
        statements = [text.format(value=value) for text in recall.statements]
        return [text for text in statements if text != self.statements[recall.name, value]]

    def follows(self, first: Fact, second: Fact) -> bool:
        """Whether conversations may ask about `second` right after `first`."""
        return not any((first.key, second.key) == (each.first.key, each.second.key) for each in self.follow_ups)


def reserve(seed: int) -> Reservation:
    """Draw what is held out; it depends on the seed alone, not on the size of the corpus."""
    rng = random.Random(f"{seed}:reservation")
    unseen = {fact.key for family in FAMILIES for fact in _unseen(family, rng)}
    questions = {
        fact.key: tuple(_reserved(family, fact, fact.key in unseen, rng))
        for family in FAMILIES
        for fact in family.facts
    }
    statements = {
        (recall.name, value): rng.choice(recall.statements).format(value=value)
        for recall in RECALLS
        for value in recall.values
    }
    follow_ups = tuple(each for family in FAMILIES if family.follow_up for each in _follow_ups(family, rng))
    return Reservation(questions, frozenset(unseen), statements, follow_ups)


def _unseen(family: Family, rng: random.Random) -> list[Fact]:
    """Facts to hold out entirely, none of which is needed to infer another."""
    wanted = recipe.UNSEEN.get(family.name, 0)
    chosen: list[Fact] = []
    for fact in rng.sample(family.facts, len(family.facts)):
        taken = {each.key for each in chosen}
        if len(chosen) < wanted and fact.taught_by and not taken & set(fact.taught_by):
            chosen.append(fact)
    return chosen


def _reserved(family: Family, fact: Fact, everything: bool, rng: random.Random) -> list[str]:
    phrasings = family.phrasings(fact)
    if everything:
        return phrasings
    keep = rng.random() < recipe.RESERVED or fact.questions
    return rng.sample(phrasings, max(1, len(phrasings) // 4) if fact.questions else 1) if keep else []


def _follow_ups(family: Family, rng: random.Random) -> list[FollowUp]:
    pairs = [rng.sample(family.facts, 2) for _ in range(recipe.FOLLOW_UP_PAIRS)]
    return [FollowUp(family, first, second, rng.choice(FOLLOW_UPS)) for first, second in pairs]
