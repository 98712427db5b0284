"""Families about words, countries, things and animals."""

import re
from collections.abc import Mapping

from vicuna.data.corpus import facts
from vicuna.data.corpus.facts import with_article
from vicuna.data.corpus.family import Fact, Family, table

CAPITALS = Family(
    "capitals",
    "geography",
    (
        "What is the capital of {country}?",
        "Which city is the capital of {country}?",
        "What is the capital city of {country}?",
        "Name the capital of {country}.",
        "Tell me the capital of {country}.",
        "Do you know the capital of {country}?",
        "{country} has which capital?",
        "The capital of {country} is which city?",
    ),
    "The capital of {country} is {city}.",
    table("capitals", facts.CAPITALS, "country", "city"),
    follow_up="country",
)

OPPOSITES = Family(
    "opposites",
    "words",
    (
        "What is the opposite of {word}?",
        "What is the opposite word of {word}?",
        "Give me the opposite of {word}.",
        "Which word is the opposite of {word}?",
        "Tell me the opposite of {word}.",
        "Do you know the opposite of {word}?",
        "{word} is the opposite of what?",
        "Name the opposite of {word}.",
    ),
    "The opposite of {word} is {other}.",
    table("opposites", facts.opposites(), "word", "other"),
    follow_up="word",
)

PLURALS = Family(
    "plurals",
    "words",
    (
        "What is the plural of {one}?",
        "What is the plural form of {one}?",
        "Give me the plural of {one}.",
        "Tell me the plural of {one}.",
        "Which word is the plural of {one}?",
        "Write the plural of {one}.",
        "Do you know the plural of {one}?",
        "How do you write the plural of {one}?",
    ),
    "The plural of {one} is {many}.",
    table("plurals", facts.PLURALS, "one", "many"),
    follow_up="one",
)

PAST_TENSES = Family(
    "past tenses",
    "words",
    (
        "What is the past tense of {now}?",
        "What is the past tense of the verb {now}?",
        "Give me the past tense of {now}.",
        "Tell me the past tense of {now}.",
        "Write the past tense of {now}.",
        "Which word is the past tense of {now}?",
        "Do you know the past tense of {now}?",
        "How do you write the past tense of {now}?",
    ),
    "The past tense of {now} is {then}.",
    table("past tenses", facts.PAST_TENSES, "now", "then"),
    follow_up="now",
)

COLOURS = Family(
    "colours",
    "things",
    (
        "What colour is {thing}?",
        "Which colour is {thing}?",
        "What is the colour of {thing}?",
        "Tell me the colour of {thing}.",
        "Name the colour of {thing}.",
        "Which colour does {thing} have?",
        "Do you know the colour of {thing}?",
    ),
    "The colour of {thing} is {colour}.",
    table("colours", facts.COLOURS, "thing", "colour"),
    follow_up="thing",
)


def _animals(name: str, rows: Mapping[str, str]) -> tuple[Fact, ...]:
    return tuple(Fact(f"{name}:{a}", {"animal": with_article(a), "value": v}, v) for a, v in rows.items())


SOUNDS = Family(
    "animal sounds",
    "animals",
    (
        "What sound does {animal} make?",
        "Which sound does {animal} make?",
        "Tell me the sound that {animal} makes.",
        "What noise does {animal} make?",
        "How does {animal} sound?",
        "What does {animal} sound like?",
    ),
    "{animal} {value}.",
    tuple(
        Fact(f"animal sounds:{a}", {"animal": with_article(a), "value": v}, (v, re.sub("(?<=ss|zz)es$|s$", "", v)))
        for a, v in facts.SOUNDS.items()
    ),
    follow_up="animal",
)

YOUNG = Family(
    "animal young",
    "animals",
    (
        "What is the young of {animal} called?",
        "What do you call the young of {animal}?",
        "What is the name for the young of {animal}?",
        "Tell me the word for the young of {animal}.",
        "Which word names the young of {animal}?",
        "What is the baby of {animal} called?",
    ),
    "The young of {animal} is called a {value}.",
    _animals("animal young", facts.YOUNG),
    follow_up="animal",
)

LEGS = Family(
    "animal legs",
    "animals",
    (
        "How many legs does {animal} have?",
        "Tell me how many legs {animal} has.",
        "What is the number of legs of {animal}?",
        "{animal} has how many legs?",
        "Do you know how many legs {animal} has?",
        "On how many legs does {animal} move?",
    ),
    "{animal} has {value} legs.",
    _animals("animal legs", {animal: str(n) for animal, n in facts.LEGS.items()}),
    follow_up="animal",
)

KINDS = Family(
    "kinds",
    "things",
    (
        "What kind of thing is {thing}?",
        "{thing} is what kind of thing?",
        "Which kind of thing is {thing}?",
        "Tell me what kind of thing {thing} is.",
        "To which group does {thing} belong?",
        "What is {thing}?",
        "In a few words, what is {thing}?",
    ),
    "{thing} is {kind}.",
    tuple(
        Fact(f"kinds:{thing}", {"thing": with_article(thing), "kind": with_article(kind)}, kind)
        for thing, kind in facts.kinds().items()
    ),
    follow_up="thing",
)
