"""What a language model judge is shown: the texts in `prompts/`, versioned by hash, and how they are filled in."""

import functools
import re
from collections.abc import Sequence
from importlib import resources

from vicuna.eval.answers import Answer
from vicuna.eval.questions import Question
from vicuna.files import sha256_text

CODING = frozenset({"coding", "code", "programming"})
MATHS = frozenset({"math", "maths", "mathematics", "arithmetic"})


def prompt_name(category: str) -> str:
    """Which prompt a category is judged by: "general", "coding" or "math"."""
    name = category.casefold()
    return "coding" if name in CODING else "math" if name in MATHS else "general"


@functools.cache
def text_of(name: str) -> str:
    """The prompt's text: "system", "general", "coding", "math" or "repair"."""
    return resources.files("vicuna.eval").joinpath("prompts", f"{name}.txt").read_text(encoding="utf-8").strip()


@functools.cache
def version_of(name: str) -> str:
    """ "general@1f0c2a9b": a verdict can be told from one under an earlier wording."""
    return f"{name}@{sha256_text(text_of('system') + text_of(name))[:8]}"


def filled(prompt: str, question: Question, first: Answer, second: Answer) -> str:
    """The prompt with its places filled in one pass: braces inside answers stay as they are.

    The fence is a hash of what it encloses, so that an answer cannot close it and speak in the prompt's name.
    """
    places = {
        "question": "\n\n".join(question.turns) if len(question.turns) == 1 else _numbered("User", question.turns),
        "reference": _reference_part(question),
        "answer_1": _spoken(first),
        "answer_2": _spoken(second),
    }
    places["fence"] = sha256_text("\n".join(places.values()))[:8]
    places["reference"] = places["reference"].replace("{fence}", places["fence"])
    return re.sub(r"\{(\w+)\}", lambda match: places[match[1]], prompt)


def _reference_part(question: Question) -> str:
    """What is known of right answers: accepted texts, and guides to what a good answer has."""
    known = [(turn, " / ".join(accepted)) for turn, accepted in enumerate(question.references, 1) if accepted]
    guides = [(turn, text) for turn, text in enumerate(question.guides, 1) if text]
    return _fenced("known right answer", known, question) + _fenced("what a good answer has", guides, question)


def _fenced(title: str, texts: Sequence[tuple[int, str]], question: Question) -> str:
    if not texts:
        return ""
    lines = [text if len(question.turns) == 1 else f"Turn {turn}: {text}" for turn, text in texts]
    return "\n".join(["", f"<<<{{fence}} {title}>>>", *lines, f"<<<{{fence}} end of {title}>>>", ""])


def _spoken(answer: Answer) -> str:
    if answer.refused:
        return "(no answer)"
    return answer.turns[0] if len(answer.turns) == 1 else _numbered("Answer", answer.turns)


def _numbered(name: str, turns: Sequence[str]) -> str:
    return "\n\n".join(f"[{name}, turn {number}]\n{turn}" for number, turn in enumerate(turns, 1))
