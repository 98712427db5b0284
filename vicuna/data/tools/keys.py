"""Numbers that stand for a conversation wherever it is stored, and the ids of its pieces."""

import re
from hashlib import blake2b
from typing import NamedTuple

from vicuna.conversation import Conversation

PLACE = re.compile(r"(?:\[\d+\]|:\d+)\Z")
"""What a place in a file ends with, as ids and sources of records without their own name it."""
_PIECE = re.compile(r"(.+)(_[0-9]{1,9}(?:\.[0-9]+)?)", re.DOTALL)


class PieceId(NamedTuple):
    """An id taken apart: `abc_4` is the piece of `abc` that begins at turn 4."""

    stem: str
    tail: str = ""
    """`_4`, or `_4.1` for the second part of a carried answer; "" for an id without a number at its end."""

    @property
    def turn(self) -> int | None:
        """The piece's first turn."""
        return int(self.tail[1:].partition(".")[0]) if self.tail else None


def piece_id(name: str) -> PieceId:
    """Take an id apart. A number at the end is no proof of a piece: other people number whole conversations so."""
    match = _PIECE.fullmatch(name)
    return PieceId(match[1], match[2]) if match else PieceId(name)


def content_key(conversation: Conversation) -> int:
    """128 bits that are equal for conversations with the same messages."""
    digest = blake2b(digest_size=16)
    _add_messages(digest, conversation)
    return int.from_bytes(digest.digest())


def draw_key(conversation: Conversation, seed: int) -> int:
    """A random number from 0 to 2^64 - 1 that depends on the seed, the record's own id and the messages only.

    So it is the same in whatever file, at whatever place and under whatever name of the file the record stands.
    """
    digest = blake2b(digest_size=8, key=str(seed).encode())
    own = "" if PLACE.search(conversation.id) else conversation.id  # a record without an id is named by its place
    digest.update(own.encode("utf-8", "surrogatepass") + b"\0")
    _add_messages(digest, conversation)
    return int.from_bytes(digest.digest())


def _add_messages(digest: blake2b, conversation: Conversation) -> None:
    for message in conversation.messages:
        text = message.content.encode("utf-8", "surrogatepass")
        digest.update(f"{message.role} {message.train} {len(text)}\0".encode())
        digest.update(text)
