"""Our own 80 questions for the tests, and what their guides state."""

import re

from vicuna.eval.questions import OWN, read_questions

QUESTIONS = {each.id: each for each in read_questions(OWN)}


def guide(name: str, turn: int = 1) -> str:
    """What a good answer to a turn has."""
    return QUESTIONS[name].guides[turn - 1]


def reference(name: str) -> str:
    """The first accepted answer."""
    return QUESTIONS[name].reference[0]


def stated(text: str, *parts: object) -> bool:
    """Whether all parts stand in the text, whole numbers with separators; a missing one fails the test."""
    wanted = [f"{each:,}" if isinstance(each, int) else str(each) for each in parts]
    missing = [each for each in wanted if not re.search(rf"(?<![\d.,]){re.escape(each)}(?![\d])", text)]
    assert not missing, missing
    return True
