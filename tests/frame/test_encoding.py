"""Tokens put together from those of words are the tokens of the text, for every kind of tokenizer and template."""

import copy
import dataclasses
import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.frame.test_chat_templates import FAMILIES, family_tokenizer
from tests.frame.test_counting import KINDS, chats, messages_of, texts, tokenizer
from vicuna.conversation import Conversation, Message
from vicuna.encoding import Encoder, Memory
from vicuna.prompt import encode, template
from vicuna.template import BUILT_IN, TemplateError


@functools.cache
def encoder(kind: str, name: str) -> Encoder:
    return Encoder(tokenizer(kind), template(name))


def check(fast, messages, own, chosen):
    conversation = Conversation("c", messages)
    found, truth = fast(conversation), encode(conversation, own, chosen)
    assert found.ids.tolist() == truth.ids
    assert found.is_target.tolist() == truth.is_target


@KINDS
@pytest.mark.parametrize("name", BUILT_IN)
@settings(max_examples=40, deadline=None)
@given(rounds=chats, system=st.none() | texts)
def test_tokens_and_mask_are_those_of_the_prompt_truth(kind, name, rounds, system):
    lead = () if system is None else (Message("system", system),)
    check(encoder(kind, name), (*lead, *messages_of(rounds)), tokenizer(kind), template(name))


@KINDS
@settings(max_examples=20, deadline=None)
@given(turns=st.lists(st.tuples(st.sampled_from(["user", "assistant"]), texts), max_size=5))
def test_so_it_is_for_turns_in_any_order_and_text_after_the_stop(kind, turns):
    own, chosen = tokenizer(kind), dataclasses.replace(BUILT_IN["vicuna_v1.1"], answer_end="\n")
    messages = tuple(Message(role, text) for role, text in turns)
    check(encoder(kind, "vicuna_v1.1"), messages, own, template("vicuna_v1.1"))
    check(Encoder(own, chosen), messages, own, chosen)


@KINDS
@settings(max_examples=20, deadline=None)
@given(rounds=chats)
def test_so_it_is_where_answers_follow_the_prompt_without_a_space(kind, rounds):
    own = copy.copy(tokenizer(kind))
    own.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    check(Encoder(own, template(own)), messages_of(rounds), own, template(own))


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=20, deadline=None)
@given(rounds=chats)
def test_so_it_is_for_the_chat_templates_of_model_families(family, rounds):
    own = family_tokenizer(family)
    check(Encoder(own, template(own)), messages_of(rounds), own, template(own))


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(TemplateError, match="half a surrogate pair"):
        encoder("byte-level", "vicuna_v1.1")(Conversation("c", messages_of([("\ud800", "b", True)])))


def test_a_memory_forgets_all_when_it_is_full():
    made = []
    memory = Memory(lambda key: made.append(key) or key * 2, 2)
    assert [memory[key] for key in (1, 2, 1, 3, 1)] == [2, 4, 2, 6, 2]
    assert made == [1, 2, 3, 1]
