"""Drawing conversations, and splitting them into training and test sets."""

import json
import random
import shutil
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicuna import manifest
from vicuna.conversation import Conversation, Message, read_conversations, write_conversations
from vicuna.data.__main__ import main
from vicuna.data.tools.groups import joined, together
from vicuna.data.tools.keys import draw_key
from vicuna.data.tools.split_train_test import drawn
from vicuna.errors import InputError

LETTERS = string.ascii_lowercase


def chat(name, chance):
    """A conversation of random words: like no other one."""
    question, answer = (" ".join("".join(chance.choices(LETTERS, k=5)) for _ in range(n)) for n in (12, 60))
    return Conversation(name, (Message("user", question), Message("assistant", answer)), source="made up")


def chats(count, seed=0, prefix="chat"):
    chance = random.Random(seed)
    return [chat(f"{prefix}{n:04d}x", chance) for n in range(count)]


def ids(path):
    files = sorted((path / "conversations").glob("*.jsonl")) if path.is_dir() else [path]
    return [each.id for file in files for each in read_conversations(file)]


# ------------------------------------------------------------------------------------------------ sample
def test_a_draw_has_the_size_that_was_asked_for_and_keeps_the_order(tmp_path, capsys):
    write_conversations(tmp_path / "all.jsonl", chats(200))
    assert main(["sample", str(tmp_path / "all.jsonl"), "--size", "25", "--out", str(tmp_path / "some.jsonl")]) == 0
    found = ids(tmp_path / "some.jsonl")
    assert len(found) == len(set(found)) == 25
    assert found == sorted(found)
    assert found != sorted(ids(tmp_path / "all.jsonl"))[:25]
    assert "25 of 200 conversations" in capsys.readouterr().out


@pytest.mark.parametrize("amount", [["--size", "40"], ["--share", "0.2"]], ids=" ".join)
def test_a_draw_depends_on_the_seed_and_not_on_the_files_or_their_order(tmp_path, amount):
    made = chats(200)
    write_conversations(tmp_path / "one" / "all.jsonl", made)
    write_conversations(tmp_path / "two" / "a.jsonl", made[150:])
    write_conversations(tmp_path / "two" / "b.jsonl", made[:150])
    found = {}
    for name, seed in (("one", "0"), ("two", "0"), ("one", "1")):
        out = tmp_path / f"{name}{seed}.jsonl"
        assert main(["sample", str(tmp_path / name), *amount, "--seed", seed, "--out", str(out)]) == 0
        found[name, seed] = ids(out)
    assert sorted(found["one", "0"]) == sorted(found["two", "0"])
    assert found["one", "0"] != found["two", "0"]
    assert found["one", "0"] != found["one", "1"]


def test_records_without_ids_are_drawn_alike_wherever_they_stand(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "!"}]} for n in range(99)
    ]
    for name, order in (("a", rows), ("b", rows[::-1])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in order))
        out = ["--size", "20", "--out", str(tmp_path / f"{name}-out.jsonl")]
        assert main(["sample", str(tmp_path / f"{name}.jsonl"), *out]) == 0
    texts = [{each.messages[0].content for each in read_conversations(tmp_path / f"{n}-out.jsonl")} for n in "ab"]
    assert texts[0] == texts[1]


def test_a_smaller_draw_is_part_of_a_larger_one_and_a_share_comes_out_near(tmp_path):
    write_conversations(tmp_path / "all.jsonl", chats(2000))
    found = []
    for share in ("0.05", "0.3", "1"):
        out = tmp_path / f"{share}.jsonl"
        assert main(["sample", str(tmp_path / "all.jsonl"), "--share", share, "--out", str(out)]) == 0
        found.append(set(ids(out)))
    assert found[0] < found[1] < found[2]
    assert len(found[2]) == 2000
    assert 500 < len(found[1]) < 700  # 600 expected, standard deviation 20


def test_a_share_is_of_what_is_there_whatever_was_drawn_before_with_the_same_seed(tmp_path):
    write_conversations(tmp_path / "all.jsonl", chats(200))
    words = ["split-train-test", str(tmp_path / "all.jsonl"), "--out", str(tmp_path / "out"), "--share", "0.9"]
    assert main(words) == 0
    assert main(["sample", str(tmp_path / "out" / "train"), "--share", "0.1", "--out", str(tmp_path / "a.jsonl")]) == 0
    assert main(["sample", str(tmp_path / "a.jsonl"), "--share", "0.5", "--out", str(tmp_path / "b.jsonl")]) == 0
    assert (len(ids(tmp_path / "a.jsonl")), len(ids(tmp_path / "b.jsonl"))) == (18, 9)


def test_of_the_same_conversation_twice_the_first_is_drawn(tmp_path):
    write_conversations(tmp_path / "all.jsonl", chats(2) * 3)
    assert main(["sample", str(tmp_path / "all.jsonl"), "--size", "4", "--out", str(tmp_path / "some.jsonl")]) == 0
    drawn_ids = ids(tmp_path / "some.jsonl")
    assert sorted(map(drawn_ids.count, set(drawn_ids))) == [1, 3]


def test_draw_keys_are_spread_evenly():
    keys = [draw_key(each, 3) / 2**64 for each in chats(2000)]
    assert abs(np.mean(keys) - 0.5) < 0.03
    assert 0 <= min(keys) < 0.01 < 0.99 < max(keys) < 1


def test_a_drawn_folder_is_a_dataset_that_knows_its_parent(tmp_path, capsys):
    write_conversations(tmp_path / "all.jsonl", chats(30))
    words = [
        "sample",
        str(tmp_path / "all.jsonl"),
        "--size",
        "7",
        "--out",
        str(tmp_path / "out"),
        "--output.shard",
        "3",
    ]
    assert main(words) == 0
    made = manifest.verify(tmp_path / "out")
    assert (made.kind, made.facts["conversations"], made.facts["conversations_in"]) == ("dataset", 7, 30)
    assert list(made.parents) == ["all.jsonl"]
    assert [len(list(read_conversations(path))) for path in sorted((tmp_path / "out").rglob("*.jsonl"))] == [3, 3, 1]
    assert main(words) == 0
    assert "is made already" in capsys.readouterr().out
    assert main([*words, "--seed", "5"]) == 1
    assert "holds other work" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ split-train-test
def split(tmp_path, made, *words):
    write_conversations(tmp_path / "all.jsonl", made)
    assert main(["split-train-test", str(tmp_path / "all.jsonl"), "--out", str(tmp_path / "out"), *words]) == 0
    return ids(tmp_path / "out" / "train"), ids(tmp_path / "out" / "test")


def test_both_sides_together_are_the_whole_and_the_share_is_met(tmp_path):
    made = chats(300)
    train, test = split(tmp_path, made, "--share", "0.9")
    assert sorted(train + test) == [each.id for each in made]
    assert len(test) == 30
    assert train == sorted(train)
    assert all(manifest.verify(tmp_path / "out" / side).kind == "dataset" for side in ("train", "test"))


def test_near_duplicates_and_pieces_stay_on_one_side(tmp_path):
    chance, made, together_ = random.Random(1), [], []
    for each in chats(120, seed=2):
        made.append(each)
        words = each.messages[1].content.split()
        words[chance.randrange(len(words))] = "changed"
        answer = Message("assistant", " ".join(words))
        twin = Conversation("twin" + each.id, (each.messages[0], answer), source="made up")
        pieces = [chat(f"long{each.id}_{turn}", chance) for turn in ("0", "4", "4.1")]
        made += [twin, *pieces]
        together_ += [{each.id, twin.id}, {piece.id for piece in pieces}]
    chance.shuffle(made)
    train, test = split(tmp_path, made, "--share", "0.8", "--threshold", "0.6")
    assert len(test) == 120
    for group in together_:
        assert group <= set(train) or group <= set(test), group


def test_numbered_conversations_are_no_pieces(tmp_path):
    chance = random.Random(3)
    train, test = split(tmp_path, [chat(f"identity_{n}", chance) for n in range(100)], "--share", "0.9")
    assert (len(train), len(test)) == (90, 10)


def test_the_test_set_does_not_depend_on_the_order_of_the_input(tmp_path):
    made = chats(100)
    _, first = split(tmp_path / "a", made, "--share", "0.8")
    _, second = split(tmp_path / "b", made[::-1], "--share", "0.8")
    _, other = split(tmp_path / "c", made, "--share", "0.8", "--seed", "1")
    assert sorted(first) == sorted(second) != sorted(other)


def test_a_side_that_is_missing_is_made_again_and_the_other_left_alone(tmp_path, capsys):
    made = chats(50)
    train, test = split(tmp_path, made, "--share", "0.8")
    stamp = (tmp_path / "out" / "train" / "manifest.json").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "out" / "test")
    assert split(tmp_path, made, "--share", "0.8") == (train, test)
    assert (tmp_path / "out" / "train" / "manifest.json").stat().st_mtime_ns == stamp
    split(tmp_path, made, "--share", "0.8")
    assert "are made already" in capsys.readouterr().out


def test_conversations_that_are_all_alike_cannot_be_split(tmp_path, capsys):
    (one,) = chats(1)
    write_conversations(tmp_path / "all.jsonl", [Conversation(f"c{n}x", one.messages) for n in range(50)])
    words = ["split-train-test", str(tmp_path / "all.jsonl"), "--out", str(tmp_path / "out"), "--share", "0.9"]
    assert main(words) == 1
    assert "so none can be set apart" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_joining_labels_never_separates_what_either_keeps_together(a, chance):
    b = [chance.randrange(6) for _ in a]
    labels = joined(np.array(a), np.array(b))
    for i in range(len(a)):
        for k in range(i):
            if a[i] == a[k] or b[i] == b[k]:
                assert labels[i] == labels[k]
    assert set(labels) == set(range(len(set(labels))))


@given(
    st.lists(st.integers(0, 12), min_size=2, max_size=60),
    st.floats(0.01, 0.99),
    st.randoms(use_true_random=False),
)
def test_a_draw_takes_whole_groups_and_no_more_than_fits(labels, share, chance):
    groups = np.unique(labels, return_inverse=True)[1]
    keys = np.array([chance.getrandbits(64) for _ in labels], dtype=np.uint64)
    wanted = min(max(1, len(labels) - round(share * len(labels))), len(labels) - 1)
    try:
        is_test = drawn(groups, keys, share)
    except InputError:
        assert np.bincount(groups).min() > wanted
        return
    assert 0 < is_test.sum() <= wanted
    assert all(len(set(is_test[groups == group])) == 1 for group in set(groups))


def test_ids_that_share_a_stem_belong_together_where_all_numbers_are_even():
    stems = np.array([7, 7, 7, 9, 9, 11], dtype=np.uint64)
    labels = together(stems, np.array([0, 4, -1, 0, 1, -1]))
    assert labels[0] == labels[1] == labels[2]
    assert len(set(labels)) == 4


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["sample", "all.jsonl", "--out", "o.jsonl"], 2, "give either size or share"),
        (["sample", "all.jsonl", "--out", "o.jsonl", "--size", "4", "--share", "0.5"], 2, "give either size or share"),
        (["sample", "all.jsonl", "--out", "o.jsonl", "--size", "6"], 1, "more than there are: 5 conversations"),
        (["sample", "all.jsonl", "--out", "o.jsonl", "--share", "2"], 2, "share is above 0 and at most 1"),
        (["sample", "--out", "o.jsonl", "--size", "4"], 2, "inputs is missing"),
        (["sample", "all.jsonl", "--out", "o.json", "--size", "4"], 2, "ends in .jsonl, .jsonl.zst, .parquet"),
        (["sample", "all.jsonl", "--out", "all.jsonl", "--size", "4"], 1, "is one of the inputs"),
        (["sample", "none.jsonl", "--out", "o.jsonl", "--size", "4"], 1, "there is no file none.jsonl"),
        (["split-train-test", "all.jsonl", "--out", "o.jsonl"], 2, "out is a folder"),
        (["split-train-test", "all.jsonl", "--out", "o", "--share", "1"], 2, "share is between 0 and 1"),
        (["split-train-test", "one.jsonl", "--out", "o"], 1, "there is nothing to split: 1 conversations"),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_do(tmp_path, monkeypatch, capsys, words, status, message):
    monkeypatch.chdir(tmp_path)
    write_conversations(tmp_path / "all.jsonl", chats(5))
    write_conversations(tmp_path / "one.jsonl", chats(1))
    assert main(words) == status
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.jsonl", "one.jsonl"]
