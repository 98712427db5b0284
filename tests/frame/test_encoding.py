"""What is put together or counted word by word is what the whole text gives, for every tokenizer and template."""

import copy
import dataclasses
import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.frame.test_chat_templates import FAMILIES, family_tokenizer
from tests.frame.test_counting import KINDS, chats, messages_of, texts, tokenizer
from vicuna.conversation import Conversation, Message
from vicuna.counting import TokenCounter
from vicuna.encoding import Encoder, Memory
from vicuna.prompt import encode, template
from vicuna.template import BUILT_IN, TemplateError

BOTH = pytest.mark.parametrize("make", [Encoder, TokenCounter])
"""What reads word by word: one gives the tokens, the other only their number."""


@functools.cache
def reader(make, kind: str, name: str):
    return make(tokenizer(kind), template(name))


def check(read, messages, own, chosen):
    conversation = Conversation("c", messages)
    truth = encode(conversation, own, chosen)
    if isinstance(read, TokenCounter):
        assert read(messages) == len(truth.ids)
    else:
        found = read(conversation)
        assert found.ids.tolist() == truth.ids
        assert found.is_target.tolist() == truth.is_target


@BOTH
@KINDS
@pytest.mark.parametrize("name", BUILT_IN)
@settings(max_examples=40, deadline=None)
@given(rounds=chats, system=st.none() | texts)
def test_tokens_and_mask_are_those_of_the_prompt_truth(make, kind, name, rounds, system):
    lead = () if system is None else (Message("system", system),)
    check(reader(make, kind, name), (*lead, *messages_of(rounds)), tokenizer(kind), template(name))


@BOTH
@KINDS
@settings(max_examples=20, deadline=None)
@given(turns=st.lists(st.tuples(st.sampled_from(["user", "assistant"]), texts), max_size=5))
def test_so_it_is_for_turns_in_any_order_and_text_after_the_stop(make, kind, turns):
    own, chosen = tokenizer(kind), dataclasses.replace(BUILT_IN["vicuna_v1.1"], answer_end="\n")
    messages = tuple(Message(role, text) for role, text in turns)
    check(reader(make, kind, "vicuna_v1.1"), messages, own, template("vicuna_v1.1"))
    check(make(own, chosen), messages, own, chosen)


@BOTH
@KINDS
@settings(max_examples=20, deadline=None)
@given(rounds=chats)
def test_so_it_is_where_answers_follow_the_prompt_without_a_space(make, kind, rounds):
    own = copy.copy(tokenizer(kind))
    own.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    check(make(own, template(own)), messages_of(rounds), own, template(own))


@BOTH
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=20, deadline=None)
@given(rounds=chats)
def test_so_it_is_for_the_chat_templates_of_model_families(make, family, rounds):
    own = family_tokenizer(family)
    check(make(own, template(own)), messages_of(rounds), own, template(own))


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(TemplateError, match="half a surrogate pair"):
        reader(Encoder, "byte-level", "vicuna_v1.1")(Conversation("c", messages_of([("\ud800", "b", True)])))


def test_a_memory_forgets_all_when_it_is_full():
    made = []
    memory = Memory(lambda key: made.append(key) or key * 2, 2)
    assert [memory[key] for key in (1, 2, 1, 3, 1)] == [2, 4, 2, 6, 2]
    assert made == [1, 2, 3, 1]
