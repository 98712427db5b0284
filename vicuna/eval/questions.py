"""Questions: what is asked, in which category, and what the right answer is where one is known."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vicuna.errors import InputError
from vicuna.files import read_json, read_jsonl, sha256_text

UNSORTED = "general"
"""Category of questions that name none."""
OWN = "vicuna-80"
"""The 80 questions that come with the package: ten in each of eight categories; coding and math are one of them."""
_KNOWN = Path(__file__).parent / "known"


@dataclass(frozen=True)
class Question:
    """One question of one or more user turns."""

    id: str
    category: str
    turns: tuple[str, ...]
    references: tuple[tuple[str, ...], ...] = ()
    """For each turn the accepted answers; an empty tuple where none is known. As long as `turns`, or empty."""
    guides: tuple[str, ...] = ()
    """For each turn what a good answer has, for a judge that reads; "" where nothing is said. Like `references`."""

    @property
    def graded_turn(self) -> int | None:
        """Index of the last turn that has a reference, else None."""
        known = [index for index, accepted in enumerate(self.references) if accepted]
        return known[-1] if known else None

    @property
    def reference(self) -> tuple[str, ...]:
        """The accepted answers of the graded turn; empty where none is known."""
        turn = self.graded_turn
        return () if turn is None else self.references[turn]

    @property
    def hash(self) -> str:
        """Identity of what is asked: 16 hexadecimal digits over id and turns."""
        return sha256_text(json.dumps([self.id, self.turns], ensure_ascii=False))[:16]


def question_file(name: str | Path) -> Path:
    """The file that holds the questions: the package's own for the name `vicuna-80`, else the path as it is."""
    return _KNOWN / f"{OWN}.jsonl" if str(name) == OWN else Path(name)


def read_questions(path: str | Path) -> list[Question]:
    """The questions of a JSON Lines file (or a JSON list), in order; `vicuna-80` names our own.

    Layouts: `{question_id, category, turns, reference?, guide?}` (ours and MT-bench), `{question_id, text, category}`
    (2023), `{instruction}` (AlpacaEval; numbered by position), `{uid, prompt, category}` (Arena-Hard). A reference is
    null, a text, or a list of accepted texts, one for each turn; a guide is null or a text, one for each turn.

    Raises:
        InputError: unreadable file, unknown layout, a question without text, or an id used twice.
    """
    path = question_file(path)
    questions = [_question(row, number, where) for number, (row, where) in enumerate(_rows(path), 1)]
    if not questions:
        raise InputError(f"{path} has no questions")
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise InputError(f"{path}: question id {question.id} is used twice; ids tell questions apart")
        seen.add(question.id)
    return questions


def _rows(path: Path) -> list[tuple[dict[str, Any], str]]:
    if path.suffix != ".json":
        return [(row, f"{path}:{line}") for line, row in read_jsonl(path)]
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: expected a list of questions")
    return [(row, f"{path}, question {number}") for number, row in enumerate(rows, 1)]


def _question(row: Mapping[str, Any], number: int, where: str) -> Question:
    turns = _turns(row, where)
    name = next((row[key] for key in ("question_id", "uid", "id") if key in row), number)
    category = row.get("category") or UNSORTED
    if not isinstance(name, str | int) or not isinstance(category, str):
        raise InputError(f"{where}: the id is a text or a whole number and the category a text")
    references = _references(row.get("reference"), len(turns), where)
    return Question(str(name), category, turns, references, _guides(row.get("guide"), len(turns), where))


def _turns(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    if "turns" in row:
        turns = row["turns"]
    else:
        turns = [row[key] for key in ("text", "instruction", "prompt") if key in row][:1]
    if isinstance(turns, list) and turns and all(isinstance(turn, str) and turn.strip() for turn in turns):
        return tuple(turns)
    raise InputError(f"{where}: a question has its text in turns (a list), text, instruction or prompt")


def _references(value: Any, turns: int, where: str) -> tuple[tuple[str, ...], ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        value = [None] * (turns - 1) + [value]
    if not isinstance(value, list) or len(value) > turns:
        raise InputError(f"{where}: reference is a list with one entry for each of the {turns} turns (null: none)")
    value = value + [None] * (turns - len(value))
    return tuple(_accepted(entry, where) for entry in value)


def _accepted(entry: Any, where: str) -> tuple[str, ...]:
    texts: Sequence[Any] = [] if entry is None else entry if isinstance(entry, list) else [entry]
    texts = [str(text) if isinstance(text, int | float) else text for text in texts]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(f"{where}: a reference answer is null, a text, or a list of accepted texts")
    return tuple(texts)


def _guides(value: Any, turns: int, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    fits = isinstance(value, list) and len(value) == turns
    if not fits or not all(each is None or (isinstance(each, str) and each.strip()) for each in value):
        raise InputError(f"{where}: guide is a list with a text or null for each of the {turns} turns")
    return tuple(each or "" for each in value)
