"""Answers that are not to be learnt: the same tokens, in no target."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.frame.test_chat_templates import FAMILIES, family_tokenizer
from tests.frame.test_prompt import tricky
from tests.tokenizers_kinds import MAKERS, tokenizer_of
from vicuna.conversation import Conversation, Message
from vicuna.prompt import encode, encode_prompt, template
from vicuna.template import BUILT_IN

rounds_of = st.lists(st.tuples(tricky, tricky, st.booleans()), min_size=1, max_size=4)


def check(rounds, tokenizer, chosen):
    flagged = tuple(m for q, a, train in rounds for m in (Message("user", q), Message("assistant", a, train)))
    learnt = tuple(Message(message.role, message.content) for message in flagged)
    with_flags = encode(Conversation("c", flagged), tokenizer, chosen)
    without = encode(Conversation("c", learnt), tokenizer, chosen)
    assert with_flags.ids == without.ids
    assert encode_prompt(flagged[:-1], tokenizer, chosen) == encode_prompt(learnt[:-1], tokenizer, chosen)
    expected, answers = [], iter(train for _, _, train in rounds)
    for is_target, tokens in itertools.groupby(without.is_target):
        expected += [is_target and next(answers)] * len(list(tokens))
    assert with_flags.is_target == expected
    assert next(answers, None) is None


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("name", BUILT_IN)
@settings(max_examples=15, deadline=None)
@given(rounds=rounds_of)
def test_only_the_answers_to_be_learnt_are_targets(kind, name, rounds):
    check(rounds, tokenizer_of(kind), template(name))


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(rounds=rounds_of)
def test_so_it_is_with_the_chat_templates_of_model_families(family, rounds):
    tokenizer = family_tokenizer(family)
    check(rounds, tokenizer, template(tokenizer))
