"""How a run is carried out: engines, blocks, kills. None of it may show in the output."""

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.data.test_clean import config, corpus, ledger, samples, tree_bytes, write
from tests.tokenizers_kinds import tokenizer_of
from vicuna import manifest
from vicuna.config import ModelConfig
from vicuna.data.config import DedupConfig, EngineConfig, OutputConfig, SplitConfig
from vicuna.data.pipeline import WORK, build
from vicuna.errors import InputError


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    return write(folder / "raw.json", corpus(1, 400))


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Settings that cut the conversations."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer_of("byte-level").save_pretrained(folder)
    model = ModelConfig(path=str(folder), template="vicuna_v1.1", max_length=160)
    return {"split": SplitConfig(), "model": model, "output": OutputConfig(shard=40)}


@pytest.fixture(scope="module")
def expected(source, split, tmp_path_factory):
    """What one process writes that takes everything as one block."""
    out = tmp_path_factory.mktemp("expected") / "out"
    build(config(source, out, engine=EngineConfig(workers=1, block=100), **split))
    found = tree_bytes(out)
    assert len([name for name in found if name.startswith("conversations/")]) > 2
    return found


@pytest.mark.parametrize(("workers", "block"), [(1, 0.02), (2, 0.02), (4, 0.01), (3, 1)])
def test_the_bytes_do_not_depend_on_processes_or_blocks(source, split, expected, tmp_path, workers, block):
    build(config(source, tmp_path / "out", engine=EngineConfig(workers=workers, block=block), **split))
    assert tree_bytes(tmp_path / "out") == expected


def test_ray_gives_the_same_bytes(source, split, expected, tmp_path):
    pytest.importorskip("ray", reason="the ray extra is not installed")
    words = ["clean", source, "--out", str(tmp_path / "out"), "--engine.kind", "ray", "--engine.workers", "2"]
    words += ["--engine.block", "0.05", "--model.path", split["model"].path, "--model.template", "vicuna_v1.1"]
    words += ["--model.max_length", "160", "--output.shard", "40"]
    command = [sys.executable, "-m", "vicuna.data", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert tree_bytes(tmp_path / "out") == expected


def test_a_mistake_on_ray_is_one_line(tmp_path):
    pytest.importorskip("ray", reason="the ray extra is not installed")
    source = write(tmp_path / "raw.json", corpus(1, 3))
    command = [sys.executable, "-m", "vicuna.data", "clean", source, "--out", str(tmp_path / "out")]
    command += ["--split.enabled=false", "--engine.kind", "ray", "--engine.address", "127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "cannot join the Ray cluster" in done.stderr


def kill_and_go_on(command, out, chance, kills):
    """Start the command again and again, killing it when it has written a few more files; then let it finish.

    Returns:
        how often it was killed.
    """
    killed = 0
    for _ in range(kills):
        enough = len(list(out.rglob("*"))) + chance.randint(1, 30)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while process.poll() is None and len(list(out.rglob("*"))) < enough:
            time.sleep(chance.uniform(0, 0.01))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
            if manifest.is_complete(out):  # killed between the manifest and the end
                manifest.verify(out)
        process.communicate()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return killed


def test_killed_at_random_moments_and_started_again_it_ends_with_the_same_bytes(source, split, expected, tmp_path):
    out = tmp_path / "out"
    words = ["clean", source, "--out", str(out), "--engine.workers", "2", "--engine.block", "0.005"]
    words += ["--model.path", split["model"].path, "--model.template", "vicuna_v1.1", "--model.max_length", "160"]
    command = [sys.executable, "-m", "vicuna.data", *words, "--output.shard", "40"]
    assert kill_and_go_on(command, out, random.Random(5), kills=6) > 0
    assert tree_bytes(out) == expected
    manifest.verify(out)
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]


def test_a_new_start_goes_on_with_the_blocks_that_were_finished(source, tmp_path):
    out = tmp_path / "out"
    words = ["clean", source, "--out", str(out), "--split.enabled=false", "--engine.workers", "1"]
    command = [sys.executable, "-m", "vicuna.data", *words, "--engine.block", "0.002"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list((out / WORK / "cleaned").glob("*.npz"))) < 5:
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait()
    first = {path: path.stat().st_mtime_ns for path in (out / WORK / "cleaned").glob("0*.npz")}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None and not list((out / WORK / "finished").glob("*.npz")):
        time.sleep(0.002)
    assert process.poll() is None
    assert {path: path.stat().st_mtime_ns for path in first} == first
    process.kill()
    process.communicate()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    build(config(source, tmp_path / "straight"))
    assert tree_bytes(out) == tree_bytes(tmp_path / "straight")


def test_what_a_killed_run_left_is_not_used_with_other_settings(source, tmp_path):
    out = tmp_path / "out"
    (out / WORK / "cleaned").mkdir(parents=True)
    (out / WORK / "cleaned" / "000000.npz").write_text("from other settings")
    (out / WORK / "identity.json").write_text("{}")
    build(config(source, out))
    build(config(source, tmp_path / "straight"))
    assert tree_bytes(out) == tree_bytes(tmp_path / "straight")


def test_two_runs_never_write_the_same_folder(source, tmp_path):
    out = tmp_path / "out"
    (out / WORK).mkdir(parents=True)
    with open(out / WORK / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another run is writing"):
            build(config(source, out))
    build(config(source, out))
    assert manifest.is_complete(out)


def chat(name, *texts):
    turns = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]
    return {"id": name, "conversations": turns}


STORY = "The lighthouse keeper counted the ships that passed at night and wrote their names into a heavy book . " * 3
WORDS = [f"word{n}" for n in range(200)]


def test_of_a_cluster_the_longest_stays_then_the_lowest_id(tmp_path):
    long = " ".join(WORDS)
    rows = [
        chat("c", "Tell me a story", long),
        chat("b", "Tell me a story", long + " and more"),
        chat("a", "tell me  a story", long.upper()),
        chat("z", "Something else entirely, please", "An answer of its own that nobody else has given so far."),
    ]
    made = build(config(write(tmp_path / "raw.json", rows), tmp_path / "out", dedup=DedupConfig(threshold=0.7)))
    assert [sample.id for sample in samples(tmp_path / "out")] == ["b", "z"]
    found = {each["id"]: (each["reason"], each["detail"]) for each in ledger(tmp_path / "out")}
    assert found == {"a": ("near-duplicate", "b"), "c": ("near-duplicate", "b")}
    assert made.facts["near_duplicate_clusters"] == {"2": 1}
    only_exact = DedupConfig(near=False)
    build(config(tmp_path / "raw.json", tmp_path / "exact", dedup=only_exact))
    assert [sample.id for sample in samples(tmp_path / "exact")] == ["b", "a", "z"]
    build(config(tmp_path / "raw.json", tmp_path / "all", dedup=DedupConfig(enabled=False)))
    assert [sample.id for sample in samples(tmp_path / "all")] == ["c", "b", "a", "z"]


def test_ids_that_stay_twice_are_told_apart(tmp_path):
    rows = [chat("same", f"Question number {n}?", f"The answer to {n}, at length {'x' * n}.") for n in range(3)]
    build(config(write(tmp_path / "raw.json", rows), tmp_path / "out"))
    assert [sample.id for sample in samples(tmp_path / "out")] == ["same", "same~2", "same~3"]


def test_stages_run_in_the_order_of_the_settings(tmp_path):
    rows = [chat("a", "What time is it?", "network error"), chat("a2", "What time is it?", "network error")]
    source = write(tmp_path / "raw.json", rows)
    build(config(source, tmp_path / "first"))
    assert {each["stage"] for each in ledger(tmp_path / "first")} == {"quality"}
    usual = config(source, tmp_path / "later").order
    order = (
        "markdown",
        "validity",
        "dedup",
        *(each for each in usual if each not in ("markdown", "validity", "dedup")),
    )
    build(config(source, tmp_path / "later", order=order))
    assert [each["stage"] for each in ledger(tmp_path / "later")] == ["quality", "dedup"]


def test_the_pages_tables_show_every_count(source, split, tmp_path):
    made = build(config(source, tmp_path / "out", **split))
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for name, count in made.facts["dropped"].items():
        assert name.split(": ", 1)[1] in html
        assert f"{count:,}" in html
    assert f"{made.facts['rounds_in']:,} rounds in" in html


def test_two_hundred_megabytes_in_one_array_are_cleaned_in_a_gigabyte(tmp_path):
    source = tmp_path / "raw.json"
    chance = random.Random(0)
    words = [f"{chance.choice(WORDS)}{n}" for n in range(4_000)]
    with open(source, "w", encoding="utf-8") as file:
        for n in range(4_000):
            text = f"{n} " + " ".join(words[(n * 7) % 3_000 :][: chance.randint(500, 1_000)]) * 8
            file.write(("[" if n == 0 else ",") + json.dumps(chat(f"c{n}", f"What of {n}?", text)))
        file.write("]")
    assert source.stat().st_size > 200e6
    quick = ["--split.enabled=false", "--quality.enabled=false", "--engine.workers", "2"]
    words = [sys.executable, "-m", "vicuna.data", "clean", str(source), "--out", str(tmp_path / "out"), *quick]
    limit = "import resource as r, os, sys; r.setrlimit(r.RLIMIT_AS, (10**9,) * 2); os.execv(sys.argv[1], sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", limit, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert manifest.read(tmp_path / "out").facts["rounds_in"] == 4_000


def test_what_a_record_marks_as_context_stays_marked(tmp_path):
    turns = [
        {"role": "user", "content": "First question, at some length"},
        {"role": "assistant", "content": "Skip me", "weight": 0},
    ]
    turns += [
        {"role": "user", "content": "Write to jane.miller@home.org"},
        {"role": "assistant", "content": "I wrote to jane.miller@home.org"},
    ]
    build(config(write(tmp_path / "raw.json", [{"id": "a", "messages": turns}]), tmp_path / "out"))
    (sample,) = samples(tmp_path / "out")
    assert [each.train for each in sample.messages] == [True, False, True, True]
    assert sample.messages[3].content == "I wrote to [EMAIL]"
