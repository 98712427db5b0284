"""Rows of community files: every known form becomes a conversation, and what cannot be one says why."""

import contextlib
import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vicuna.conversation import Conversation, Message, from_row, to_row
from vicuna.data.sources.rows import FORMS, conversation, known, reading
from vicuna.data.sources.turns import RowError
from vicuna.errors import InputError

ROUND = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def texts(row):
    return [(message.role, message.content) for message in conversation(row, "f.json[3]").messages]


def reason(row):
    with pytest.raises(RowError) as caught:
        conversation(row, "f.json[3]")
    assert str(caught.value).startswith("f.json[3]: ")
    assert isinstance(caught.value, InputError)
    return caught.value.reason


@pytest.mark.parametrize(
    "row",
    [
        {"messages": ROUND},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"conversations": [{"role": "prompter", "text": "q"}, {"role": "assistant", "text": "a"}]},
        {"conversation": ROUND, "conversation_id": "x", "model": "m", "language": "English", "redacted": False},
        {"items": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"prompt": "q", "completion": "a"},
        {"prompt": ROUND[:1], "completion": ROUND[1:]},
        {"prompt": "q", "chosen": ROUND, "rejected": ROUND},
        {"prompt": "q", "response": "a"},
        {"instruction": "q", "output": "a"},
        {"instruction": "q", "input": "", "output": "a"},
        {"instruction": "q", "context": " ", "response": "a", "category": "open_qa"},
        {"system_prompt": "", "question": "q", "response": "a"},
        {"data": ["q", "a"]},
        {"mapping": None, "messages": ROUND},
        {"prompt": "first words of the question", "prompt_id": "1", "messages": ROUND},
        {"conversation_a": ROUND, "conversation_b": [], "winner": "tie", "model_a": "m"},
        {"type": "chat", "state": {"messages": [["USER", "q"], ["ASSISTANT", "a"]]}},
        {"prompt": {"role": "prompter", "text": "q", "replies": [
            {"role": "assistant", "text": "worse", "rank": 1, "replies": []},
            {"role": "assistant", "text": "unranked", "rank": None, "replies": []},
            {"role": "assistant", "text": "a", "rank": 0, "replies": []},
        ]}},
    ],
)  # fmt: skip
def test_every_form_gives_the_same_conversation(row):
    assert texts(row) == [("user", "q"), ("assistant", "a")]
    assert known(row)


@pytest.mark.parametrize("row", [{"text": "a"}, {}, {"messages": "q"}, {"prompt": "q"}, {"data": []}, {"mapping": []}])
def test_an_unknown_form_names_the_keys_and_the_known_forms(row):
    assert not known(row)
    assert reason(row) == "unknown form"
    with pytest.raises(RowError, match=r"it has: \[.*\]; known: messages, conversations, .*ChatGPT export"):
        conversation(row, "f.json[3]")


@pytest.mark.parametrize(("name", "role"), [
    ("human", "user"), ("User", "user"), ("prompter", "user"), ("GPT", "assistant"), ("chatgpt", "assistant"),
    ("bing", "assistant"), ("bard", "assistant"), ("bot", "assistant"), ("model", "assistant"), ("ai", "assistant"),
    ("system", "system"), ("developer", "system"),
])  # fmt: skip
def test_role_names_of_the_community_are_mapped_and_counted(name, role):
    found = reading({"conversations": [{"from": name, "value": "x"}] * 2}, "f")
    assert {message.role for message in found.conversation.messages} == {role}
    assert found.mapped == ({} if name in ("human", "system") else {name: 2})


@pytest.mark.parametrize(("turn", "why"), [
    ({"role": "tool", "content": "4"}, "tool turn"),
    ({"from": "observation", "value": "4"}, "tool turn"),
    ({"from": "function_call", "value": "{}"}, "tool turn"),
    ({"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, "tool turn"),
    ({"role": "assistant", "content": None, "function_call": {"name": "f"}}, "tool turn"),
    ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "image or sound"),
    ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "image or sound"),
    ({"role": "narrator", "content": "x"}, "unknown role"),
    ({"role": None, "content": "x"}, "malformed record"),
    ({"role": "user", "content": None}, "malformed record"),
    ({"role": "user", "content": 7}, "malformed record"),
    ({"role": "user"}, "malformed record"),
    ("text", "malformed record"),
])  # fmt: skip
def test_a_turn_that_cannot_be_represented_has_a_named_reason(turn, why):
    assert reason({"messages": [*ROUND, turn]}) == why


def test_an_empty_list_of_tool_calls_is_no_call():
    assert texts({"messages": [ROUND[0], {**ROUND[1], "tool_calls": [], "function_call": None}]})[1] == (
        "assistant",
        "a",
    )


def test_parts_of_a_message_are_joined_by_line_ends():
    parts = [{"type": "text", "text": "one"}, {"type": "output_text", "text": "two"}, "three"]
    assert texts({"messages": [{"role": "user", "content": parts}]}) == [("user", "one\ntwo\nthree")]


@pytest.mark.parametrize("flag", [{"weight": 0}, {"train": False}])
def test_answers_that_are_not_to_be_learnt_are_marked(flag):
    found = conversation({"messages": [ROUND[0], {**ROUND[1], **flag}, ROUND[0], {**ROUND[1], "weight": 1}]}, "f")
    assert [message.train for message in found.messages] == [True, False, True, True]


@pytest.mark.parametrize("key", ["system", "system_prompt"])
@pytest.mark.parametrize("row", [{"messages": ROUND}, {"instruction": "q", "output": "a"}])
def test_a_system_prompt_beside_the_turns_comes_first(row, key):
    assert texts({**row, key: "Be kind."})[0] == ("system", "Be kind.")
    own = {"messages": [{"role": "system", "content": "own"}, *ROUND], key: "Be kind."}
    assert texts(own) == [("system", "own"), ("user", "q"), ("assistant", "a")]


def test_alpaca_rows_have_input_and_history():
    row = {"instruction": "Add.", "input": "1 2", "output": "3", "history": [["q", "a"]], "system": None}
    assert texts(row) == [("user", "q"), ("assistant", "a"), ("user", "Add.\n\n1 2"), ("assistant", "3")]
    assert reason({**row, "history": [["q"]]}) == "malformed record"


# ------------------------------------------------------------------------------------------------ what is around
def test_id_source_and_metadata_are_kept():
    row = {"id": 7, "source": "s", "messages": ROUND, "model": "m", "language": None, "metadata": {"created": 1.5}}
    found = conversation(row, "f.json[3]")
    assert (found.id, found.source) == ("7", "s")
    assert found.metadata == {"model": "m", "language": None, "created": 1.5}


@pytest.mark.parametrize("key", ["conversation_hash", "conversation_id", "question_id"])
def test_other_names_of_the_id_are_known(key):
    assert conversation({key: "x", "messages": ROUND}, "f").id == "x"
    assert conversation({"id": None, key: "", "messages": ROUND}, "f").id == "f"


@pytest.mark.parametrize("row", [{"id": ["a"]}, {"source": {}}])
def test_an_id_or_source_that_is_neither_text_nor_number_is_malformed(row):
    assert reason({**row, "messages": ROUND}) == "malformed record"


@pytest.mark.parametrize(("given", "kept"), [
    ('{"a": 1}', {"a": 1}), ("text", {"metadata": "text"}), (["a"], {"metadata": ["a"]}), (None, {}),
])  # fmt: skip
def test_metadata_may_be_an_object_written_as_text_or_anything(given, kept):
    assert conversation({"messages": ROUND, "metadata": given}, "f").metadata == kept


def test_addresses_of_people_are_not_kept():
    row = {"conversation": ROUND, "conversation_hash": "x", "hashed_ip": "1", "header": {"user-agent": "u"}, "turn": 1}
    assert conversation(row, "f").metadata == {"turn": 1}


def test_everything_can_be_stored_as_utf_8_json():
    half = "x\ud83d"
    found = conversation(
        {"id": half, "source": half, "messages": [{"role": "user", "content": half}], half: [half, {half: 2**70}]}, half
    )
    assert json.loads(json.dumps(to_row(found)).encode())
    text = json.dumps(to_row(found), ensure_ascii=False)
    assert text.encode().decode() == text
    assert found.metadata == {"x\ufffd": ["x\ufffd", {"x\ufffd": str(2**70)}]}


@pytest.mark.parametrize("layout", ["messages", "sharegpt"])
def test_what_we_write_is_read_back_equal(layout):
    made = Conversation("x", (Message("system", ""), Message("user", "q"), Message("assistant", "a", train=False)),
                        "s", {"a": {"b": [1, None]}})  # fmt: skip
    assert conversation(to_row(made, layout), "f") == made


def test_the_names_of_the_forms_differ():
    assert len({form.name for form in FORMS}) == len(FORMS)


# ------------------------------------------------------------------------------------------------ two conversations
@pytest.mark.parametrize(("winner", "text"), [("model_a", "A"), ("model_b", "B"), ("tie", "A")])
def test_of_two_conversations_the_winner_is_read(winner, text):
    sides = {f"conversation_{side.lower()}": [ROUND[0], {"role": "assistant", "content": side}] for side in "AB"}
    row = {"question_id": "x", **sides, "model_a": "ma", "model_b": "mb", "winner": winner, "language": "English"}
    found = conversation(row, "f")
    assert found.messages[1].content == text
    assert found.metadata == {"model": f"m{text.lower()}", "winner": winner, "language": "English"}
    assert reason({**row, "winner": "tie (bothbad)"}) == "no winner"


# ------------------------------------------------------------------------------------------------ trees and logs
def node(name, parent, role=None, text="", children=(), kind="text", **rest):
    content = {"content_type": kind, "parts": [text] if isinstance(text, str) else text}
    message = {"author": {"role": role}, "content": content, **rest} if role else None
    return {name: {"id": name, "parent": parent, "children": list(children), "message": message}}


def export(*nodes, leaf, **rest):
    return {"title": "T", "create_time": 1.5, "mapping": {k: v for each in nodes for k, v in each.items()},
            "current_node": leaf, "conversation_id": "c", **rest}  # fmt: skip


TREE = [
    node("root", None, children=["sys"]),
    node("sys", "root", "system", "", ["q1"], metadata={"is_visually_hidden_from_conversation": True}),
    node("q1", "sys", "user", "first wording", ["a1"]),
    node("q2", "sys", "user", "second wording", ["a2", "a3"]),
    node("a1", "q1", "assistant", "answer to the first"),
    node("a2", "q2", "assistant", "old answer", create_time=1),
    node("a3", "q2", "assistant", "new answer", ["q4"], create_time=2, metadata={"model_slug": "gpt-4o"}),
]


def test_an_export_gives_the_branch_that_was_shown():
    row = export(*TREE, leaf="a3", default_model_slug="auto", plugin_ids=["p"], id="c")
    assert texts(row) == [("user", "second wording"), ("assistant", "new answer")]
    found = conversation(row, "f")
    assert found.id == "c"
    assert found.metadata == {"title": "T", "created": 1.5, "model": "gpt-4o", "plugins": ["p"]}


@pytest.mark.parametrize("leaf", [None, "gone"])
def test_without_a_current_node_the_newest_leaf_counts(leaf):
    tree = [*TREE[:-1], node("a3", "q2", "assistant", "new answer", create_time=2)]
    assert texts(export(*tree, leaf=leaf))[-1] == ("assistant", "new answer")


def test_calls_of_tools_and_thoughts_are_left_out_and_the_answer_is_one():
    row = export(
        node("q", None, "user", "Search!"),
        node("h", "q", "user", "about me", kind="user_editable_context"),
        node("m", "h", "assistant", "Let me look."),
        node("t", "m", "assistant", "thinking", kind="thoughts"),
        node("call", "t", "assistant", "search()", kind="code", recipient="web.run"),
        node("tool", "call", "tool", "result"),
        node(
            "done", "tool", "assistant", "It is 4\ue200cite\ue202turn0search0\ue201, see【12†source】.", recipient="all"
        ),
        leaf="done",
    )
    assert texts(row) == [("user", "Search!"), ("assistant", "Let me look.\n\nIt is 4, see.")]


def test_code_that_the_page_shows_is_a_code_block():
    row = export(node("q", None, "user", "Code?"), node("a", "q", "assistant"), leaf="a")
    content = {"content_type": "code", "language": "python", "text": 'print("```")'}
    row["mapping"]["a"]["message"]["content"] = content
    assert texts(row)[1] == ("assistant", '````python\nprint("```")\n````')


def test_speech_is_read_by_its_transcript_and_images_in_questions_are_not_read():
    speech = [{"content_type": "audio_transcription", "text": "spoken"}, {"content_type": "audio_asset_pointer"}]
    image = [{"content_type": "image_asset_pointer"}, "What is this?"]
    answer = node("a", "q", "assistant", "x")
    assert texts(export(node("q", None, "user", speech, kind="multimodal_text"), answer, leaf="a"))[0] == (
        "user", "spoken",
    )  # fmt: skip
    assert reason(export(node("q", None, "user", image, kind="multimodal_text"), answer, leaf="a")) == "image or sound"


@pytest.mark.parametrize("parent", ["a", "gone"])
def test_a_tree_that_goes_round_in_circles_or_breaks_off_is_malformed(parent):
    assert (
        reason(export(node("q", parent, "user", "x"), node("a", "q", "assistant", "y"), leaf="a")) == "malformed record"
    )


def test_a_log_of_a_chat_server_is_read_without_its_template_and_open_answer():
    state = {"conv_id": "c", "offset": 2, "roles": ["Human", "Vicuna"], "system_message": "Be kind.", "messages": [
        ["Human", "x"], ["Vicuna", "x"], ["Human", "q"], ["Vicuna", "a"], ["Human", "more"], ["Vicuna", None],
    ]}  # fmt: skip
    row = {"type": "chat", "model": "m", "tstamp": 1.0, "ip": "1.2.3.4", "state": state}
    assert texts(row) == [("system", "Be kind."), ("user", "q"), ("assistant", "a"), ("user", "more")]
    found = conversation(row, "f")
    assert (found.id, found.metadata) == ("c", {"model": "m", "tstamp": 1.0})
    assert reason({**row, "type": "upvote"}) == "vote"
    assert reason({"state": {"messages": [["USER", ["q", ["image"]]]]}}) == "image or sound"
    assert reason({"state": {"messages": [["NARRATOR", "q"]]}}) == "unknown role"


def test_the_log_of_the_demo_is_the_messages_form_with_metadata():
    row = {"id": "x", "model": "vicuna-7b", "messages": ROUND, "created": 1700000000}
    found = conversation(row, "f:1")
    assert (found.id, found.metadata) == ("x", {"model": "vicuna-7b", "created": 1700000000})


# ------------------------------------------------------------------------------------------------ malformed rows
WHOLE = [
    {"id": "x", "system": "s", "messages": [*ROUND, {"role": "user", "content": [{"type": "text", "text": "q"}]}]},
    {"instruction": "q", "input": "i", "output": "a", "history": [["q", "a"]], "metadata": {"k": 1}},
    {"conversation_a": ROUND, "conversation_b": ROUND, "winner": "model_b", "model_a": "m", "model_b": "n"},
    {"type": "chat", "state": {"roles": ["H", "A"], "offset": 0, "system_message": "s", "messages": [["H", "q"]]}},
    {"prompt": {"role": "prompter", "text": "q", "replies": [{"role": "assistant", "text": "a", "replies": []}]}},
    export(*TREE, leaf="a2", plugin_ids=None),
    {"mapping": export(*TREE, leaf="a2")["mapping"]},
]
ODD = st.sampled_from([None, 0, -1.5, True, "", "q", [], {}, [None], [[]], {"a": 1}, [{}], {"parts": [1]}, "\ud800"])


def places(value, found):
    """Every place in a value that something else can stand in: (container, key)."""
    for key, each in list(value.items() if isinstance(value, dict) else enumerate(value)):
        found.append((value, key))
        if isinstance(each, dict | list):
            places(each, found)
    return found


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(WHOLE), st.lists(st.tuples(st.integers(0, 500), ODD), min_size=1, max_size=3))
def test_a_row_with_anything_anywhere_is_read_or_refused(row, changes):
    row = copy.deepcopy(row)
    for number, odd in changes:
        there = places(row, [])
        container, key = there[number % len(there)]
        container[key] = copy.deepcopy(odd)
    with contextlib.suppress(RowError):
        found = conversation(row, "f.json[3]")
        assert from_row(json.loads(json.dumps(to_row(found))), "f") == found
