"""Near-duplicates: MinHash signatures, bands that bring similar chats together, and a check of each pair found.

All functions work on arrays of numbers, one row for each chat, so the caller decides how many chats are in memory at
once. Sources: Broder 1997 (MinHash, and the sketch of smallest hashes), Indyk and Motwani 1998 (bands); the MinHash
itself is rensa's R-MinHash, after Dahlgaard, Knudsen and Thorup 2017 (Fast Similarity Sketching).
"""

from collections.abc import Iterable, Sequence

import numpy as np

from vicuna.data.chat import Chat
from vicuna.data.config import DedupConfig
from vicuna.data.dedup import members
from vicuna.data.shingles import Array, shingles, words

SHINGLE = 5
"""Words in a shingle."""
SLOTS = 128
"""MinHash values of a signature."""
ASKED = 128
"""Hashes of the questions' words in a signature: all of them where there are no more, else the smallest."""
_RECALL = 0.97
"""Least probability that a pair just at the threshold shares a band."""
_SEED = 1
_NONE = np.uint32(0xFFFFFFFF)
_NEIGHBOURS = 4
_SLICE = 1 << 12


NOTHING = np.full(SLOTS + ASKED, _NONE)
"""The signature of a chat that has no rounds left."""


def signature(chat: Chat | str) -> Array:
    """What a chat's shingles and its questions' words are like.

    Returns:
        uint32 (SLOTS + ASKED,): MinHash of the runs of SHINGLE words in questions, answers and system prompt, and the
        smallest different hashes of the questions' words in rising order. A chat of fewer words is one shingle, so it
        is near only to chats of the same words. A text by itself has no questions.
    """
    from rensa import RMinHash

    questions = 0 if isinstance(chat, str) else sum(len(each.users) for each in chat.rounds)
    found = words((chat,) if isinstance(chat, str) else chat.texts())
    runs = shingles(found.hashes, SHINGLE)
    asked = np.unique(found.span(0, questions - 1).astype(np.uint32))[:ASKED] if questions else runs[:0]
    row = np.full(SLOTS + ASKED, _NONE)
    row[SLOTS : SLOTS + len(asked)] = asked
    # one chat at a time: for many the library starts threads, and a process forked after that would wait for them
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(runs, np.array([0, len(runs)], np.uint64), SLOTS, _SEED)
    row[:SLOTS] = matrix.to_rows()[0]
    return row


def signatures(chats: Iterable[Chat | str]) -> Array:
    """The signatures of several chats, uint32 (n, SLOTS + ASKED)."""
    rows = [signature(each) for each in chats]
    return np.stack(rows) if rows else np.zeros((0, SLOTS + ASKED), np.uint32)


def band_rows(threshold: float) -> int:
    """Values in a band: as many as still find a pair at the threshold with a probability of 0.97."""
    fits = (rows for rows in range(SLOTS, 1, -1) if 1 - (1 - threshold**rows) ** (SLOTS // rows) >= _RECALL)
    return next(fits, 1)


def band_count(threshold: float) -> int:
    """How many bands a signature has."""
    return SLOTS // band_rows(threshold)


def bands(rows: Array, threshold: float) -> Array:
    """One hash for each band of each signature: uint64 (n, band_count(threshold)); equal where the values are."""
    size, count = band_rows(threshold), band_count(threshold)
    values = rows[:, : size * count].reshape(len(rows), count, size).astype(np.uint64)
    found = np.zeros((len(rows), count), np.uint64)
    for at in range(size):
        found = (found ^ values[:, :, at]) * np.uint64(0x9FB21C651E98DF25)
        found ^= found >> np.uint64(28)
    return found


def candidates(hashes: Array) -> Array:
    """Pairs of places whose hashes are equal, linear in their number.

    Each member of a bucket is paired with the first of it and with the four before it: all pairs of up to six members,
    and at most five pairs for each member of a larger one, however large. A pair that is passed over in one band has
    other bands, and a chain to join it to its cluster.

    Args:
        hashes: (n,), one band of all chats.

    Returns:
        int64 (m, 2), the smaller place first; each pair once.
    """
    order = np.argsort(hashes, kind="stable")  # stable: in a bucket the places rise
    again = np.zeros(len(order), bool)
    again[1:] = hashes[order[1:]] == hashes[order[:-1]]
    places, rank = members(again)
    found = []
    for step in range(1, _NEIGHBOURS + 1):
        later = places[rank >= step]
        found.append(np.stack([order[later - step], order[later]], axis=1))
    far = rank > _NEIGHBOURS
    found.append(np.stack([order[(places - rank)[far]], order[places[far]]], axis=1))
    return np.concatenate(found)


def verified(pairs: Array, rows: Array, threshold: float, reworded: float = DedupConfig.reworded) -> Array:
    """The pairs that are near-duplicates by their whole signatures.

    Args:
        pairs: (m, 2) places in `rows`.
        rows: (n, SLOTS + ASKED) signatures; may lie on disk, a slice of pairs is read at a time.
        threshold: least share of equal MinHash values, which estimates the Jaccard similarity of the shingles.
        reworded: most share of the questions' words that only one of the two has; one word always may.
    """
    kept = []
    for at in range(0, len(pairs), _SLICE):
        some = pairs[at : at + _SLICE]
        first, second = rows[some[:, 0]], rows[some[:, 1]]
        near = (first[:, :SLOTS] == second[:, :SLOTS]).sum(axis=1) >= threshold * SLOTS
        some, first, second = some[near], first[near, SLOTS:], second[near, SLOTS:]
        kept.append(some[_same_questions(first, second, reworded)])
    return np.concatenate(kept) if kept else pairs


def _same_questions(first: Array, second: Array, reworded: float) -> Array:
    """Whether few enough words stand on one side only, told from the smallest different hashes of both together."""
    both = np.sort(np.concatenate([first, second], axis=1), axis=1)
    known = both != _NONE
    twice = np.zeros(both.shape, bool)
    twice[:, 1:] = (both[:, 1:] == both[:, :-1]) & known[:, 1:]
    fresh = ~twice & known
    sampled = np.cumsum(fresh, axis=1) <= ASKED
    every = (fresh & sampled).sum(axis=1)
    same: Array = every - (twice & sampled).sum(axis=1) <= np.maximum(1, reworded * every)
    return same


def clusters(pairs: Array, count: int) -> Array:
    """Which places belong together, directly or over others.

    Args:
        pairs: (m, 2) places below `count`.

    Returns:
        int64 (count,): the smallest place of the cluster; a place without pairs is its own cluster.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    labels = np.arange(count)
    places, ends = np.unique(pairs, return_inverse=True)
    if len(places):
        ends = ends.reshape(pairs.shape)
        graph = coo_array((np.ones(len(pairs), bool), (ends[:, 0], ends[:, 1])), shape=(len(places), len(places)))
        _, components = connected_components(graph, directed=False)
        _, firsts = np.unique(components, return_index=True)  # places rise, so the first is the smallest
        labels[places] = places[firsts[components]]
    return labels


def near_clusters(chats: Sequence[Chat | str], threshold: float, reworded: float = 1) -> Array:
    """Clusters of near-duplicates among chats in memory (1 kB for each); see `clusters`.

    By default the questions are not looked at by themselves: chats with the same answer to another question count.
    """
    rows = signatures(chats)
    found = [candidates(band) for band in bands(rows, threshold).T]
    pairs = np.unique(np.concatenate(found), axis=0)
    return clusters(verified(pairs, rows, threshold, reworded), len(rows))
