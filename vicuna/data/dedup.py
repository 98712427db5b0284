"""Conversations that are the same: exact duplicates on the normalised text of the whole conversation."""

import hashlib
import unicodedata

import numpy as np

from vicuna.data.chat import Chat
from vicuna.data.shingles import Array

_SPACE = "".join(char for char in map(chr, range(128)) if char.isspace()).encode()


def key(chat: Chat) -> bytes:
    """16 bytes that are equal for conversations which differ in white space, letter case and Unicode form only."""
    texts = [chat.system or ""]
    for each in chat.rounds:
        texts += [each.user, each.answer]
    text = "\0".join(texts)
    if text.isascii():
        plain = text.lower().encode().translate(None, _SPACE)
    else:
        folded = unicodedata.normalize("NFC", text.casefold())
        plain = "".join(folded.split()).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(plain, digest_size=16).digest()


def id_hash(name: str) -> int:
    """64 bits that stand for an id."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def groups(low: Array, high: Array) -> Array:
    """Pairs of places with equal keys, each member of a group with the group's first.

    Args:
        low, high: (n,), the two halves of the keys.

    Returns:
        int64 (m, 2), the first's place and the other's; m is the number of exact duplicates.
    """
    order = np.lexsort((high, low))  # stable: in a group the places rise
    low, high = low[order], high[order]
    again = np.zeros(len(order), bool)
    again[1:] = (low[1:] == low[:-1]) & (high[1:] == high[:-1])
    places, rank = members(again)
    later = rank > 0
    return np.stack([order[(places - rank)[later]], order[places[later]]], axis=1)


def members(again: Array) -> tuple[Array, Array]:
    """The groups of equal values in a sorted array.

    Args:
        again: (n,), whether each value equals the one before it.

    Returns:
        places of the values that are in a group of two or more, rising, and the rank of each in its group from 0.
    """
    inside = again.copy()
    inside[:-1] |= again[1:]
    places = np.flatnonzero(inside)
    each = np.arange(len(places))
    return places, each - np.maximum.accumulate(np.where(again[places], 0, each))
