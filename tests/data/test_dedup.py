"""Exact duplicates: which conversations count as the same, and which of them are paired."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vicuna.conversation import Conversation, Message
from vicuna.data import dedup
from vicuna.data.chat import Chat, from_conversation


def chat(question: str, answer: str, system: str | None = None) -> Chat:
    messages = (Message("user", question), Message("assistant", answer))
    start = (Message("system", system),) if system is not None else ()
    return from_conversation(Conversation("id", start + messages), "file", "[0]")


def test_chats_are_the_same_up_to_case_white_space_and_the_form_of_characters():
    key = dedup.key(chat("What is this?", "A  café."))
    assert key == dedup.key(chat("what is\nthis?", "a cafe\u0301.\u00a0"))
    assert len(key) == 16


def test_chats_that_say_something_else_are_not_the_same():
    chats = [
        chat("What is this?", "A test."),
        chat("What is this", "A test."),
        chat("What is this? A test.", ""),
        chat("What is this?", "A test.", system="Be kind."),
        chat("A test.", "What is this?"),
    ]
    assert len({dedup.key(each) for each in chats}) == len(chats)


def test_half_a_surrogate_pair_has_a_key_too():
    assert dedup.key(chat("\ud800", "a")) != dedup.key(chat("\ud801", "a"))
    assert dedup.id_hash("\ud800") != dedup.id_hash("\ud801")


def test_id_hashes_fill_64_bits_and_stay_what_they_are():
    assert dedup.id_hash("QWJhYvA_0") == dedup.id_hash("QWJhYvA_0") < 1 << 64
    assert len({dedup.id_hash(str(n)) for n in range(1000)}) == 1000


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**64 - 1).map(lambda n: n % 3))))
def test_each_duplicate_is_paired_with_the_first_of_its_group(keys):
    halves = np.array(keys, np.uint64).reshape(-1, 2)
    pairs = dedup.groups(halves[:, 0], halves[:, 1])
    assert sorted(pairs.tolist()) == sorted([keys.index(key), at] for at, key in enumerate(keys) if key in keys[:at])
