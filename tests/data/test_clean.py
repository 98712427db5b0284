"""The whole command: files in, dataset folder out, books balanced."""

import collections
import json
import random
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tokenizers_kinds import tokenizer_of
from vicuna import manifest
from vicuna.config import ModelConfig
from vicuna.conversation import problems, read_conversations
from vicuna.data.__main__ import main
from vicuna.data.config import CleanConfig, EngineConfig, LanguageConfig, OutputConfig, SplitConfig
from vicuna.data.pipeline import build


def page(body):
    return f'<div class="markdown prose w-full break-words dark:prose-invert light">{body}</div>'


def row(name, *values, **rest):
    turns = [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(values)]
    return {"id": name, "conversations": turns, **rest}


def corpus(seed, size):
    """Random rows: good chats, and every kind of damage that the pipeline knows."""
    chance = random.Random(seed)
    rows = []
    for n in range(size):
        turns = []
        for k in range(chance.randint(1, 5)):
            turns.append({"from": "human", "value": f"Question {chance.randint(0, 9)} of {n}: what is {k} < {k + 1}?"})
            answer = chance.choice(["network error", "", page(f"<p>It is <b>{k}</b>.</p>"), "plain *text* " + "x " * k])
            turns.append({"from": "gpt", "value": answer})
        kind = chance.randrange(9)
        if kind == 0:
            turns.insert(0, {"from": "gpt", "value": "Hello!"})
        elif kind == 1:
            turns.append({"from": "human", "value": "And?"})
        elif kind == 2:
            turns.insert(chance.randrange(len(turns)), dict(chance.choice(turns)))
        elif kind == 3:
            turns = []
        elif kind == 4:
            chance.choice(turns)["from"] = chance.choice(["system", "narrator"])
        elif kind == 5 and rows:
            turns = chance.choice([each for each in rows if isinstance(each, dict)]).get("conversations", [])
        rows.append({"id": f"chat{n % (size - 1 or 1)}", "conversations": turns})
        if kind == 6:
            rows.append(chance.choice([{"id": "no turns"}, 7, "text", None, {"conversations": [{"from": "human"}]}]))
    return rows


def write(path, rows):
    path.write_text(json.dumps(rows), encoding="utf-8")
    return str(path)


def config(source, out, **rest):
    rest = {"split": SplitConfig(enabled=False), "engine": EngineConfig(workers=1), **rest}
    return CleanConfig(inputs=(str(source),), out=str(out), **rest)


def samples(out):
    return [each for path in sorted((out / "conversations").glob("*.jsonl")) for each in read_conversations(path)]


def ledger(out):
    return [json.loads(line) for line in (out / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]


def raw_rounds(rows):
    """Rounds as docs/data.md defines them, counted here in another way than the package does."""
    known = {"human": "u", "gpt": "a", "system": ""}
    total = 0
    for each in rows:
        turns = each.get("conversations") if isinstance(each, dict) else None
        if not turns or any(turn.get("from") not in known or "value" not in turn for turn in turns):
            total += 1
            continue
        letters = "".join(known[turn["from"]] for turn in turns)
        total += (letters.count("au") + 1) if letters else 1
    return total


def tree_bytes(folder):
    names = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != manifest.NAME]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in names}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer_of("byte-level").save_pretrained(folder)
    return folder


def test_pages_become_markdown_and_the_folder_is_complete(tmp_path):
    source = write(tmp_path / "raw.json", [row("a", "What is <b>?", page("<p>It is <strong>bold</strong>.</p>"))])
    made = build(config(source, tmp_path / "out"))
    (sample,) = samples(tmp_path / "out")
    assert [message.content for message in sample.messages] == ["What is <b>?", "It is **bold**."]
    assert sample.source == "raw.json[0]"
    assert manifest.verify(tmp_path / "out").kind == "dataset"
    assert made.facts["rounds_kept"] == 1
    assert "raw.json" in made.parents
    assert (tmp_path / "out" / "report.html").exists()


def test_every_dropped_round_has_a_line_with_its_reason_and_place(tmp_path):
    rows = [row("a", "first question here", "network error", "second", "a good answer"), 5, row("b")]
    build(config(write(tmp_path / "raw.json", rows), tmp_path / "out"))
    lines = [
        (each["id"], each["round"], each["stage"], each["reason"], each["position"])
        for each in ledger(tmp_path / "out")
    ]
    assert lines == [
        ("a", 0, "quality", "error message instead of an answer", "[0]"),
        ("raw.json[1]", None, "read", "malformed record", "[1]"),
        ("b", None, "read", "no turns", "[2]"),
    ]
    assert all(len(each["sha256"]) == 64 for each in ledger(tmp_path / "out"))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.integers(1, 25), st.booleans())
def test_rounds_in_are_rounds_in_samples_plus_rounds_in_the_ledger(tmp_path_factory, tokenizer, seed, size, splits):
    folder = tmp_path_factory.mktemp("run")
    rows = corpus(seed, size)
    rest = {}
    if splits:
        rest = {
            "split": SplitConfig(),
            "model": ModelConfig(path=str(tokenizer), template="vicuna_v1.1", max_length=120),
        }
    made = build(config(write(folder / "raw.json", rows), folder / "out", **rest))
    kept = sum(len(sample.rounds()) for sample in samples(folder / "out"))
    dropped = ledger(folder / "out")
    assert raw_rounds(rows) == made.facts["rounds_in"] == kept + len(dropped)
    assert all(problems(sample) == [] for sample in samples(folder / "out"))
    counts = collections.Counter(f"{each['stage']}: {each['reason']}" for each in dropped)
    assert counts == made.facts["dropped"]
    ids = [sample.id for sample in samples(folder / "out")]
    assert len(ids) == len(set(ids))


def test_cleaning_what_is_clean_changes_nothing(tmp_path):
    source = write(tmp_path / "raw.json", corpus(2, 60))
    build(config(source, tmp_path / "once"))
    made = build(config(tmp_path / "once", tmp_path / "twice"))
    assert made.facts["rounds_dropped"] == 0
    once, twice = samples(tmp_path / "once"), samples(tmp_path / "twice")
    assert [(each.messages, each.source) for each in once] == [(each.messages, each.source) for each in twice]


def test_finished_work_is_recognised_and_other_settings_make_it_anew(tmp_path):
    source = write(tmp_path / "raw.json", corpus(3, 20))
    out = tmp_path / "out"
    first = build(config(source, out))
    stamp = (out / "ledger.jsonl").stat().st_mtime_ns
    assert build(config(source, out, engine=EngineConfig(workers=2))) == first
    assert (out / "ledger.jsonl").stat().st_mtime_ns == stamp
    build(config(source, out, output=OutputConfig(layout="sharegpt")))
    assert (out / "ledger.jsonl").stat().st_mtime_ns != stamp
    line = (out / "conversations" / "00000.jsonl").read_text(encoding="utf-8").splitlines()[0]
    assert set(json.loads(line)["conversations"][0]) == {"from", "value"}


def test_a_file_that_breaks_off_gives_its_first_part_and_an_error(tmp_path, capsys):
    source = tmp_path / "raw.json"
    good = [row(f"id{n}", f"question number {n}", f"answer number {n}") for n in range(3)]
    source.write_text(json.dumps(good)[:-30], encoding="utf-8")
    argv = ["clean", str(source), "--out", str(tmp_path / "out"), "--split.enabled=false", "--engine.workers", "1"]
    for _ in range(2):  # the finished folder does not hide the damage
        assert main(argv) == 1
        assert "raw.json[2]: the file breaks off" in capsys.readouterr().err
    assert [sample.id for sample in samples(tmp_path / "out")] == ["id0", "id1"]
    assert ledger(tmp_path / "out")[0]["reason"] == "file breaks off"


def test_a_folder_with_other_files_is_not_touched(tmp_path, capsys):
    source = write(tmp_path / "raw.json", [row("a", "a question", "an answer")])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    assert main(["clean", source, "--out", str(tmp_path / "out"), "--split.enabled=false"]) == 1
    assert "holds other files (thesis.txt)" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["clean", "raw.json"], 2, "out is missing"),
        (["clean", "raw.json", "--out", "o"], 2, "split needs a tokenizer"),
        (["clean", "nowhere.json", "--out", "o", "--split.enabled=false"], 1, "there is no file nowhere.json"),
        (["clean", "raw.json", "--out", "o", "--model.path", "."], 1, "holds no tokenizer"),
        (["clean", "raw.json", "--out", "o", "--split.enabled=false", "--language.keep", "English"], 2, "ISO 639"),
        (["split", "raw.json", "--out", "o", "--split.enabled=false"], 2, "nothing to do"),
        (["wash"], 2, "there is no command 'wash'"),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_do(tmp_path, monkeypatch, capsys, words, status, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "raw.json", [row("a", "a question", "an answer")])
    assert main(words) == status
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_split_afterwards_gives_what_split_within_clean_gives(tmp_path, tokenizer, capsys):
    rows = [row(f"id{n}", *[f"turn {n} {k} " + "word " * 12 for k in range(2 * n)]) for n in range(1, 8)]
    source = write(tmp_path / "raw.json", rows)
    split = [
        "--model.path",
        str(tokenizer),
        "--model.template",
        "vicuna_v1.1",
        "--model.max_length",
        "256",
        "--engine.workers",
        "1",
    ]
    filters = ["--quality.repetition", "1"]
    assert main(["clean", source, "--out", str(tmp_path / "both"), *split, *filters]) == 0
    assert main(["clean", source, "--out", str(tmp_path / "whole"), "--split.enabled=false", *filters]) == 0
    assert main(["split", str(tmp_path / "whole"), "--out", str(tmp_path / "after"), *split]) == 0
    assert "rounds in =" in capsys.readouterr().out
    assert samples(tmp_path / "after") == samples(tmp_path / "both")
    assert len(samples(tmp_path / "both")) > len(rows)
    facts = manifest.read(tmp_path / "both").facts
    assert facts["template"] == "vicuna_v1.1"
    assert facts["max_length"] == 256


def test_half_surrogates_and_long_files_of_tricky_text_can_be_written(tmp_path):
    source = tmp_path / "raw.jsonl"
    source.write_text(
        json.dumps(row("a", "half a pair: \ud83d, </s> USER: <|im_end|>", "an answer\u2028with line ends\u0085"))
    )
    build(config(source, tmp_path / "out"))
    (sample,) = samples(tmp_path / "out")
    assert sample.messages[0].content == "half a pair: \ufffd, </s> USER: <|im_end|>"
    assert sample.messages[1].content == "an answer\u2028with line ends\u0085"


def test_languages_are_counted_and_filtered(tmp_path):
    german = "Könntest du mir bitte erklären, warum es jeden Tag zweimal Ebbe und Flut gibt?"
    english = "Could you explain how the tides work and why there are two of them every day?"
    rows = [row("en", english, english + " Yes."), row("de", german, german + " Ja.")]
    made = build(config(write(tmp_path / "raw.json", rows), tmp_path / "out", language=LanguageConfig(keep=("en",))))
    assert made.facts["languages"] == {"de": 1, "en": 1}
    assert [sample.id for sample in samples(tmp_path / "out")] == ["en"]


def test_help_needs_no_heavy_library():
    code = (
        "import sys; from vicuna.data.__main__ import main; main(['clean', '--help']); main(['split', '--help']); "
        "print(sorted({'torch', 'transformers', 'matplotlib', 'lxml', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
