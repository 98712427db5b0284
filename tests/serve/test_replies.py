"""Parts put together: texts, tool calls, log probabilities."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from vicuna.serve.api import logprobs
from vicuna.serve.api.replies import ChatReply, CompletionReply
from vicuna.serve.api.whole import Whole
from vicuna.serve.fleet.failover import Part


def whole(*parts: Part) -> Whole:
    made = Whole()
    for part in parts:
        made.add(part)
    return made


def call(index: int, **more: Any) -> Part:
    return Part("", delta={"tool_calls": [{"index": index, **more}]})


def row(content: bytes, logprob: float = -0.5, **more: Any) -> dict[str, Any]:
    text = content.decode("utf-8", "replace")
    return {"token": text, "logprob": logprob, "bytes": list(content), "top_logprobs": [], **more}


def test_tool_calls_that_come_in_pieces_belong_together_by_their_index() -> None:
    message = whole(
        call(0, id="a", type="function", function={"name": "add", "arguments": ""}),
        call(1, id="b", type="function", function={"name": "say", "arguments": '{"x"'}),
        call(0, function={"arguments": "[1,"}),
        call(1, function={"arguments": ":2}"}),
        call(0, function={"arguments": "2]"}),
        Part("", "tool_calls"),
    ).message()
    assert message["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "add", "arguments": "[1,2]"}},
        {"id": "b", "type": "function", "function": {"name": "say", "arguments": '{"x":2}'}},
    ]
    assert message["content"] is None


def test_an_index_far_away_costs_nothing_and_text_beside_calls_stays() -> None:
    message = whole(Part("I look. "), call(10**12, id="z", function={"name": "look", "arguments": "{}"})).message()
    assert [each["id"] for each in message["tool_calls"]] == ["z"]
    assert message["content"] == "I look. "


def test_other_texts_of_a_message_are_put_together_too() -> None:
    message = whole(
        Part("", delta={"reasoning_content": "Let me "}),
        Part("4", delta={"reasoning_content": "see."}),
        Part("", delta={"refusal": None}),
    ).message()
    assert (message["reasoning_content"], message["content"], message["refusal"]) == ("Let me see.", "4", None)


def test_an_answer_without_text_is_empty_text_not_null() -> None:
    assert whole(Part("", "stop")).message()["content"] == ""


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    size=st.integers(1, 3),
    offset=st.integers(0, 9),
)
def test_offsets_are_the_places_of_the_tokens_first_characters(text: str, size: int, offset: int) -> None:
    content = text.encode()
    pieces = [content[at : at + size] for at in range(0, len(content), size)]  # cuts characters in two
    columns = logprobs.Columns(offset)
    found = [columns.of([row(piece)]) for piece in pieces]
    before = [content[: at * size].decode("utf-8", "ignore") for at in range(len(pieces))]
    assert [each["text_offset"] for each in found] == [[offset + len(each)] for each in before]


def test_parts_of_characters_have_names_of_their_own() -> None:
    top = [row(b"\xe2\x82"), row(b"\xe2\x83", -3.0)]
    columns = logprobs.Columns().of([row(b"\xe2\x82", top_logprobs=top)])
    assert columns["tokens"] == ["bytes:\\xe2\\x82"]
    assert columns["top_logprobs"] == [{"bytes:\\xe2\\x82": -0.5, "bytes:\\xe2\\x83": -3.0}]


def events(raw: bytes) -> list[Any]:
    return [json.loads(line.removeprefix("data: ")) for line in raw.decode().split("\n\n") if line]


@given(texts=st.lists(st.text(), min_size=1, max_size=5), model=st.text(min_size=1, max_size=20))
def test_a_streams_texts_are_those_of_its_parts_whatever_they_are(texts: list[str], model: str) -> None:
    parts = [Part(text) for text in texts]
    for reply, read in ((ChatReply(model), "delta"), (CompletionReply(model), "text")):
        writer = reply.stream(None, True, [])
        said = [each["choices"][0][read] for each in events(writer.parts(0, parts))]
        found = [each["content"] if read == "delta" else each for each in said]
        assert found == [text.encode("utf-8", "replace").decode() for text in texts if text]


def test_a_part_with_text_and_rows_is_one_event() -> None:
    writer = ChatReply("m").stream(None, False, [])
    (only,) = events(writer.parts(2, [Part("x", logprobs=[row(b"x")])]))
    choice = only["choices"][0]
    assert (choice["index"], choice["delta"]) == (2, {"content": "x"})
    assert choice["logprobs"]["content"][0]["bytes"] == [120]
