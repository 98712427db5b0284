"""The split: every piece fits exactly as training counts it, and no round is lost."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizers_kinds import tokenizer_of
from vicuna.conversation import Conversation, Message
from vicuna.data.chat import Chat, from_conversation
from vicuna.data.config import SplitConfig
from vicuna.data.split import Splitter
from vicuna.prompt import encode, template

KINDS = ("byte-level", "metaspace with a prefix space at the start")
ROUNDS = st.lists(st.tuples(st.text(max_size=60), st.text(min_size=1, max_size=120)), min_size=1, max_size=8)


def chat(rounds, system=None) -> Chat:
    messages = [Message("system", system)] if system is not None else []
    for question, answer in rounds:
        messages += [Message("user", question), Message("assistant", answer)]
    return from_conversation(Conversation("c", tuple(messages)), "file", "[0]")


def count(conversation, kind):
    return len(encode(conversation, tokenizer_of(kind), template("vicuna_v1.1")).ids)


def splitter(limit, kind="byte-level", too_long="drop"):
    return Splitter(tokenizer_of(kind), template("vicuna_v1.1"), limit, SplitConfig(too_long=too_long))


def no_surrogates(rounds):
    return [(q.encode("utf-8", "replace").decode(), a.encode("utf-8", "replace").decode()) for q, a in rounds]


@settings(max_examples=60, deadline=None)
@given(ROUNDS.map(no_surrogates), st.integers(60, 400), st.sampled_from(KINDS))
def test_every_round_is_in_one_piece_that_fits_or_is_dropped_for_its_length(rounds, limit, kind):
    pieces, drops = splitter(limit, kind)(chat(rounds))
    for piece in pieces:
        assert piece.tokens == count(piece.conversation, kind) <= limit
    for drop in drops:
        assert count(chat([rounds[drop.round.index]]).conversation(), kind) > limit
    kept = [(user.content, answer.content) for piece in pieces for user, answer in piece.conversation.rounds()]
    dropped = [drop.round.index for drop in drops]
    assert kept == [each for index, each in enumerate(rounds) if index not in dropped]


@settings(max_examples=30, deadline=None)
@given(ROUNDS.map(no_surrogates), st.integers(60, 400))
def test_no_piece_could_have_taken_the_next_round_too(rounds, limit):
    pieces, drops = splitter(limit)(chat(rounds))
    if drops:
        return
    at = 0
    for piece in pieces:
        size = len(piece.conversation.rounds())
        if at + size < len(rounds):
            assert count(chat(rounds[at : at + size + 1]).conversation(), "byte-level") > limit
        at += size


def test_a_conversation_that_fits_stays_whole_under_its_own_id():
    (piece,), drops = splitter(400)(chat([("a", "b"), ("c", "d")]))
    assert piece.conversation.id == "c"
    assert drops == []


def test_the_last_round_is_not_lost_when_it_is_the_one_that_overflows():
    rounds = [("one", "first answer " * 8), ("two", "second answer " * 8), ("three", "third answer " * 8)]
    limit = count(chat(rounds[:2]).conversation(), "byte-level")
    pieces, drops = splitter(limit)(chat(rounds))
    assert [piece.conversation.id for piece in pieces] == ["c_0", "c_4"]
    assert drops == []
    assert pieces[-1].conversation.messages[-1].content == rounds[-1][1]


def test_every_piece_has_the_system_message():
    rounds = [("question", "answer " * 10)] * 4
    pieces, _ = splitter(150)(chat(rounds, "Be brief."))
    assert len(pieces) > 1
    assert all(piece.conversation.system == "Be brief." for piece in pieces)


def test_a_round_that_is_too_long_is_dropped_and_the_rounds_around_it_stay():
    pieces, drops = splitter(200)(chat([("a", "b"), ("c", "long " * 300), ("d", "e")]))
    assert [piece.conversation.messages[0].content for piece in pieces] == ["a", "d"]
    assert [(drop.round.index, drop.reason) for drop in drops] == [(1, "round longer than the context")]


def test_a_too_long_answer_can_be_cut_instead_and_fills_the_context():
    answer = " ".join(f"word{n}" for n in range(300))
    (piece,), drops = splitter(200, too_long="truncate")(chat([("c", answer)]))
    assert drops == []
    assert piece.truncated
    assert answer.startswith(piece.conversation.messages[-1].content)
    assert 195 <= piece.tokens <= 200
    assert piece.tokens == count(piece.conversation, "byte-level")


@pytest.mark.parametrize("too_long", ["drop", "truncate"])
def test_a_question_that_is_too_long_by_itself_is_dropped(too_long):
    pieces, drops = splitter(100, too_long=too_long)(chat([("long " * 300, "a")]))
    assert pieces == []
    assert len(drops) == 1


def test_a_chat_that_the_template_refuses_is_dropped_with_the_templates_own_words():
    tokenizer = copy.deepcopy(tokenizer_of("byte-level"))
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system messages') }}{% endif %}"
        "{{ m.role }}: {{ m.content }}{% if m.role == 'assistant' %}</s>{% else %}\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    split = Splitter(tokenizer, template(tokenizer), 200, SplitConfig())
    assert len(split(chat([("a", "b")]))[0]) == 1
    pieces, drops = split(chat([("a", "b"), ("c", "d")], "Be brief."))
    assert pieces == []
    assert [drop.reason for drop in drops] == ["prompt template cannot say it"] * 2
    assert "no system messages" in drops[0].detail
