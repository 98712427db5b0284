"""The bytes of each token, also of one that is only a part of a character."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\u2581"
"""What SentencePiece writes for a space."""


class Spelling:
    """What a tokenizer's ids stand for."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._byte_of = _letters() if "ByteLevel" in set(_kinds(_decoder(tokenizer))) else {}
        self._whole = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items()}
        self._known: dict[int, bytes] = {}

    def __getitem__(self, index: int) -> bytes:
        """The token's bytes; none for an id that the tokenizer does not have."""
        found = self._known.get(index)
        if found is None:
            found = self._known[index] = self._spell(index)
        return found

    def _spell(self, index: int) -> bytes:
        name: str = self._tokenizer.convert_ids_to_tokens(index) or ""
        found = _BYTE.fullmatch(name)
        if found and not self._byte_of:
            return bytes.fromhex(found[1])
        if index in self._whole:
            return self._whole[index].encode()
        if self._byte_of and all(letter in self._byte_of for letter in name):
            return bytes(self._byte_of[letter] for letter in name)
        return name.replace(_SPACE, " ").encode()


def _letters() -> dict[str, int]:
    """The letters that byte-level BPE writes for bytes (GPT-2's table)."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {letter: byte for byte, letter in bytes_to_unicode().items()}


def _decoder(tokenizer: Any) -> Mapping[str, Any]:
    """How the tokenizers library serialises the tokenizer's decoder."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = None if backend is None else backend.decoder
    return {} if decoder is None else json.loads(decoder.__getstate__())


def _kinds(decoder: Mapping[str, Any]) -> Iterator[str]:
    yield decoder.get("type", "")
    for each in decoder.get("decoders", ()):
        yield from _kinds(each)
