"""Is each kind of dirt found, and nothing else? `clean`'s ledger against a corpus whose dirt is known.

    .venv/bin/python scripts/bench/data/labels.py --work DIR --json labels.json
    .venv/bin/python scripts/bench/data/labels.py --work DIR --corpus raw.json --truth truth.jsonl

Without `--corpus` a corpus is made (corpus.py). For each kind: recall is the share of planted records that the ledger
names for the right reason; precision is the share of records with that reason in which it was planted. Debris of the
page is found where the message is right afterwards; personal data where it is gone. Near-duplicates are right when both
belong to one family. Languages are told message by message, for the corpus and for Django's translations from PyPI.
With `--peers`, FastChat's `clean_sharegpt` runs too, and the table says how many of the records it drops.
"""

import argparse
import collections
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clean
import corpus
import locales
import measure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import peers
import yaml

ERROR = "quality: error message instead of an answer"
SPEAKS = frozenset({"quality: refusal", "quality: speaks as a language model", "quality: moralizing"})
RULES: dict[str, frozenset[str]] = {
    "network_error": frozenset({ERROR}),
    "too_many_requests": frozenset({ERROR}),
    "empty_gpt": frozenset({"validity: empty answer"}),
    "empty_human": frozenset({"validity: empty question"}),
    "starts_with_gpt": frozenset({"validity: answer before the first question"}),
    "ends_with_human": frozenset({"validity: question without an answer"}),
    "role_repeated": frozenset({"validity: two messages of one role in a row"}),
    "role_unknown": frozenset({"read: unknown role", "read: system message after the first turn"}),
    "single_turn": frozenset({"validity: answer before the first question", "validity: question without an answer"}),
    "no_turns": frozenset({"read: no turns"}),
    "plugin": frozenset({"validity: held with plugins"}),
    "too_short": frozenset({"quality: conversation too short"}),
    "moralizing": SPEAKS,
    "loop": frozenset({"quality: repetition"}),
    "garbled": frozenset({"quality: broken characters"}),
    "blob": frozenset({"quality: no text"}),
    "repeated_digits": frozenset({"quality: one digit over and over"}),
    "wrong_list_indices": frozenset({"quality: list stuck at 1"}),
    "contaminated": frozenset({"decontaminate: evaluation question"}),
    "non_english": frozenset({"language: language not wanted"}),
}
"""Label -> the ledger's `stage: reason` that finds it."""
SPOKEN = "natural_ai_language_model"
NATURAL = {
    SPOKEN: SPEAKS,
    "model_marker": RULES["starts_with_gpt"],
    "role_unknown": RULES["starts_with_gpt"]
    | RULES["ends_with_human"]
    | RULES["role_repeated"],  # some are known to us
}
"""Labels with which a reason is right too, though nothing was planted for it."""
_SPOKEN = re.compile(r"\b(?:as an?|i am an?|i'm an?) (?:\w+ ){0,2}(?:language model|AI)\b", re.IGNORECASE)
"""Real answers that say so were not planted, and must not count as sound."""
EXACT, NEAR = ("dup_value", "dup_id"), ("near_dup",)
IN_PLACE = ("share_prompt", "regen_counter", "copy_chars")
PLACEHOLDER = re.compile(r"\[(?:EMAIL|PHONE|CARD|IP|KEY)\]")
SETTINGS: dict[str, Any] = {
    **clean.SETTINGS,
    "language": {"keep": ["en"]},
    "toxicity": {"enabled": False},
    "split": {"enabled": False},
    "model": {},
}
"""As clean.py, but whole conversations in English; nothing is toxic in these corpora."""


@dataclass(frozen=True)
class Score:
    """How well one kind is found."""

    kind: str
    found: int
    planted: int
    right: int
    claimed: int

    def row(self) -> list[str]:
        """For the table."""
        return [self.kind, measure.share(self.found, self.planted), measure.share(self.right, self.claimed)]


@dataclass
class Outcome:
    """A corpus' truth and what `clean` made of it; by place in the corpus."""

    truths: list[dict[str, Any]]
    reasons: dict[int, set[str]]
    doubles: dict[int, str]
    """Records dropped as duplicates -> the id of the one that stayed."""
    samples: dict[int, list[str]]
    """Messages of what was kept."""

    def labels(self, place: int) -> set[str]:
        """What was planted there."""
        return set(self.truths[place]["labels"])

    def labelled(self, label: str) -> list[int]:
        """Where a label was planted."""
        return [place for place, truth in enumerate(self.truths) if label in truth["labels"]]


# ------------------------------------------------------------------------------------------------ running
def cleaned(raw: Path, truth: Path, questions: Path | None, work: Path) -> Outcome:
    """Run `clean` and read what it wrote."""
    out, config = work / "labelled", work / "labelled.yaml"
    shutil.rmtree(out, ignore_errors=True)
    settings = json.loads(json.dumps(SETTINGS))
    if questions:
        settings["decontaminate"]["questions"] = [str(questions)]
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    words = ["-m", "vicuna.data", "clean", str(raw), "--config", str(config), "--out", str(out)]
    measure.run([sys.executable, *words])
    outcome = Outcome(_truths(truth), collections.defaultdict(set), {}, {})
    for row in _rows(out / "ledger.jsonl"):
        place = int(row["position"].strip("[]"))
        outcome.reasons[place].add(f"{row['stage']}: {row['reason']}")
        if row["stage"] == "dedup":
            outcome.doubles[place] = row["detail"]
    for path in sorted((out / "conversations").glob("*.jsonl")):
        for row in _rows(path):
            place = int(re.findall(r"\[(\d+)\]$", row["source"])[0])
            outcome.samples[place] = [message["content"] for message in row["messages"]]
    return outcome


def _truths(path: Path) -> list[dict[str, Any]]:
    rows = _rows(path)
    for row in rows:
        spoken = any(turn["from"] == "gpt" and _SPOKEN.search(turn["md"]) for turn in row["turns"])
        if spoken and not {"moralizing", SPOKEN} & set(row["labels"]):
            row["labels"].append(SPOKEN)
    return rows


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def dropped_by_fastchat(raw: Path, folder: str, work: Path) -> set[int]:
    """Places of the records that `clean_sharegpt` does not keep; of several with one id, the first counts as kept."""
    out = work / "fastchat.json"
    runner = Path(clean.__file__).with_name("fastchat_run.py")
    python = peers.python_of(folder, peers.FASTCHAT)
    program = ["fastchat.data.clean_sharegpt", "--in", str(raw), "--out", str(out)]
    measure.run([python, "-P", "-W", "ignore", str(runner), "1", *program])
    kept = {row["id"] for row in json.loads(out.read_text(encoding="utf-8"))}
    dropped = set()
    for place, row in enumerate(json.loads(raw.read_text(encoding="utf-8"))):
        if row["id"] in kept:
            kept.discard(row["id"])
        else:
            dropped.add(place)
    return dropped


# ------------------------------------------------------------------------------------------------ judging
def scores(outcome: Outcome) -> list[Score]:
    """All kinds that the corpus has."""
    found = [_by_reason(outcome, label, reasons) for label, reasons in RULES.items() if outcome.labelled(label)]
    found += [_duplicates(outcome, kind) for kind in (EXACT, NEAR) if any(map(outcome.labelled, kind))]
    found += [_in_place(outcome, label) for label in IN_PLACE if outcome.labelled(label)]
    if outcome.labelled("personal"):
        found.append(_personal(outcome))
    return [*found, _sound(outcome)]


def _by_reason(outcome: Outcome, label: str, reasons: frozenset[str]) -> Score:
    planted = outcome.labelled(label)
    claimed = [place for place, named in outcome.reasons.items() if named & reasons]
    right = [place for place in claimed if _allowed(outcome.labels(place)) & outcome.reasons[place] & reasons]
    found = sum(bool(outcome.reasons.get(place, set()) & reasons) for place in planted)
    return Score(label, found, len(planted), len(right), len(claimed))


def _allowed(labels: Iterable[str]) -> set[str]:
    """The reasons that are right for a record with these labels."""
    rules = [each.get(label, frozenset()) for each in (RULES, NATURAL) for label in labels]
    return set().union(*rules)


def _duplicates(outcome: Outcome, kinds: Sequence[str]) -> Score:
    """Of a pair either may have been dropped: the longer one stays."""
    families = {truth["id"]: truth["dup_of"] or truth["id"] for truth in outcome.truths}
    label_of = {truth["id"]: truth["labels"][0] for truth in outcome.truths}
    planted = [place for kind in kinds for place in outcome.labelled(kind)]
    found = right = claimed = 0
    for place, other in outcome.doubles.items():
        truth = outcome.truths[place]
        names = {truth["labels"][0], label_of.get(other, "")}
        same = families[truth["id"]] == families.get(other, other)
        claimed += bool(names & set(kinds)) or not same
        right += bool(names & set(kinds)) and same
    found = min(right, len(planted))
    return Score(" or ".join(kinds), found, len(planted), right, claimed)


def _in_place(outcome: Outcome, label: str) -> Score:
    """Debris that goes while the message stays: right where the questions are the truth's and no debris is left."""
    planted = [place for place in outcome.labelled(label) if place in outcome.samples]
    left = re.compile(r"Share Prompt|\A\s*\d+ / \d+|Copy\d+ chars / \d+ words")
    right = sum(not any(left.search(text) for text in outcome.samples[place]) for place in planted)
    touched = [place for place in _whole(outcome) if "clean" in outcome.labels(place)]
    same = sum(_questions_kept(outcome, place) for place in touched)
    return Score(f"{label} (precision: untouched questions)", right, len(planted), same, len(touched))


def _whole(outcome: Outcome) -> set[int]:
    """Records of which no round was dropped."""
    return {place for place in outcome.samples if not outcome.reasons.get(place)}


def _questions_kept(outcome: Outcome, place: int) -> bool:
    wanted = [turn["md"] for turn in outcome.truths[place]["turns"] if turn["from"] == "human"]
    return outcome.samples[place][0::2] == wanted


def _personal(outcome: Outcome) -> Score:
    planted = [place for place in outcome.labelled("personal") if place in outcome.samples]
    gone = [
        place
        for place in planted
        if not any(datum in text for datum in outcome.truths[place]["planted"] for text in outcome.samples[place])
    ]
    claimed = [place for place, texts in outcome.samples.items() if any(map(PLACEHOLDER.search, texts))]
    right = sum("personal" in outcome.labels(place) for place in claimed)
    return Score("personal", len(gone), len(planted), right, len(claimed))


def _sound(outcome: Outcome) -> Score:
    """Sound conversations that are kept whole; of those that are kept whole, those that should be."""
    doubled = {truth["dup_of"] for truth in outcome.truths}  # either of two may be the one that stays
    alone = [place for place in outcome.labelled("clean") if SPOKEN not in outcome.labels(place)]
    sound = [place for place in alone if outcome.truths[place]["id"] not in doubled]
    whole = _whole(outcome)
    wanted = {place for place, truth in enumerate(outcome.truths) if truth["expect"] != "drop"}
    return Score("clean (kept whole)", len(whole & set(sound)), len(sound), len(whole & wanted), len(whole))


def false_claims(outcome: Outcome) -> dict[str, int]:
    """`label of the record, stage: reason` -> how often a record was dropped for what was not planted in it."""
    found: collections.Counter[str] = collections.Counter()
    for place, named in outcome.reasons.items():
        for reason in named - _allowed(outcome.labels(place)):
            if not reason.startswith("dedup") and reason in set().union(*RULES.values()):
                found[f"{outcome.truths[place]['labels'][0]}, {reason}"] += 1
    return dict(found.most_common())


# ------------------------------------------------------------------------------------------------ languages
def languages(texts: Mapping[str, Iterable[str]]) -> dict[str, tuple[int, int, int]]:
    """ISO 639-1 code -> (told rightly, told at all, messages), one message at a time."""
    from vicuna.data.chat import Chat, Round
    from vicuna.data.config import LanguageConfig
    from vicuna.data.filters import language

    config, found = LanguageConfig(), {}
    for code, messages in texts.items():
        told = []
        for text in messages:
            chat = Chat(id="x", file="x", position="", source="x", rounds=(Round(0, ("",), (text,), ""),))
            told.append(language.kept(chat, config)[1])
        found[code] = (told.count(code), len(told) - told.count(""), len(told))
    return found


def of_corpus(outcome: Outcome, most: int = 4000) -> dict[str, list[str]]:
    """The corpus' messages of more than 40 characters of prose, by language."""
    found: dict[str, list[str]] = collections.defaultdict(list)
    for truth in outcome.truths:
        for turn in truth["turns"]:
            prose = re.sub(r"```.*?```|`[^`]*`|\$[^$]*\$", "", turn["md"], flags=re.DOTALL)
            if len(prose) > 40 and len(found[truth["lang"]]) < most:
                found[truth["lang"]].append(turn["md"])
    return found


# ------------------------------------------------------------------------------------------------ the command
def main() -> None:
    """Measure and show."""
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    raw, truth, questions = _corpus(options)
    outcome = cleaned(raw, truth, questions, options.work)
    found = scores(outcome)
    results: dict[str, Any] = {"scores": [vars(each) for each in found], "false claims": false_claims(outcome)}
    theirs = dropped_by_fastchat(raw, options.peers, options.work) if options.peers else None
    print(_table(found, outcome, theirs), end="\n\n")
    for name, count in results["false claims"].items():
        print(f"not planted: {name}: {count}")
    sets: dict[str, Callable[[], dict[str, list[str]]]] = {
        "the corpus' messages over 40 characters": lambda: of_corpus(outcome),
        "Django's translations, 41 to 100 characters": lambda: _between(options, 40, 100),
        "Django's translations, over 100 characters": lambda: _between(options, 100, 10**6),
    }
    results["languages"] = {name: languages(make()) for name, make in sets.items()}
    rows = [_language_row(name, counts) for name, counts in results["languages"].items()]
    print("\n" + measure.table(["languages", "right, of all messages", "right, of those told", "worst"], rows))
    measure.save(options.json, results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, type=Path, help="folder for the corpus and the output")
    parser.add_argument("--corpus", type=Path, help="a labelled ShareGPT file instead of a made one")
    parser.add_argument("--truth", type=Path, help="its truth.jsonl")
    parser.add_argument("--conversations", type=int, default=2000, help="size of the corpus that is made")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--peers", help="folder that peers.py made, to run FastChat's cleaner too")
    parser.add_argument("--downloads", type=Path, default=Path(tempfile.gettempdir()) / "locales", help="kept archive")
    parser.add_argument("--json", help="write everything there")
    options = parser.parse_args()
    if (options.corpus is None) != (options.truth is None):
        parser.error("--corpus and --truth belong together")
    return options


def _corpus(options: argparse.Namespace) -> tuple[Path, Path, Path | None]:
    if options.corpus:
        return options.corpus, options.truth, None
    folder = options.work / f"corpus-{options.conversations}-{options.seed}"
    if not (folder / "questions.jsonl").exists():  # written last
        corpus.write(folder, options.conversations, options.seed)
    return folder / "raw.json", folder / "truth.jsonl", folder / "questions.jsonl"


def _table(found: Sequence[Score], outcome: Outcome, theirs: set[int] | None) -> str:
    head = ["kind", "recall", "precision", *(["FastChat drops"] if theirs is not None else [])]
    rows = []
    for each in found:
        row = each.row()
        if theirs is not None:
            kinds = each.kind.split(" (")[0].split(" or ")
            places = [place for kind in kinds for place in outcome.labelled(kind)]
            row.append(measure.share(sum(place in theirs for place in places), len(places)))
        rows.append(row)
    return measure.table(head, rows)


def _between(options: argparse.Namespace, least: int, most: int) -> dict[str, list[str]]:
    found = locales.sentences(options.downloads)
    return {code: [text for text in texts if least < len(text) <= most] for code, texts in found.items()}


def _language_row(name: str, counts: Mapping[str, tuple[int, int, int]]) -> list[str]:
    right, told, all_ = (sum(column) for column in zip(*counts.values(), strict=True))
    worst = sorted((each[0] / each[2], code) for code, each in counts.items() if each[2])[:4]
    shown = ", ".join(f"{code} {share:.2f}" for share, code in worst)
    return [name, measure.share(right, all_), measure.share(right, told), shown]


if __name__ == "__main__":
    main()
