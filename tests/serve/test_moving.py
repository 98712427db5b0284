"""Answers of real models that move between workers are those of one worker that nobody disturbs."""

import json
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

torch = pytest.importorskip("torch")

from serve_stack import Site, site, until  # noqa: E402
from serve_tiny import checkpoint  # noqa: E402

from tests.adapters_kit import store  # noqa: E402
from vicuna.models.load import load_model  # noqa: E402

TOKENS = 250
SYSTEM = "The quick brown fox jumps over the lazy dog. naïve café 你好 🙂 Größe " * 3
JOBS: list[dict[str, Any]] = [
    {"model": "base", "temperature": 0},
    {"model": "poems", "temperature": 0, "logprobs": True, "top_logprobs": 2},
    {"model": "sums", "temperature": 0, "frequency_penalty": 0.5, "repetition_penalty": 1.2},
    {"model": "base", "temperature": 1.0, "logprobs": True},
    {"model": "poems", "temperature": 0.7, "top_p": 0.9},
    {"model": "base", "temperature": 0, "presence_penalty": 0.3, "stop": ["never said", "🙂🙂🙂"]},
]


@dataclass
class Answer:
    """What a client has of a stream."""

    text: str = ""
    finish: str | None = None
    tokens: list[tuple[str, list[int]]] = field(default_factory=list)
    likelihoods: list[float] = field(default_factory=list)
    workers: list[str] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)

    def take(self, event: dict[str, Any]) -> None:
        assert "error" not in event, event
        self.workers = event.get("vicuna", {}).get("workers", self.workers)
        for choice in event["choices"]:
            self.text += choice["delta"].get("content") or ""
            rows = (choice.get("logprobs") or {}).get("content") or []
            self.tokens += [(row["token"], row["bytes"]) for row in rows]
            self.likelihoods += [row["logprob"] for row in rows]
            self.finish = choice["finish_reason"] or self.finish
        if len(self.text) > 20:
            self.begun.set()


def listen(place: Site, number: int, answer: Answer) -> None:
    """Fill the answer with what is streamed for a job."""
    question = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"Hello {number}!"}]
    more = {"messages": question, "stream": True, "seed": number, "max_tokens": TOKENS, "ignore_eos": True}
    body = JOBS[number] | more
    with httpx.stream("POST", f"{place.api}/v1/chat/completions", json=body, timeout=60) as reply:
        assert reply.status_code == 200, reply.read()
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                answer.take(json.loads(line[6:]))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a worker of the base model and two adapters."""
    folder = checkpoint(tmp_path_factory.mktemp("models") / "base", context=1024)
    base = load_model(folder, torch.float32, "cpu")
    names = ("poems", "sums")
    paths = [store(base, folder.parent / name, seed) for seed, name in enumerate(names)]
    made = folder.parent / "worker.yaml"
    made.write_text(
        yaml.safe_dump(
            {
                "model": {"path": str(folder), "template": "vicuna_v1.1"},
                "adapters": [{"path": str(path), "names": [name]} for path, name in zip(paths, names, strict=True)],
                "engine": {"threads": 1, "slots": 4},
                "drain": 0.1,
                "heartbeat": 0.2,
            }
        )
    )
    return made


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("site"), "--limits.lease", "1") as made:
        yield made


@pytest.fixture(scope="module")
def alone(place: Site, settings: Path) -> list[Answer]:
    """Each answer by itself on one worker, which stays."""
    place.join("--config", str(settings))
    answers = [Answer() for _ in JOBS]
    for number, answer in enumerate(answers):
        listen(place, number, answer)
    return answers


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_answers_that_move_in_the_middle_go_on_token_for_token(
    place: Site, settings: Path, alone: list[Answer], number: signal.Signals
) -> None:
    """With adapters, penalties, stop strings, seeds and log probabilities."""
    other = place.join("--config", str(settings))
    name = place.row(other)["id"]
    answers = [Answer() for _ in JOBS]
    with ThreadPoolExecutor(len(JOBS)) as pool:
        heard = [pool.submit(listen, place, index, answer) for index, answer in enumerate(answers)]
        for answer in answers:
            assert answer.begun.wait(30)
        other.signal(number)
        for each in heard:
            each.result(60)
    other.end()
    until(lambda: len(place.fleet()["workers"]) == 1, "the struck worker to be off the list")
    assert any(len(answer.workers) == 2 and answer.workers[0] == name for answer in answers)
    for mine, theirs in zip(answers, alone, strict=True):
        assert (mine.text, mine.finish, mine.tokens) == (theirs.text, theirs.finish, theirs.tokens)
        assert mine.likelihoods == pytest.approx(theirs.likelihoods, abs=1e-2)
    assert sum(len(answer.tokens) for answer in answers) == 2 * TOKENS
