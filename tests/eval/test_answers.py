"""Answers from a real endpoint that is slow, limits rates, fails, talks nonsense, or goes away."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from eval_endpoint import completion, error, serving
from fastapi import Response

from vicuna.config import SamplingConfig
from vicuna.errors import VicunaError
from vicuna.eval.answers import Asking, collect, path_of, read_answers
from vicuna.eval.client import Client, Unanswered
from vicuna.eval.progress import Progress
from vicuna.eval.questions import Question

QUESTIONS = [Question(str(number), "general", (f"Question {number}?",)) for number in range(6)]


def ask(run, endpoint, questions=QUESTIONS, *, attempts=3, concurrency=4, timeout=10.0, weights="", **sampling):
    async def body():
        async with Client(endpoint.base_url, "", timeout=timeout, attempts=attempts, flag="endpoint") as client:
            with Progress() as progress:
                asking = Asking("m", client, SamplingConfig(**sampling), concurrency, weights)
                await collect(run, questions, asking, progress)

    asyncio.run(body())
    return read_answers(path_of(run, "m"))


def test_every_answer_is_kept_with_who_gave_it_and_what_it_cost(tmp_path):
    with serving(lambda _: "Yes, it is.", {"m": "c0ffee"}) as endpoint:
        answers = ask(tmp_path, endpoint, temperature=0.0, seed=3)
    answer = answers["2"]
    assert (answer.turns, answer.finish_reasons) == (("Yes, it is.",), ("stop",))
    assert (answer.worker, answer.checkpoint) == ("w1", "c0ffee")
    assert (answer.prompt_tokens, answer.completion_tokens) == (7, 3)
    assert answer.sampling["seed"] == 3
    assert endpoint.requests[0]["temperature"] == 0
    assert "top_k" not in endpoint.requests[0]  # not in OpenAI's API, so sent only where it is set


def test_later_turns_carry_the_models_own_earlier_answers(tmp_path):
    question = Question("t", "memory", ("My name is Anna.", "What is my name?"))
    replies = {"My name is Anna.": "Hello, Anna.", "What is my name?": "Anna."}
    with serving(lambda body: replies[body["messages"][-1]["content"]]) as endpoint:
        answers = ask(tmp_path, endpoint, [question])
    assert answers["t"].turns == ("Hello, Anna.", "Anna.")
    assert [each["content"] for each in endpoint.requests[1]["messages"]] == [
        "My name is Anna.", "Hello, Anna.", "What is my name?",
    ]  # fmt: skip


def test_no_more_requests_are_under_way_than_allowed(tmp_path):
    with serving(lambda _: "ok", delay=0.05) as endpoint:
        ask(tmp_path, endpoint, concurrency=2)
    assert endpoint.peak == 2


def test_a_rate_limit_is_waited_out_for_as_long_as_the_server_says(tmp_path):
    limited = iter([error(429, "slow down", retry_after="1")])
    with serving(lambda _: next(limited, "ok")) as endpoint:
        answers = ask(tmp_path, endpoint, QUESTIONS[:1])
    assert answers["0"].turns == ("ok",)
    assert endpoint.times[1] - endpoint.times[0] >= 0.95


@pytest.mark.parametrize(
    "failure",
    [
        error(500, "broken"),
        error(503, "no worker"),
        Response("<html>oops</html>", 200, media_type="text/html"),
        Response("{not json", 200, media_type="application/json"),
        Response('{"choices": []}', 200, media_type="application/json"),
        Response('{"choices": null}', 200, media_type="application/json"),
    ],
)
def test_errors_and_garbage_are_tried_again(tmp_path, failure):
    bad = iter([failure])
    with serving(lambda _: next(bad, "ok")) as endpoint:
        assert ask(tmp_path, endpoint, QUESTIONS[:1])["0"].turns == ("ok",)
    assert len(endpoint.requests) == 2


def test_what_has_no_answer_after_every_try_is_said_and_asked_again_by_the_next_run(tmp_path):
    broken = {"Question 3?"}

    def script(body):
        return error(500, "broken") if body["messages"][-1]["content"] in broken else "ok"

    with serving(script) as endpoint:
        with pytest.raises(Unanswered, match=r"1 of 6 questions have no answer from m .*500.* the others are kept"):
            ask(tmp_path, endpoint, attempts=2)
        before = len(endpoint.requests)
        broken.clear()
        answers = ask(tmp_path, endpoint)
        assert [each["messages"][-1]["content"] for each in endpoint.requests[before:]] == ["Question 3?"]
    assert set(answers) == {question.id for question in QUESTIONS}


def test_a_timeout_is_a_missing_answer_not_an_empty_one(tmp_path):
    late = pytest.raises(Unanswered, match=r"no answer within 0\.2 s")
    with serving(lambda _: "late", delay=0.6) as endpoint, late:
        ask(tmp_path, endpoint, QUESTIONS[:1], attempts=1, timeout=0.2)
    assert read_answers(path_of(tmp_path, "m")) == {}


def test_a_request_that_can_never_be_answered_is_a_row_that_says_so(tmp_path):
    with serving(lambda _: error(400, "the prompt has 9000 tokens, the context 2048")) as endpoint:
        answers = ask(tmp_path, endpoint, QUESTIONS[:1])
    assert "9000 tokens" in answers["0"].refused
    assert answers["0"].turns == ("",)
    assert len(endpoint.requests) == 1


def test_a_refused_key_ends_the_run_and_says_where_to_put_one(tmp_path):
    refused = pytest.raises(VicunaError, match=r"does not accept the key.*--endpoint\.key_env")
    with serving(lambda _: error(401, "bad key")) as endpoint, refused:
        ask(tmp_path, endpoint)


def test_finished_answers_are_not_asked_again_unless_something_about_them_changed(tmp_path):
    with serving(lambda _: "ok") as endpoint:
        counts = []
        for change in ({}, {}, {"temperature": 0.0}, {"weights": "new"}, {"weights": "new"}):
            ask(tmp_path, endpoint, **change)
            counts.append(len(endpoint.requests))
    assert counts == [6, 6, 12, 18, 18]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_killed_goes_on_where_it_stopped(tmp_path, how):
    questions = tmp_path / "q.jsonl"
    rows = [{"question_id": n, "turns": [f"Question {n}?"], "reference": ["ok"]} for n in range(40)]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = tmp_path / "run"
    with serving(lambda _: "ok", {"a": "1", "b": "2"}, delay=0.05) as endpoint:
        command = [sys.executable, "-m", "vicuna.eval", "--questions", str(questions), "--out", str(run),
                   "--endpoint.base_url", endpoint.base_url, "--endpoint.concurrency", "2",
                   "--judge.kind", "reference", "--resamples", "100"]  # fmt: skip
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        file = path_of(run, "a")
        while not (file.exists() and file.read_text().count("\n") >= 5):
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, how)
        _, said = process.communicate(timeout=20)
        assert "Traceback" not in said
        assert process.returncode == (130 if how == signal.SIGINT else -how)
        kept = {json.loads(line)["question_id"] for line in file.read_text().splitlines() if line.endswith("}")}
        assert not (run / "manifest.json").exists()
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        asked = endpoint.asked("a")
    assert len(kept) >= 5
    assert all(asked.count(f"Question {name}?") == 1 for name in kept)
    assert len(asked) <= 40 + 2  # the two that were under way when it was killed
    assert len(read_answers(file)) == len(file.read_text().splitlines()) == 40
    assert (run / "manifest.json").exists()


def test_answers_that_were_cut_by_the_length_limit_say_so(tmp_path):
    with serving(lambda _: completion("on and on", "length")) as endpoint:
        assert ask(tmp_path, endpoint, QUESTIONS[:1])["0"].finish_reasons == ("length",)
