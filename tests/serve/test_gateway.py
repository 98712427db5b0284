"""The OpenAI-compatible API, through OpenAI's own client and through bare HTTP; real processes."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from serve_stack import Site, site, until

from vicuna.serve.faults import Fault
from vicuna.serve.protocol import Registration, parse

SCRIPT = """
rules:
  - match: slow
    answer: "one two three four five six seven eight nine ten "
    repeat: 30
    pace: 0.05
  - match: count
    answer: one two three four five six
  - match: tools
    answer: ""
    tool_calls: [{name: add, arguments: "[1, 2]"}, {name: say}]
  - answer: "you said: {last}"
"""
PLAIN = """
features: [chat]
rules:
  - answer: plainly
"""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("site"), "--limits.gap", "0.3") as made:
        made.worker("echo", SCRIPT, "--model.max_length", "40", "--engine.slots", "4")
        made.worker("plain", PLAIN)
        yield made


@pytest.fixture
def client(api: Site) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{api.api}/v1", api_key="none", max_retries=0) as made:
        yield made


def ask(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_models_lists_what_is_served(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["echo", "plain"]
    assert client.models.retrieve("echo").object == "model"
    plain: Any = client.models.retrieve("plain")
    assert (plain.features, plain.max_model_len, len(plain.checkpoint_hash)) == (["chat"], 2048, 64)
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
    (b'{"model":"echo","messages":[{"content":"x"}]}', "messages.0.role"),
    (b'{"model":"echo","messages":[{"role":"user","content":null}]}', "messages.0.content"),
    (b'{"model":"echo","messages":[{"role":"user","content":[{"type":"text"}]}]}', "messages.0.content.0.text"),
    (b'{"model":"echo","messages":7}', "messages"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"temperature":"abc"}', "temperature"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"temperature":NaN}', "temperature"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"max_tokens":-1}', "max_tokens"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"n":0}', "n"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"n":100}', "16 answers"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"n":20}', "16 answers"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"max_tokens":0}', "max_tokens"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"max_tokens":1e99}', "max_tokens"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"temperature":-1}', "temperature"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"top_p":7}', "top_p"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"top_k":99999999999999999999}', "top_k"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"frequency_penalty":99}', "frequency_penalty"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"stop":3}', "stop"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"stop":[""]}', "stop.0"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"stream":"yes"}', "stream"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"priority":"now"}', "priority"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"tools":[7]}', "tools.0"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"logit_bias":{"no":1}}', "token ids"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"logit_bias":{"5":101}}', "logit_bias.5"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"top_logprobs":3}', "logprobs: true"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"logprobs":true,"top_logprobs":21}', "top_logprobs"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"response_format":{}}', "response_format.type"),
    (b'{"model":"echo","messages":[{"role":"user","content":"x"}],"modalities":["audio"]}', "modalities"),
    (b'{"model":"' + b"x" * 600 + b'","messages":[{"role":"user","content":"x"}]}', "model"),
    (b'{"model":"echo","odd":' + b"[" * 100 + b"]" * 100 + b"}", "nests"),
    (b'{"model":"echo","odd":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "lists"),
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


LACKING = [
    ({"tools": [{"type": "function", "function": {"name": "add"}}]}, "cannot call tools"),
    ({"messages": [{"role": "tool", "content": "3", "tool_call_id": "a"}]}, "cannot call tools"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "not text"),
    ({"response_format": {"type": "json_object"}}, "cannot answer in a given format"),
    ({"logprobs": True}, "cannot give log probabilities"),
    ({"logit_bias": {"5": 1}}, "cannot change the odds"),
]


@pytest.mark.parametrize(("more", "says"), LACKING)
def test_what_a_models_engine_lacks_is_refused_in_words(api: Site, more: dict[str, Any], says: str) -> None:
    body = {"model": "plain", "messages": ask("hi"), **more}
    for stream in (False, True):
        reply = httpx.post(f"{api.api}/v1/chat/completions", json=body | {"stream": stream})
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "unsupported_parameter")
        assert says in reply.json()["error"]["message"]
    settled = {"tools": [], "response_format": {"type": "text"}, "logit_bias": {}, "logprobs": False}
    reply = httpx.post(f"{api.api}/v1/chat/completions", json={"model": "plain", "messages": ask("hi"), **settled})
    assert reply.json()["choices"][0]["message"]["content"] == "plainly"


MILLIONS = [
    ("chat/completions", b'{"model":"echo","messages":[' + b"0," * 2_000_000 + b"0]}", "values"),
    ("chat/completions", b'{"model":"echo","messages":[' + b"{}," * 1_300_000 + b"{}]}", "values"),
    ("chat/completions", b'{"model":"echo","messages":[' + b"0," * 290_000 + b"0]}", "messages.0"),
    ("chat/completions", b'{"model":"echo","messages":[' + b"{}," * 30_000 + b"{}]}", "messages.0.role"),
    (
        "chat/completions",
        b'{"model":"echo","messages":[{"role":"user","content":[' + b"3," * 290_000 + b"3]}]}",
        "content",
    ),
    (
        "chat/completions",
        b'{"model":"echo","messages":[' + b'{"role":"user","content":""},' * 20_000 + b"0]}",
        "10000 items",
    ),
    ("chat/completions", b'{"model":"echo","messages":' + b"[" * 2_000_000 + b"]" * 2_000_000 + b"}", "lists"),
    (
        "chat/completions",
        json.dumps({"model": "echo", "messages": ask("x"), "logit_bias": {f"x{i}": 1 for i in range(40_000)}}).encode(),
        "1024 items",
    ),
    (
        "chat/completions",
        json.dumps({"model": "echo", "messages": ask("x"), "logit_bias": {"x" * 1_000_000: 1}}).encode(),
        "token ids",
    ),
    ("completions", b'{"model":"echo","prompt":[' + b"5," * 290_000 + b'"a"]}', "prompt"),
    ("completions", b'{"model":"echo","prompt":[' + b"{}," * 30_000 + b"0]}", "prompt"),
    ("completions", b'{"model":"echo","prompt":[' + b'"a",' * 90_000 + b'"a"]}', "2048 items"),
    ("completions", b'{"model":"echo","prompt":[' + b'"a",' * 900 + b'"a"]}', "16 answers"),
    ("embeddings", b'{"model":"echo","input":[' + b'"a",' * 3000 + b'"a"]}', "2048 items"),
]


def test_millions_of_mistakes_in_one_body_are_one_error_and_nobody_loses_a_lease(api: Site) -> None:
    workers = [row["id"] for row in api.fleet()["workers"]]
    for route, body, says in MILLIONS:
        reply = httpx.post(f"{api.api}/v1/{route}", content=body, timeout=60)
        assert (reply.status_code, says in reply.json()["error"]["message"]) == (400, True), reply.text[:300]
        assert len(reply.content) < 1000
    assert [row["id"] for row in api.fleet()["workers"]] == workers
    assert "is gone" not in api.commands[0].output()


def test_routes_and_methods_that_do_not_exist_answer_in_the_same_shape(api: Site) -> None:
    missing, wrong = httpx.get(f"{api.api}/v1/nothing"), httpx.get(f"{api.api}/v1/chat/completions")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")


def test_a_web_page_of_another_site_can_make_its_reader_ask_or_change_nothing(api: Site) -> None:
    worker = api.fleet()["workers"][0]
    page = {"origin": "https://page.example", "content-type": "text/plain"}  # what browsers send without asking first
    sent = {
        "/v1/chat/completions": {"model": "echo", "messages": ask("hi")},
        "/fleet/drain": {"worker": worker["address"]},
        "/fleet/leave": {"worker_id": worker["id"]},
        "/fleet/register": {"worker_id": "w", "address": api.api, "models": [{"name": "m", "max_length": 1}]},
    }
    for path, body in sent.items():
        assert httpx.post(api.api + path, json=body, headers=page).status_code in (401, 403)
    assert httpx.post(f"{worker['address']}/drain", json={}, headers=page).status_code == 401
    assert [row["state"] for row in api.fleet()["workers"]] == ["live", "live"]


@pytest.mark.parametrize("field", ["worker_id", "checkpoint_hash", "template_hash"])
@pytest.mark.parametrize("text", ["a\r\nx-evil: 1", "a b", "é", "a\n", "x" * 201])
def test_what_travels_in_headers_is_a_plain_word(field: str, text: str) -> None:
    model = {"name": "m", "max_length": 1, "checkpoint_hash": "sha256:0a", "template_hash": ""}
    body: dict[str, Any] = {"worker_id": "w-1", "address": "http://127.0.0.1:1", "models": [model], "capacity": 1}
    parse(Registration, json.dumps(body).encode())
    (body if field in body else model)[field] = text
    with pytest.raises(Fault, match=field):
        parse(Registration, json.dumps(body).encode())


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
        worker = next(row for row in api.fleet()["workers"] if row["models"][0]["name"] == "echo")
        assert reply.headers["x-request-id"] == "mine-1"
        assert reply.headers["x-vicuna-worker"] == worker["id"]
        assert reply.headers["x-vicuna-checkpoint"] == worker["models"][0]["checkpoint_hash"]
        last = reply.json() if not stream else json.loads(reply.text.split("data: ")[-2])
        said = {"workers": [worker["id"]], "checkpoint_hash": worker["models"][0]["checkpoint_hash"], "version": ""}
        assert last["vicuna"] == said


def test_a_client_that_leaves_frees_its_slot_and_stops_the_engine(api: Site) -> None:
    for stream in (True, False):
        body = json.dumps({"model": "echo", "messages": ask("slow"), "stream": stream, "max_tokens": 35}).encode()
        with socket.create_connection(("127.0.0.1", api.port)) as sock:
            sock.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            until(lambda: api.fleet()["in_flight"] == 1, "the answer to begin")
        until(lambda: api.fleet()["in_flight"] == 0, "the slot to be free")
        until(lambda: all(row["load"]["running"] == 0 for row in api.fleet()["workers"]), "the engine to stop")
    assert [row["failures_in_a_row"] for row in api.fleet()["workers"]] == [0, 0]


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
    assert httpx.get(f"{api.api}/health").json() == {"status": "ok", "workers": 2, "models": ["echo", "plain"]}


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
        assert 0 < int(refused.headers["retry-after-ms"]) <= 1000 * int(refused.headers["retry-after"])


# ------------------------------------------------------------------------------------------- log probabilities, tools
def test_log_probabilities_come_whole_and_streamed_in_the_shape_of_each_api(client: openai.OpenAI) -> None:
    asked: Any = {"model": "echo", "messages": ask("count"), "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**asked).choices[0].logprobs
    assert whole is not None
    assert whole.content is not None
    assert "".join(row.token for row in whole.content) == "one two three four five six"
    assert [len(row.top_logprobs) for row in whole.content] == [2] * 6
    streamed = [
        row
        for chunk in client.chat.completions.create(**asked, stream=True)
        for row in (chunk.choices[0].logprobs.content or [] if chunk.choices[0].logprobs else [])
    ]
    assert [row.model_dump() for row in streamed] == [row.model_dump() for row in whole.content]
    text = client.completions.create(model="echo", prompt="count", logprobs=1).choices[0]
    assert text.logprobs is not None
    assert text.logprobs.text_offset == [0, 3, 7, 13, 18, 23]
    pieces = [c.choices[0] for c in client.completions.create(model="echo", prompt="count", logprobs=1, stream=True)]
    offsets = [offset for piece in pieces if piece.logprobs for offset in piece.logprobs.text_offset or []]
    assert offsets == text.logprobs.text_offset


def test_calls_of_tools_come_whole_and_streamed(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    reply = client.chat.completions.create(model="echo", messages=ask("tools"), tools=tools)
    assert reply.choices[0].finish_reason == "tool_calls"
    message = reply.choices[0].message
    assert message.content is None
    calls = [each.function for each in message.tool_calls or [] if each.type == "function"]
    assert [(each.name, each.arguments) for each in calls] == [("add", "[1, 2]"), ("say", "{}")]
    with client.chat.completions.stream(model="echo", messages=ask("tools"), tools=tools) as stream:
        final = stream.get_final_completion()
    again = [each.function for each in final.choices[0].message.tool_calls or []]
    assert [(each.name, each.arguments) for each in again] == [("add", "[1, 2]"), ("say", "{}")]
    results: Any = [message, {"role": "tool", "tool_call_id": "call_0", "content": "3"}]
    assert client.chat.completions.create(model="echo", messages=[*ask("tools"), *results]).choices


# ------------------------------------------------------------------------------------------- vectors and tokens
def test_embeddings_take_every_kind_of_input_in_both_encodings(client: openai.OpenAI) -> None:
    one = client.embeddings.create(model="echo", input="some words")
    assert (one.usage.prompt_tokens, one.usage.total_tokens) == (2, 2)
    vector = one.data[0].embedding
    assert sum(number * number for number in vector) == pytest.approx(1, abs=1e-3)
    plain = client.embeddings.create(model="echo", input=["a", "some words"], encoding_format="float")
    assert [row.index for row in plain.data] == [0, 1]
    assert plain.data[1].embedding == pytest.approx(vector)
    assert len(client.embeddings.create(model="echo", input=[3, 4]).data) == 1
    assert len(client.embeddings.create(model="echo", input=[[3], [4, 5]]).data) == 2
    assert len(client.embeddings.create(model="echo", input="a", dimensions=4).data[0].embedding) == 4
    with pytest.raises(openai.BadRequestError, match="cannot embed text"):
        client.embeddings.create(model="plain", input="a")
    for wrong in ("", [], [""], [[]]):
        with pytest.raises(openai.BadRequestError, match="input"):
            client.embeddings.create(model="echo", input=wrong)


def test_thousands_of_vectors_hold_nobody_up(api: Site) -> None:
    async def body() -> tuple[int, int]:
        async with httpx.AsyncClient(timeout=60) as client:
            address = f"{api.api}/v1/embeddings"
            request = {"model": "echo", "input": ["x"] * 2048, "dimensions": 1024}
            work = asyncio.ensure_future(client.post(address, json=request))
            looks = 0
            while not work.done():
                assert (await client.get(f"{api.api}/health")).status_code == 200
                looks += 1
            return len(work.result().json()["data"]), looks

    count, looks = asyncio.run(body())
    assert count == 2048
    assert looks > 5


def test_tokens_of_a_prompt_and_of_a_chat(api: Site) -> None:
    for given in ({"prompt": "one two three"}, {"messages": ask("one two three")}):
        reply = httpx.post(f"{api.api}/tokenize", json={"model": "echo", **given})
        assert reply.json() == {"tokens": [0, 1, 2], "count": 3, "max_model_len": 40}
    both = httpx.post(f"{api.api}/tokenize", json={"model": "echo", "prompt": "a", "messages": ask("a")})
    assert (both.status_code, both.json()["error"]["param"]) == (400, "prompt")


# ------------------------------------------------------------------------------------------- times, keys, logs
def test_a_client_says_how_long_its_answer_is_of_use(api: Site) -> None:
    body = {"model": "echo", "messages": ask("slow"), "max_tokens": 30}
    late = httpx.post(f"{api.api}/v1/chat/completions", json=body, headers={"x-vicuna-timeout": "0.3"}, timeout=60)
    assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
    assert late.headers["x-should-retry"] == "false"
    for wrong in ("soon", "0", "-3", "nan"):
        reply = httpx.post(f"{api.api}/v1/chat/completions", json=body, headers={"x-vicuna-timeout": wrong})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "x-vicuna-timeout")
    until(lambda: api.fleet()["in_flight"] == 0, "the slot to be free")


def test_keys_open_what_they_are_for_and_limits_count_what_was_used(tmp_path: Path) -> None:
    keys = tmp_path / "keys.jsonl"

    def key(name: str, *flags: str) -> str:
        command = [sys.executable, "-m", "vicuna.serve", "key", "add", name, "--file", str(keys), *flags]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return next(word for word in printed.split() if word.startswith("vk-"))

    chatting = key("chat", "--scopes", "chat", "--models", "echo", "--tokens_per_minute", "1000")
    embedding = key("embed", "--scopes", "embeddings")
    made = Site(tmp_path)
    try:
        made.controller("--access.keys", str(keys))
        script = tmp_path / "script.yaml"
        script.write_text(SCRIPT)
        engine = ["--engine.kind", "scripted", "--engine.script", str(script)]
        made.start("worker", "--controllers", made.api, "--names", "echo", "other", *engine)
        client = httpx.Client(base_url=made.api, headers={"authorization": f"Bearer {chatting}"}, timeout=60)
        until(lambda: client.get("/v1/models").json()["data"], "the worker")
        assert [row["id"] for row in client.get("/v1/models").json()["data"]] == ["echo"]
        body: dict[str, Any] = {"model": "echo", "messages": ask("four words of mine"), "max_tokens": 100}
        reply = client.post("/v1/chat/completions", json=body)
        assert reply.json()["usage"]["total_tokens"] == 10
        assert int(reply.headers["x-ratelimit-remaining-tokens"]) >= 1000 - 105
        streamed = client.post("/v1/chat/completions", json=body | {"stream": True})
        assert int(streamed.headers["x-ratelimit-remaining-tokens"]) >= 1000 - 10 - 105  # the first was settled
        after = client.post("/v1/chat/completions", json=body).headers["x-ratelimit-remaining-tokens"]
        assert int(after) >= 1000 - 2 * 10 - 105
        other = client.post("/v1/chat/completions", json=body | {"model": "other"})
        assert (other.status_code, other.json()["error"]["code"]) == (403, "model_not_allowed")
        slow = body | {"messages": ask("slow"), "n": 9, "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=slow) as running:
            greedy = client.post("/v1/chat/completions", json=body | {"n": 9})
            assert running.status_code == 200
        assert (greedy.status_code, greedy.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(greedy.headers["retry-after-ms"]) > 0
        for route, bearer, status in (
            ("/v1/chat/completions", "", 401),
            ("/v1/chat/completions", "vk-no-thing", 401),
            ("/v1/chat/completions", embedding, 403),
            ("/v1/embeddings", chatting, 403),
            ("/tokenize", embedding, 403),
        ):
            refused = httpx.post(made.api + route, json=body, headers={"authorization": f"Bearer {bearer}".strip()})
            assert (refused.status_code, set(refused.json()["error"])) == (status, {"message", "type", "param", "code"})
            assert "www-authenticate" in refused.headers or status == 403
        assert httpx.get(f"{made.api}/health").status_code == 200
        assert "four words" not in made.commands[0].output()
    finally:
        made.end()


def test_prompts_and_answers_are_written_down_only_where_that_is_asked_for(tmp_path: Path) -> None:
    with site(tmp_path, "--log.prompts", "true", "--log.format", "json") as made:
        made.worker("echo")
        body = {"model": "echo", "messages": ask("my little secret"), "stream": True}
        assert httpx.post(f"{made.api}/v1/chat/completions", json=body).status_code == 200
        lines = until(lambda: [row for row in made.commands[0].output().splitlines() if "little" in row], "the line")
        row = json.loads(lines[0])
        assert row["answer"] == "my little secret"
        assert row["request_id"]


def test_vectors_and_tokens_come_from_another_worker_where_one_has_died(tmp_path: Path) -> None:
    with site(tmp_path) as made:
        first, _ = made.worker("echo"), made.worker("echo")
        first.signal(signal.SIGKILL)
        for number in range(6):
            vectors = httpx.post(f"{made.api}/v1/embeddings", json={"model": "echo", "input": f"text {number}"})
            tokens = httpx.post(f"{made.api}/tokenize", json={"model": "echo", "prompt": "a b"})
            assert (vectors.status_code, tokens.status_code) == (200, 200)
        assert made.fleet()["in_flight"] == 0
        made.commands[2].signal(signal.SIGKILL)
        lost = httpx.post(f"{made.api}/v1/embeddings", json={"model": "echo", "input": "x"}, timeout=60)
        assert lost.status_code in (502, 503)
        assert lost.json()["error"]["code"] in ("worker_failed", "no_worker")
