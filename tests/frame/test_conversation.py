"""Conversations: what is valid, and files that read back as they were written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicuna.conversation import (
    Conversation,
    Message,
    from_row,
    problems,
    read_conversations,
    to_row,
    write_conversations,
)
from vicuna.data.writers import open_shard
from vicuna.errors import InputError

messages = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.text(max_size=20), st.booleans())
conversations = st.builds(
    Conversation,
    id=st.text(min_size=1, max_size=8),
    messages=st.lists(messages, max_size=6).map(tuple),
    source=st.text(min_size=1, max_size=8),
    metadata=st.dictionaries(st.sampled_from(["model", "lang"]), st.text(max_size=5), max_size=2),
)


def chat(*turns: tuple[str, str]) -> Conversation:
    return Conversation("c", tuple(Message(role, text) for role, text in turns))  # type: ignore[arg-type]


@given(st.lists(conversations, max_size=4), st.sampled_from(["messages", "sharegpt"]))
def test_what_is_written_is_read_back_equal(tmp_path_factory, chats, layout):
    path = tmp_path_factory.mktemp("chats") / "c.jsonl"
    assert write_conversations(path, chats, layout) == len(chats)
    assert list(read_conversations(path)) == chats


@pytest.mark.parametrize("name", ["human", "user"])
@pytest.mark.parametrize("other", ["gpt", "assistant", "chatgpt", "bing", "bard"])
def test_community_names_of_the_roles_are_understood(name, other):
    row = {"id": 1, "conversations": [{"from": name, "value": "a"}, {"from": other, "value": "b"}], "model": "m"}
    found = from_row(row, "f.json:1")
    assert [m.role for m in found.messages] == ["user", "assistant"]
    assert (found.id, found.source, found.metadata) == ("1", "f.json:1", {"model": "m"})


@pytest.mark.parametrize(("user", "assistant"), [("Human", "GPT"), ("USER", "Assistant"), ("User", "ChatGPT")])
def test_names_of_the_roles_may_have_any_letter_case(user, assistant):
    row = {"conversations": [{"from": user, "value": "a"}, {"from": assistant, "value": "b"}]}
    assert [m.role for m in from_row(row, "f:1").messages] == ["user", "assistant"]


@pytest.mark.parametrize(
    "key", [{"train": False}, {"weight": 0}, {"weight": 0.0, "train": True}, {"train": False, "weight": 1}]
)
@pytest.mark.parametrize("layout", ["messages", "sharegpt"])
def test_a_turn_may_say_that_it_is_not_to_be_learnt(key, layout):
    names = ("messages", "role", "content") if layout == "messages" else ("conversations", "from", "value")
    turns = [{names[1]: "user", names[2]: "a"}, {names[1]: "assistant", names[2]: "b", **key}]
    found = from_row({"id": "c", names[0]: turns}, "f:1")
    assert [message.train for message in found.messages] == [True, False]
    assert [turn.get("train") for turn in to_row(found, layout)[names[0]]] == [None, False]


@pytest.mark.parametrize("key", [{"train": True}, {"weight": 1}, {"train": None, "weight": None}])
def test_turns_that_are_learnt_are_written_as_other_programs_expect_them(key):
    found = from_row({"id": "c", "messages": [{"role": "assistant", "content": "b", **key}]}, "f:1")
    assert to_row(found)["messages"] == [{"role": "assistant", "content": "b"}]


@pytest.mark.parametrize("row", [{}, {"id": None, "source": None, "metadata": None}])
def test_a_record_without_id_and_source_is_called_by_its_place(row):
    found = from_row({**row, "messages": []}, "f.jsonl:7")
    assert (found.id, found.source, found.metadata) == ("f.jsonl:7", "f.jsonl:7", {})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "x", "text": "a"}, r"f:3: a record needs a list under `messages` or `conversations`"),
        ({"messages": [{"role": "robot", "content": "a"}]}, r"f:3: messages\[0\]: unknown role 'robot'; known: system"),
        ({"messages": [{"role": "user", "content": None}]}, r"f:3: messages\[0\]: a turn needs text under `content`"),
        ({"messages": [{"role": "user", "content": "a", "train": "no"}]}, r"f:3: .*`train` is true or false; got 'no'"),
        ({"messages": [{"role": "user", "content": "a", "weight": 0.5}]}, r"f:3: .*`weight` is 0 or 1; got 0.5"),
        ({"conversations": ["hi"]}, r"f:3: conversations\[0\]: a turn needs text under `value`"),
        ({"messages": [], "metadata": ["a"]}, r"f:3: `metadata` is an object; got a list"),
        ({"messages": [], "metadata": "a"}, r"f:3: `metadata` is an object; got a str"),
        ({"messages": [], "metadata": 0}, r"f:3: `metadata` is an object; got a int"),
        ({"messages": [], "id": ["a"]}, r"f:3: `id` is text or a number; got a list"),
        ({"messages": [], "source": {}}, r"f:3: `source` is text or a number; got a dict"),
    ],
)
def test_a_malformed_record_is_named_with_its_place(row, message):
    with pytest.raises(InputError, match=message):
        from_row(row, "f:3")


@pytest.mark.parametrize("row", [{"id": "\ud83d"}, {"messages": [{"role": "user", "content": "a\ud83d"}]}])
def test_text_that_is_not_unicode_is_named_with_its_line(tmp_path, row):
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps({"messages": [], **row}))
    with pytest.raises(InputError, match=r"c.jsonl:1: its text holds half a surrogate pair \(U\+D83D\)"):
        list(read_conversations(path))


def test_text_that_is_not_unicode_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match=r"cannot write .*c.jsonl: the text holds half a surrogate pair"):
        write_conversations(tmp_path / "c.jsonl", [chat(("user", "a\ud83d"), ("assistant", "b"))])
    assert not list(tmp_path.iterdir())


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps(to_row(chat(("user", "a"), ("assistant", "b")))) + "\n{oops\n")
    with pytest.raises(InputError, match=r"c.jsonl:2: not JSON"):
        list(read_conversations(path))


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([], "it has no turns"),
        ([("system", "s")], "it has no turns"),
        ([("assistant", "a")], "it starts with assistant, not user"),
        ([("user", "a"), ("user", "b"), ("assistant", "c")], "two user messages follow each other"),
        ([("user", "a")], "it ends with user, not assistant"),
        ([("user", " \n"), ("assistant", "b")], "a user message is empty"),
        ([("user", "a"), ("assistant", "")], "an assistant message is empty"),
        ([("user", "a"), ("system", "s"), ("assistant", "b")], "it has a system message after the first turn"),
    ],
)
def test_what_makes_a_conversation_invalid(turns, reason):
    assert reason in problems(chat(*turns))
    with pytest.raises(ValueError, match="conversation c"):
        chat(*turns, ("user", "x")).rounds()


def test_a_valid_conversation_has_rounds():
    valid = chat(("system", ""), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    assert problems(valid) == []
    assert [(q.content, a.content) for q, a in valid.rounds()] == [("a", "b"), ("c", "d")]
    assert valid.system == ""


@pytest.mark.parametrize("layout", ["messages", "sharegpt"])
@pytest.mark.parametrize("ending", ["jsonl", "jsonl.zst", "parquet"])
def test_every_format_of_the_data_stage_reads_back(tmp_path, ending, layout):
    chats = [
        Conversation(
            id=f"c{n}",
            messages=(Message("user", f"naïve {n}\n"), Message("assistant", "x" * n + "y", train=n % 2 == 0)),
            source="raw.json[3]",
            metadata={"model": "m", "nested": {"n": n}},
        )
        for n in range(300)
    ]
    path = tmp_path / f"00000.{ending}"
    with open_shard(path, ending, layout, flags=True) as shard:
        for each in chats:
            shard.write(each)
    assert list(read_conversations(path)) == chats


@pytest.mark.parametrize("keep", [4, 20, -1])
def test_a_compressed_file_that_breaks_off_is_an_error(tmp_path, keep):
    path = tmp_path / "c.jsonl.zst"
    with open_shard(path, "jsonl.zst", "messages") as shard:
        shard.write(chat(("user", "a question"), ("assistant", "an answer")))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"cannot read .*c\.jsonl\.zst: .*breaks off"):
        list(read_conversations(path))


def test_a_table_that_is_none_is_an_error(tmp_path):
    path = tmp_path / "c.parquet"
    path.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(InputError, match=r"cannot read .*c\.parquet"):
        list(read_conversations(path))
