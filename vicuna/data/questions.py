"""Questions of evaluations: read from files of any common layout, or known by their fingerprints only."""

import glob
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vicuna.errors import InputError
from vicuna.files import read_json, read_jsonl, read_text, sha256_file

KNOWN = Path(__file__).parent / "known"
"""Fingerprints that come with the package."""
ANCHOR = 6
"""A question of at least so many words is found inside of messages too; a shorter one only as a whole message."""
_FIELDS = ("turns", "text", "prompt", "question", "instruction")
_NAMES = ("question_id", "uid", "id")


@dataclass(frozen=True, slots=True)
class Question:
    """A text that must not be trained on."""

    name: str
    """File and id of the question."""
    text: str


@dataclass(frozen=True, slots=True)
class Print:
    """What a question is recognised by: the hashes of its runs of words."""

    name: str
    length: int
    """Words in a run: those asked for, or all of the question's where it has fewer."""
    runs: tuple[tuple[int, int], ...]
    """Of each run the hash of its first ANCHOR words (of all, where it is shorter) and of the whole, 64 bits each."""


def fingerprint(question: Question, ngram: int) -> Print | None:
    """The question's runs of `ngram` words; None for a text without words."""
    from vicuna.data.shingles import shingles, words

    hashes = words([question.text]).hashes
    if not len(hashes):
        return None
    length = min(ngram, len(hashes))
    wholes = shingles(hashes, length).tolist()
    anchors = shingles(hashes, min(ANCHOR, length)).tolist()[: len(wholes)]
    return Print(question.name, length, tuple(dict.fromkeys(zip(anchors, wholes, strict=True))))


# ------------------------------------------------------------------------------------------------ files
def question_paths(patterns: Sequence[str], known: Sequence[str] = ()) -> dict[str, Path]:
    """Name → file for paths and patterns of question files, and for names of the package's own fingerprints.

    Raises:
        InputError: a file that does not exist, or a pattern that nothing matches.
    """
    paths = [KNOWN / f"{name}.jsonl" for name in known]
    for pattern in patterns:
        # patterns may be absolute, which Path.glob does not take
        found = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
        if not found:
            what = "no question file matches" if glob.has_magic(pattern) else "there is no question file"
            raise InputError(f"{what} {pattern}")
        paths += [Path(each) for each in found if Path(each).is_file()]
    paths = list(dict.fromkeys(paths))
    names = [path.name for path in paths]
    return {path.name if names.count(path.name) == 1 else path.as_posix(): path for path in paths}


def question_hashes(patterns: Sequence[str], known: Sequence[str] = ()) -> dict[str, str]:
    """Name → SHA-256 of each question file."""
    return {f"questions/{name}": sha256_file(path) for name, path in question_paths(patterns, known).items()}


def read_prints(name: str, path: Path, ngram: int) -> list[Print]:
    """The fingerprints in a file, or those of the questions in it.

    Args:
        name: what to call the file.
        ngram: words in a run; a file of fingerprints has its own.

    Raises:
        InputError: the file is unreadable, holds no questions, or one without text.
    """
    rows = list(_rows(path))
    if not rows:
        raise InputError(f"{path} holds no questions")
    if isinstance(rows[0][1], dict) and "fingerprint" in rows[0][1]:
        return [_print(name, row, where) for where, row in rows]
    questions = [each for number, (where, row) in enumerate(rows, 1) for each in _questions(name, number, row, where)]
    return [found for each in questions if (found := fingerprint(each, ngram))]


def write_prints(prints: Sequence[Print]) -> str:
    """The fingerprints as JSON Lines, for a file that `read_prints` reads."""
    rows = [
        {
            "fingerprint": each.name,
            "words": each.length,
            "runs": [f"{anchor:016x}{run:016x}" for anchor, run in each.runs],
        }
        for each in prints
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    if not read_text(path).lstrip().startswith("["):
        yield from ((f"{path}:{line}", row) for line, row in read_jsonl(path))
        return
    yield from ((f"{path}, question {number}", row) for number, row in enumerate(read_json(path), 1))


def _print(name: str, row: Any, where: str) -> Print:
    try:
        runs = tuple((int(each[:16], 16), int(each[16:], 16)) for each in row["runs"])
        length = row["words"]
        if not (isinstance(length, int) and length > 0 and all(0 <= n < 1 << 64 for run in runs for n in run)):
            raise ValueError("its numbers are out of range")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: no fingerprint of a question ({error}); make the file again") from error
    return Print(f"{name} {row['fingerprint']}", length, runs)


# ------------------------------------------------------------------------------------------------ layouts
def _questions(name: str, number: int, row: Any, where: str) -> Iterator[Question]:
    """The questions in a row: a text, or an object with one of the known fields."""
    if not isinstance(row, str | dict):
        raise InputError(f"{where}: expected a question, got {type(row).__name__}")
    field = next((each for each in _FIELDS if each in row), "") if isinstance(row, dict) else ""
    texts = [row] if isinstance(row, str) else _texts(row[field]) if field else []
    if not any(text.strip() for text in texts):
        fields = ", ".join(f"`{each}`" for each in _FIELDS)
        raise InputError(f"{where}: no question; one of the fields {fields} holds its text")
    given = next((row[each] for each in _NAMES if each in row), number) if isinstance(row, dict) else number
    for text in texts:
        yield Question(f"{name} {given}".strip(), text)


def _texts(value: Any) -> list[str]:
    """A text, a list of texts, or a list of messages (of which the user's count)."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        asked = value.get("role", "user") in ("user", "human")
        return _texts(value.get("content")) if asked else []
    if isinstance(value, list):
        return [text for each in value for text in _texts(each)]
    return []
