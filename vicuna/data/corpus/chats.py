"""Conversations in the making: rounds of several families mixed, with openings, follow-ups and things to remember."""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from vicuna.data.corpus import recipe
from vicuna.data.corpus.family import FOLLOW_UPS, OPENINGS, Fact, Family, Round
from vicuna.data.corpus.memory import RECALLS, Recall
from vicuna.data.corpus.prose import prose
from vicuna.data.corpus.reservation import FAMILIES, Reservation
from vicuna.data.corpus.trivia import FAREWELLS, SMALL_TALK

T = TypeVar("T")


def shuffled(items: list[T], rng: random.Random) -> Iterator[T]:
    """The items in random order, again and again: each occurs as often as any other, give or take one."""
    while True:
        yield from rng.sample(items, len(items))


def weighted(weights: Mapping[T, float], rng: random.Random) -> T:
    """One of the keys, by weight."""
    return rng.choices(list(weights), list(weights.values()))[0]


class Writer:
    """Draws conversations, so that facts and phrasings come up evenly and nothing reserved is used."""

    def __init__(self, seed: int, reservation: Reservation) -> None:
        """`seed` fixes every draw; `reservation` is what is left out."""
        self._rng = random.Random(f"{seed}:chats")
        self._reservation = reservation
        self._families = {family.name: family for family in FAMILIES}
        self._weights = {family.name: recipe.FAMILIES[family.name] * len(family.facts) for family in FAMILIES}
        self._follow_ups = {family.name: self._weights[family.name] for family in FAMILIES if family.follow_up}
        self._facts = {family.name: shuffled(self._taught(family), self._rng) for family in FAMILIES}
        self._questions: dict[str, Iterator[str]] = {}
        self._recalls = shuffled(list(RECALLS), self._rng)
        self._values = {recall.name: shuffled(list(recall.values), self._rng) for recall in RECALLS}
        self._asked = {recall.name: shuffled(list(recall.questions), self._rng) for recall in RECALLS}
        self._said: dict[tuple[str, str], Iterator[str]] = {}

    def chat(self, length: int | None = None) -> list[Round]:
        """A conversation of about `length` rounds (default: drawn from the recipe); it may end up 4 rounds longer."""
        rng = self._rng
        length = length or weighted(recipe.ROUNDS, rng)
        rounds = [self._small_talk(SMALL_TALK)] if rng.random() < recipe.GREETING else []
        told: set[str] = set()
        while len(rounds) < length:
            rounds += self._segment(told)
        if rng.random() < recipe.FAREWELL:
            rounds.append(self._small_talk(FAREWELLS))
        return rounds

    def code(self) -> Round:
        """A round whose answer has a code block."""
        return next(made for made in iter(lambda: prose(self._rng), None) if "```" in made.answer)

    def _segment(self, told: set[str]) -> list[Round]:
        makers: dict[str, Callable[[], list[Round]]] = {
            "fact": lambda: [self._fact()],
            "follow_up": self._follow_up,
            "memory": lambda: self._memory(told),
            "prose": lambda: [prose(self._rng)],
        }
        return makers[weighted(recipe.SEGMENTS, self._rng)]()

    def _small_talk(self, answers: Mapping[str, tuple[str, ...]]) -> Round:
        answer = weighted({answer: len(texts) for answer, texts in answers.items()}, self._rng)
        return Round(self._rng.choice(answers[answer]), answer)

    def _taught(self, family: Family) -> list[Fact]:
        return [fact for fact in family.facts if fact.key not in self._reservation.unseen]

    def _fact(self) -> Round:
        family = self._families[weighted(self._weights, self._rng)]
        return self._round(family, next(self._facts[family.name]))

    def _round(self, family: Family, fact: Fact) -> Round:
        if fact.key not in self._questions:
            self._questions[fact.key] = shuffled(self._reservation.asked(family, fact), self._rng)
        question = next(self._questions[fact.key])
        if question.endswith("?") and self._rng.random() < recipe.OPENING:
            question = self._rng.choice(OPENINGS).format(question)
        return Round(question, family.say(fact), fact.key)

    def _follow_up(self) -> list[Round]:
        """A question, then one or two that only name another subject."""
        family = self._families[weighted(self._follow_ups, self._rng)]
        fact = next(self._facts[family.name])
        rounds = [self._round(family, fact)]
        for _ in range(self._rng.choice((1, 1, 2))):
            fresh = (other for other in self._facts[family.name] if other is not fact)
            fact = next(other for other in fresh if self._reservation.follows(fact, other))
            question = self._rng.choice(FOLLOW_UPS).format(fact.slots[family.follow_up])
            rounds.append(Round(question, family.say(fact), fact.key))
        return rounds

    def _memory(self, told: set[str]) -> list[Round]:
        """A statement, up to two other rounds, and questions that need the statement; nothing is told twice."""
        if len(told) == len(RECALLS):
            return [self._fact()]
        recall = next(recall for recall in self._recalls if recall.name not in told)
        told.add(recall.name)
        value = next(self._values[recall.name])
        answers = recall.answers(value)
        between = [self._fact() for _ in range(self._rng.choice((0, 0, 1, 2)))]
        asked = list(itertools.islice(self._asked[recall.name], self._rng.choice((1, 1, 2))))
        rounds = [Round(self._statement(recall, value), recall.acknowledge(value)), *between]
        return rounds + [Round(question, answers[question][0], recall.key(value)) for question in dict.fromkeys(asked)]

    def _statement(self, recall: Recall, value: str) -> str:
        key = (recall.name, value)
        if key not in self._said:
            self._said[key] = shuffled(self._reservation.told(recall, value), self._rng)
        return next(self._said[key])
