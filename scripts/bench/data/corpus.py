"""Make a raw corpus in ShareGPT's form with known truth: what each answer's markdown was, and what dirt is where.

    .venv/bin/python scripts/bench/data/corpus.py --conversations 2000 --out DIR

writes DIR/raw.json (what `clean` reads), DIR/truth.jsonl (one line for each record, in order: `idx`, `id`, `labels`,
`expect` keep, drop or policy, `lang`, `dup_of`, `turns` that an ideal cleaner would leave, and `planted` personal data)
and DIR/questions.jsonl (evaluation questions, some of which are planted). Users' turns are plain text, answers are
ChatGPT's pages of three years. The same count and seed give the same bytes on any number of processes.
"""

import argparse
import concurrent.futures
import functools
import json
import multiprocessing
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dom
import prose
from constructs import Writer
from dirt import PLANTERS, Draft, Round

CHUNK = 250
"""Conversations that one seed makes; duplicates are looked for within them."""


@dataclass(frozen=True)
class Answer:
    """An answer as markdown and as the page it came from."""

    markdown: str
    """Formulas are marks, see dom.MARK."""
    tex: tuple[str, ...]
    html: str

    @property
    def written(self) -> str:
        """The markdown with its formulas between dollars."""
        return dom.MARK.sub(self._formula, self.markdown)

    def _formula(self, mark: Any) -> str:
        tex = self.tex[int(mark["number"])]
        return f"${tex}$" if mark["kind"] == "\ue000" else f"$$\n{tex}\n$$"


def answer(rng: random.Random, least: int, most: int, hard: float, maths: float) -> Answer:
    """A made-up answer of some blocks, and its page of a random year; see Writer for `hard` and `maths`."""
    writer = Writer(rng, maths)
    markdown = writer.answer(least, most, hard)
    return Answer(markdown, tuple(writer.tex), dom.page(markdown, writer.tex, dom.Look.drawn(rng)))


_LITERAL = (
    "\n\n#include <stdio.h>\nvector<int> {a}; if (a<b && c>d) {a} *= {n};",
    " It says <{w} id=\"{n}\"> and List<String> there.",
    "\n- {a} = {n}\n- __{w}__ and *args", "\n\n    if {w} < {n} && {a}->next:\n        return {a}[{n}]",
    " AT&T &amp; 1 / 2 cup",
    "\n\n1. {w}\n2. {w} * 2\n\n> {w}_{n}", " My regex is ^\\d+<br>$ and `{a}`.",
)  # fmt: skip


def asked(rng: random.Random) -> str:
    """What a person typed: plain text, at times with code or tags in it."""
    text = prose.question(rng)
    if rng.random() < 0.4:
        text += " " + prose.sentences(rng, 1, 3)
    if rng.random() < 0.25:
        text += Writer(rng).filled(rng.choice(_LITERAL))
    return text


def conversation(rng: random.Random) -> list[Round]:
    """The rounds of a sound conversation: as many as in shared chats, a third of them one."""
    count = rng.choices((1, 2, 3, 4, rng.randint(5, 8), rng.randint(9, 18)), (33, 20, 14, 9, 16, 8))[0]
    return [round_of(rng, asked(rng)) for _ in range(count)]


def round_of(rng: random.Random, question: str, most: int | None = None) -> Round:
    """A round with a made-up answer of the length that chatbots' answers have, or of `most` blocks."""
    made = answer(rng, most or 2, most or rng.choice((4, 8, 14)), hard=0.2, maths=0.01)
    return Round(question, made.html, made.written)


# ------------------------------------------------------------------------------------------------ a whole corpus
@dataclass
class Chunk:
    """Raw records and the truth about them."""

    rows: list[str] = field(default_factory=list)
    truths: list[str] = field(default_factory=list)


def questions() -> list[str]:
    """The evaluation questions that are planted as contamination."""
    rng = random.Random("questions")
    return [f"{prose.question(rng)} {prose.sentences(rng, 2, 3)}" for _ in range(40)]


def chunk(number: int, count: int, seed: int, dirty: bool) -> Chunk:
    """One chunk of a corpus; depends on nothing but its arguments."""
    rng = random.Random(f"{seed}/{number}")
    made, earlier = Chunk(), list[Draft]()
    names, weights = zip(*((name, each.weight) for name, each in PLANTERS.items()), strict=True)
    clean = 100 - sum(weights)
    for place in range(count):
        kind = rng.choices(("clean", *names), (clean, *weights))[0] if dirty else "clean"
        draft = Draft(f"c{seed}-{number:04d}-{place:03d}", conversation(rng))
        draft.questions, draft.another = questions(), functools.partial(round_of, rng)
        if kind != "clean":
            PLANTERS[kind].plant(draft, rng, earlier)
        if kind in ("dup_value", "near_dup") and not draft.dup_of:
            kind = "clean"  # there was nothing yet to be the same as
        if kind == "clean":
            earlier.append(draft)
        made.rows.append(json.dumps(draft.row(), ensure_ascii=False))
        truth = {"idx": number * CHUNK + place, **draft.truth(kind)}
        made.truths.append(json.dumps(truth, ensure_ascii=False))
    return made


def chunks(conversations: int, seed: int, dirty: bool = True) -> Iterator[Chunk]:
    """A corpus, chunk by chunk in order, made by all cores."""
    counts = [min(CHUNK, conversations - start) for start in range(0, conversations, CHUNK)]
    context = multiprocessing.get_context("forkserver")
    with concurrent.futures.ProcessPoolExecutor(mp_context=context) as pool:
        waiting = [pool.submit(chunk, number, count, seed, dirty) for number, count in enumerate(counts)]
        for place, each in enumerate(waiting):
            yield each.result()
            waiting[place] = concurrent.futures.Future()  # done with: 50,000 conversations are a gigabyte


def write(out: Path, conversations: int, seed: int, dirty: bool = True) -> Path:
    """Write a corpus; returns the raw file."""
    out.mkdir(parents=True, exist_ok=True)
    raw = out / "raw.json"
    with raw.open("w", encoding="utf-8") as rows, (out / "truth.jsonl").open("w", encoding="utf-8") as truths:
        apart = "[\n"
        for made in chunks(conversations, seed, dirty):
            rows.write(apart + ",\n".join(made.rows))
            truths.writelines(line + "\n" for line in made.truths)
            apart = ",\n"
        rows.write("\n]\n")
    lines = (json.dumps({"question_id": number, "text": text}) for number, text in enumerate(questions(), 1))
    (out / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return raw


def main() -> None:
    """Write a corpus and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--conversations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sound", action="store_true", help="without dirt")
    options = parser.parse_args()
    raw = write(options.out, options.conversations, options.seed, not options.sound)
    print(f"{raw}: {options.conversations} conversations, {raw.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
