"""Near-duplicates: what is near, and that all of them are found whatever the order and however many there are."""

import multiprocessing
import random
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vicuna.conversation import Conversation, Message
from vicuna.data import near
from vicuna.data.chat import Chat, from_conversation
from vicuna.data.shingles import shingles, words

THRESHOLD = 0.8


def chat(*turns: str) -> Chat:
    """Question, answer, question, answer, ..."""
    messages = tuple(Message(("user", "assistant")[at % 2], text) for at, text in enumerate(turns))
    return from_conversation(Conversation("id", messages), "file", "[0]")


def prose(count: int, seed: int) -> str:
    """So many words of which hardly two are the same."""
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(10**6)}" for _ in range(count))


def partition(chats, **options) -> set[frozenset]:
    labels = near.near_clusters(chats, THRESHOLD, **options)
    return {frozenset(at for at, label in enumerate(labels) if label == each) for each in set(labels.tolist())}


def together(first, second, **options) -> bool:
    return len(partition([first, second], **options)) == 1


# ------------------------------------------------------------------------------------------------ words
def test_words_are_the_same_whatever_case_punctuation_and_white_space():
    plain = words(["the quick brown fox"]).hashes
    assert words(["The **quick**, brown\n\n- FOX!"]).hashes.tolist() == plain.tolist()
    assert words(["«The quick» brown fox…"]).hashes.tolist() == plain.tolist()
    assert words(["the quick brownfox"]).hashes.tolist() != plain.tolist()


@given(st.lists(st.text()))
def test_each_message_has_the_words_that_it_has_by_itself(messages):
    found = words([*messages, "a word"])
    assert len(found.breaks) == len(messages)
    for at, each in enumerate(messages):
        assert found.span(at, at).tolist() == words([each, "another"]).span(0, 0).tolist()


def test_characters_of_scripts_without_spaces_are_words():
    assert len(words(["今天天气怎么样"]).hashes) == 7
    assert len(words(["วันนี้"]).hashes) == 6
    assert len(words(["오늘 날씨"]).hashes) == 2


def test_text_without_words_is_told_apart_by_its_signs():
    assert words(["🙂 🙃"]).hashes.tolist() != words(["🙃 🙂"]).hashes.tolist()
    assert words(["?", "!"]).hashes.tolist() == words([" ?", "!\n"]).hashes.tolist()


def test_shingles_are_equal_exactly_where_the_words_are():
    hashes = words(["a b c d a b c"]).hashes
    found = shingles(hashes, 3)
    assert len(found) == 5
    assert found[0] == found[4]
    assert len(set(found.tolist())) == 4
    assert len(shingles(hashes, 9)) == len(shingles(hashes[:0], 9)) == 1


# ------------------------------------------------------------------------------------------------ what is near
def test_a_changed_word_and_a_polite_ending_make_a_near_duplicate():
    answer = prose(200, 1)
    first = chat("How do tides come about, and when are they highest in the year?", answer)
    second = chat("HOW do tides come about and when are they highest in the year, please", answer + "\n\nLet me know!")
    assert together(first, second, reworded=0.05)


def test_the_same_answer_to_another_question_is_no_near_duplicate_unless_questions_do_not_count():
    answer = prose(200, 1)
    first = chat("How do tides come about? My name is Ana, and I live by the sea.", answer)
    second = chat("How do tides come about? Answer in 300 words for a school book.", answer)
    assert not together(first, second, reworded=0.05)
    assert together(first, second, reworded=1)


def test_another_answer_to_the_same_question_is_no_near_duplicate():
    assert not together(
        chat("How do tides come about?", prose(200, 1)), chat("How do tides come about?", prose(200, 2))
    )


def test_one_word_of_a_short_question_may_differ():
    answer = prose(100, 3)
    assert together(chat("Tell me about tides", answer), chat("Tell me about tides, please", answer), reworded=0.05)
    assert not together(chat("Tell me about tides", answer), chat("Tell me about rain", answer), reworded=0.05)


def test_short_chats_are_near_only_with_the_same_words():
    assert together(chat("Hi!", "Hello."), chat("hi", "hello"), reworded=0.05)
    assert not together(chat("Hi!", "Hello."), chat("Hi!", "Hey."), reworded=0.05)
    assert not together(chat("🙂", "🙂"), chat("🙂", "🙃"), reworded=0.05)


def test_chinese_chats_are_compared_character_by_character():
    answer = "".join(chr(0x4E00 + n * 37 % 3000) for n in range(300))
    assert together(chat("潮汐是怎么来的", answer), chat("潮汐是怎么来的？", answer + "希望对你有帮助"), reworded=0.05)
    assert not together(chat("潮汐是怎么来的", answer), chat("潮汐是怎么来的", answer[::-1]), reworded=0.05)


# ------------------------------------------------------------------------------------------------ how well
def test_pairs_above_the_threshold_are_found_and_pairs_far_below_are_not():
    texts, similarity = [], []
    for seed in range(400):
        text = prose(300, seed).split()
        start = random.Random(seed).randrange(1, 140)  # the second text begins later, and goes on otherwise
        other = text[start:] + prose(start, 1000 + seed).split()
        texts += [" ".join(text), " ".join(other)]
        first, second = (set(shingles(words([each]).hashes, near.SHINGLE).tolist()) for each in texts[-2:])
        similarity.append(len(first & second) / len(first | second))
    labels = near.near_clusters(texts, THRESHOLD)
    found = np.array(labels[::2] == labels[1::2])
    exact = np.array(similarity)
    assert (exact >= 0.88).sum() > 20
    assert (exact <= 0.68).sum() > 100
    assert found[exact >= 0.88].mean() >= 0.97
    assert not found[exact <= 0.68].any()
    assert len(set(labels.tolist())) == 800 - found.sum(), "no text is near another pair's"


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_find_a_pair_at_the_threshold_with_a_probability_of_97_percent(threshold):
    rows, count = near.band_rows(threshold), near.band_count(threshold)
    assert 1 - (1 - threshold**rows) ** count >= 0.97
    assert rows * count <= near.SLOTS
    assert near.bands(near.signatures(["a b c", "d"]), threshold).shape == (2, count)


def test_signatures_are_the_same_on_every_machine():
    row = near.signatures([chat("Why is the sky blue?", "Air scatters blue light more than red light.")])[0]
    assert row.dtype == np.uint32
    assert len(row) == near.SLOTS + near.ASKED
    assert row[[0, 1, 127, 128, 132]].tolist() == [97487795, 2440309005, 3271998475, 327468656, 3704012075]
    assert int(near.bands(row[None], THRESHOLD)[0, 0]) == 5169954232285040015


def test_a_signature_does_not_depend_on_the_chats_beside_it():
    chats = [chat(prose(20, seed), prose(50, seed + 100)) for seed in range(8)]
    one_by_one = np.concatenate([near.signatures([each]) for each in chats])
    assert (near.signatures(chats) == one_by_one).all()
    assert near.signatures([]).shape == (0, one_by_one.shape[1])


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
def test_a_process_that_is_forked_after_signatures_can_make_them_too():
    texts = [prose(20, seed) for seed in range(2000)]
    expected = near.signatures(texts)
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        assert (pool.submit(near.signatures, texts).result(timeout=60) == expected).all()


# ------------------------------------------------------------------------------------------------ pairs and clusters
@given(st.lists(st.integers(0, 4), max_size=60))
def test_candidates_join_all_places_of_equal_hash_and_no_others(hashes):
    pairs = near.candidates(np.array(hashes, np.uint64))
    assert all(hashes[a] == hashes[b] and a < b for a, b in pairs.tolist())
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    assert near.clusters(pairs, len(hashes)).tolist() == [hashes.index(each) for each in hashes]


def test_candidates_are_all_pairs_of_a_small_bucket_and_few_of_a_huge_one():
    assert len(near.candidates(np.zeros(6, np.uint64))) == 15
    assert len(near.candidates(np.zeros(10_000, np.uint64))) < 5 * 10_000


@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_clusters_are_what_pairs_join_and_are_called_by_their_first(given_pairs):
    count, pairs = given_pairs
    labels = near.clusters(np.array(pairs, np.int64).reshape(-1, 2), count).tolist()
    naive = list(range(count))
    for a, b in pairs:
        low, high = sorted((naive[a], naive[b]))
        naive = [low if each == high else each for each in naive]
    assert labels == naive


@settings(max_examples=25)
@given(st.permutations(range(12)))
def test_the_same_texts_are_together_in_any_order(order):
    bases = [prose(60, seed) for seed in range(4)]
    texts = [base + ending for base in bases for ending in ("", " and so on", " or not")]
    expected = {frozenset(texts[at] for at in group) for group in partition(texts)}
    shuffled = [texts[at] for at in order]
    assert {frozenset(shuffled[at] for at in group) for group in partition(shuffled)} == expected
    assert len(expected) == 4


def test_pairs_are_checked_slice_by_slice_on_signatures_that_lie_on_disk(tmp_path, monkeypatch):
    texts = [prose(60, seed % 5) + f" {seed}" for seed in range(20)]
    rows = near.signatures(texts)
    np.save(tmp_path / "rows.npy", rows)
    pairs = np.argwhere(np.triu(np.ones((20, 20), bool), 1))
    whole = near.verified(pairs, rows, THRESHOLD)
    monkeypatch.setattr(near, "_SLICE", 7)
    on_disk = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert near.verified(pairs, on_disk, THRESHOLD).tolist() == whole.tolist()
    assert {tuple(pair) for pair in whole.tolist()} == {(a, b) for a, b in pairs.tolist() if a % 5 == b % 5}
    assert near.verified(pairs[:0], rows, THRESHOLD).shape == (0, 2)
