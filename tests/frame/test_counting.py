"""Counting without tokenising gives what tokenising gives, for every kind of tokenizer and template."""

import copy
import functools
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from tests.tokenizers_kinds import MAKERS, SPECIAL, tokenizer_of
from vicuna.conversation import Conversation, Message
from vicuna.counting import TokenCounter
from vicuna.plain import plain_tokenizer
from vicuna.prompt import encode, template
from vicuna.template import TemplateError
from vicuna.words import words_of

LLAMA_2 = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ],
}

RUNS = [("▁", "▁"), ("▁▁", "▁▁")]
# As bytes are written there: space, line end, and U+00A0 in its two bytes.
BYTE_RUNS = [
    ("Ġ", "Ġ"),
    ("Ċ", "Ċ"),
    ("Â", "ł"),
    ("Âł", "Ċ"),
    ("Âł", "Ġ"),
    ("Ċ", "Ġ"),
    (".", "Ċ"),
    (".Ċ", "Ċ"),
    ("Ġ", "Ċ"),
]


def _cutter(digits: str) -> dict[str, Any]:
    """How Llama 3 and Qwen 2 cut text before BPE."""
    expression = (
        rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    rename = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [split, rename]}


def _changed(kind: str, merges: list[tuple[str, str]], **parts: Any) -> Any:
    """A tokenizer of this kind with other parts, and with merges that come before its own."""
    source = json.loads(tokenizer_of(kind).backend_tokenizer.to_str())
    source.update(parts)
    model = source["model"]
    for pair in merges:
        for token in (*pair, "".join(pair)):
            model["vocab"].setdefault(token, len(model["vocab"]))
    model["merges"] = [*map(list, merges), *model["merges"]]
    return _finished(source)


def _finished(source: dict[str, Any]) -> Any:
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(source)), bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens=SPECIAL[3:], clean_up_tokenization_spaces=False,
    )  # fmt: skip


def _unsplit(scheme: str) -> Any:
    cutter = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
    return _changed("metaspace with a prefix space at the start", RUNS, pre_tokenizer=cutter)


def _in_parts(*, byte_fallback: bool, **parts: Any) -> Any:
    """A tokenizer none of whose merges joins letters, digits and signs."""
    source = json.loads(tokenizer_of("metaspace with a prefix space everywhere").backend_tokenizer.to_str())
    model = source["model"]
    merges = [pair for pair in model["merges"] if re.fullmatch(r"▁*(?:[a-zA-Zé]+|\d+|[^\w▁]+)", "".join(pair))]
    model.update(merges=[*map(list, RUNS), *merges], byte_fallback=byte_fallback, fuse_unk=byte_fallback)
    for token in ["▁▁", "▁▁▁▁", *(f"<0x{byte:02X}>" for byte in range(256))]:
        model["vocab"].setdefault(token, len(model["vocab"]))
    return _finished(source | parts)


CHANGED = {
    "llama, a prefix space everywhere": lambda: _unsplit("always"),
    "llama, a prefix space at the start": lambda: _unsplit("first"),
    "llama, no prefix space": lambda: _unsplit("never"),
    "llama 2, by normalizer": lambda: _changed(
        "metaspace with a prefix space everywhere", RUNS, pre_tokenizer=None, normalizer=LLAMA_2
    ),
    "byte-level, white space in runs": lambda: _changed("byte-level", BYTE_RUNS),
    "llama 3": lambda: _changed("byte-level", BYTE_RUNS, pre_tokenizer=_cutter(r"\p{N}{1,3}")),
    "qwen 2": lambda: _changed("byte-level", BYTE_RUNS, pre_tokenizer=_cutter(r"\p{N}"), normalizer={"type": "NFC"}),
}
IN_PARTS = {
    "in parts, each piece by itself": lambda: _in_parts(byte_fallback=False),
    "in parts, over the whole text": lambda: _in_parts(byte_fallback=True, pre_tokenizer=None, normalizer=LLAMA_2),
}
CHANGED |= IN_PARTS
PROVEN = {
    *CHANGED, "metaspace with a prefix space everywhere", "metaspace with a prefix space at the start",
    "metaspace without a prefix space or BOS", "byte-level", "byte-level with a prefix space and BOS", "unigram",
}  # fmt: skip


@functools.cache
def tokenizer(kind: str) -> Any:
    return CHANGED[kind]() if kind in CHANGED else tokenizer_of(kind)


KINDS = pytest.mark.parametrize("kind", [*MAKERS, *CHANGED])
texts = st.lists(
    st.text(st.characters(codec="utf-8"), max_size=5)
    | st.sampled_from(
        ["Hello", " ", "  ", "\n", "\n\n", "\t", "\r\n", "\x1c", "\x85", "\xa0", "\u2028", "\u3000", "▁", "▁▁",
         "\u200b", "don't", "'s", "你好", "\u0301", "é", "_", "</s>", "<|im_end|>", " ASSISTANT:", "\n###",
         "x1.y", "3,5", "éa.é", "☃1a", "@@1",
         "\ufdd20.1\ufdd3", "a\xa0\n\nb", "a\xa0  b", "a.\n\n", "x \n\n  y", "```\n    code\n```", "1234", "a" * 70]
    ),
    max_size=9,
).map("".join)  # fmt: skip
chats = st.lists(st.tuples(texts, texts, st.booleans()), min_size=1, max_size=3)


def messages_of(rounds: list[tuple[str, str, bool]]) -> tuple[Message, ...]:
    return tuple(each for q, a, train in rounds for each in (Message("user", q), Message("assistant", a, train)))


def check(counter, messages, own, chosen):
    assert counter(messages) == len(encode(Conversation("c", messages), own, chosen).ids)


@functools.cache
def _counter(kind: str, name: str) -> TokenCounter:
    return TokenCounter(tokenizer(kind), template(name))


@KINDS
def test_words_are_counted_each_by_itself_only_where_the_tokenizer_proves_it(kind):
    found = words_of(plain_tokenizer(tokenizer(kind)).source())
    assert (found is not None) == (kind in PROVEN)


@KINDS
def test_words_are_cut_into_parts_only_where_no_merge_joins_them(kind):
    found = words_of(plain_tokenizer(tokenizer(kind)).source())
    assert (found is not None and found.parts is not None) == (kind in IN_PARTS)


@pytest.mark.parametrize(
    "change", [{"merges": [["a", "1"]]}, {"merges": [["<0x0A>", "a"]]}, {"fuse_unk": True, "byte_fallback": False}]
)
def test_a_model_that_may_see_across_parts_counts_whole_words(change):
    source = plain_tokenizer(tokenizer("in parts, over the whole text")).source()
    assert words_of(source).parts
    source["model"].update(change)
    assert words_of(source).parts is None


@KINDS
@settings(max_examples=30, deadline=None)
@given(text=texts.filter(bool))
def test_words_are_the_text_and_stay_the_same_when_more_text_follows_a_word(kind, text):
    found = words_of(plain_tokenizer(tokenizer(kind)).source())
    if found is None:
        return
    first, others = found.cut(text)
    words = [first, *(found.gap + other for other in others)]
    same = str.maketrans("▁", " ") if found.gap else {}
    assert "".join(words).translate(same) == text.translate(same)
    assert all(found.ends(word, words[i]) for i, word in enumerate(words[:-1], 1))
    if found.parts:
        assert all("".join(found.parts.findall(word)) == word for word in words)


@pytest.mark.parametrize("kind", ["llama, a prefix space everywhere", "llama 2, by normalizer"])
@pytest.mark.parametrize(
    "change",
    [
        {"merges": [["e", "▁"]]},
        {"dropout": 0.1},
        {"ignore_merges": True},
        {"unk_token": None},
        {"end_of_word_suffix": "</w>"},
    ],
)
def test_a_model_that_may_see_across_words_proves_nothing(kind, change):
    source = plain_tokenizer(tokenizer(kind)).source()
    assert words_of(source)
    source["model"].update(change)
    assert words_of(source) is None


@pytest.mark.parametrize(
    "added", [AddedToken("great deal"), AddedToken("<pad>", special=True, lstrip=True), AddedToken("<x>", rstrip=True)]
)
def test_added_tokens_that_are_found_in_text_or_change_it_prove_nothing(added):
    own = copy.deepcopy(tokenizer("byte-level"))
    own.add_tokens([added], special_tokens=added.special)
    assert words_of(plain_tokenizer(own).source()) is None
    messages = messages_of([("a great deal <x> more", " great deal \n", True)])
    check(TokenCounter(own, template("vicuna_v1.1")), messages, own, template("vicuna_v1.1"))


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(TemplateError, match="half a surrogate pair"):
        _counter("byte-level", "vicuna_v1.1")(messages_of([("\ud800", "b", True)]))
