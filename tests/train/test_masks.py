"""What is learnt, judged character by character, for every family of tokenizers.

The judge spells each token out, lays the spellings along the rendered text, and looks up who wrote the characters.
"""

import functools
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.frame.test_counting import CHANGED, tokenizer
from tests.tokenizers_kinds import MAKERS, TEXT
from vicuna.conversation import Conversation, Message
from vicuna.prompt import template
from vicuna.template import BUILT_IN
from vicuna.train.config import DataConfig
from vicuna.train.tokens import Rules, Sampler

BYTES = [kind for kind in [*MAKERS, *CHANGED] if kind.startswith(("byte-level", "llama 3", "qwen"))]
SPELT = [kind for kind in [*MAKERS, *CHANGED] if kind not in (*BYTES, "wordpiece")]
"""WordPiece has one token for all words that it does not know; `tests/frame/test_prompt.py` judges it by offsets."""


@functools.cache
def sampler(kind: str, name: str) -> Sampler:
    return Sampler(Rules(tokenizer(kind), template(name), 100_000, DataConfig()))


def texts(alphabet: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    words = st.sampled_from(["Hello", " ", "  ", "\n", "USER: ", " ASSISTANT: ", "1234", "###", "</s>", "Hi.", "__"])
    return st.lists(st.text(alphabet, max_size=6) | words, min_size=1, max_size=8).map("".join).filter(str.strip)


known = texts(st.sampled_from(sorted(set("".join(TEXT)) - {"▁"})))
"""Texts of characters that every tokenizer has learnt; others, and some of the templates' own, have no spelling."""
anything = texts(st.characters(codec="utf-8")).filter(functools.partial(unicodedata.is_normalized, "NFC"))


def dialogs(said: st.SearchStrategy[str], system: st.SearchStrategy[str | None]) -> st.SearchStrategy[Conversation]:
    rounds = st.lists(st.tuples(said, said, st.booleans()), min_size=1, max_size=4)
    return st.builds(_conversation, system, rounds)


def _conversation(system, rounds):
    lead = () if system is None else (Message("system", system),)
    turns = (each for q, a, train in rounds for each in (Message("user", q), Message("assistant", a, train)))
    return Conversation("c", (*lead, *turns))


# ------------------------------------------------------------------------------------------------ the judge
@functools.cache
def bytes_of_characters() -> dict[str, int]:
    """How byte-level vocabularies write bytes: printable ones as they are, the others from U+0100 on."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}


def spelling(token: str, kind: str, special: bool) -> bytes:
    """The text of a token."""
    if special:
        return token.encode()
    if kind in BYTES:
        return bytes(bytes_of_characters()[char] for char in token)
    return token.replace("▁", " ").encode()


def judged(ids, conversation, kind, name) -> list[bool]:
    """Whether each token is to be learnt; no token may belong to two writers."""
    own, text, owners = tokenizer(kind), b"", []
    for piece in template(name).pieces(conversation.messages):
        text += piece.text.encode()
        owners += [(piece.target and piece.train)] * len(piece.text.encode())
    specials, at, found = set(own.all_special_ids), 0, []
    for index, token in enumerate(own.convert_ids_to_tokens(ids)):
        spelt = spelling(token, kind, ids[index] in specials)
        if index == 0 and token == "<s>":
            found.append(False)
            continue
        if not text.startswith(spelt, at):
            assert spelt.startswith(b" "), (token, text[at:])
            spelt = spelt[1:]  # the space that some put in front of a text
        writers = set(owners[at : at + len(spelt)])
        assert len(writers) <= 1, f"{token!r} belongs to prompt and answer"
        found.append(writers == {True})
        at += len(spelt)
    assert at == len(text)
    return found


def check(conversation, kind, name):
    block = sampler(kind, name)([conversation])
    if not len(block.samples):
        assert not any(message.train for message in conversation.messages if message.role == "assistant")
        assert [each.reason for each in block.lost] == ["no token to learn"]
        return
    expected = judged(block.ids.tolist(), conversation, kind, name)
    assert block.is_target.tolist() == expected


# ------------------------------------------------------------------------------------------------ all families
@pytest.mark.parametrize("kind", SPELT)
@pytest.mark.parametrize("name", BUILT_IN)
@settings(max_examples=25, deadline=None)
@given(conversation=dialogs(known, known))
def test_every_character_of_an_answer_is_learnt_and_no_other(kind, name, conversation):
    check(conversation, kind, name)


@pytest.mark.parametrize("kind", BYTES)
@pytest.mark.parametrize("name", BUILT_IN)
@settings(max_examples=25, deadline=None)
@given(conversation=dialogs(anything, st.none() | anything))
def test_so_it_is_with_any_characters_where_tokens_are_bytes(kind, name, conversation):
    check(conversation, kind, name)
