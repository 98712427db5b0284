"""`python -m vicuna.data corpus`: write the sample corpus, its labels and its held-out questions."""

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vicuna import manifest
from vicuna.command import run
from vicuna.config import to_dict
from vicuna.data.corpus.corpus import Corpus, corpus
from vicuna.files import replacing

KIND = "raw-sample"
MOST = 100_000
"""Most conversations: with many more, the short tables could no longer make each one different."""
RAW, QUESTIONS, LABELS = "raw.json", "questions.jsonl", "labels.jsonl"
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Write a raw sample corpus: chat pages with known dirt, and held-out questions about what they teach."""

    out: str
    """Folder for raw.json, questions.jsonl, labels.jsonl and the manifest."""
    conversations: int = 2000
    """How many conversations."""
    questions: int = 200
    """How many held-out questions; a small corpus teaches too little for many and gives fewer."""
    seed: int = 0
    """The same seed and counts give the same bytes."""

    def __post_init__(self) -> None:
        if not 1 <= self.conversations <= MOST:
            raise ValueError(f"conversations is 1 to {MOST}; got {self.conversations}")
        if self.questions < 0:
            raise ValueError(f"questions is 0 or more; got {self.questions}")


def command(argv: list[str]) -> int:
    """The command line."""
    return run(CorpusConfig, main, argv, prog="python -m vicuna.data corpus")


def main(config: CorpusConfig) -> None:
    """Write the corpus, or say that it is there already."""
    out = Path(config.out)
    settings = {key: value for key, value in to_dict(config).items() if key != "out"}
    if manifest.matches(out, KIND, {}, settings):
        print(f"{out} holds this corpus already")
        return
    (out / manifest.NAME).unlink(missing_ok=True)
    made = corpus(config.conversations, config.questions, config.seed)
    facts = counts(made)
    write(out, made)
    manifest.write(out, KIND, config=settings, facts=facts)
    print(f"{out}: {facts['conversations']} conversations with {facts['turns']} turns, {facts['sound']} of them sound")
    print("planted: " + ", ".join(f"{kind} {n}" for kind, n in made.dirt().most_common()))
    print(f"{facts['questions']} held-out questions")
    if len(made.questions) < config.questions:
        log.warning("%d questions were wanted; more conversations teach more facts to ask about", config.questions)


def write(out: Path, made: Corpus) -> None:
    """Write the three files of the corpus."""
    with replacing(out / RAW) as file:
        rows = (json.dumps(record.row(), ensure_ascii=False) for record in made.records)
        file.write("[\n" + ",\n".join(rows) + "\n]\n")
    _write_rows(out / LABELS, (record.label.row() for record in made.records))
    numbered = enumerate(made.questions, 1)
    _write_rows(out / QUESTIONS, (question.row(f"{question.category}-{n:03d}") for n, question in numbered))


def counts(made: Corpus) -> dict[str, object]:
    """What the corpus holds, in numbers."""
    return {
        "conversations": len(made.records),
        "turns": sum(len(record.turns) for record in made.records),
        "sound": sum(not record.label.dirt for record in made.records),
        "dirt": dict(sorted(made.dirt().items())),
        "facts": len({fact for record in made.records for fact in record.facts}),
        "questions": len(made.questions),
    }


def _write_rows(path: Path, rows: Iterable[dict[str, object]]) -> None:
    with replacing(path) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
