"""Inputs, folders and moments out of the ordinary: `clean` must neither lose a round nor end in a traceback."""

import fcntl
import json
import os
import subprocess
import sys

import pytest

from tests.data.test_clean import config, corpus, ledger, row, samples, tree_bytes, write
from vicuna import manifest
from vicuna.data.__main__ import main
from vicuna.data.config import DedupConfig, EngineConfig, OutputConfig, ToxicityConfig, ValidityConfig
from vicuna.data.ledger import Books
from vicuna.data.parts import read_parts, write_parts
from vicuna.data.pipeline import WORK, build
from vicuna.errors import InputError

ASKED, SAID = "What is the tallest hill around here?", "It is the one behind the old mill, as I said before."


def killed_after(command, out, blocks):
    """Start a command and kill it when so many blocks are cleaned."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list((out / WORK / "cleaned").glob("0*.npz"))) < blocks:
        assert process.poll() is None
    process.kill()
    return process


def command(out, *inputs, workers=1):
    words = ["clean", *inputs, "--out", str(out), "--split.enabled=false", "--engine.workers", str(workers)]
    return [sys.executable, "-m", "vicuna.data", *words, "--engine.block", "0.002"]


def test_the_same_inputs_in_another_order_are_other_work(tmp_path):
    first, second = write(tmp_path / "a.json", corpus(1, 150)), write(tmp_path / "b.json", corpus(2, 80))
    out = tmp_path / "out"
    killed_after(command(out, first, second), out, 5).wait()
    done = subprocess.run(command(out, second, first), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    straight = config(second, tmp_path / "straight")
    build(type(straight)(**{**vars(straight), "inputs": (second, first)}))
    assert tree_bytes(out) == tree_bytes(tmp_path / "straight")
    assert samples(out)[0].source.startswith("b.json")


def test_a_killed_run_can_be_started_again_at_once(tmp_path):
    source, out = write(tmp_path / "a.json", corpus(1, 300)), tmp_path / "out"
    process = killed_after(command(out, source, workers=2), out, 5)
    done = subprocess.run(command(out, source, workers=2), capture_output=True, text=True, check=False)
    process.wait()
    assert done.returncode == 0, done.stderr
    assert "going on with what an earlier run left" in done.stderr
    manifest.verify(out)


def test_asking_for_finished_work_again_leaves_a_run_with_other_settings_alone(tmp_path):
    source, out = write(tmp_path / "a.json", corpus(1, 20)), tmp_path / "out"
    build(config(source, out))
    (out / WORK / "cleaned").mkdir(parents=True)
    with open(out / WORK / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build(config(source, out))
        assert (out / WORK / "cleaned").exists()
    build(config(source, out))
    assert not (out / WORK).exists()


def test_a_folder_is_never_cleaned_into_itself(tmp_path):
    source, out = write(tmp_path / "a.json", corpus(1, 20)), tmp_path / "out"
    build(config(source, out))
    before = tree_bytes(out)
    with pytest.raises(InputError, match="holds the input"):
        build(config(out, out))
    assert tree_bytes(out) == before


def test_files_of_others_among_the_conversations_are_not_removed(tmp_path):
    source, out = write(tmp_path / "a.json", corpus(1, 20)), tmp_path / "out"
    build(config(source, out))
    (out / "conversations" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds other files \(notes.txt\)"):
        build(config(source, out, output=OutputConfig(layout="sharegpt")))
    assert (out / "conversations" / "notes.txt").read_text() == "mine"


def test_another_list_of_words_is_other_work(tmp_path):
    source = write(
        tmp_path / "a.json", [row("a", ASKED, SAID), row("b", "Who is the miller?", "A man called Grumbold.")]
    )
    words = tmp_path / "words.txt"
    toxicity = ToxicityConfig(enabled=True, words=str(words))
    words.write_text("unheard\n")
    build(config(source, tmp_path / "out", toxicity=toxicity))
    words.write_text("grumbold\n")
    build(config(source, tmp_path / "out", toxicity=toxicity))
    assert [each.id for each in samples(tmp_path / "out")] == ["a"]


def test_without_exact_and_near_duplicates_only_ids_are_told_apart(tmp_path):
    rows = [row("a", ASKED, SAID), row("a", ASKED, SAID)]
    off = DedupConfig(exact=False, near=False)
    build(config(write(tmp_path / "a.json", rows), tmp_path / "out", dedup=off))
    assert [each.id for each in samples(tmp_path / "out")] == ["a", "a~2"]


def test_an_id_is_never_given_twice(tmp_path):
    texts = [
        "First of all",
        "A second thing, quite unlike it",
        "Third: bread",
        "And now to something else",
        "Five gold rings",
    ]
    names = ["a", "a", "a~2", "a", "a~2"]
    rows = [row(name, text, f"{SAID} {text}") for name, text in zip(names, texts, strict=True)]
    build(config(write(tmp_path / "a.json", rows), tmp_path / "out", dedup=DedupConfig(near=False)))
    assert [each.id for each in samples(tmp_path / "out")] == ["a", "a~3", "a~2", "a~4", "a~2~2"]


@pytest.mark.parametrize("depth", [100, 300, 600, 900])
def test_a_record_with_deeply_nested_values_is_kept_or_in_the_ledger(tmp_path, depth):
    good = json.dumps(row("b", ASKED, SAID))
    deep = json.dumps(row("a", "Who is the miller?", "Somebody.", deep="HERE"))
    source = tmp_path / "a.jsonl"
    source.write_text(deep.replace('"HERE"', "[" * depth + "]" * depth) + "\n" + good + "\n")
    made = build(config(source, tmp_path / "out"))
    kept = [each.id for each in samples(tmp_path / "out")]
    lost = [each["reason"] for each in ledger(tmp_path / "out")]
    assert (kept, lost) == ((["a", "b"], []) if depth == 100 else (["b"], ["malformed record"]))
    assert made.facts["rounds_in"] == 2


@pytest.mark.parametrize("text", ["", " \n\n", "[]", "\n" * 5000 + json.dumps(row("a", ASKED, SAID))])
def test_files_with_nothing_or_much_white_space_are_read(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    made = build(config(tmp_path / "a.json", tmp_path / "out", engine=EngineConfig(workers=1, block=0.001)))
    assert made.facts["samples"] == len(text.split('"id"')) - 1
    assert (tmp_path / "out" / "conversations" / "00000.jsonl").exists()


def test_order_of_turns_need_not_be_checked_for_the_books_to_balance(tmp_path):
    rows = [each for each in corpus(4, 80) if isinstance(each, dict)]
    unchecked = ValidityConfig(enabled=False)
    made = build(config(write(tmp_path / "a.json", rows), tmp_path / "out", validity=unchecked))
    assert made.facts["rounds_in"] == made.facts["rounds_kept"] + len(ledger(tmp_path / "out"))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    source = write(tmp_path / "a.json", corpus(1, 3))
    for out in ("/dev/null/out", "/proc/self/out"):
        assert main(["clean", source, "--out", out, "--split.enabled=false"]) == 1
        assert f"error: cannot write {out}" in capsys.readouterr().err


def test_names_that_look_like_markup_are_printed_as_they_are(tmp_path, capsys):
    source, out = write(tmp_path / "a.json", corpus(1, 3)), tmp_path / "x[/i]"
    assert main(["clean", source, "--out", str(out), "--split.enabled=false", "--engine.workers", "1"]) == 0
    assert "x[/i]:" in "".join(capsys.readouterr().out.split())


def test_many_damaged_files_do_not_make_an_endless_error(tmp_path, capsys):
    for n in range(8):
        (tmp_path / f"{n}.json").write_text(json.dumps([row(str(n), ASKED, SAID)] * 2)[:-9])
    words = ["--out", str(tmp_path / "out"), "--split.enabled=false", "--engine.workers", "1"]
    assert main(["clean", *map(str, sorted(tmp_path.glob("*.json"))), *words]) == 1
    error = capsys.readouterr().err
    assert "4.json[1]: the file breaks off" in error
    assert ", and 3 more files. " in error


@pytest.mark.parametrize("harm", ["empty", "short", "other bytes", "gone"])
def test_what_a_run_left_and_was_damaged_is_named(tmp_path, harm):
    path = tmp_path / "000000.npz"
    write_parts(path, {"facts": b"{}", "text": b"some text"})
    whole = path.read_bytes()
    new = {"empty": b"", "short": whole[:-30], "other bytes": whole.replace(b"some", b"same")}
    path.unlink() if harm == "gone" else path.write_bytes(new[harm])
    with pytest.raises(InputError, match=r"cannot read .*000000.npz: .*; remove the folder .* and start again"):
        read_parts(path, ("facts", "text"))


def test_an_unreadable_note_of_an_earlier_run_makes_it_start_anew(tmp_path):
    source, out = write(tmp_path / "a.json", corpus(1, 20)), tmp_path / "out"
    (out / WORK / "cleaned").mkdir(parents=True)
    (out / WORK / "cleaned" / "000000.npz").write_text("of unknown origin")
    (out / WORK / "identity.json").write_text("{")
    build(config(source, out))
    manifest.verify(out)


def test_books_of_blocks_add_up():
    first, second = Books(rounds_in=2, rounds_kept=1), Books(rounds_in=3, rounds_kept=3)
    first.dropped["read: no turns"] += 1
    first.read["a.json"], second.read["b.json"], second.kept["b.json"] = 2, 3, 3
    first.add(second)
    assert (first.rounds_in, first.rounds_kept, first.rounds_dropped) == (5, 4, 1)
    assert first.read == {"a.json": 2, "b.json": 3}
    first.balance()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_one_line(tmp_path, capsys):
    source = write(tmp_path / "a.json", corpus(1, 3))
    (tmp_path / "out").mkdir(mode=0o555)
    assert main(["clean", source, "--out", str(tmp_path / "out"), "--split.enabled=false"]) == 1
    assert "Permission denied" in capsys.readouterr().err
