"""The held-out questions: reserved phrasings and combinations whose facts the conversations do teach."""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vicuna.data.corpus import recipe
from vicuna.data.corpus.family import Fact, Family, Reference, normalised
from vicuna.data.corpus.language import CAPITALS
from vicuna.data.corpus.memory import RECALLS
from vicuna.data.corpus.reservation import FAMILIES, Reservation


@dataclass(frozen=True)
class Question:
    """One held-out question; the last turn is the one that is graded."""

    category: str
    group: str
    """Family or kind of memory: a category takes evenly from its groups."""
    turns: tuple[str, ...]
    reference: Reference
    taught_by: tuple[str, ...]
    """Facts from which the answer is known; each occurs in the conversations."""

    def row(self, question_id: str) -> dict[str, object]:
        """The line of a question file: turns, and for each a short answer or null."""
        reference = list(self.reference) if isinstance(self.reference, tuple) else self.reference
        references = [None] * (len(self.turns) - 1) + [reference]
        return {
            "question_id": question_id,
            "category": self.category,
            "turns": list(self.turns),
            "reference": references,
        }


def held_out(reservation: Reservation, seen: Mapping[str, int], count: int, seed: int) -> list[Question]:
    """Choose the held-out questions.

    Args:
        reservation: what the conversations left out.
        seen: fact -> how often sound conversations state it.
        count: how many questions are wanted.
        seed: fixes the draw.

    Returns:
        Up to `count` questions, shared out as in the recipe; fewer where the conversations teach too little.
    """
    rng = random.Random(f"{seed}:questions")
    pools: dict[str, list[Question]] = defaultdict(list)
    for question in _candidates(reservation, rng):
        taught = all(seen.get(fact, 0) >= recipe.LEAST_SEEN for fact in question.taught_by)
        if taught and not _given_away(question):
            pools[question.category].append(question)
    ordered = {category: _by_turns_of_groups(pools[category], rng) for category in recipe.QUESTIONS}
    sizes = shares({category: len(pool) for category, pool in ordered.items()}, count)
    return [question for category, pool in ordered.items() for question in pool[: sizes[category]]]


def shares(available: Mapping[str, int], count: int) -> dict[str, int]:
    """How many questions each category gives: one at a time to the one that is furthest below its share."""
    sizes = dict.fromkeys(available, 0)
    for _ in range(min(count, sum(available.values()))):
        open_ = [category for category in available if sizes[category] < available[category]]
        sizes[min(open_, key=lambda category: (sizes[category] + 1) / recipe.QUESTIONS[category])] += 1
    return sizes


def _candidates(reservation: Reservation, rng: random.Random) -> Iterator[Question]:
    for family in FAMILIES:
        for fact in family.facts:
            yield from _about(family, fact, reservation, rng)
    for each in reservation.follow_ups:
        first = rng.choice(reservation.asked(each.family, each.first) or [""])
        if first and each.second.key not in reservation.unseen:
            turns, taught_by = (first, each.question), (each.first.key, each.second.key)
            yield Question("memory", "follow-ups", turns, each.second.reference, taught_by)
    yield from _recalls(reservation, rng)


def _recalls(reservation: Reservation, rng: random.Random) -> Iterator[Question]:
    """A statement, for one in three another question in between, and a question that needs the statement."""
    for recall in RECALLS:
        for value in recall.values:
            asked, (_, reference) = rng.choice(list(recall.answers(value).items()))
            between: tuple[str, ...] = ()
            taught_by: tuple[str, ...] = (recall.key(value),)
            if rng.random() < 1 / 3:
                fact = rng.choice(CAPITALS.facts)
                between, taught_by = (rng.choice(reservation.asked(CAPITALS, fact)),), (*taught_by, fact.key)
            turns = (reservation.statements[recall.name, value], *between, asked)
            yield Question("memory", recall.name, turns, reference, taught_by)


def _about(family: Family, fact: Fact, reservation: Reservation, rng: random.Random) -> Iterator[Question]:
    reserved = reservation.questions[fact.key]
    if fact.reference is None or not reserved:
        return
    if fact.key in reservation.unseen:
        taught_by = fact.taught_by
        reserved = (rng.choice(reserved),)
    else:
        taught_by = (fact.key,)
    for question in reserved:
        yield Question(family.category, family.name, (question,), fact.reference, taught_by)


def _given_away(question: Question) -> bool:
    """Whether the graded question itself contains the answer, so that repeating it would look right."""
    references = question.reference if isinstance(question.reference, tuple) else (question.reference or "",)
    asked = f" {normalised(question.turns[-1])} "
    return any(re.search(rf"(?<!\w){re.escape(normalised(text))}(?!\w)", asked) for text in references)


def _by_turns_of_groups(pool: list[Question], rng: random.Random) -> list[Question]:
    """The questions shuffled, each group giving one in turn."""
    order = rng.sample(pool, len(pool))
    place: Counter[str] = Counter()
    ranked: list[tuple[int, int, Question]] = []
    for question in order:
        ranked.append((place[question.group], len(ranked), question))
        place[question.group] += 1
    return [question for _, _, question in sorted(ranked, key=lambda entry: entry[:2])]
