"""HTML → markdown: how faithful and how fast, beside FastChat, markdownify and html-to-markdown in the same run.

    .venv/bin/python scripts/bench/data/convert.py --peers DIR --json convert.json
    .venv/bin/python scripts/bench/data/convert.py --peers DIR --corpus raw.json --truth truth.jsonl

Sets: answers made of every construct (their markdown is known), real READMEs of installed packages shown as chat pages,
the CommonMark standard's examples, and the answers of any ShareGPT file. Each converter runs in its own environment;
the markdown is read again by markdown-it-py and compared (see judge.py). Speed is CPU seconds of one process, all
converters in turn in each repetition, medians. Without `--peers` only ours is measured. `--quick` takes half a minute.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import corpus
import dom
import judge
import measure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import peers
import texts

OURS = "ours"
_HERE = Path(__file__).parent
REASONS = {
    "a link that is never closed": (21, 31, 150, 187, 344),
    "a table without a header row, which markdown does not have": (148, 149, 160, 190, 191),
    "a tag that never ends: browsers show nothing of it": (156, 157, 158),
    "white space just inside a link or emphasis, which markdown cannot hold": (162, 164, 166),
    "an element that HTML does not know": (163,),
    "scripts and styles, which no reader sees": (170, 172, 176, 178),
    "a box that is never closed: parsers disagree on its end": (174, 175),
    "a comment or CDATA that parsers read in different ways": (626, 629),
}
"""Why examples of the standard are missed, as far as they are."""


class Converter:
    """One converter in a process of its own."""

    def __init__(self, name: str, python: str | Path, function: str, folder: Path) -> None:
        self.name = name
        self._files = folder / f"{name}.pages.json", folder / f"{name}.out.json"
        words = [str(python), "-P", "-W", "ignore", str(_HERE / "adapter.py"), function]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def __call__(self, pages: Sequence[str]) -> tuple[list[str | None], float]:
        """The markdown of each page (None: it raised), and the CPU seconds that all took."""
        given, made = self._files
        given.write_text(json.dumps(list(pages)), encoding="utf-8")
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"pages": str(given), "out": str(made)}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit(f"error: the converter {self.name} ended")
        return json.loads(made.read_text(encoding="utf-8")), json.loads(answer)["cpu"]

    def close(self) -> None:
        """End its process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@dataclass
class Set:
    """Pages with what they show."""

    name: str
    pages: list[str]
    wanted: list[judge.Shown]
    reader: Any = judge.CHAT
    numbers: list[str] = field(default_factory=list)
    """Names of the pages, where they have some."""


# ------------------------------------------------------------------------------------------------ the sets
def generated(count: int, seed: int) -> Set:
    """Hard answers; what they show is known from their markdown, and must be what the page's own DOM says."""
    made = Set(f"generated, hard ({count})", [], [])
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")
        answer = corpus.answer(rng, 1, 7, hard=0.5, maths=0.12)
        counter = f"{rng.randint(1, 3)} / {rng.randint(3, 5)}" if rng.random() < 0.05 else ""
        made.pages.append(counter + answer.html)
        made.wanted.append(judge.of_truth(answer.markdown, answer.tex))
        if made.wanted[-1] != judge.of_page(made.pages[-1]):
            sys.exit(f"error: page {number} of seed {seed} does not show its own markdown: the generator is wrong")
    return made


def real(limit: int) -> Set:
    """Real texts as chat pages, unmodified."""
    chosen = texts.readmes()
    random.Random(0).shuffle(chosen)
    looks = random.Random(1)
    pages = [dom.page(text, (), dom.Look.drawn(looks)) for text in chosen[:limit]]
    return Set(f"READMEs ({len(pages)})", pages, [judge.of_page(page) for page in pages])


_BROKEN = {"malformed_html", "double_escaped", "network_error", "copy_chars"}
"""Labels of answers that are no page, or have no one right reading."""


def exported(path: Path, truth: Path | None, limit: int) -> Set:
    """The answers of a ShareGPT file that are chat pages."""
    skipped = set()
    if truth:
        rows = map(json.loads, truth.read_text(encoding="utf-8").splitlines())
        skipped = {number for number, row in enumerate(rows) if _BROKEN & set(row["labels"])}
    pages: dict[str, None] = {}
    for number, row in enumerate(json.loads(path.read_text(encoding="utf-8"))):
        if number not in skipped:
            answers = (turn["value"] for turn in row["conversations"] if turn["from"] in ("gpt", "assistant"))
            pages |= {text: None for text in answers if text.lstrip("0123456789 /").startswith("<div")}
    chosen = list(pages)[:limit]
    return Set(f"{path.name} ({len(chosen)})", chosen, [judge.of_page(page) for page in chosen])


def standard(folder: Path) -> Set:
    """The CommonMark examples' HTML."""
    examples = texts.commonmark(folder)
    numbers = [f"{'raw ' if each.raw_html else ''}{each.number} {each.section}" for each in examples]
    pages = [each.html for each in examples]
    return Set("CommonMark", pages, [judge.of_html(page) for page in pages], judge.SPEC, numbers)


# ------------------------------------------------------------------------------------------------ measuring
def fidelity(chosen: Set, converters: Sequence[Converter]) -> dict[str, list[judge.Verdict]]:
    """Each converter's verdicts."""
    found = {}
    for each in converters:
        markdown, _ = each(chosen.pages)
        verdicts = [judge.verdict(*both, chosen.reader) for both in zip(chosen.wanted, markdown, strict=True)]
        found[each.name] = verdicts
        print(f"{chosen.name}: {each.name} done", file=sys.stderr)
    return found


def passes(verdicts: Sequence[judge.Verdict], check: str) -> tuple[int, int]:
    """How many are right, of those that could be wrong."""
    judged = [getattr(each, check) for each in verdicts if getattr(each, check) is not None]
    return sum(judged), len(judged)


def speed(
    pages: Sequence[str], megabytes: float, repeats: int, converters: Sequence[Converter]
) -> dict[str, list[float]]:
    """Megabytes of HTML per CPU second of each converter, in each repetition; all take turns."""
    chosen, size = list[str](), 0
    for page in pages:
        if size >= megabytes * 1e6:
            break
        chosen.append(page)
        size += len(page.encode())
    rates: dict[str, list[float]] = {each.name: [] for each in converters}
    for number in range(repeats):
        for each in converters:
            rates[each.name].append(size / 1e6 / each(chosen)[1])
        print(f"speed: repetition {number + 1} of {repeats} done", file=sys.stderr)
    return rates


def untouched(count: int, seed: int, fastchat: Converter | None) -> dict[str, tuple[int, int]]:
    """People's plain text through what each cleaner does with a user's message: how much stays byte for byte."""
    from vicuna.data.config import MarkdownConfig
    from vicuna.data.pages import to_text

    rng = random.Random(seed)
    typed = [corpus.asked(rng) for _ in range(count)] + texts.readmes()
    config = MarkdownConfig()
    kept: dict[str, Callable[[], int]] = {OURS: lambda: sum(to_text(text, "user", config) == text for text in typed)}
    if fastchat:
        kept[fastchat.name] = lambda: sum(one == text for one, text in zip(fastchat(typed)[0], typed, strict=True))
    return {name: (same(), len(typed)) for name, same in kept.items()}


# ------------------------------------------------------------------------------------------------ the command
def main() -> None:
    """Measure and show."""
    options = _options()
    print(measure.machine(), end="\n\n")
    with tempfile.TemporaryDirectory() as folder:
        converters = [Converter(OURS, sys.executable, "vicuna.data.markdown:html_to_markdown", Path(folder))]
        for name, peer in peers.PEERS.items() if options.peers else ():
            if peer.converter:
                converters.append(Converter(name, peers.python_of(options.peers, name), peer.converter, Path(folder)))
        sets = _sets(options)
        results: dict[str, Any] = {"machine": measure.machine(), "fidelity": {}, "misses": {}}
        found = {each.name: fidelity(each, converters) for each in sets}
        _show_fidelity(found, [each.name for each in converters], results)
        for each in sets:
            _show_misses(each, found[each.name], options.show, results)
        _show_untouched(untouched(options.answers, options.seed, _named(converters, peers.FASTCHAT)), results)
        pages = sets[-1].pages if options.corpus else sets[0].pages
        _show_speed(speed(pages, options.megabytes, options.repeats, converters), results)
        for converter in converters:
            converter.close()
    measure.save(options.json, results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="folder that peers.py made; without it, only ours is measured")
    parser.add_argument("--answers", type=int, default=3000, help="made-up answers")
    parser.add_argument("--real", type=int, default=1500, help="most pieces of READMEs")
    parser.add_argument("--corpus", type=Path, help="a ShareGPT file whose answers are measured too, and timed")
    parser.add_argument("--truth", type=Path, help="its truth.jsonl, to leave broken pages out")
    parser.add_argument("--limit", type=int, default=3000, help="most answers of the ShareGPT file")
    parser.add_argument(
        "--downloads", type=Path, default=Path(tempfile.gettempdir()) / "commonmark", help="kept archive"
    )
    parser.add_argument(
        "--megabytes", type=float, default=4.0, help="HTML for the speed; markdownify takes 3 s for one"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=0, help="misses of ours to show in full")
    parser.add_argument("--json", help="write everything there")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that all works")
    options = parser.parse_args()
    if options.quick:
        options.answers, options.real, options.limit, options.megabytes, options.repeats = 200, 100, 200, 0.5, 2
    return options


def _sets(options: argparse.Namespace) -> list[Set]:
    sets = [generated(options.answers, options.seed), real(options.real), standard(options.downloads)]
    return [*sets, exported(options.corpus, options.truth, options.limit)] if options.corpus else sets


def _named(converters: Sequence[Converter], name: str) -> Converter | None:
    return next((each for each in converters if each.name == name), None)


def _show_fidelity(found: dict[str, dict[str, list[judge.Verdict]]], names: list[str], results: dict[str, Any]) -> None:
    rows = []
    for chosen, verdicts in found.items():
        for check in judge.CHECKS:
            counts = {name: passes(verdicts[name], check) for name in names}
            if counts[OURS][1]:
                rows.append([f"{chosen}: {check}", *(measure.share(*counts[name]) for name in names)])
                results["fidelity"][f"{chosen}: {check}"] = counts
    print(measure.table(["right", *names], rows), end="\n\n")


def _show_misses(chosen: Set, found: dict[str, list[judge.Verdict]], show: int, results: dict[str, Any]) -> None:
    """Our misses by name; of the standard's examples also the counts without raw HTML."""
    if chosen.numbers:
        plain = {name: [v for v, number in zip(each, chosen.numbers, strict=True) if not number.startswith("raw")]
                 for name, each in found.items()}  # fmt: skip
        counts = {name: passes(each, "all") for name, each in plain.items()}
        results["fidelity"]["CommonMark without raw HTML: all"] = counts
        shown = (measure.share(*each) for each in counts.values())
        print(measure.table(["right", *counts], [["CommonMark without raw HTML: all", *shown]]), end="\n\n")
    missed = [place for place, each in enumerate(found[OURS]) if not each.all]
    names = [chosen.numbers[place] if chosen.numbers else str(place) for place in missed]
    results["misses"][chosen.name] = [
        {"page": name, "html": chosen.pages[place], **vars(found[OURS][place])}
        for name, place in zip(names, missed, strict=True)
    ]
    if missed:
        print(f"{chosen.name}, ours misses {len(missed)}: {'; '.join(names)}\n")
    if missed and chosen.numbers:
        print("\n".join(f"- {reason}: {', '.join(examples)}" for reason, examples in _reasons(names).items()) + "\n")
    for place in missed[:show]:
        print(f"{found[OURS][place]}\n{chosen.pages[place]}\n")


def _reasons(names: Sequence[str]) -> dict[str, list[str]]:
    known = {number: reason for reason, numbers in REASONS.items() for number in numbers}
    found: dict[str, list[str]] = {}
    for name in names:
        number = next(word for word in name.split() if word.isdigit())
        found.setdefault(known.get(int(number), "not explained yet"), []).append(number)
    return found


def _show_untouched(kept: dict[str, tuple[int, int]], results: dict[str, Any]) -> None:
    results["plain text kept byte for byte"] = kept
    row = ["plain text kept byte for byte", *(measure.share(*each) for each in kept.values())]
    print(measure.table(["", *kept], [row]), end="\n\n")


def _show_speed(rates: dict[str, list[float]], results: dict[str, Any]) -> None:
    results["speed"] = {"unit": "MB of HTML per CPU second", **rates}
    ours = statistics.median(rates[OURS])
    rows = []
    for name, each in rates.items():
        middle = statistics.median(each)
        rows.append([name, f"{middle:.2f}", f"{min(each):.2f}-{max(each):.2f}", f"{ours / middle:.2f}"])
    print(measure.table(["converter", "MB of HTML per CPU second", "least-most", "ours / it"], rows))


if __name__ == "__main__":
    main()
