"""The split: every piece fits exactly as training counts it, and no round is lost."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizers_kinds import tokenizer_of
from vicuna.conversation import Conversation, Message, problems
from vicuna.data.chat import Chat, from_conversation
from vicuna.data.config import SplitConfig
from vicuna.data.split import Splitter
from vicuna.prompt import encode, template

KINDS = ("byte-level", "metaspace with a prefix space at the start")
NAMES = st.sampled_from(["vicuna_v1.1", "vicuna_v0"])
ROUNDS = st.lists(st.tuples(st.text(max_size=60), st.text(min_size=1, max_size=120)), min_size=1, max_size=8)


def chat(rounds, system=None) -> Chat:
    messages = [Message("system", system)] if system is not None else []
    for question, answer in rounds:
        messages += [Message("user", question), Message("assistant", answer)]
    return from_conversation(Conversation("c", tuple(messages)), "file", "[0]")


def count(conversation, kind, name="vicuna_v1.1"):
    return len(encode(conversation, tokenizer_of(kind), template(name)).ids)


def splitter(limit, kind="byte-level", name="vicuna_v1.1", **config):
    return Splitter(tokenizer_of(kind), template(name), limit, SplitConfig(**config))


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
    assert [piece.rounds for piece in pieces] == [len(piece.conversation.rounds()) for piece in pieces]


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


@settings(max_examples=80, deadline=None)
@given(ROUNDS.map(no_surrogates), st.integers(60, 500), st.sampled_from(KINDS), st.integers(1, 3), NAMES)
def test_with_overlap_every_round_is_learnt_once_after_the_rounds_that_came_before_it(rounds, limit, kind, k, name):
    split = splitter(limit, kind, name, overlap=k)
    pieces, drops = split(chat(rounds))
    dropped = [drop.round.index for drop in drops]
    learnt: list[int] = []
    for piece in pieces:
        assert piece.tokens == count(piece.conversation, kind, name) <= limit
        pairs = [(user.content, answer.content, answer.train) for user, answer in piece.conversation.rounds()]
        known = sum(not train for _, _, train in pairs)
        first = max([*learnt, *(index for index in dropped if index <= max(learnt, default=-1) + 1)], default=-1) + 1
        while first in dropped:
            first += 1
        assert known <= k
        assert piece.rounds == len(pairs) - known
        assert not any(train for _, _, train in pairs[:known])
        assert all(train for _, _, train in pairs[known:])
        assert [(q, a) for q, a, _ in pairs] == rounds[first - known : first + piece.rounds]
        learnt += range(first, first + piece.rounds)
        more = first - known - 1
        if known < k and more >= 0 and more not in dropped:
            assert count(chat(rounds[more : first + 1]).conversation(), kind, name) > limit
    assert sorted(learnt + dropped) == list(range(len(rounds)))


def test_overlap_gives_the_pieces_after_the_first_their_context():
    rounds = [(f"question {n}", f"answer {n}") for n in range(5)]
    limit = count(chat(rounds[:3]).conversation(), "byte-level")
    pieces, _ = splitter(limit, overlap=1)(chat(rounds, None))
    told = [[(m.content, m.train) for m in piece.conversation.messages if m.role == "assistant"] for piece in pieces]
    assert told == [
        [("answer 0", True), ("answer 1", True), ("answer 2", True)],
        [("answer 2", False), ("answer 3", True), ("answer 4", True)],
    ]
    assert [(piece.conversation.id, piece.rounds) for piece in pieces] == [("c_0", 3), ("c_6", 2)]


MARKDOWN = st.lists(
    st.sampled_from(
        ["A sentence. ", "One more? ", "word ", "\n\n", "\n", "- item\n", "```python\nx = 1\n\ny = 2\n```\n\n", "```\n",
         "你好。再见！", "long" * 20, " ", "Like this:\n\n", "e\u0301", "    indented\n", "👩\u200d💻"]
    ),
    min_size=1, max_size=120,
).map("".join).filter(str.strip)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(MARKDOWN, st.sampled_from(["a", "question " * 9]), st.integers(90, 500), st.sampled_from(KINDS), NAMES)
def test_the_parts_of_a_carried_answer_are_the_answer_and_each_is_learnt_once(answer, question, limit, kind, name):
    pieces, drops = splitter(limit, kind, name, too_long="carry")(chat([("a", "b"), (question, answer), ("c", "d")]))
    assert sum(piece.rounds for piece in pieces) + len(drops) == 3
    for piece in pieces:
        assert problems(piece.conversation) == []
        assert piece.tokens == count(piece.conversation, kind, name) <= limit
        assert piece.conversation.messages[-1].train
    learnt = [m.content for p in pieces for m in p.conversation.messages if m.role == "assistant" and m.train]
    kept = [each for each, index in (("b", 0), (answer, 1), ("d", 2)) if index not in (d.round.index for d in drops)]
    assert "".join(learnt) == "".join(kept)
    assert len({piece.conversation.id for piece in pieces}) == len(pieces)


def test_a_carried_answer_goes_on_after_the_question_its_own_end_and_the_request():
    paragraphs = [f"Paragraph {n} has a few words. And {n} more." for n in range(40)]
    answer = "\n\n".join(paragraphs)
    pieces, drops = splitter(400, too_long="carry", carry_prompt="Go on!")(chat([("Tell me.", answer)], "Be brief."))
    assert drops == []
    assert [piece.rounds for piece in pieces] == [1] + [0] * (len(pieces) - 1)
    assert [piece.conversation.id for piece in pieces[:3]] == ["c_0", "c_0.1", "c_0.2"]
    said = pieces[0].conversation.messages[-1].content
    assert [(m.role, m.content) for m in pieces[0].conversation.messages[:-1]] == [
        ("system", "Be brief."),
        ("user", "Tell me."),
    ]
    for piece in pieces[1:]:
        system, question, tail, request, part = piece.conversation.messages
        assert (system.content, question.content, request.content) == ("Be brief.", "Tell me.", "Go on!")
        assert said.endswith(tail.content)
        assert tail.content.startswith("Paragraph")
        assert not tail.train
        assert part.content.startswith("\n\nParagraph")
        assert part.content.endswith("more.")
        said += part.content


def test_a_carried_code_block_stays_whole_where_it_fits_and_is_cut_between_lines_where_it_does_not():
    block = "```python\n" + "".join(f"total = total + {n}\n\n" for n in range(8)) + "```"
    prose = "Some words before it. " * 12
    limit = count(chat([("a", prose + "\n\n" + block[: len(block) // 2])]).conversation(), "byte-level")
    (first, second, *_), _ = splitter(limit, too_long="carry")(chat([("a", prose + "\n\n" + block + "\n\n" + prose)]))
    assert first.conversation.messages[-1].content == prose.rstrip()
    assert block in second.conversation.messages[-1].content
    long = "```python\n" + "".join(f"total = total + {n}\n" for n in range(60)) + "```"
    pieces, drops = splitter(500, too_long="carry")(chat([("a", long)]))
    assert drops == []
    assert all(piece.conversation.messages[-1].content.startswith("\ntotal") for piece in pieces[1:])


def test_a_too_long_answer_can_be_cut_instead_and_fills_the_context_with_whole_words():
    answer = " ".join(f"word{n}" for n in range(300))
    (piece,), drops = splitter(200, too_long="truncate")(chat([("c", answer)]))
    assert drops == []
    assert piece.truncated
    assert piece.rounds == 1
    assert (answer + " ").startswith(piece.conversation.messages[-1].content + " ")
    assert 190 <= piece.tokens <= 200
    assert piece.tokens == count(piece.conversation, "byte-level")


@pytest.mark.parametrize(
    ("answer", "ending"),
    [
        ("First. Second one! Third " + "word " * 300, "Second one!"),
        ("First.\n\nSecond one\n\nThird. " + "word " * 300, "Second one"),
        ("A start and some more.\n\nSee:\n\n```\n" + "code\n" * 300 + "```", "some more."),
    ],
)
def test_a_cut_answer_ends_well(answer, ending):
    limit = count(chat([("c", answer[: answer.index(ending) + len(ending) + 14])]).conversation(), "byte-level")
    (piece,), _ = splitter(limit, too_long="truncate")(chat([("c", answer)]))
    assert piece.conversation.messages[-1].content.endswith(ending)


def test_an_answer_that_is_one_long_code_block_is_dropped_rather_than_cut_within():
    pieces, drops = splitter(200, too_long="truncate")(chat([("c", "```\n" + "code\n" * 300 + "```"), ("a", "b")]))
    assert [piece.conversation.messages[0].content for piece in pieces] == ["a"]
    assert [(drop.round.index, drop.reason) for drop in drops] == [(0, "answer cannot be cut to fit")]


@pytest.mark.parametrize(
    ("too_long", "reason"),
    [
        ("drop", "round longer than the context"),
        ("truncate", "question leaves no room for its answer"),
        ("carry", "question leaves no room for its answer"),
    ],
)
def test_a_question_that_is_too_long_by_itself_is_dropped(too_long, reason):
    pieces, drops = splitter(100, too_long=too_long)(chat([("long " * 300, "a")]))
    assert pieces == []
    assert [drop.reason for drop in drops] == [reason]


@pytest.mark.parametrize("answer", ["x" + "\n" * 3000 + "y", "\n" * 3000 + "x", "x" + " \n" * 3000])
def test_an_answer_with_white_space_that_fills_a_context_is_dropped(answer):
    pieces, drops = splitter(150, too_long="carry")(chat([("a", answer)]))
    assert pieces == []
    assert [drop.reason for drop in drops] == ["answer cannot be cut to fit"]


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
