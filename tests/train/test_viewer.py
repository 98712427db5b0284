"""The mask viewer: every token is there, readable, and coloured if and only if it is learnt."""

import random
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vicuna.conversation import Conversation, Message, write_conversations
from vicuna.prompt import template
from vicuna.train import masks
from vicuna.train.config import DataConfig
from vicuna.train.masks import Piece, choose, pieces, viewer
from vicuna.train.prepare import prepare
from vicuna.train.tokenizer import train

LINES = ["Hello world, this is a test of tokens.\nA new line  and two spaces", "What is 世界 in café?"] * 4


def byte_level() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet,
                                  show_progress=False)  # fmt: skip
    backend.train_from_iterator(LINES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


TOKENIZERS = {"metaspace": train(iter(LINES), 340), "bytes": byte_level()}
each_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


def learnt(ids: list[int]) -> list[bool]:
    return [True] * len(ids)


@each_tokenizer
@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=30), seed=st.integers(0, 99))
def test_the_pieces_are_all_tokens_with_their_marks_and_joined_the_whole_text(tokenizer, text, seed):
    ids = ids_of(tokenizer, text)
    marks = [random.Random(seed).random() < 0.5 for _ in ids]
    found = pieces(ids, marks, tokenizer)
    assert [(each, piece.target) for piece in found for each in piece.ids] == list(zip(ids, marks))
    whole = tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)
    if "\ufffd" not in whole:
        joined = "".join(piece.text for piece in pieces(ids, learnt(ids), tokenizer))
        assert joined.removeprefix(" ") == whole.removeprefix(" ")


@each_tokenizer
def test_bytes_of_one_character_are_one_piece(tokenizer):
    ids = ids_of(tokenizer, "a 🦙 界")
    found = {piece.text.strip(): piece for piece in pieces(ids, learnt(ids), tokenizer)}
    assert len(found["🦙"].ids) == 4
    assert "界" in found
    assert not any(piece.special for piece in found.values())


@each_tokenizer
def test_a_mask_that_parts_a_character_shows_its_bytes(tokenizer):
    ids = ids_of(tokenizer, "🦙")[-4:]
    found = pieces(ids, [False, False, True, True], tokenizer)
    assert [(each.text, each.target) for each in found] == [
        ("<0xF0>", False), ("<0x9F>", False), ("<0xA6>", True), ("<0x99>", True)
    ]  # fmt: skip


@each_tokenizer
def test_a_sample_that_begins_or_ends_within_a_character_is_readable_elsewhere(tokenizer):
    ids = [*ids_of(tokenizer, "🦙")[-2:], *ids_of(tokenizer, "test"), *ids_of(tokenizer, "🦙")[-4:-1]]
    texts = [piece.text for piece in pieces(ids, learnt(ids), tokenizer)]
    assert texts[:2] == ["<0xA6>", "<0x99>"]
    assert texts[-3:] == ["<0xF0>", "<0x9F>", "<0xA6>"]
    assert "".join(texts[2:-3]).strip() == "test"


@each_tokenizer
def test_control_tokens_are_marked_and_text_that_looks_like_one_is_not(tokenizer):
    (stop,) = pieces([tokenizer.eos_token_id], [True], tokenizer)
    assert stop == Piece("</s>", (tokenizer.eos_token_id,), True, True)
    assert not any(piece.special for piece in pieces(ids_of(tokenizer, "< /s>"), [True] * 20, tokenizer))


@given(st.lists(st.tuples(st.integers(2, 500), st.floats(0, 1)), min_size=1, max_size=60), st.integers(0, 9))
def test_the_choice_has_the_extremes_and_is_the_same_for_the_same_seed(samples, seed):
    lengths = np.array([length for length, _ in samples])
    targets = np.array([max(1, int(length * share)) for length, share in samples])
    chosen = choose(lengths, targets, seed)
    assert len(chosen) == min(masks.SHOWN, len(samples))
    longest, *_ = chosen
    assert lengths[longest] == lengths.max()
    for values in (targets, targets / lengths):
        assert values[list(chosen)].min() == values.min()
    assert chosen == choose(lengths, targets, seed)


def test_what_the_run_writes_reads_back_with_the_totals_of_its_data(tmp_path):
    tokenizer = TOKENIZERS["metaspace"]
    chats = [
        Conversation(f"c{n}", (Message("user", "What is 世界?"), Message("assistant", " ".join(["world"] * (n + 1)))))
        for n in range(30)
    ]
    write_conversations(tmp_path / "chats.jsonl", [*chats, Conversation("long", (*chats[0].messages * 90,))])
    prepared = prepare(DataConfig(path=str(tmp_path / "chats.jsonl")), tokenizer, template("vicuna_v1.1"), 400,
                       tmp_path / "tokens")  # fmt: skip
    data, _ = prepared.open()
    masks.write(tmp_path / "data.json", data, tokenizer, seed=0)
    found = masks.read(tmp_path / "data.json")
    assert (found.samples, found.tokens, found.targets) == (30, data.tokens, data.target_tokens)
    assert sum(found.left_out.values()) == 1
    assert len(found.shown) == masks.SHOWN
    assert found.shown[0].id == "c29"
    by_name = {data[index].id: index for index in range(len(data))}
    for sample in found.shown:
        index = by_name[sample.id]
        marks = [(each, piece.target) for piece in sample.pieces for each in piece.ids]
        assert marks == list(zip(data[index].ids.tolist(), data[index].is_target.tolist()))
        assert sample.targets == data.targets[index]
        assert {piece.text.strip() for piece in sample.pieces if piece.target} == {"world", "</s>"}


def shown(found: list[Piece], ending: list[Piece] | None = None, tokens: int | None = None) -> masks.Shown:
    count = sum(len(piece.ids) for piece in found)
    return masks.Shown("s<1>", "drawn", tokens or count, sum(each.target for each in found), found, ending or [])


def test_the_page_colours_what_is_learnt_and_nothing_else():
    drawn = viewer([shown([Piece("ask", (1,), False, False), Piece(" so", (2,), True, False),
                           Piece("</s>", (3,), True, True), Piece("next", (4, 5), False, False)])])  # fmt: skip
    text = drawn[drawn.index('<div class="tokens">') :]
    assert re.findall(r"<b>(.*?)</b>", text) == ['<i title="2"> so</i><i class="special" title="3">&lt;/s&gt;</i>']
    assert '<i title="4, 5">next</i>' in text
    assert "s&lt;1&gt;" in drawn


def test_what_has_no_shape_is_written_out():
    drawn = viewer([shown([Piece("a\u202eb\n\tc", (1,), False, False), Piece("", (2,), False, False)])])
    assert "a<s>U+202E</s>b<s>↵</s>\n<s>⇥</s>\tc" in drawn
    assert '<i title="2"><s>∅</s></i>' in drawn


def test_the_middle_of_a_very_long_sample_is_left_out_and_counted(tmp_path):
    one = [Piece("a", (1,), True, False)]
    assert "… 4,998 tokens are not shown …" in viewer([shown(one, one, tokens=5000)])
