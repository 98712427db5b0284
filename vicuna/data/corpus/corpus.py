"""The whole corpus: conversations, what is wrong with them, and the held-out questions."""

import copy
import random
import string
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from vicuna.data.corpus import recipe
from vicuna.data.corpus.chats import Writer, weighted
from vicuna.data.corpus.dirt import PLANTERS, Turn, turns_of
from vicuna.data.corpus.family import Round, normalised
from vicuna.data.corpus.foreign import foreign_chat
from vicuna.data.corpus.pages import old_code_box
from vicuna.data.corpus.questions import Question, held_out
from vicuna.data.corpus.reservation import reserve


@dataclass(frozen=True)
class Label:
    """The truth about one conversation."""

    index: int
    """Its place in the raw file, from 0."""
    id: str
    dirt: str
    """What was planted; empty: the conversation is sound."""
    turns: tuple[int, ...] = ()
    """Which turns the dirt touches, from 0."""
    duplicate_of: int | None = None
    """The place of the conversation that this one repeats."""
    language: str = "en"
    """ISO 639-1 code."""

    def row(self) -> dict[str, object]:
        """The line of the label file."""
        return asdict(self) | {"turns": list(self.turns)}


@dataclass(frozen=True)
class Record:
    """One raw conversation with its label."""

    turns: list[Turn]
    label: Label
    facts: tuple[str, ...] = ()
    """The facts that it states, where it is sound."""

    def row(self) -> dict[str, object]:
        """The record of the raw file."""
        return {"id": self.label.id, "conversations": self.turns}


@dataclass(frozen=True)
class Corpus:
    """Everything that one seed makes."""

    records: list[Record]
    questions: list[Question]

    def dirt(self) -> Counter[str]:
        """Kind of dirt -> conversations."""
        return Counter(record.label.dirt for record in self.records if record.label.dirt)


def corpus(conversations: int, questions: int, seed: int) -> Corpus:
    """Make the corpus.

    Args:
        conversations: how many conversations.
        questions: how many held-out questions are wanted; there are fewer where a small corpus teaches too little.
        seed: fixes everything; the first conversations of a larger corpus are those of a smaller one.
    """
    reservation = reserve(seed)
    records = list(_records(Writer(seed, reservation), conversations, seed))
    seen = Counter(fact for record in records for fact in record.facts)
    return Corpus(records, held_out(reservation, seen, questions, seed))


def _records(writer: Writer, count: int, seed: int) -> Iterator[Record]:
    rng = random.Random(f"{seed}:dirt")
    kinds = {"": 1 - sum(recipe.DIRT.values())} | dict(recipe.DIRT)
    sound: list[Record] = []
    ids: set[str] = set()
    texts: set[str] = set()
    for index in range(count):
        kind = weighted(kinds, rng)
        if kind.startswith("duplicate") and sound:
            yield _duplicate(rng.choice(sound), index, kind == "duplicate id", _fresh_id(ids, rng))
            continue
        kind = "" if kind.startswith("duplicate") else kind
        record = _distinct(writer, kind, Label(index, _fresh_id(ids, rng), kind), rng, texts)
        if not kind:
            sound.append(record)
        yield record


def _fresh_id(taken: set[str], rng: random.Random) -> str:
    """An id like those of shared chats: seven letters and digits."""
    while (made := "".join(rng.choices(string.ascii_letters + string.digits, k=7))) in taken:
        continue
    taken.add(made)
    return made


def _duplicate(original: Record, index: int, same_id: bool, fresh: str) -> Record:
    name, dirt = (original.label.id, "duplicate id") if same_id else (fresh, "duplicate")
    return Record(copy.deepcopy(original.turns), Label(index, name, dirt, duplicate_of=original.label.index))


def _distinct(writer: Writer, kind: str, label: Label, rng: random.Random, texts: set[str]) -> Record:
    """A conversation with rounds that no earlier one has in this order: only planted duplicates repeat."""
    while True:
        record, rounds = _record(writer, kind, label, rng)
        text = normalised("\n".join(f"{each.question}\n{each.answer}" for each in rounds))
        if text not in texts:
            texts.add(text)
            return record


def _record(writer: Writer, kind: str, label: Label, rng: random.Random) -> tuple[Record, list[Round]]:
    language = "en"
    if kind == "other language":
        language, rounds = foreign_chat(rng)
        turns, touched = turns_of(rounds), list(range(2 * len(rounds)))
    elif kind == "old copy code":
        rounds = _with_code(writer, rng)
        turns = turns_of(rounds, old_code_box)
        touched = [2 * i + 1 for i, each in enumerate(rounds) if "```" in each.answer]
    else:
        rounds = writer.chat(rng.randint(*recipe.LONG_ROUNDS) if kind == "over-long" else None)
        turns = turns_of(rounds)
        touched = PLANTERS[kind](turns, rng) if kind in PLANTERS else []
    facts = () if kind else tuple(each.fact for each in rounds if each.fact)
    return Record(turns, replace(label, turns=tuple(touched), language=language), facts), rounds


def _with_code(writer: Writer, rng: random.Random) -> list[Round]:
    rounds = writer.chat()
    rounds.insert(rng.randint(0, len(rounds)), writer.code())
    return rounds
