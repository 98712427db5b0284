"""From conversation files to mapped samples: what training sees, what is left out, what is kept from before."""

import json
import os
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.train.conftest import conversations
from vicuna import manifest
from vicuna.conversation import Conversation, Message, write_conversations
from vicuna.errors import IncompleteError, InputError, VicunaError
from vicuna.files import read_jsonl
from vicuna.models.load import load_tokenizer
from vicuna.prompt import encode, template
from vicuna.train import tokens
from vicuna.train.config import DataConfig
from vicuna.train.dataset import MOST_PIECES, held_apart
from vicuna.train.prepare import prepare

VICUNA = template("vicuna_v1.1")


@pytest.fixture(scope="module")
def tokenizer(world):
    return load_tokenizer(world / "tokenizer")


def chat(name: str, *texts: str, **flags) -> Conversation:
    roles = ("user", "assistant")
    return Conversation(name, tuple(Message(roles[i % 2], text, **flags) for i, text in enumerate(texts)))


def prepared(folder, rows, tokenizer, *, max_length=256, **settings):
    path = folder / "chats.jsonl"
    write_conversations(path, rows)
    return prepare(DataConfig(path=str(path), **settings), tokenizer, VICUNA, max_length, folder / "tokens")


def opened(*args, **settings):
    return prepared(*args, **settings).open()[0]


def all_of(data):
    return {data[i].id: (data[i].ids.tolist(), data[i].is_target.tolist()) for i in range(len(data))}


# ------------------------------------------------------------------------------------------------ what training sees
def test_the_samples_are_the_tokens_and_masks_of_the_prompt_truth(world, tmp_path, tokenizer):
    made = prepare(DataConfig(path=str(world / "chats.jsonl")), tokenizer, VICUNA, 256, tmp_path)
    data, held_out = made.open()
    truth = {each.id: encode(each, tokenizer, VICUNA) for each in conversations(60)}
    assert all_of(data) == {name: (each.ids, each.is_target) for name, each in truth.items()}
    assert held_out is None
    assert data.lengths.tolist() == [len(data[i].ids) for i in range(60)]
    assert data.targets.tolist() == [data[i].is_target[1:].sum() for i in range(60)]
    assert data.tokens == data.lengths.sum()
    assert data.target_tokens == data.targets.sum()


def test_several_processes_give_the_same_bytes_as_one(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(tokens, "BLOCK", 7)
    alone = opened(tmp_path, conversations(60), tokenizer, workers=1)
    together = opened(tmp_path / "2", conversations(60), tokenizer, workers=2)
    assert together.hash == alone.hash


def test_what_a_process_cannot_read_is_the_commands_error(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(tokens, "BLOCK", 7)
    with pytest.raises(InputError, match=r"made up \(bad\): it ends with user, not assistant; clean it"):
        prepared(
            tmp_path,
            [*conversations(20), Conversation("bad", chat("", "question").messages, source="made up")],
            tokenizer,
            workers=2,
        )
    assert [each.name for each in (tmp_path / "tokens").iterdir()] == [".lock"]


def test_ids_take_two_bytes_where_the_vocabulary_allows_it(tmp_path, tokenizer):
    made = prepared(tmp_path, conversations(5), tokenizer)
    assert (made.learnt / "ids.bin").stat().st_size == 2 * made.open()[0].tokens


def test_turns_that_are_not_to_be_learnt_are_in_no_target(tmp_path, tokenizer):
    quiet = chat("q", "What?", "This.", "And?", "That.")
    messages = (quiet.messages[0], Message("assistant", "This.", train=False), *quiet.messages[2:])
    data = opened(tmp_path, [Conversation("q", messages), quiet], tokenizer)
    assert data[0].ids.tolist() == data[1].ids.tolist()
    assert 0 < data.targets[0] < data.targets[1]


def test_of_single_rounds_each_is_a_sample_with_the_system_message(tmp_path, tokenizer):
    system = Message("system", "Be brief.")
    long = Conversation("c", (system, *chat("", "One?", "1.", "Two?", "2.").messages))
    data = opened(tmp_path, [long], tokenizer, rounds="single")
    alone = [Conversation("", (system, *pair)) for pair in long.rounds()]
    assert [data[i].id for i in range(2)] == ["c_0", "c_2"]
    assert [data[i].ids.tolist() for i in range(2)] == [encode(each, tokenizer, VICUNA).ids for each in alone]


def test_plain_text_is_learnt_whole_in_pieces(tmp_path, tokenizer):
    data = opened(tmp_path, [chat("t", "Hello there", "France " * 30)], tokenizer, max_length=16, format="text")
    ids = np.concatenate([data[i].ids for i in range(len(data))]).tolist()
    assert ids == [*tokenizer("Hello there\n" + "France " * 30).input_ids, tokenizer.eos_token_id]
    assert all(data[i].is_target.all() for i in range(len(data)))
    assert data.lengths.max() == 16


# ------------------------------------------------------------------------------------------------ what is left out
LONG = ("Tell me of France.", "Paris. " * 40)
SHORT = ("Hi?", "Hi.")


def ledger(made):
    return [(row["id"], row["reason"]) for _, row in read_jsonl(made.learnt / "left_out.jsonl")]


def test_samples_that_are_too_long_or_teach_nothing_are_left_out_and_listed(tmp_path, tokenizer):
    rows = [chat("long", *LONG), chat("mute", *SHORT, train=False), *(chat(f"c{i}", *SHORT) for i in range(3))]
    made = prepared(tmp_path, rows, tokenizer, max_length=90)
    data, _ = made.open()
    assert [data[i].id for i in range(len(data))] == ["c0", "c1", "c2"]
    assert data.dropped == {"longer than 90 tokens": 1, "no token to learn": 1}
    assert ledger(made) == [("long", "longer than 90 tokens"), ("mute", "no token to learn")]


def test_samples_that_are_cut_lose_their_end_and_those_left_without_a_target_go(tmp_path, tokenizer):
    rows = [chat("long", *LONG), chat("asks", "France " * 120, "Paris."), *(chat(f"c{i}", *SHORT) for i in range(3))]
    made = prepared(tmp_path, rows, tokenizer, max_length=100, overlong="cut")
    data, _ = made.open()
    whole = encode(rows[0], tokenizer, VICUNA)
    assert data[0].ids.tolist() == whole.ids[:100]
    assert data[0].is_target.tolist() == whole.is_target[:100]
    assert data.cut == 1
    assert data.dropped == {"no token to learn when cut to 100 tokens": 1}
    assert ledger(made) == [("long", "cut to 100 tokens"), ("asks", "no token to learn when cut to 100 tokens")]


def test_when_most_samples_are_left_out_something_is_wrong(tmp_path, tokenizer):
    rows = [*(chat(f"long{i}", *LONG) for i in range(3)), chat("c", *SHORT), chat("mute", *SHORT, train=False)]
    with pytest.raises(InputError, match=r"4 of 5 samples cannot be learnt \(3: longer than 90 .*--model.max_length"):
        prepared(tmp_path, rows, tokenizer, max_length=90)
    assert [each.name for each in (tmp_path / "tokens").iterdir()] == [".lock"]


def test_nothing_to_learn_is_an_error(tmp_path, tokenizer):
    with pytest.raises(InputError, match=r"holds nothing to learn from .no conversations"):
        prepared(tmp_path, [], tokenizer)


# ------------------------------------------------------------------------------------------------ what is held out
def test_a_held_out_file_is_prepared_beside_what_is_learnt(tmp_path, tokenizer):
    write_conversations(tmp_path / "held.jsonl", conversations(5))
    _, held_out = prepared(tmp_path, conversations(9), tokenizer, held_out=str(tmp_path / "held.jsonl")).open()
    assert len(held_out) == 5


def test_a_held_out_share_does_not_depend_on_the_order(tmp_path, tokenizer):
    rows = conversations(60)
    learnt, held_out = prepared(tmp_path, rows, tokenizer, held_out_share=0.2).open()
    random.Random(0).shuffle(rows)
    _, again = prepared(tmp_path / "again", rows, tokenizer, held_out_share=0.2).open()
    assert all_of(again) == all_of(held_out)
    assert all_of(learnt) | all_of(held_out) == all_of(opened(tmp_path, rows, tokenizer))
    assert 3 <= len(held_out) == 60 - len(learnt) <= 24


def test_pieces_of_one_conversation_are_held_out_together(tmp_path, tokenizer):
    rows = [Conversation(f"c{i}_{piece}", chat("", *SHORT).messages, source=f"raw:{i}")
            for i in range(40) for piece in ("0", "2", "6.1")]  # fmt: skip
    learnt, held_out = prepared(tmp_path, rows, tokenizer, held_out_share=0.3).open()
    whole = [{name.split("_")[0] for name in all_of(data)} for data in (learnt, held_out)]
    assert not whole[0] & whole[1]
    assert len(held_out) == 3 * len(whole[1])


@pytest.mark.parametrize("source", ["", "sharegpt"])
def test_conversations_with_numbers_are_not_pieces(tmp_path, tokenizer, source):
    rows = [Conversation(f"chat_{i}", chat("", *SHORT).messages, source=source or f"raw:{i}")
            for i in range(MOST_PIECES + 1)]  # fmt: skip
    learnt, held_out = prepared(tmp_path, rows, tokenizer, held_out_share=0.3).open()
    assert len(learnt) > len(held_out) > 9


def test_a_share_that_takes_nothing_is_an_error(tmp_path, tokenizer):
    made = prepared(tmp_path, conversations(3), tokenizer, held_out_share=1e-9)
    with pytest.raises(InputError, match="held_out_share 1e-09 takes none of the 3 samples"):
        made.open()


@given(st.floats(0.01, 0.98), st.floats(0.0, 0.01))
def test_a_larger_share_holds_out_more_of_the_same(made_of_60, share, more):
    held = [set(all_of(held_apart(made_of_60, each)[1])) for each in (0.3 + share / 3, 0.3 + share / 3 + more)]
    assert held[0] <= held[1]


@pytest.fixture(scope="module")
def made_of_60(tmp_path_factory, tokenizer):
    return prepared(tmp_path_factory.mktemp("made"), conversations(60), tokenizer).learnt


# ------------------------------------------------------------------------------------------------ what is kept
def test_tokens_that_are_there_already_are_not_made_again(tmp_path, tokenizer):
    first = prepared(tmp_path, conversations(5), tokenizer)
    made = (first.learnt / "ids.bin").stat()
    assert prepared(tmp_path, conversations(5), tokenizer) == first
    assert (first.learnt / "ids.bin").stat() == made


def test_other_data_or_settings_have_tokens_of_their_own(tmp_path, tokenizer):
    settings = ({}, {"workers": 1}, {"overlong": "cut"}, {"rounds": "single"}, {"max_length": 200})
    folders = {prepared(tmp_path, conversations(5), tokenizer, **each).learnt for each in settings}
    folders |= {prepared(tmp_path, conversations(6), tokenizer).learnt}
    assert len(folders) == 5
    assert all(manifest.verify(folder).kind == "tokens" for folder in folders)


def test_what_a_killed_start_left_is_removed(tmp_path, tokenizer):
    left = tmp_path / "tokens" / ".0123456789abcdef.partial"
    left.mkdir(parents=True)
    made = prepared(tmp_path, conversations(5), tokenizer)
    assert {each.name for each in (tmp_path / "tokens").iterdir()} == {".lock", made.learnt.name}


def test_a_damaged_folder_is_not_used(tmp_path, tokenizer):
    made = prepared(tmp_path, conversations(5), tokenizer)
    os.truncate(made.learnt / "ids.bin", 10)
    with pytest.raises(IncompleteError, match=r"ids.bin is not as long as it was made; remove"):
        made.open()


# ------------------------------------------------------------------------------------------------ what people get wrong
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "a", "text": "hi"}, r"data.jsonl:2: a record needs a list under `messages` or `conversations`"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, r"data.jsonl:2: messages\[0\]: unknown role 'wizard'"),
        ({"messages": [{"role": "user"}]}, r"data.jsonl:2: messages\[0\]: a turn needs text under `content`"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, r"data.jsonl:2: it starts with assistant"),
    ],
)
def test_a_bad_row_is_one_line_that_names_it(tmp_path, tokenizer, row, message):
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "data.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(InputError, match=message) as caught:
        prepare(DataConfig(path=str(tmp_path / "data.jsonl")), tokenizer, VICUNA, 256, tmp_path / "tokens")
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_a_padding_token_is_as_good_as_any(tmp_path, world, tokenizer):
    other = load_tokenizer(world / "tokenizer")
    other.pad_token = None
    assert all_of(opened(tmp_path, conversations(5), other)) == all_of(opened(tmp_path, conversations(5), tokenizer))


def test_a_tokenizer_without_offsets_is_one_line(tmp_path):
    from transformers import ByT5Tokenizer

    with pytest.raises(VicunaError, match=r"ByT5Tokenizer has no fast \(Rust\) backend.*convert it"):
        prepared(tmp_path, conversations(5), ByT5Tokenizer())


def test_plain_text_needs_a_token_that_ends_it(tmp_path, world):
    other = load_tokenizer(world / "tokenizer")
    other.eos_token = None
    with pytest.raises(InputError, match="has no EOS token"):
        prepared(tmp_path, conversations(5), other, format="text")
