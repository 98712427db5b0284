"""Other OpenAI-compatible servers as workers: a whole stack of ours, and a small server that misbehaves."""

import asyncio
import base64
import contextlib
import http.server
import json
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serve_stack import Site, free_port, get, site, until

from vicuna.errors import ConfigError
from vicuna.serve.config import EngineConfig, UpstreamConfig, WorkerConfig
from vicuna.serve.engines import Piece
from vicuna.serve.engines.upstream import UpstreamEngine
from vicuna.serve.engines.upstream_wire import Reading, events
from vicuna.serve.faults import Fault
from vicuna.serve.protocol import EmbedJob, Job, Sampling, Turn

SCRIPT = """
rules:
  - match: endless
    answer: "one two three four "
    repeat: 10000
    pace: 0.02
  - match: weather
    answer: ""
    tool_calls: [{name: weather, arguments: '{"place": "Paris"}'}]
  - match: broken
    fail: error
  - answer: "you said: {last}"
"""


def upstream(url: str, *more: str) -> tuple[str, ...]:
    return ("--names", "front", "--engine.kind", "upstream", "--engine.upstream.url", url, *more)


# ------------------------------------------------------------------------------------------- our own stack behind
@dataclass
class Chain:
    """A stack whose controller is the engine of a worker in another stack."""

    back: Site
    front: Site

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.front.api}/v1", api_key="none", max_retries=0)

    def running(self) -> float:
        worker = self.back.fleet()["workers"][0]["address"]
        return float(until(lambda: get(f"{worker}/health"), "the scripted worker")["load"]["running"])


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("chain")
    with site(folder / "back") as back, site(folder / "front", "--limits.gap", "0.5") as front:
        back.worker("m", SCRIPT, "--model.max_length", "300")
        front.join(*upstream(f"{back.api}/v1"))
        yield Chain(back, front)


def ask(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_chats_and_completions_go_through(chain: Chain) -> None:
    with chain.client() as client:
        reply = client.chat.completions.create(model="front", messages=ask("hello there"))
        assert reply.choices[0].message.content == "you said: hello there"
        assert reply.choices[0].finish_reason == "stop"
        assert reply.usage is not None
        assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (2, 4)
        chunks = list(
            client.chat.completions.create(
                model="front",
                messages=ask("hello there"),
                stream=True,
                max_completion_tokens=3,
                stream_options={"include_usage": True},
            )
        )
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "you said: hello"
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 3
        plain = client.completions.create(model="front", prompt="hello there", stop=["there"])
        assert (plain.choices[0].text, plain.choices[0].finish_reason) == ("you said: hello ", "stop")


def test_log_probabilities_go_through(chain: Chain) -> None:
    with openai.OpenAI(base_url=f"{chain.back.api}/v1", api_key="none") as direct, chain.client() as client:
        for stream in (False, True):
            rows = []
            for each, model in ((direct, "m"), (client, "front")):
                asked: Any = {"model": model, "messages": ask("a b"), "logprobs": True, "top_logprobs": 2}
                reply: Any = each.chat.completions.create(**asked, stream=stream)
                choices = [c.choices[0] for c in reply if c.choices] if stream else reply.choices
                rows.append([row for c in choices if c.logprobs for row in c.logprobs.content])
            assert len(rows[0]) == 4
            assert rows[0] == rows[1]
        old = [
            each.completions.create(model=model, prompt="a b", logprobs=2).choices[0].logprobs
            for each, model in ((direct, "m"), (client, "front"))
        ]
        assert old[0] is not None
        assert old[0] == old[1]


def test_calls_of_tools_go_through(chain: Chain) -> None:
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    with chain.client() as client:
        reply = client.chat.completions.create(model="front", messages=ask("weather?"), tools=tools)
        assert reply.choices[0].finish_reason == "tool_calls"
        calls: Any = reply.choices[0].message.tool_calls
        assert [(call.function.name, call.function.arguments) for call in calls] == [("weather", '{"place": "Paris"}')]


def test_embeddings_go_through(chain: Chain) -> None:
    with openai.OpenAI(base_url=f"{chain.back.api}/v1", api_key="none") as direct, chain.client() as client:
        one = direct.embeddings.create(model="m", input=["hello there", "you"])
        two = client.embeddings.create(model="front", input=["hello there", "you"])
    assert [row.embedding for row in one.data] == [row.embedding for row in two.data]
    assert len(two.data[0].embedding) == 16
    assert two.usage.prompt_tokens == 3


def test_a_mistake_of_the_client_comes_back_as_the_same_error_without_the_address_behind(chain: Chain) -> None:
    with chain.client() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="front", messages=ask("word " * 400))
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.APIStatusError) as failed:
            client.chat.completions.create(model="front", messages=ask("broken"))
        assert failed.value.status_code == 502
        assert str(chain.back.port) not in str(caught.value) + str(failed.value)


def test_the_hashes_of_our_own_models_go_through(chain: Chain) -> None:
    back, front = (httpx.get(f"{each.api}/v1/models").json()["data"][0] for each in (chain.back, chain.front))
    assert front["id"] == "front"
    for name in ("checkpoint_hash", "template_hash", "max_model_len"):
        assert front[name] == back[name]


def test_a_client_that_leaves_stops_the_engine_behind(chain: Chain) -> None:
    body = {"model": "front", "messages": ask("endless")}
    with chain.client() as client:
        stream = client.chat.completions.create(model="front", messages=ask("endless"), stream=True)
        next(iter(stream))
        until(lambda: chain.running() == 1, "the answer to begin")
        stream.close()
        until(lambda: chain.running() == 0, "the engine to stop")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{chain.front.api}/v1/chat/completions", json=body, timeout=1)
    until(lambda: chain.running() == 0, "the engine to stop")


def test_a_server_that_dies_and_comes_back_is_used_again(tmp_path: Path) -> None:
    with site(tmp_path / "back") as back, site(tmp_path / "front", "--limits.gap", "0.3") as front:
        back.worker("m", SCRIPT)
        worker = front.join(*upstream(f"{back.api}/v1"))
        asked = {"model": "front", "messages": ask("hi")}
        back.commands[0].end()
        address = front.row(worker)["address"]
        failed = httpx.post(f"{front.api}/v1/chat/completions", json=asked, timeout=30)
        assert failed.status_code in (502, 503)
        assert get(f"{address}/health") is None  # 503: it says that it cannot work
        back.controller("--limits.gap", "30")
        until(lambda: get(f"{address}/health"), "the worker to be well")
        until(
            lambda: httpx.post(f"{front.api}/v1/chat/completions", json=asked, timeout=30).status_code == 200,
            "an answer",
        )


# ------------------------------------------------------------------------------------------- a server that misbehaves
@dataclass
class Stub:
    """A server whose replies the test decides; a reply is a status with an object, or the lines of a stream."""

    answer: Callable[[str, dict[str, Any]], Any]
    models: tuple[int, Any] = (200, {"data": [{"id": "stub", "object": "model", "max_model_len": 77}]})
    requests: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    url: str = ""


@contextlib.contextmanager
def serving(stub: Stub) -> Iterator[Stub]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply(*stub.models)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            stub.requests.append((self.path, body, headers))
            found = stub.answer(self.path, body)
            if isinstance(found, tuple):
                self._reply(*found)
                return
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("connection", "close")
            self.end_headers()
            for line in found:
                self.wfile.write(line.encode())
                self.wfile.flush()
            self.close_connection = True

        def _reply(self, status: int, value: Any) -> None:
            content = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stub.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        yield stub
        server.shutdown()


def event(value: Any) -> str:
    return f"data: {json.dumps(value)}\n\n"


def chat(*texts: str, finish: str | None = "stop", **more: Any) -> list[str]:
    chunks = [event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}) for text in texts]
    end = [event({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})] if finish else []
    usage = [event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": len(texts)}, **more})]
    return [*chunks, *end, *usage, "data: [DONE]\n\n"]


def engine(url: str, **settings: Any) -> UpstreamEngine:
    found = UpstreamConfig(url=url, timeout=settings.pop("timeout", 3.0), **settings)
    return UpstreamEngine(WorkerConfig(names=("m",), engine=EngineConfig(kind="upstream", upstream=found)))


def run(made: UpstreamEngine, *jobs: Job) -> list[Piece]:
    async def body() -> list[Piece]:
        try:
            await made.start()
            return [piece for job in jobs async for piece in made.generate(job)]
        finally:
            await made.close()

    return asyncio.run(body())


def job(**more: Any) -> Job:
    return Job(id="1", model="m", **({"messages": (Turn(role="user", content="hi"),)} | more))


def test_what_is_sent_is_what_openai_knows_and_only_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_KEY", "sk-1234")
    with serving(Stub(lambda *_: chat("a"))) as stub:
        tools = [{"type": "function", "function": {"name": "f"}}]
        asked = job(
            sampling=Sampling(temperature=0.5, seed=2**48 + 7, max_tokens=9), extras={"tools": tools}, logprobs=3
        )
        pieces = run(engine(stub.url, key="STUB_KEY"), asked, job(sampling=Sampling(top_k=4, stop=("x",))))
        (path, first, headers), (_, second, _) = stub.requests
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == "Bearer sk-1234"
    assert first == {
        "model": "stub",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "seed": 7,
        "max_tokens": 9,
        "logprobs": True,
        "top_logprobs": 3,
        "tools": tools,
    }
    assert (second["top_k"], second["stop"]) == (4, ["x"])
    assert "max_tokens" not in second
    assert pieces[:2] == [Piece("a"), Piece(finish="stop", usage=(5, 1))]


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        ((400, {"error": {"message": "too hot", "code": "bad", "param": "temperature"}}), 400, "bad"),
        ((422, {"object": "error", "message": "no", "code": 40302}), 422, None),
        ((400, b"<html>"), 400, None),
        ((429, {"error": {"message": "slow down"}}), 503, "full"),
        ((401, {"error": {"message": "wrong key"}}), 502, "engine_failed"),
        ((404, {"error": {"message": "no such model"}}), 502, "engine_failed"),
        ((302, {}), 502, "engine_failed"),
        ((500, {}), 502, "engine_failed"),
        ([*chat("a", finish=None)[:1]], 502, "engine_failed"),
        (["data: {nonsense\n\n"], 502, "engine_failed"),
        (["data: [1]\n\n"], 502, "engine_failed"),
        ([event({"choices": [{"delta": {"content": 5}}]})], 502, "engine_failed"),
        ([event({"error": {"message": "out of memory", "type": "server_error"}})], 502, "engine_failed"),
        ([event({"error": {"message": "bad word", "type": "invalid_request_error", "code": "c"}})], 400, "c"),
    ],
)
def test_what_goes_wrong_there_is_told_from_the_clients_mistakes(reply: Any, status: int, code: str | None) -> None:
    with serving(Stub(lambda *_: reply)) as stub, pytest.raises(Fault) as caught:
        run(engine(stub.url), job())
    assert (caught.value.status, caught.value.code) == (status, code)


def test_keys_and_addresses_do_not_get_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("STUB_KEY", "topsecret-key")
    stub = Stub(lambda *_: (400, {"error": {"message": f"{stub.url}: key topsecret-key is odd"}}))
    with serving(stub), pytest.raises(Fault) as caught:
        run(engine(stub.url, key="STUB_KEY"), job())
    assert str(caught.value) == "...: key ... is odd"
    assert "topsecret-key" not in caplog.text + repr(vars(caught.value))


def test_a_model_that_wants_the_newer_limit_gets_it() -> None:
    def answer(_: str, body: dict[str, Any]) -> Any:
        if "max_tokens" in body:
            said = "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
            return 400, {"error": {"message": said, "param": "max_tokens", "code": "unsupported_parameter"}}
        return chat("a")

    with serving(Stub(answer)) as stub:
        pieces = run(engine(stub.url), *[job(sampling=Sampling(max_tokens=9))] * 2)
    assert [piece.finish for piece in pieces] == [None, "stop"] * 2
    assert [body.get("max_completion_tokens") for _, body, _ in stub.requests] == [None, 9, 9]


def test_what_an_answer_has_beside_text_is_kept() -> None:
    thought = {"choices": [{"delta": {"role": "assistant", "content": None, "reasoning_content": "hm"}}]}
    with serving(
        Stub(lambda *_: [": keep-alive\n\n", event(thought), *chat("a", "b", finish="content_filter")])
    ) as stub:
        pieces = run(engine(stub.url), job())
    assert [(piece.text, piece.delta, piece.finish) for piece in pieces] == [
        ("", {"reasoning_content": "hm"}, None),
        ("a", None, None),
        ("b", None, None),
        ("", None, "content_filter"),
    ]


def test_an_answer_goes_on_behind_its_text_without_doubled_space() -> None:
    with serving(Stub(lambda *_: chat(" ", "three", " four"))) as stub:
        made = engine(stub.url, resume="continue_final_message")
        pieces = run(made, job(shown="one two "), job(messages=None, prompt="count: ", shown="one two "))
        (_, first, _), (path, second, _) = stub.requests
    assert "".join(piece.text for piece in pieces) == "three four" * 2
    assert first["messages"][-1] == {"role": "assistant", "content": "one two"}
    assert (first["continue_final_message"], first["add_generation_prompt"]) == (True, False)
    assert (path, second["prompt"]) == ("/v1/completions", "count: one two")


def test_a_server_that_breaks_off_is_replaced_by_one_that_continues_the_text(tmp_path: Path) -> None:
    words = [f" word{number}" for number in range(30)]

    def continued(body: dict[str, Any]) -> list[str]:
        last = body["messages"][-1]
        said = last["content"] if last["role"] == "assistant" else ""
        return words[len(said.split()) :]

    breaking = Stub(lambda _, body: chat(*continued(body)[:7])[:7])
    whole = Stub(lambda _, body: chat(*continued(body)))
    with serving(breaking), serving(whole), site(tmp_path) as front:
        for stub in (breaking, whole):
            front.join(*upstream(stub.url, "--engine.upstream.resume", "assistant"))
        for _ in range(2):
            body = {"model": "front", "messages": ask("count")}
            reply = httpx.post(f"{front.api}/v1/chat/completions", json=body, timeout=30).json()
            assert reply["choices"][0]["message"]["content"] == "".join(words)
    assert breaking.requests


@pytest.mark.parametrize(
    ("models", "says"),
    [
        (
            (200, {"data": [{"id": "a"}, {"id": "b"}]}),
            "several models; set engine.upstream.model to one of: a, b",
        ),
        ((200, {"data": []}), "serves none"),
        ((401, {}), "needs an API key; put one into the environment variable STUB_KEY"),
        ((200, b"hello"), "no list of models"),
        ((500, {}), "with status 500"),
    ],
)
def test_a_server_that_cannot_be_used_is_explained(models: Any, says: str) -> None:
    with serving(Stub(lambda *_: chat("a"), models)) as stub, pytest.raises(ConfigError, match=says):
        run(engine(stub.url, key="STUB_KEY", timeout=0.5), job())


def test_a_server_that_is_not_there_is_waited_for_and_then_named() -> None:
    with pytest.raises(ConfigError, match="cannot be reached; start that server first"):
        run(engine(f"http://127.0.0.1:{free_port()}/v1", timeout=0.5), job())


def test_a_feature_that_nobody_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="got 'telepathy'"):
        engine("http://127.0.0.1:1/v1", features=("telepathy",))


def test_servers_of_one_model_are_replicas_wherever_they_are() -> None:
    found = []
    for _ in range(2):
        with serving(Stub(lambda *_: chat("a"))) as stub:
            made = engine(stub.url)
            run(made)
            found.append(made.models()[0])
    assert found[0] == found[1]
    assert found[0].max_length == 77


def test_embeddings_are_read_as_numbers_and_as_base64() -> None:
    packed = base64.b64encode(struct.pack("<2f", 0.5, -1)).decode()
    rows = [{"index": 1, "embedding": [0.25, 1.0]}, {"index": 0, "embedding": packed}]
    with serving(Stub(lambda *_: (200, {"data": rows, "usage": {"prompt_tokens": 4}}))) as stub:

        async def body() -> Any:
            made = engine(stub.url)
            await made.start()
            try:
                return await made.embed(EmbedJob(id="1", model="m", texts=("a", "b")))
            finally:
                await made.close()

        found = asyncio.run(body())
    assert [list(vector) for vector in found.vectors] == [[0.5, -1.0], [0.25, 1.0]]
    assert found.tokens == 4


@given(st.lists(st.text(max_size=8), max_size=8), st.lists(st.integers(1, 40), max_size=30), st.booleans())
def test_a_stream_says_the_same_wherever_the_network_cuts_it(texts: list[str], cuts: list[int], crlf: bool) -> None:
    stream = "".join(chat(*texts)).encode()
    stream = stream.replace(b"\n", b"\r\n") if crlf else stream

    async def parts() -> Any:
        rest = stream
        for size in cuts:
            yield rest[:size]
            rest = rest[size:]
        yield rest

    async def body() -> str:
        reading = Reading(job())
        pieces = [reading.piece(each) async for each in events(parts())]
        assert reading.last() == Piece(finish="stop", usage=(5, len(texts)))
        return "".join(piece.text for piece in pieces if piece)

    assert asyncio.run(body()) == "".join(texts)


@given(st.text(" \n", max_size=3), st.text("ab \n", max_size=8), st.integers(1, 3))
def test_the_white_space_at_the_border_is_shown_once(space: str, rest: str, size: int) -> None:
    reading = Reading(job(shown="one" + space))
    said = space + rest
    pieces = [said[at : at + size] for at in range(0, len(said), size)]
    found = [reading.piece({"choices": [{"delta": {"content": each}}]}) for each in pieces]
    assert "".join(piece.text for piece in found if piece) == rest
