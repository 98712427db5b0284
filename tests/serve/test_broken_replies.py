"""A worker's reply that breaks, or stands still, at any place: the client's answer is whole, without repetition."""

import contextlib
import json
import socketserver
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from serve_stack import Site, site

WORDS = "one two three four"
SCRIPT = f"rules: [{{answer: {WORDS}}}]"
STALL = 2.0
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
LINES = [
    b'{"prompt_tokens":1}\n',
    b'{"text":"one","ids":[0]}\n',
    b'{"text":" two","ids":[1]}\n',
    b'{"text":" three","ids":[2]}\n{"text":" four","ids":[3]}\n',
    b'{"text":"","ids":[],"finish":"stop"}\n',
]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def so_far(lines: int) -> bytes:
    """The head and so many lines."""
    return HEAD + b"".join(map(chunk, LINES[:lines]))


PLACES = {
    "before the head": b"",
    "within the head": HEAD[:30],
    "behind the head": so_far(0),
    "behind the prompt's size": so_far(1),
    "within a line": so_far(2) + chunk(LINES[2][:15]),
    "within a chunk": so_far(2) + chunk(LINES[2])[:15],
    "between two lines": so_far(3),
    "before the last piece": so_far(4),
    "behind the last piece": so_far(5),
}


class Handler(socketserver.StreamRequestHandler):
    """Says how the worker is; answers a job with a part of a reply, then closes the connection or says no more."""

    server: "Broken"

    def handle(self) -> None:
        while (line := self.rfile.readline()).strip():
            size = 0
            while (header := self.rfile.readline().strip().lower()) != b"":
                if header.startswith(b"content-length:"):
                    size = int(header.split(b":")[1])
            self.rfile.read(size)
            if line.startswith(b"POST /generate"):
                self.server.jobs += 1
                self.wfile.write(self.server.part)
                if self.server.stands_still:
                    self.server.over.wait(60)
                return
            body = b'{"status":"ok","worker_id":"broken"}'
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))


class Broken(socketserver.ThreadingTCPServer):
    """A worker at the level of bytes."""

    daemon_threads = True
    block_on_close = False
    jobs = 0

    def __init__(self, part: bytes, stands_still: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.part, self.stands_still = part, stands_still
        self.over = threading.Event()


@contextlib.contextmanager
def broken(place: Site, part: bytes, stands_still: bool) -> Iterator[Broken]:
    """Such a worker, a member of the fleet with the models of those that are there."""
    with Broken(part, stands_still) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        registration = {
            "worker_id": "broken",
            "address": f"http://127.0.0.1:{server.server_address[1]}",
            "models": place.fleet()["workers"][0]["models"],
            "capacity": 100,  # so that it is the emptier one whenever both are at work
        }
        assert httpx.post(f"{place.api}/fleet/register", json=registration).status_code == 200
        try:
            yield server
        finally:
            httpx.post(f"{place.api}/fleet/leave", json={"worker_id": "broken"})
            server.over.set()
            server.shutdown()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with site(folder, "--limits.stall", str(STALL), "--limits.lease", "60") as made:
        made.worker("m", SCRIPT)
        yield made


def ask(place: Site) -> str:
    """The answer's text, told twice: as a stream, which has an end mark, and by the names of those who took part."""
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with httpx.stream("POST", f"{place.api}/v1/chat/completions", json=body, timeout=60) as reply:
        events = [line[6:] for line in reply.iter_lines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]", events
    rows = [json.loads(event) for event in events[:-1]]
    return "".join(row["choices"][0]["delta"].get("content") or "" for row in rows if row["choices"])


def asked_until_it_was_chosen(place: Site, server: Broken) -> Iterator[str]:
    """Equal workers take turns, so at most the second answer begins at the broken one."""
    while not server.jobs:
        yield ask(place)


@pytest.mark.parametrize("where", PLACES)
def test_a_connection_that_breaks_anywhere_costs_no_text(place: Site, where: str) -> None:
    with broken(place, PLACES[where], stands_still=False) as server:
        assert set(asked_until_it_was_chosen(place, server)) == {WORDS}
    assert place.fleet()["in_flight"] == 0


@pytest.mark.parametrize("where", ["within the head", "behind the prompt's size", "within a line"])
def test_a_connection_that_stands_still_costs_time_and_no_text(place: Site, where: str) -> None:
    with broken(place, PLACES[where], stands_still=True) as server:
        assert set(asked_until_it_was_chosen(place, server)) == {WORDS}
    assert place.fleet()["in_flight"] == 0


def test_a_worker_that_hangs_behind_the_last_piece_does_not_hold_the_answers_end(place: Site) -> None:
    with broken(place, PLACES["behind the last piece"], stands_still=True) as server:
        began = time.monotonic()
        assert set(asked_until_it_was_chosen(place, server)) == {WORDS}
        assert time.monotonic() - began < STALL
    assert place.fleet()["in_flight"] == 0


def test_a_worker_that_refuses_to_go_on_with_an_answer_is_passed_over(place: Site) -> None:
    refusal = {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded", "status": 400}
    line = json.dumps({"error": refusal}).encode() + b"\n"
    with broken(place, so_far(3) + chunk(line), stands_still=False) as server:
        assert set(asked_until_it_was_chosen(place, server)) == {WORDS}
