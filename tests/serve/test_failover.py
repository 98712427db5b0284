"""Workers that die, hang, fail, come and go while people wait for answers; real processes."""

import contextlib
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from serve_stack import Site, free_port, get, site, until

LONG = "one two three four five six seven eight nine ten"
GOOD = f"""
pace: 0.014
rules:
  - match: long
    answer: "{LONG}"
    repeat: 6
  - answer: "you said {{last}}"
"""


def failing(how: str, after: int) -> str:
    """The same script, by a worker that fails."""
    return GOOD.replace("    repeat: 6\n", f"    repeat: 6\n    fail: {how}\n    after: {after}\n")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    flags = ("--limits.gap", "0.5", "--limits.stall", "2", "--limits.lease", "3")
    with site(tmp_path, *flags) as made:
        yield made


def client(place: Site) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{place.api}/v1", api_key="none", max_retries=0)


def ask(text: str = "long") -> Any:
    return {"model": "m", "messages": [{"role": "user", "content": text}]}


def streamed(place: Site) -> str:
    with client(place) as made:
        return "".join(
            chunk.choices[0].delta.content or "" for chunk in made.chat.completions.create(**ask(), stream=True)
        )


@pytest.mark.parametrize(("how", "after"), [("crash", 0), ("crash", 7), ("error", 5), ("hang", 4), ("crash", 59)])
def test_an_answer_whose_worker_fails_is_finished_by_another(place: Site, how: str, after: int) -> None:
    place.worker("m", failing(how, after))
    place.worker("m", GOOD)
    for _ in range(2):  # equal workers take turns, so one of the two begins at the failing one
        assert streamed(place) == LONG * 6
    reply = httpx.post(f"{place.api}/v1/chat/completions", json=ask(), timeout=30).json()
    assert reply["choices"][0]["message"]["content"] == LONG * 6
    assert reply["usage"]["completion_tokens"] == len((LONG * 6).split())
    assert place.fleet()["in_flight"] == 0


def test_an_answer_that_gets_on_outlives_more_failures_than_one_request_may_have(tmp_path: Path) -> None:
    with site(tmp_path, "--limits.attempts", "2", "--limits.gap", "0.5") as place:
        for after in (5, 20, 35, 50):
            place.worker("m", failing("crash", after))
        place.worker("m", GOOD)
        assert [streamed(place) for _ in range(4)] == [LONG * 6] * 4
        assert sum(command.process.poll() is not None for command in place.commands) >= 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_however_many_workers_are_gone_the_last_one_answers(tmp_path: Path, number: int) -> None:
    flags = ("--limits.attempts", "1", "--limits.stall", "2", "--limits.lease", "60")
    with site(tmp_path, *flags) as place:
        gone = [place.worker("m", GOOD) for _ in range(3)]
        place.worker("m", GOOD)
        for worker in gone[:2]:
            worker.signal(number)
        reply = httpx.post(f"{place.api}/v1/chat/completions", json=ask("hi"), timeout=60)
        assert reply.json()["choices"][0]["message"]["content"] == "you said hi"
        gone[2].signal(number)
        for _ in range(2):  # equal workers take turns
            reply = httpx.post(f"{place.api}/v1/embeddings", json={"model": "m", "input": "hi"}, timeout=60)
            assert reply.status_code == 200, reply.text


def test_a_client_that_reads_slowly_takes_no_worker_from_others_and_gets_its_whole_answer(tmp_path: Path) -> None:
    with site(tmp_path) as place:
        script = GOOD.replace("pace: 0.014", "pace: 0").replace("repeat: 6", "repeat: 400")
        worker = place.worker("m", script, "--limits.slow", "2", "--model.max_length", "100000")
        asked = ask() | {"stream": True, "logprobs": True, "top_logprobs": 20}
        rows: list[Any] = []
        with httpx.stream("POST", f"{place.api}/v1/chat/completions", json=asked, timeout=60) as reply:
            for line in reply.iter_lines():
                if not rows:
                    until(lambda: "cut off" in worker.output(), "the worker's patience to end")
                rows += [json.loads(line[6:])] if line.startswith("data: {") else []
        assert "choices" in rows[-1], rows[-1]
        text = "".join(row["choices"][0]["delta"].get("content") or "" for row in rows if row["choices"])
        assert text == LONG * 400
        assert place.row(worker)["last_failure"] == ""


def test_a_request_that_every_worker_fails_at_is_tried_by_so_many_and_no_more(tmp_path: Path) -> None:
    with site(tmp_path, "--limits.attempts", "2") as place:
        workers = [place.worker("m", failing("crash", 0)) for _ in range(3)]
        reply = httpx.post(f"{place.api}/v1/chat/completions", json=ask(), timeout=60)
        assert (reply.status_code, reply.json()["error"]["code"]) == (502, "worker_failed")
        until(lambda: sum(worker.process.poll() is not None for worker in workers) == 2, "two to be dead")


def test_a_worker_that_is_there_but_gives_no_token_is_replaced(tmp_path: Path) -> None:
    with site(tmp_path, "--limits.token_stall", "2") as place:
        stuck = place.worker("m", GOOD.replace("    repeat: 6\n", "    repeat: 6\n    first: 600\n"))
        place.worker("m", GOOD)
        assert [streamed(place) for _ in range(2)] == [LONG * 6] * 2
        assert "no token for 2 s" in place.row(stuck)["last_failure"]


def test_an_answer_is_ended_at_the_requests_own_deadline(place: Site) -> None:
    place.worker("m", "rules: [{answer: two words, pace: 600}]")
    headers = {"x-vicuna-timeout": "1.5"}
    reply = httpx.post(f"{place.api}/v1/chat/completions", json=ask(), headers=headers, timeout=30)
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "timeout")
    until(lambda: place.fleet()["in_flight"] == 0, "the slot to be free")


def test_the_last_event_names_all_workers_that_had_a_part(place: Site) -> None:
    place.worker("m", failing("crash", 7))
    place.worker("m", GOOD)
    named: list[list[str]] = []
    for _ in range(2):
        with httpx.stream("POST", f"{place.api}/v1/chat/completions", json=ask() | {"stream": True}) as reply:
            rows = [json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: {")]
        named += [row["vicuna"]["workers"] for row in rows if "vicuna" in row]
    assert sorted(len(set(each)) for each in named) == [1, 2]  # the first to fail is left alone afterwards


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_is_killed_or_frozen_mid_stream_is_replaced(place: Site, number: int) -> None:
    workers = [place.worker("m", GOOD), place.worker("m", GOOD)]
    texts: list[str] = []
    thread = threading.Thread(target=lambda: texts.append(streamed(place)))
    thread.start()
    busy = until(lambda: next((w for w in workers if (place.row(w) or {}).get("in_flight")), None), "a busy worker")
    time.sleep(0.3)
    busy.signal(number)
    thread.join(30)
    assert texts == [LONG * 6]


def test_when_no_other_worker_lives_the_stream_ends_with_a_typed_error(place: Site) -> None:
    place.worker("m", failing("crash", 5))
    with client(place) as made, pytest.raises(openai.APIError, match="no other worker could continue") as caught:
        for _ in made.chat.completions.create(**ask(), stream=True):
            pass
    assert caught.value.code == "stream_interrupted"
    until(lambda: not place.fleet()["workers"], "the lease to run out")
    reply = httpx.post(f"{place.api}/v1/chat/completions", json=ask(), timeout=30)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "no_worker")
    assert reply.headers["retry-after"]


def test_a_worker_that_is_only_slow_is_not_taken_for_hung(place: Site) -> None:
    worker = place.worker("m", "rules: [{answer: two words, pace: 2.6}]")
    reply = httpx.post(f"{place.api}/v1/chat/completions", json=ask(), timeout=30)
    assert reply.json()["choices"][0]["message"]["content"] == "two words"
    assert place.row(worker)["last_failure"] == ""


def test_before_the_first_token_a_failure_is_a_status(place: Site) -> None:
    place.worker("m", failing("crash", 0))
    reply = httpx.post(f"{place.api}/v1/chat/completions", json=ask() | {"stream": True}, timeout=30)
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "worker_failed")


def test_one_odd_request_does_not_take_the_worker_from_others(place: Site) -> None:
    worker = place.worker("m", failing("error", 0))
    for _ in range(2):
        reply = httpx.post(f"{place.api}/v1/chat/completions", json=ask(), timeout=30)
        assert reply.status_code == 502
        good = httpx.post(f"{place.api}/v1/chat/completions", json=ask("hi"), timeout=30)
        assert good.json()["choices"][0]["message"]["content"] == "you said hi"
    assert place.row(worker)["state"] == "live"


def test_a_paused_worker_is_used_again_once_a_probe_finds_it_well(place: Site) -> None:
    worker = place.worker("m", GOOD)
    worker.signal(signal.SIGSTOP)
    reply = httpx.post(f"{place.api}/v1/chat/completions", json=ask("hi"), timeout=30)
    assert reply.status_code in (502, 503)
    worker.signal(signal.SIGCONT)
    until(lambda: (place.row(worker) or {}).get("state") == "live", "the worker to be live")
    reply = httpx.post(f"{place.api}/v1/chat/completions", json=ask("hi"), timeout=30)
    assert reply.json()["choices"][0]["message"]["content"] == "you said hi"


def test_a_worker_told_to_stop_finishes_what_it_began_and_takes_nothing_new(place: Site) -> None:
    worker = place.worker("m", GOOD)
    texts: list[str] = []
    thread = threading.Thread(target=lambda: texts.append(streamed(place)))
    thread.start()
    until(lambda: place.row(worker)["in_flight"], "the answer to begin")
    worker.signal(signal.SIGTERM)
    until(lambda: not place.fleet()["workers"], "the worker to leave")
    assert httpx.post(f"{place.api}/v1/chat/completions", json=ask("hi"), timeout=30).status_code == 503
    thread.join(30)
    assert texts == [LONG * 6]
    assert worker.wait() == 0


def test_workers_find_a_controller_that_was_restarted(place: Site) -> None:
    place.worker("m", GOOD)
    place.commands[0].end()
    place.controller("--limits.gap", "5")
    reply = httpx.post(f"{place.api}/v1/chat/completions", json=ask("hi"), timeout=30)  # waits for the worker
    assert reply.json()["choices"][0]["message"]["content"] == "you said hi"


def test_a_controller_told_to_stop_lets_answers_finish_and_ends_the_rest_with_its_reason(place: Site) -> None:
    endless = "- match: endless\n    answer: two words\n    pace: 600\n  "
    place.worker("m", GOOD.replace("- match: long", f"{endless}- match: long"))
    replies: list[str] = []

    def stream(text: str) -> None:
        asked = ask(text) | {"stream": True}
        with httpx.stream("POST", f"{place.api}/v1/chat/completions", json=asked, timeout=30) as reply:
            replies.append("".join(reply.iter_lines()))

    threads = [threading.Thread(target=stream, args=(text,)) for text in ("long", "endless")]
    for thread in threads:
        thread.start()
    until(lambda: place.fleet()["in_flight"] == 2, "both answers to begin")
    place.commands[0].signal(signal.SIGTERM)
    for thread in threads:
        thread.join(30)
    assert place.commands[0].wait() == 0
    assert "Traceback" not in place.commands[0].output()
    finished, ended = replies
    assert finished.endswith("data: [DONE]")
    assert '"code":"stopping"' in ended


def test_two_controllers_serve_one_fleet_and_either_may_die(tmp_path: Path) -> None:
    with site(tmp_path / "a") as one, site(tmp_path / "b") as two:
        one.worker("m", GOOD, "--controllers", one.api, two.api)
        until(lambda: two.fleet()["workers"], "the worker to join the second")
        one.commands[0].end()
        reply = httpx.post(f"{two.api}/v1/chat/completions", json=ask("hi"), timeout=30)
        assert reply.status_code == 200


def test_another_stacks_worker_at_the_address_of_a_dead_one_does_not_answer_for_it(tmp_path: Path) -> None:
    port = str(free_port())
    with site(tmp_path / "a", "--limits.lease", "600", "--limits.gap", "0.5") as one, site(tmp_path / "b") as two:
        one.worker("m", GOOD, "--port", port).end()
        two.worker("m", "rules: [{answer: other weights}]", "--port", port)
        reply = httpx.post(f"{one.api}/v1/chat/completions", json=ask("hi"), timeout=30)
        assert (reply.status_code, reply.json()["error"]["code"]) == (502, "worker_failed")
        assert "another process has its address" in reply.json()["error"]["message"]
        until(lambda: not one.fleet()["workers"], "a probe to find out and take the dead one off the list")


def test_load_is_shared_between_equal_workers(place: Site) -> None:
    workers = [place.worker("m", GOOD), place.worker("m", GOOD)]
    threads = [threading.Thread(target=streamed, args=(place,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    until(lambda: place.fleet()["in_flight"] == 6, "six answers")
    assert [place.row(worker)["in_flight"] for worker in workers] == [3, 3]
    for thread in threads:
        thread.join()
    assert [place.row(worker)["answered"] for worker in workers] == [3, 3]


def test_a_worker_that_listens_everywhere_advertises_where_it_can_be_reached(tmp_path: Path) -> None:
    with site(tmp_path, VICUNA_FLEET_SECRET="a secret of this test") as place:
        worker = place.worker("m", GOOD, "--host", "0.0.0.0")
        assert place.row(worker)["address"].startswith("http://127.0.0.1:")


REGISTRATION = {"worker_id": "w-1", "models": [{"name": "m", "max_length": 5}], "capacity": 1}


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http://0.0.0.0:9", "--advertise"),
        (f"http://127.0.0.1:{free_port()}", "cannot reach the worker"),
        ("ftp://x", "address"),
        ("http://[", "a worker's address is"),
        ("SELF", "another program"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_with_what_to_do(place: Site, address: str, says: str) -> None:
    body = REGISTRATION | {"address": place.api if address == "SELF" else address}
    reply = httpx.post(f"{place.api}/fleet/register", json=body, timeout=30)
    assert reply.status_code == 400
    assert says in reply.json()["error"]["message"]
    assert place.fleet()["workers"] == []


def test_another_script_under_the_same_name_is_refused_and_the_worker_says_why(place: Site) -> None:
    place.worker("m", GOOD)
    other = tmp_script(place, "rules: [{answer: something else}]")
    refused = place.start(
        "worker", "--names", "m", "--controllers", place.api, "--engine.kind", "scripted", "--engine.script", other
    )
    until(lambda: "weights of another hash" in refused.output(), "the refusal")
    assert len(place.fleet()["workers"]) == 1


def tmp_script(place: Site, text: str) -> str:
    path = place.folder / "other.yaml"
    path.write_text(text)
    return str(path)


def test_reading_the_list_of_models_never_waits_for_a_frozen_worker(place: Site) -> None:
    worker = place.worker("m", GOOD)
    worker.signal(signal.SIGSTOP)
    with contextlib.closing(httpx.Client(timeout=1.0)) as quick:
        for _ in range(20):
            assert quick.get(f"{place.api}/v1/models").status_code == 200
    assert get(f"{place.api}/health") is not None


def test_choices_of_one_request_that_come_from_two_versions_name_both(place: Site) -> None:
    old = place.worker("m", GOOD, "--version", "v1", "--engine.slots", "1")
    place.worker("m", "rules: [{answer: the new one}]", "--version", "v2")
    replies: list[httpx.Response] = []
    thread = threading.Thread(
        target=lambda: replies.append(httpx.post(f"{place.api}/v1/chat/completions", json=ask() | {"n": 2}, timeout=60))
    )
    thread.start()
    until(lambda: place.fleet()["waiting"].get("m") == 1, "the second choice to wait for the only place")
    old.signal(signal.SIGTERM)
    thread.join(60)
    reply = replies[0].json()
    assert sorted(choice["message"]["content"] for choice in reply["choices"]) == sorted([LONG * 6, "the new one"])
    assert reply["vicuna"]["version"] == "v1,v2"
    assert replies[0].headers["x-vicuna-checkpoint"] == reply["vicuna"]["checkpoint_hash"]
    assert len(set(reply["vicuna"]["checkpoint_hash"].split(","))) == 2
