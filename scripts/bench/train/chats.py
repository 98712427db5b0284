"""Seeded conversations of real sentences: lengths as those of chats, and words that nobody has seen before.

The sentences are those of Python's own library (its docstrings) and of installed packages' READMEs, so that any machine
can make them. A share of the words is replaced by made-up ones, since a tokenizer that remembers words would else never
meet a new one.
"""

import ast
import importlib.metadata
import json
import math
import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

MEDIAN, SIGMA = 150, 0.9
"""Words in a conversation are log-normal: about 330 LLaMA tokens in the middle, 4% over 2,048."""
NEW = 0.02
"""Share of words that are made up on the spot."""
_SYLLABLES = [start + vowel for start in "bcdfghklmnprst" for vowel in "aeio"]


def sentences() -> list[str]:
    """Sentences of docstrings and READMEs, each once, sorted."""
    found: set[str] = set()
    for text in [*_docstrings(), *_readmes()]:
        for sentence in re.split(r"(?<=[.!?:])\s+|\n\s*\n", text):
            words = sentence.split(" ")
            if 3 <= len(words) <= 60 and len(sentence) < 400 and "ASSISTANT" not in sentence and "USER" not in sentence:
                found.add(sentence.strip())
    return sorted(found - {""})


def conversations(count: int, seed: int = 0) -> Iterator[dict[str, object]]:
    """ShareGPT rows: 2.6 rounds on average, answers three and a half times as long as questions."""
    draw, pool = random.Random(seed), sentences()
    for number in range(count):
        words = min(4_000, max(30, int(MEDIAN * math.exp(draw.gauss(0, SIGMA)))))
        rounds = max(1, min(8, round(draw.lognormvariate(math.log(max(1.0, words / 100)), 0.5))))
        turns = []
        for _ in range(rounds):
            turns.append({"from": "human", "value": _text(draw, pool, 0.22 * words / rounds)})
            turns.append({"from": "gpt", "value": _text(draw, pool, 0.78 * words / rounds)})
        yield {"id": f"chat{number}", "conversations": turns}


def write(path: Path, count: int, seed: int = 0) -> None:
    """Conversations as JSON Lines."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in conversations(count, seed))


def _text(draw: random.Random, pool: list[str], words: float) -> str:
    found: list[str] = []
    while len(found) < words:
        found += [_new(draw) if draw.random() < NEW else word for word in draw.choice(pool).split(" ")]
    return " ".join(found[: max(2, round(words))]).strip() or "Yes."


def _new(draw: random.Random) -> str:
    word = "".join(draw.choices(_SYLLABLES, k=draw.randint(2, 5)))
    return word + str(draw.randint(0, 9999)) if draw.random() < 0.3 else word


def _docstrings() -> Iterator[str]:
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                yield text


def _readmes() -> Iterator[str]:
    for each in sorted(importlib.metadata.distributions(), key=lambda each: each.name.lower()):
        yield str(each.metadata.json.get("description", ""))
