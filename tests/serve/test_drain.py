"""Taking workers out of a fleet by hand; real processes."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serve_stack import Command, Site, site, until

from vicuna.serve.drain import DrainFailed, Row, alone, chosen

WORDS = "one two three four five six seven eight nine ten"
OLD = f"rules: [{{answer: 'old {WORDS}', pace: 0.02}}]"
NEW = f"rules: [{{answer: 'new {WORDS}', pace: 0.02}}]"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


def drain(place: Site, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vicuna.serve", "drain", *words, "--controller", place.api]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def named(place: Site, worker: Command) -> str:
    return str(place.row(worker)["id"])


class Load:
    """People who ask the same question again and again."""

    def __init__(self, place: Site, people: int) -> None:
        self.texts: list[str] = []
        self.errors: list[str] = []
        self._stop = threading.Event()
        self._place = place
        self._threads = [threading.Thread(target=self._ask) for _ in range(people)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        with httpx.Client(timeout=60) as client:
            while not self._stop.is_set():
                reply = client.post(f"{self._place.api}/v1/chat/completions", json=body)
                if reply.status_code == 200:
                    self.texts.append(reply.json()["choices"][0]["message"]["content"])
                else:
                    self.errors.append(reply.text)

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


def test_a_new_version_takes_over_under_load_and_no_request_is_lost(place: Site) -> None:
    old = [place.worker("m", OLD, "--version", "v1", "--engine.slots", "8") for _ in range(2)]
    load = Load(place, 6)
    try:
        until(lambda: len(load.texts) > 10, "answers")
        new = place.worker("m", NEW, "--version", "v2", "--engine.slots", "8")
        assert all(text.startswith("old") for text in list(load.texts))  # the first version keeps the name
        done = drain(place, "m@v1")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("has left") == 2
        switched = len(load.texts)
        until(lambda: len(load.texts) > switched + 10, "answers of the new version")
    finally:
        load.end()
    assert load.errors == []
    assert set(load.texts) == {f"old {WORDS}", f"new {WORDS}"}
    assert [worker.wait() for worker in old] == [0, 0]
    assert [row["id"] for row in place.fleet()["workers"]] == [named(place, new)]


def test_the_only_worker_of_a_model_stays_until_there_is_another_or_it_is_forced(place: Site) -> None:
    only = place.worker("m", OLD)
    kept = drain(place, named(place, only), "--wait", "0.5")
    assert kept.returncode == 1
    assert "still the only live worker of m" in kept.stderr
    assert place.row(only)["state"] == "live"
    forced = drain(place, place.row(only)["address"], "--force")
    assert forced.returncode == 0
    assert only.wait() == 0


def test_who_is_meant_is_asked_back_when_it_is_not_clear(place: Site) -> None:
    place.worker("m", OLD, "--version", "v1")
    place.worker("m", NEW, "--version", "v2")
    unclear = drain(place, "m")
    assert "say which: m@v1 or m@v2" in unclear.stderr
    nobody = drain(place, "other")
    assert "nobody in the fleet is, or serves, 'other'" in nobody.stderr
    assert (unclear.returncode, nobody.returncode) == (1, 1)
    assert len(place.fleet()["workers"]) == 2


def row(worker: str, state: str = "live", version: str = "", digest: str = "a" * 64) -> Row:
    model = {"name": "m", "version": version, "checkpoint_hash": digest, "template_hash": ""}
    return {"id": worker, "address": f"http://10.0.0.1:{worker[1:]}", "state": state, "models": [model]}


def test_a_version_without_a_label_goes_by_the_beginning_of_its_hash() -> None:
    workers = [row("w1"), row("w2", version="v2", digest="b" * 64)]
    assert [each["id"] for each in chosen(workers, "m@" + "a" * 12)] == ["w1"]
    assert [each["id"] for each in chosen(workers, "m@v2")] == ["w2"]
    assert [each["id"] for each in chosen(workers, "http://10.0.0.1:2")] == ["w2"]
    with pytest.raises(DrainFailed, match="several versions"):
        chosen(workers, "m")


def test_a_worker_that_cannot_answer_does_not_count_as_another_one() -> None:
    assert alone([row("w1"), row("w2", "suspended"), row("w3", "draining")], "w1") == ["m"]
    assert alone([row("w1"), row("w2")], "w1") == []
