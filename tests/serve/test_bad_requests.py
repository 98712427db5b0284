"""Requests that are wrong, over real HTTP: a refusal that names the field, and the engine answers the next one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serve_stack import Site, site
from serve_tiny import checkpoint

from vicuna.config import ModelConfig
from vicuna.serve.engines.prompting import Prompting
from vicuna.serve.faults import Fault
from vicuna.serve.protocol import Job

CONTEXT = 160
CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
MESSAGES = [{"role": "user", "content": "Hello!"}]
NAN, INFINITY = float("nan"), float("inf")
HUGE = 10**30

SAMPLING: list[tuple[str, Any]] = [
    *(("temperature", value) for value in ("abc", "0.5", NAN, INFINITY, -INFINITY, -0.1, 11, HUGE, True, [], {})),
    *(("top_p", value) for value in (0, 7, -1, NAN, "1", 1.0001)),
    *(("top_k", value) for value in (-2, 0.5, 2**31, "3", NAN)),
    *(("min_p", value) for value in (-1, 1, NAN, "x")),
    *(("max_tokens", value) for value in (-1, 0, HUGE, 2**31, 1.5, "5", True, NAN, [1])),
    *(("n", value) for value in (0, -1, 129, 1.5, "2")),
    *(("seed", value) for value in (1.5, "x", NAN, [], HUGE, -HUGE, True)),
    *(("stop", value) for value in ("", [""], ["a", ""], 5, {}, [5], [["a"]], True, "x" * 1_000_000)),
    *(("stop", value) for value in (["y" * 1_000_000], [f"stop {index}" for index in range(10_000)], ["z"] * 17)),
    *(("stop_token_ids", value) for value in ([-1], [2**31], [0.5], "1", [True], [1] * 257)),
    *(("presence_penalty", value) for value in (3, -3, NAN, "1")),
    *(("frequency_penalty", value) for value in (3, -INFINITY, [])),
    *(("repetition_penalty", value) for value in (0, -1, 11, NAN)),
    *(
        ("logit_bias", value)
        for value in ({"a": 1}, {"-1": 1}, {"1.5": 1}, {"": 1}, {"1": 101}, {"1": NAN}, {"1": "x"})
    ),
    *(("logit_bias", value) for value in ({"99999": 1}, {str(index): 1 for index in range(10_000)}, [1], 5)),
    *(("ignore_eos", value) for value in ("yes", 1)),
    *(("stream", value) for value in ("yes", 1, [])),
    *(("stream_options", value) for value in (5, {"include_usage": "x"})),
    *(("priority", value) for value in ("now", 1.5, 2**31)),
    *(("model", value) for value in ("", None, 5, "x" * 501, [])),
]
OF_CHATS: list[tuple[str, Any]] = [
    *(("messages", value) for value in ([], None, "hi", {}, [5], [None], [[]])),
    *(("messages", [{"role": role, "content": "hi"}]) for role in ("robot", None, 5, "")),
    *(("messages", [{"role": "user", "content": content}]) for content in (None, 5, {}, [5], [{"type": "text"}])),
    *(("messages", value) for value in ([{"role": "user"}], [{"content": "hi"}])),
    *(("max_completion_tokens", value) for value in (-1, 0, 1.5, HUGE)),
    *(("top_logprobs", value) for value in (-1, 21, 1000, 0.5)),
    *(("logprobs", value) for value in (1000, "yes")),
]
OF_COMPLETIONS: list[tuple[str, Any]] = [
    *(("prompt", value) for value in ([], [[]], None, 5, {}, [[5], []], [None], [["a"]], ["a", 5])),
    *(("prompt", value) for value in ([-1], [400], [2**31], [1.5], [1.0], [True], [[5], [-1]], [[5], [99_999]], [NAN])),
    *(("logprobs", value) for value in (-1, 6, 1000, True, "2")),
    *(("echo", value) for value in ("yes", 1)),
    *(("best_of", value) for value in (0, 129, 2)),
    *(("suffix", value) for value in (5, "end")),
]
OF_EMBEDDINGS: list[tuple[str, Any]] = [
    *(("input", value) for value in ("", [], [[]], [""], None, 5, [5, -1], [400], [1.5], [True], ["a", 5], [["a"]])),
    *(("dimensions", value) for value in (0, -1, 1.5, 7, HUGE)),
    *(("encoding_format", value) for value in ("hex", 5)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("model") / "tiny", context=CONTEXT)


@pytest.fixture(scope="module")
def api(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("site")) as made:
        made.join("--model.path", str(folder), "--model.template", "vicuna_v1.1", "--engine.threads", "1")
        yield made


def ask(api: Site, route: str, body: Any) -> httpx.Response:
    """JSON as Python writes it, which has NaN and infinity."""
    content = json.dumps(body).encode()
    return httpx.post(api.api + route, content=content, headers={"content-type": "application/json"}, timeout=60)


def good(route: str) -> dict[str, Any]:
    given = {CHAT: {"messages": MESSAGES}, COMPLETIONS: {"prompt": "Hello"}, EMBEDDINGS: {"input": "Hello"}}[route]
    return {"model": "tiny", **given} if route == EMBEDDINGS else {"model": "tiny", "max_tokens": 3, **given}


def refused(reply: httpx.Response, param: str | None, status: int = 400) -> dict[str, Any]:
    """The error of a refusal that is as it should be."""
    assert reply.status_code == status, reply.text[:500]
    error: dict[str, Any] = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) < 1000
    if param is not None:
        assert (error["param"] or "").split(".")[0] == param
        assert (
            error["code"] == "context_length_exceeded"
            or "has no token" in error["message"]
            or param in error["message"]
        )
    return error


@pytest.fixture
def lives(api: Site) -> Iterator[None]:
    """The engine answers as before when the test is over."""
    yield
    for route in (CHAT, COMPLETIONS, EMBEDDINGS):
        assert ask(api, route, good(route)).status_code == 200


@pytest.mark.usefixtures("lives")
@pytest.mark.parametrize(
    ("route", "rows"),
    [(CHAT, SAMPLING + OF_CHATS), (COMPLETIONS, SAMPLING + OF_COMPLETIONS), (EMBEDDINGS, OF_EMBEDDINGS)],
)
def test_a_field_that_is_wrong_is_refused_by_its_name(api: Site, route: str, rows: list[tuple[str, Any]]) -> None:
    wrong = []
    for field, value in rows:
        reply = ask(api, route, good(route) | {field: value})
        try:
            refused(reply, field)
        except AssertionError:
            wrong.append((field, str(value)[:60], reply.status_code, reply.text[:200]))
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.usefixtures("lives")
@pytest.mark.parametrize("route", [CHAT, COMPLETIONS, EMBEDDINGS])
@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"5", b"[]", b'"hi"', b"{", b'{"model": "tiny"', b"{'model': 1}", b'\xff{"model": 1}', b"[" * 999],
)
def test_a_body_that_is_no_request_is_refused(api: Site, route: str, body: bytes) -> None:
    refused(httpx.post(api.api + route, content=body, timeout=60), None)


@pytest.mark.usefixtures("lives")
def test_a_number_with_thousands_of_digits_is_refused(api: Site) -> None:
    for field in ("seed", "max_tokens", "temperature", "top_k", "n"):
        body = json.dumps(good(CHAT) | {field: "HERE"}).replace('"HERE"', "9" * 5000)
        refused(httpx.post(api.api + CHAT, content=body, timeout=60), None)


@pytest.mark.usefixtures("lives")
@pytest.mark.parametrize("seed", [0, -1, -(2**63), 2**64 - 1])
def test_any_seed_of_64_bits_gives_the_same_answer_again(api: Site, seed: int) -> None:
    asked = good(CHAT) | {"seed": seed, "max_tokens": 10, "ignore_eos": True}
    first, second = (ask(api, CHAT, asked).json()["choices"][0]["message"]["content"] for _ in range(2))
    assert first == second


@pytest.mark.usefixtures("lives")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("words", [160, 30_000])
def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(api: Site, stream: bool, words: int) -> None:
    text = "\u4f60\u597d " * words
    size = ask(api, "/tokenize", {"model": "tiny", "prompt": text}).json().get("count", 3 * words)  # or characters
    chat_size = ask(api, "/tokenize", {"model": "tiny", "messages": [{"role": "user", "content": text}]}).json()
    for route, field, value, number in [
        (CHAT, "messages", [{"role": "user", "content": text}], chat_size.get("count")),
        (COMPLETIONS, "prompt", text, size),
        *([] if stream else [(COMPLETIONS, "prompt", ["short", text], size)]),  # a stream has begun with the first one
        (COMPLETIONS, "prompt", [5] * words * 2, words * 2),
        (EMBEDDINGS, "input", text, size),
        (EMBEDDINGS, "input", ["short", text], size),
        (EMBEDDINGS, "input", [5] * words * 3, words * 3),
    ]:
        reply = ask(api, route, good(route) | {field: value} | ({} if route == EMBEDDINGS else {"stream": stream}))
        error = refused(reply, field)
        assert error["code"] == "context_length_exceeded"
        assert f"{CONTEXT} tokens" in error["message"]
        assert number is None or f" {number} " in error["message"]


@pytest.mark.usefixtures("lives")
@pytest.mark.parametrize("more", [{}, {"stream": True}])
def test_a_model_that_nobody_serves_is_404_with_what_is_served(api: Site, more: dict[str, Any]) -> None:
    for route in (CHAT, COMPLETIONS, EMBEDDINGS):
        error = refused(ask(api, route, good(route) | more | {"model": "gpt-9"}), "model", 404)
        assert error["code"] == "model_not_found"
        assert "tiny" in error["message"]


def test_an_empty_prompt_is_refused_where_the_tokenizer_has_nothing_to_begin_with(api: Site, folder: Path) -> None:
    for prompt in ("", [""]):
        reply = ask(api, COMPLETIONS, good(COMPLETIONS) | {"prompt": prompt})
        assert reply.json()["usage"]["prompt_tokens"] == 1  # the token with which every text begins here
    prompting = Prompting(ModelConfig(path=str(folder), template="vicuna_v1.1"), CONTEXT, 400)
    prompting.tokenizer.backend_tokenizer.post_processor = None
    with pytest.raises(Fault, match="the prompt is empty") as caught:
        prompting.ids(Job(id="x", model="tiny", prompt=""))
    assert (caught.value.status, caught.value.param) == (400, "prompt")


def test_refused_requests_do_not_disturb_an_answer_under_way(api: Site) -> None:
    asked = good(CHAT) | {"max_tokens": 100, "ignore_eos": True, "temperature": 0}
    whole = ask(api, CHAT, asked).json()["choices"][0]["message"]["content"]
    shown = ""
    with httpx.stream("POST", api.api + CHAT, json=asked | {"stream": True}, timeout=60) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line.removeprefix("data: "))["choices"]:
                    shown += choice["delta"].get("content") or ""
                refused(ask(api, COMPLETIONS, good(COMPLETIONS) | {"prompt": [5, 99_999]}), "prompt")
    assert shown == whole


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.usefixtures("lives")
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_value_of_any_field_is_more_than_a_refusal(api: Site, data: Any) -> None:
    route = data.draw(st.sampled_from([CHAT, COMPLETIONS, EMBEDDINGS]))
    fields = sorted({field for field, _ in SAMPLING + OF_CHATS + OF_COMPLETIONS + OF_EMBEDDINGS} - {"stream"})
    changes = data.draw(st.dictionaries(st.sampled_from(fields), junk, min_size=1, max_size=3))
    reply = ask(api, route, good(route) | changes)
    assert reply.status_code in (200, 400, 404), reply.text
    if reply.status_code != 200:
        refused(reply, None, reply.status_code)
