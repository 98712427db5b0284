"""Workers by themselves and between their controllers: room, secret, leaving; real processes."""

import asyncio
import contextlib
import http.server
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serve_stack import Command, Site, get, site, until

from vicuna.serve.faults import Fault
from vicuna.serve.net.signing import Signer
from vicuna.serve.protocol import ADDRESSEE
from vicuna.serve.work import HandedOver, Running, Work

LONG = "one two three four five six seven eight nine ten "
SECRET = "the secret of this fleet, long enough"
SCRIPT = f"""
rules:
  - match: long
    answer: "{LONG}"
    repeat: 6
    pace: 0.05
  - match: brief
    answer: "{LONG}"
    pace: 0.05
  - match: endless
    answer: "{LONG}"
    repeat: 1000
    pace: 0.05
  - match: prefill
    answer: "{LONG}"
    first: 0
  - match: broken
    fail: error
  - answer: "you said {{last}}"
"""
SLOW_PREFILL = SCRIPT.replace("first: 0", "first: 600")


def job(text: str) -> dict[str, Any]:
    return {"id": "job", "model": "m", "messages": [{"role": "user", "content": text}]}


def ask(place: Site, text: str) -> httpx.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return httpx.post(f"{place.api}/v1/chat/completions", json=body, timeout=60)


def said(reply: httpx.Response) -> str:
    return str(reply.json()["choices"][0]["message"]["content"])


def in_background(place: Site, text: str, count: int = 1) -> tuple[list[threading.Thread], list[httpx.Response]]:
    """Ask in threads; the replies are complete once these are joined."""
    replies: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: replies.append(ask(place, text))) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, replies


def address(place: Site, worker: Command) -> str:
    return str(place.row(worker)["address"])


def running(worker: str) -> float:
    return float(until(lambda: get(f"{worker}/health"), "the worker's health")["load"]["running"])


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path, "--limits.gap", "0.5", "--limits.lease", "3") as made:
        yield made


# ------------------------------------------------------------------------------------------- what it computes
def test_a_worker_takes_no_more_than_it_has_room_for_whoever_asks(place: Site) -> None:
    worker = address(place, place.worker("m", SCRIPT, "--engine.slots", "2"))
    with contextlib.ExitStack() as open_streams:
        for _ in range(2):
            reply = open_streams.enter_context(httpx.stream("POST", f"{worker}/generate", json=job("endless")))
            assert reply.status_code == 200
        for path in ("generate", "embed"):
            body = job("hi") if path == "generate" else {"id": "job", "model": "m", "texts": ["hi"]}
            refused = httpx.post(f"{worker}/{path}", json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "full")
        assert httpx.post(f"{worker}/tokenize", json=job("a b c")).json() == {"tokens": [0, 1, 2]}
    until(lambda: running(worker) == 0, "the room to be free again")
    assert httpx.post(f"{worker}/generate", json=job("hi")).status_code == 200


def test_a_request_that_finds_a_worker_full_because_of_another_controller_waits_and_is_answered(tmp_path: Path) -> None:
    with site(tmp_path / "a") as one, site(tmp_path / "b") as two:
        one.worker("m", SCRIPT, "--controllers", one.api, two.api, "--engine.slots", "1")
        until(lambda: two.fleet()["workers"], "the worker to join the second")
        threads, replies = in_background(one, "brief", 3)
        others, more = in_background(two, "brief", 3)
        for thread in [*threads, *others]:
            thread.join(120)
        assert [said(reply) for reply in [*replies, *more]] == [LONG] * 6


def test_who_asked_first_has_room_first() -> None:
    async def body() -> None:
        running = Running(1)
        work = await running.begin()
        first = asyncio.create_task(running.begin())  # of a controller with few requests
        await asyncio.sleep(0)
        running.end(work)
        second = asyncio.create_task(running.begin())  # of one whose next request comes as soon as there is room
        running.end(await first)
        assert len(running) == 0
        running.end(await second)

    asyncio.run(body())


def test_who_waits_for_room_is_told_when_the_worker_drains() -> None:
    async def body() -> None:
        running = Running(1)
        work = await running.begin()
        waiting = [asyncio.create_task(running.begin()) for _ in range(2)]
        await asyncio.sleep(0)
        running.draining = True
        running.end(work)
        for each in waiting:
            with pytest.raises(Fault, match="no new work"):
                await each
        assert len(running) == 0

    asyncio.run(body())


def test_a_caller_that_leaves_before_the_first_token_frees_the_room(place: Site) -> None:
    worker = address(place, place.worker("m", SLOW_PREFILL, "--engine.slots", "1"))
    with httpx.stream("POST", f"{worker}/generate", json=job("prefill")) as reply:
        assert reply.status_code == 200
        assert running(worker) == 1
    until(lambda: running(worker) == 0, "the room to be free again")


def test_a_long_time_before_the_first_token_is_no_hanging(tmp_path: Path) -> None:
    with site(tmp_path, "--limits.stall", "2") as place:
        worker = place.worker("m", SCRIPT.replace("first: 0", "first: 5"))
        assert said(ask(place, "prefill")) == LONG
        assert place.row(worker)["last_failure"] == ""


def test_what_is_no_job_is_refused_and_one_that_fails_takes_no_other_down(place: Site) -> None:
    worker = address(place, place.worker("m", SCRIPT))
    threads, replies = in_background(place, "long")
    for body in (b"", b"{", b"[]", b'{"id": 1}', b'{"id": "x", "model": "m", "sampling": 3}'):
        assert httpx.post(f"{worker}/generate", content=body).status_code == 400
    assert httpx.post(f"{worker}/generate", json=job("hi") | {"model": "other"}).status_code == 404
    assert httpx.post(f"{worker}/generate", json=job("hi"), headers={ADDRESSEE: "w-other"}).status_code == 421
    failed = httpx.post(f"{worker}/generate", json=job("broken"))
    assert '"status":500' in failed.text
    threads[0].join(60)
    assert said(replies[0]) == LONG * 6


def test_a_worker_tells_prometheus_what_it_does(place: Site) -> None:
    worker = address(place, place.worker("m", SCRIPT))
    ask(place, "one two")
    text = httpx.get(f"{worker}/metrics").text
    assert 'vicuna_worker_answers_total{outcome="finished"} 1.0' in text
    assert "vicuna_worker_tokens_total 4.0" in text


# ------------------------------------------------------------------------------------------- the fleet's secret
def test_only_who_has_the_secret_can_ask_a_worker(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET)
    path.chmod(0o600)
    with site(tmp_path / "site", "--fleet.secret", str(path)) as place:
        command = place.worker("m", SCRIPT, "--secret", str(path))
        row, signer = place.row(command), Signer(SECRET.encode())
        assert said(ask(place, "hi")) == "you said hi"
        body = httpx.Request("POST", "http://x", json=job("hi")).content
        for route in ("/generate", "/embed", "/tokenize", "/drain"):
            for headers in ({}, Signer(b"another secret, long enough").headers("POST", route, body, to=row["id"])):
                refused = httpx.post(row["address"] + route, content=body, headers={ADDRESSEE: row["id"], **headers})
                assert refused.status_code == 401
        nonce = signer.nonce()
        health = httpx.get(f"{row['address']}/health", params={"nonce": nonce}).json()
        assert signer.proves(nonce, row["id"], health["proof"])
        stranger = place.start("worker", "--names", "m", "--engine.kind", "scripted", "--controllers", place.api)
        until(lambda: "not signed" in stranger.output(), "the refusal of a worker without the secret")
        assert len(place.fleet()["workers"]) == 1
        assert SECRET not in command.output() + place.commands[0].output()


# ------------------------------------------------------------------------------------------- leaving
def tokens(place: Site, command: Command) -> float:
    """How many a worker has computed."""
    lines = httpx.get(f"{address(place, command)}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vicuna_worker_tokens_total"))


def test_what_does_not_fit_into_the_notice_is_finished_by_another_worker(place: Site) -> None:
    leaving, other = (place.worker("m", SCRIPT, "--drain", "0.2") for _ in range(2))
    threads, replies = in_background(place, "long", 4)
    until(lambda: place.row(leaving)["in_flight"] == 2, "all answers to begin")
    until(lambda: tokens(place, leaving) >= 8, "tokens of both")
    leaving.signal(signal.SIGTERM)
    for thread in threads:
        thread.join(60)
    assert [said(reply) for reply in replies] == [LONG * 6] * 4
    assert {reply.json()["usage"]["completion_tokens"] for reply in replies} == {61}  # the last is a space
    assert sorted(len(reply.json()["vicuna"]["workers"]) for reply in replies) == [1, 1, 2, 2]
    assert leaving.wait() == 0
    assert "handed 2 answers over" in leaving.output()
    assert place.row(leaving) is None
    assert place.row(other)["last_failure"] == ""
    assert place.fleet()["in_flight"] == 0


def test_a_worker_told_to_stop_before_the_first_token_hands_the_answer_over(place: Site) -> None:
    leaving = place.worker("m", SLOW_PREFILL, "--drain", "0.3")
    threads, replies = in_background(place, "prefill")
    until(lambda: place.row(leaving)["in_flight"], "the answer to begin")
    place.worker("m", SCRIPT)
    leaving.signal(signal.SIGTERM)
    threads[0].join(60)
    assert said(replies[0]) == LONG
    assert leaving.wait() == 0


def test_while_it_drains_controllers_know_it_and_send_nothing(place: Site) -> None:
    leaving = place.worker("m", SCRIPT, "--heartbeat", "30", "--drain", "60", "--controllers", place.api)
    worker = address(place, leaving)
    threads, replies = in_background(place, "long")
    until(lambda: place.row(leaving)["in_flight"], "the answer to begin")
    leaving.signal(signal.SIGINT)
    until(lambda: (place.row(leaving) or {}).get("state") == "draining", "the controller to know")  # not after 30 s
    refused = httpx.post(f"{worker}/generate", json=job("hi"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    threads[0].join(60)
    assert said(replies[0]) == LONG * 6
    assert leaving.wait() == 0


def test_a_controller_can_ask_a_worker_to_leave_and_a_notice_meanwhile_does_no_harm(place: Site) -> None:
    leaving = place.worker("m", SCRIPT)
    worker = address(place, leaving)
    threads, replies = in_background(place, "long")
    until(lambda: place.row(leaving)["in_flight"], "the answer to begin")
    for _ in range(2):
        assert httpx.post(f"{worker}/drain", json={}).json()["draining"] is True
    leaving.signal(signal.SIGTERM)
    threads[0].join(60)
    assert said(replies[0]) == LONG * 6
    assert leaving.wait() == 0
    assert "Traceback" not in leaving.output()


def test_a_second_signal_ends_it_at_once(place: Site) -> None:
    leaving = place.worker("m", SCRIPT, "--drain", "600")
    threads, _ = in_background(place, "endless")
    until(lambda: place.row(leaving)["in_flight"], "the answer to begin")
    leaving.signal(signal.SIGTERM)
    until(lambda: "finishing 1 answers" in leaving.output(), "the first signal to arrive")
    leaving.signal(signal.SIGTERM)
    leaving.wait()
    threads[0].join(60)
    assert "Traceback" not in leaving.output()


# ------------------------------------------------------------------------------------------- bad controllers
class Garbage(http.server.BaseHTTPRequestHandler):
    """Says yes to everything, in words that nobody understands."""

    def do_POST(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>hello")

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def bad_controllers() -> Iterator[list[str]]:
    """One that never answers, one that answers nonsense, one that is not there, one whose name leads nowhere."""
    with socket.create_server(("127.0.0.1", 0)) as silent, http.server.HTTPServer(("127.0.0.1", 0), Garbage) as odd:
        threading.Thread(target=odd.serve_forever, daemon=True).start()
        ports = [silent.getsockname()[1], odd.server_address[1]]
        yield [*(f"http://127.0.0.1:{port}" for port in ports), "http://127.0.0.1:9", "http://nowhere.invalid:80"]
        odd.shutdown()


def test_bad_controllers_keep_a_worker_from_no_good_one_and_are_named_once(place: Site) -> None:
    with bad_controllers() as bad:
        flags = ("--heartbeat", "0.1", "--host", "0.0.0.0", "--secret", str(place.folder / "secret"))
        (place.folder / "secret").write_text(SECRET)
        place.commands[0].end()
        place.controller("--limits.lease", "2", "--fleet.secret", str(place.folder / "secret"))
        worker = place.worker("m", SCRIPT, *flags, "--controllers", *bad, place.api)
        until(lambda: "no controller of ours" in worker.output(), "the complaint")
        first = place.row(worker)["id"]
        time.sleep(3)  # longer than a lease
        assert place.row(worker)["id"] == first
        assert said(ask(place, "hi")) == "you said hi"
        for each in bad:
            until(lambda: each in worker.output(), "a word about a bad controller")  # noqa: B023 (asked at once)
            lines = [line for line in worker.output().splitlines() if each in line]
            assert len(lines) <= 3  # what goes wrong may change, but the same is not said again
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0


def test_a_new_controller_has_its_workers_within_two_heartbeats(place: Site) -> None:
    worker = place.worker("m", SCRIPT)
    for _ in range(2):
        place.commands[0].end()
        place.commands[0] = place.controller("--limits.gap", "30")
        assert said(ask(place, "hi")) == "you said hi"  # waited for the worker
    assert worker.process.poll() is None


# ------------------------------------------------------------------------------------------- the table of work
def test_handing_over_ends_the_computing_and_nothing_else() -> None:
    async def body() -> list[int]:
        work, got = Work(), []

        async def pieces() -> AsyncIterator[int]:
            yield 1
            yield 2
            await asyncio.sleep(600)
            yield 3

        source = pieces()
        with contextlib.suppress(HandedOver):
            while True:
                got.append(await work.step(source.__anext__))
                if got[-1] == 2:
                    asyncio.get_running_loop().call_soon(work.hand_over)
                await asyncio.sleep(0)  # sending what was computed is not cut off
        with pytest.raises(HandedOver):
            await work.step(source.__anext__)
        return got

    assert asyncio.run(body()) == [1, 2]


def test_a_time_limit_within_the_computing_is_not_taken_for_handing_over() -> None:
    async def late() -> None:
        raise TimeoutError

    async def body() -> None:
        await Work().step(late)

    with pytest.raises(TimeoutError):
        asyncio.run(body())


@given(st.integers(1, 4), st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=40))
def test_room_is_taken_and_given_back_exactly_once(capacity: int, steps: list[int | None]) -> None:
    async def body() -> None:
        running, open_work = Running(capacity), list[Work]()
        for step in steps:
            if step is None and len(open_work) < capacity:
                open_work.append(await running.begin())
            elif step is None:
                with pytest.raises(TimeoutError):  # the caller leaves while it waits for its turn
                    async with asyncio.timeout(0.0001):
                        await running.begin()
            elif open_work:
                work = open_work.pop(step % len(open_work))
                running.end(work)
                with pytest.raises(KeyError):
                    running.end(work)
            assert len(running) == len(open_work) <= capacity

    asyncio.run(body())
