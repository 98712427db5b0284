"""The proportions of the sample corpus, all in one place.

Weights are relative: only their ratios count. They are chosen so that a model of a few million parameters meets every
fact often enough to learn it within minutes.
"""

from collections.abc import Mapping

ROUNDS: Mapping[int, float] = {1: 8, 2: 12, 3: 16, 4: 20, 5: 20, 6: 24}
"""How many rounds a conversation is meant to have."""

SEGMENTS: Mapping[str, float] = {"fact": 78, "follow_up": 9, "memory": 14, "prose": 5}
"""What the next stretch of a conversation is: one question, follow-ups, something to remember, or prose."""

GREETING = 0.12
"""Share of conversations that open with a greeting."""

FAREWELL = 0.10
"""Share of conversations that end with thanks or a goodbye."""

OPENING = 0.08
"""Share of chances at which a question starts with a polite opening such as "Please tell me:"."""

FAMILIES: Mapping[str, float] = {
    "capitals": 0.7,
    "opposites": 0.8,
    "plurals": 0.7,
    "past tenses": 0.7,
    "colours": 0.6,
    "animal sounds": 0.6,
    "animal young": 0.6,
    "animal legs": 0.6,
    "kinds": 0.6,
    "days": 2.5,
    "months": 2,
    "numbers": 1.6,
    "addition": 1.6,
    "subtraction": 1.8,
    "multiplication": 1.4,
    "units": 1,
    "first letters": 1,
    "last letters": 1,
    "letter counts": 1.2,
    "repeating": 0.8,
    "symbols": 0.6,
    "sides": 1,
    "science": 1.5,
    "identity": 8,
}
"""How often each fact of a family is asked about; follow-ups come on top."""

RESERVED = 0.6
"""Share of facts that keep one of their phrasings for the held-out questions."""

QUESTIONS: Mapping[str, float] = {
    "geography": 20,
    "words": 44,
    "animals": 14,
    "things": 28,
    "sequence": 20,
    "arithmetic": 22,
    "units": 14,
    "science": 10,
    "identity": 8,
    "memory": 20,
}
"""How the held-out questions are shared out over the categories."""

LEAST_SEEN = 2
"""A fact is asked about only if the sound conversations state it at least this often."""

DIRT: Mapping[str, float] = {
    "starts with gpt": 0.015,
    "ends with human": 0.02,
    "repeated role": 0.01,
    "unknown role": 0.005,
    "empty turn": 0.015,
    "no turns": 0.005,
    "duplicate id": 0.01,
    "duplicate": 0.02,
    "other language": 0.04,
    "rate limit": 0.01,
    "network error": 0.01,
    "old copy code": 0.01,
    "regenerate counter": 0.02,
    "copy debris": 0.01,
    "share prompt": 0.01,
    "malformed html": 0.015,
    "over-long": 0.01,
    "over-long round": 0.003,
    "literal text": 0.01,
    "control text": 0.005,
}
"""Share of conversations that carry each kind of dirt; the rest are sound.

A "Copy code" header is no kind of its own: every code block has one, as on the real page.
"""

LONG_ROUNDS = (30, 80)
"""Fewest and most rounds of an over-long chat."""

UNSEEN: Mapping[str, int] = {"addition": 6, "multiplication": 3, "units": 3}
"""How many facts of a family are held out in all phrasings, to be inferred from their neighbours."""

FOLLOW_UP_PAIRS = 6
"""How many follow-up questions of each family are held out."""
