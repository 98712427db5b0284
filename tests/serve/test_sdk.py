"""The clients that people have: OpenAI's own, sync and async, and LangChain's; against real processes."""

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from serve_stack import Site, site, until

SCRIPT = """
rules:
  - match: numbers
    answer: one two three four five six
  - match: weather
    answer: ""
    tool_calls: [{name: weather, arguments: '{"place": "Paris"}'}]
  - answer: "{chat}"
"""
FAILING = """
rules:
  - match: break off
    answer: "eins zwei drei "
    repeat: 3
    fail: error
    after: 4
  - fail: error
"""
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather at a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("site"), "--limits.gap", "0.3") as made:
        made.worker("echo", SCRIPT)
        made.worker("failing", FAILING)
        yield made


@pytest.fixture
def client(api: Site) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{api.api}/v1", api_key="none", max_retries=0) as made:
        yield made


def ask(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def run(work: Any, api: Site) -> Any:
    """What an asynchronous use of the client gives."""

    async def body() -> Any:
        async with openai.AsyncOpenAI(base_url=f"{api.api}/v1", api_key="none", max_retries=0) as made:
            return await work(made)

    return asyncio.run(body())


# ------------------------------------------------------------------------------------------- OpenAI's client
def test_every_setting_of_a_chat_is_accepted(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="echo",
        messages=[{"role": "developer", "content": "be short"}, *ask("hi")],
        frequency_penalty=0.1,
        max_completion_tokens=50,
        metadata={"a": "b"},
        n=1,
        parallel_tool_calls=True,
        presence_penalty=0.1,
        prompt_cache_key="k",
        reasoning_effort="low",
        response_format={"type": "text"},
        safety_identifier="s",
        seed=1,
        service_tier="auto",
        stop=["zzz"],
        store=False,
        temperature=0.5,
        top_p=0.9,
        user="u",
        verbosity="low",
        extra_body={"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1, "priority": -1, "ignore_eos": False},
    )
    assert reply.choices[0].message.content == "system: be short / user: hi"
    assert reply.system_fingerprint
    assert reply._request_id


def test_a_streams_helper_sees_text_and_usage(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True, "include_obfuscation": False}
    with client.chat.completions.stream(model="echo", messages=ask("numbers"), stream_options=options) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == "one two three four five six"
    assert final.choices[0].message.content == "one two three four five six"
    assert final.usage is not None
    assert final.usage.completion_tokens == 6


def test_an_error_in_the_middle_of_a_stream_is_an_exception_with_its_reason(client: openai.OpenAI) -> None:
    text = ""
    with pytest.raises(openai.APIError, match="broke off") as caught:
        for chunk in client.chat.completions.create(model="failing", messages=ask("break off"), stream=True):
            text += chunk.choices[0].delta.content or ""
    assert text == "eins zwei drei eins"
    assert caught.value.code == "stream_interrupted"


def test_an_error_before_the_first_event_is_an_ordinary_one(client: openai.OpenAI) -> None:
    for stream in (True, False):
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="failing", messages=ask("hi"), stream=stream)
        assert (caught.value.status_code, caught.value.code) == (502, "worker_failed")
        assert caught.value.request_id


def test_the_async_client_does_everything_that_the_other_does(api: Site) -> None:
    async def work(client: openai.AsyncOpenAI) -> None:
        assert [model.id async for model in client.models.list()] == ["echo", "failing"]
        reply = await client.chat.completions.create(model="echo", messages=ask("numbers"))
        assert reply.choices[0].message.content == "one two three four five six"
        stream = await client.chat.completions.create(model="echo", messages=ask("numbers"), stream=True, n=2)
        texts = {0: "", 1: ""}
        async for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
        assert set(texts.values()) == {"one two three four five six"}
        text = await client.completions.create(model="echo", prompt="numbers", max_tokens=3)
        assert (text.choices[0].text, text.choices[0].finish_reason) == ("one two three", "length")
        vectors = await client.embeddings.create(model="echo", input=["a", "b"])
        assert len(vectors.data) == 2
        tools = await client.chat.completions.create(model="echo", messages=ask("weather"), tools=[TOOL])
        assert tools.choices[0].message.tool_calls
        with pytest.raises(openai.NotFoundError, match="echo"):
            await client.chat.completions.create(model="gpt-9", messages=ask("hi"))

    run(work, api)


def test_a_client_that_breaks_off_its_stream_frees_the_worker(api: Site) -> None:
    async def work(client: openai.AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(model="echo", messages=ask("numbers"), stream=True)
        async for _ in stream:
            break
        await stream.close()

    run(work, api)
    until(lambda: api.fleet()["in_flight"] == 0, "the slot to be free")


# ------------------------------------------------------------------------------------------- LangChain
@pytest.fixture(scope="module")
def chain(api: Site) -> ChatOpenAI:
    made: Any = ChatOpenAI  # its settings go by other names than its fields
    model: ChatOpenAI = made(base_url=f"{api.api}/v1", api_key="none", model="echo", max_retries=0)
    return model


def test_langchain_invokes_streams_and_batches(chain: ChatOpenAI) -> None:
    reply = chain.invoke([SystemMessage("be short"), HumanMessage("hi")])
    assert reply.content == "system: be short / user: hi"
    assert isinstance(reply, AIMessage)
    assert reply.usage_metadata is not None
    assert reply.usage_metadata["output_tokens"] == 6
    assert "".join(str(chunk.content) for chunk in chain.stream("numbers")) == "one two three four five six"
    several = chain.batch([f"say {i}" for i in range(8)])
    assert [each.content for each in several] == [f"user: say {i}" for i in range(8)]


def test_langchain_works_asynchronously(chain: ChatOpenAI) -> None:
    async def body() -> None:
        assert (await chain.ainvoke("numbers")).content == "one two three four five six"
        assert "".join([str(chunk.content) async for chunk in chain.astream("numbers")]).endswith("six")

    asyncio.run(body())


def test_langchain_gets_tool_calls_and_log_probabilities(chain: ChatOpenAI) -> None:
    (call,) = chain.bind_tools([TOOL]).invoke("weather").tool_calls
    assert (call["name"], call["args"]) == ("weather", {"place": "Paris"})
    rows = chain.bind(logprobs=True).invoke("numbers").response_metadata["logprobs"]["content"]
    assert len(rows) == 6


def test_langchain_embeds(api: Site) -> None:
    made: Any = OpenAIEmbeddings
    # Its check of lengths counts tokens with a vocabulary from the network.
    model = made(base_url=f"{api.api}/v1", api_key="none", model="echo", check_embedding_ctx_length=False)
    assert len(model.embed_documents(["a", "b"])) == 2
