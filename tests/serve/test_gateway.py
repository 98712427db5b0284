"""The OpenAI-compatible API, through OpenAI's own client and through bare HTTP; real processes."""

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from serve_stack import Site, site, until

SCRIPT = """
rules:
  - match: slow
    answer: "one two three four five six seven eight nine ten "
    repeat: 30
    pace: 0.05
  - match: count
    answer: one two three four five six
  - answer: "you said: {last}"
"""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("site"), "--limits.gap", "0.3") as made:
        made.worker("echo", SCRIPT, "--model.max_length", "40", "--engine.slots", "4")
        yield made


@pytest.fixture
def client(api: Site) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{api.api}/v1", api_key="none", max_retries=0) as made:
        yield made


def ask(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_models_lists_what_is_served(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["echo"]
    assert client.models.retrieve("echo").object == "model"
    with pytest.raises(openai.NotFoundError, match="echo"):
        client.models.retrieve("gpt-9")


def test_a_chat_is_answered_whole(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="echo", messages=ask("hello there"))
    assert reply.choices[0].message.content == "you said: hello there"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (2, 4, 6)
    assert reply.id.startswith("chatcmpl-")


def test_a_stream_says_the_same_as_the_whole_answer(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="echo", messages=ask("hello there"), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "you said: hello there"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 4
    assert len({c.id for c in chunks}) == 1


def test_the_async_client_gets_several_answers_at_once(api: Site) -> None:
    async def body() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{api.api}/v1", api_key="none", max_retries=0) as client:
            replies = await asyncio.gather(
                *(client.chat.completions.create(model="echo", messages=ask(f"number {i}")) for i in range(30))
            )
            return [reply.choices[0].message.content or "" for reply in replies]

    assert asyncio.run(body()) == [f"you said: number {i}" for i in range(30)]
    assert api.fleet()["in_flight"] == 0


def test_n_answers_come_with_their_indices(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="echo", messages=ask("hi"), n=3)
    assert [(c.index, c.message.content) for c in reply.choices] == [(i, "you said: hi") for i in range(3)]
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (1, 9)
    texts = {0: "", 1: ""}
    for chunk in client.chat.completions.create(model="echo", messages=ask("hi"), n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == {0: "you said: hi", 1: "you said: hi"}


def test_stop_strings_and_token_limits_end_an_answer(client: openai.OpenAI) -> None:
    stopped = client.chat.completions.create(model="echo", messages=ask("count"), stop=["e four", "zzz"])
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("one two thre", "stop")
    cut = client.chat.completions.create(model="echo", messages=ask("count"), max_completion_tokens=2)
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("one two", "length")


def test_content_may_come_in_parts_and_unknown_fields_are_let_through(client: openai.OpenAI) -> None:
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": "two "}, {"type": "text", "text": "parts"}]}]
    reply = client.chat.completions.create(model="echo", messages=parts, user="me", extra_body={"top_k": 5, "odd": [1]})
    assert reply.choices[0].message.content == "you said: two parts"


def test_null_settings_are_the_defaults(api: Site) -> None:
    nulls = dict.fromkeys(["temperature", "top_p", "n", "stop", "stream", "seed", "max_tokens", "top_k"])
    for _ in range(5):
        reply = httpx.post(f"{api.api}/v1/chat/completions", json={"model": "echo", "messages": ask("hi"), **nulls})
        assert reply.json()["choices"][0]["message"]["content"] == "you said: hi"


def test_plain_completions_take_every_kind_of_prompt(client: openai.OpenAI) -> None:
    assert client.completions.create(model="echo", prompt="abc").choices[0].text == "you said: abc"
    assert client.completions.create(model="echo", prompt="abc", echo=True).choices[0].text == "abcyou said: abc"
    several = client.completions.create(model="echo", prompt=["a", "b"], n=2)
    assert [choice.text for choice in several.choices] == [f"you said: {x}" for x in "aabb"]
    assert several.usage is not None
    assert several.usage.prompt_tokens == 2
    twice = client.completions.create(model="echo", prompt=["a", "a"], n=2).usage
    assert twice is not None
    assert twice.prompt_tokens == 2  # each prompt once, also an equal one, however many answers it has
    assert client.completions.create(model="echo", prompt=[1, 2]).choices[0].text == "you said: 1 2"
    lists: Any = [[1], [2, 3]]
    texts = [choice.text for choice in client.completions.create(model="echo", prompt=lists).choices]
    assert texts == ["you said: 1", "you said: 2 3"]
    stream = client.completions.create(model="echo", prompt="abc", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "you said: abc"


def test_an_unknown_model_is_404_and_says_what_is_served(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-9", messages=ask("hi"))
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert "echo" in str(caught.value)
    assert caught.value.request_id


def test_a_prompt_that_fills_the_context_is_400_with_both_numbers(client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match=r"40 tokens.*51 tokens") as caught:
            client.chat.completions.create(model="echo", messages=ask("word " * 50), stream=stream)
        assert caught.value.code == "context_length_exceeded"


BAD = [
    (b"{", "not JSON"),
    (b"", "not JSON"),
    (b"[]", "object"),
    (b'{"model":"echo"}', "messages"),
    (b'{"model":"echo","messages":[]}', "messages"),
    (b'{"model":"echo","messages":[{"role":"user"}]}', "messages.0.content"),
    (b'{"model":"echo","messages":[{"role":"king","content":"x"}]}', "messages.0.role"),
    (b'{"model":"echo","messages":[{"role":"user","content":3}]}', "messages.0.content"),
    (b'{"model":"echo","messages":[{"role":"user","content":[{"type":"image_url"}]}]}', "image_url"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"temperature":"abc"}', "temperature"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"temperature":NaN}', "temperature"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"max_tokens":-1}', "max_tokens"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"n":0}', "n"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"n":100}', "16 answers"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"tools":[{}]}', "tools"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_object"}}', "text"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"logprobs":true}', "logprobs"),
    (
        json.dumps({"model": "echo", "messages": ask("x"), "stop": [str(i) for i in range(10_000)]}).encode(),
        "stop: List should have at most 16 items",
    ),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"stop":["a",""]}', "stop.1: String should have"),
    (b'{"model":"echo","messages":[{"role":"user","content":[3]}]}', "messages.0.content.0: Input should be an object"),
    (b'{"model":"echo","messages":[{"role":"user","content":"\xff"}]}', "not JSON"),
]


@pytest.mark.parametrize(("body", "says"), BAD)
def test_a_wrong_request_is_a_400_that_names_the_field(api: Site, body: bytes, says: str) -> None:
    reply = httpx.post(f"{api.api}/v1/chat/completions", content=body)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert says in error["message"]
    assert error["type"] == "invalid_request_error"
    assert reply.headers["x-request-id"]


MILLIONS = [
    ("chat/completions", b'{"model":"echo","messages":[' + b"0," * 2_000_000 + b"0]}", "messages.0"),
    ("chat/completions", b'{"model":"echo","messages":[' + b"{}," * 1_300_000 + b"{}]}", "messages.0.role"),
    (
        "chat/completions",
        b'{"model":"echo","messages":[{"role":"user","content":[' + b"3," * 2_000_000 + b"3]}]}",
        "content",
    ),
    (
        "chat/completions",
        b'{"model":"echo","messages":[' + b'{"role":"user","content":""},' * 130_000 + b"0]}",
        "10000 items",
    ),
    ("chat/completions", b'{"model":"echo","messages":' + b"[" * 2_000_000 + b"]" * 2_000_000 + b"}", "not JSON"),
    ("completions", b'{"model":"echo","prompt":[' + b"5," * 2_000_000 + b'"a"]}', "prompt"),
    ("completions", b'{"model":"echo","prompt":[' + b"{}," * 1_300_000 + b"0]}", "prompt"),
    ("completions", b'{"model":"echo","prompt":[' + b'"a",' * 900_000 + b'"a"]}', "2048 items"),
    ("completions", b'{"model":"echo","prompt":[' + b'"a",' * 900 + b'"a"]}', "16 answers"),
]


def test_millions_of_mistakes_in_one_body_are_one_error_and_nobody_loses_a_lease(api: Site) -> None:
    worker = api.fleet()["workers"][0]["id"]
    for route, body, says in MILLIONS:
        reply = httpx.post(f"{api.api}/v1/{route}", content=body, timeout=60)
        assert (reply.status_code, says in reply.json()["error"]["message"]) == (400, True), reply.text[:300]
        assert len(reply.content) < 1000
    assert api.fleet()["workers"][0]["id"] == worker
    assert "is gone" not in api.commands[0].output()


def test_routes_and_methods_that_do_not_exist_answer_in_the_same_shape(api: Site) -> None:
    missing, wrong = httpx.get(f"{api.api}/v1/nothing"), httpx.get(f"{api.api}/v1/chat/completions")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")


def test_a_body_that_is_too_large_is_413(api: Site) -> None:
    body = {"model": "echo", "messages": ask("x" * 9_000_000)}
    reply = httpx.post(f"{api.api}/v1/chat/completions", json=body, timeout=30)
    assert reply.status_code == 413
    assert reply.json()["error"]["code"] == "request_too_large"


def test_the_reply_tells_request_worker_and_weights(api: Site) -> None:
    body = {"model": "echo", "messages": ask("hi")}
    for stream in (False, True):
        reply = httpx.post(
            f"{api.api}/v1/chat/completions", json=body | {"stream": stream}, headers={"x-request-id": "mine-1"}
        )
        worker = api.fleet()["workers"][0]
        assert reply.headers["x-request-id"] == "mine-1"
        assert reply.headers["x-vicuna-worker"] == worker["id"]
        assert reply.headers["x-vicuna-checkpoint"] == worker["models"][0]["checkpoint_hash"]


def test_a_client_that_leaves_frees_its_slot_and_stops_the_engine(api: Site) -> None:
    for stream in (True, False):
        body = json.dumps({"model": "echo", "messages": ask("slow"), "stream": stream, "max_tokens": 35}).encode()
        with socket.create_connection(("127.0.0.1", api.port)) as sock:
            sock.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            until(lambda: api.fleet()["in_flight"] == 1, "the answer to begin")
        until(lambda: api.fleet()["in_flight"] == 0, "the slot to be free")
        until(lambda: api.fleet()["workers"][0]["load"]["running"] == 0, "the engine to stop")
    assert api.fleet()["workers"][0]["failures_in_a_row"] == 0


def test_many_clients_that_leave_take_no_slot_with_them(api: Site) -> None:
    async def one(client: httpx.AsyncClient, index: int) -> None:
        body = {"model": "echo", "messages": ask("slow"), "stream": index % 2 == 0}
        try:
            async with asyncio.timeout(0.01 * (index % 12)):
                await client.post(f"{api.api}/v1/chat/completions", json=body)
        except TimeoutError:
            pass

    async def body() -> None:
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=60) as client:
            await asyncio.gather(*(one(client, index) for index in range(150)))

    asyncio.run(body())
    until(lambda: api.fleet()["in_flight"] == 0 and not api.fleet()["waiting"], "all slots to be free")
    assert (
        httpx.post(f"{api.api}/v1/chat/completions", json={"model": "echo", "messages": ask("hi")}).status_code == 200
    )


def test_health_tells_workers_and_models(api: Site) -> None:
    assert httpx.get(f"{api.api}/health").json() == {"status": "ok", "workers": 1, "models": ["echo"]}


def test_when_too_many_wait_the_next_is_429_with_retry_after(tmp_path: Path) -> None:
    with site(tmp_path, "--limits.queue", "1") as made:
        made.worker("echo", SCRIPT, "--engine.slots", "1")

        async def body() -> list[httpx.Response]:
            async with httpx.AsyncClient(timeout=60) as client:
                request = {"model": "echo", "messages": ask("slow"), "max_tokens": 20}
                return await asyncio.gather(
                    *(client.post(f"{made.api}/v1/chat/completions", json=request) for _ in range(4))
                )

        replies = asyncio.run(body())
        assert sorted(reply.status_code for reply in replies) == [200, 200, 429, 429]
        refused = next(reply for reply in replies if reply.status_code == 429)
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert int(refused.headers["retry-after"]) >= 1
