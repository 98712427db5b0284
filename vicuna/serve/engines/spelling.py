"""The bytes of each token, also of one that is only a part of a character."""

import json
from typing import Any

_SPACE = "\u2581"
"""What SentencePiece writes for a space."""


class Spelling:
    """What a tokenizer's ids stand for."""

    def __init__(self, tokenizer: Any) -> None:
        """
        Args:
            tokenizer: of transformers.
        """
        kinds = {each["type"] for each in decoders(tokenizer)}
        self._tokenizer = tokenizer
        self._byte_of = _letters() if "ByteLevel" in kinds else {}
        self.single_bytes = _single_bytes(tokenizer) if "ByteFallback" in kinds else {}
        """Tokens that are one byte each, for characters that have no token of their own."""
        self._known = dict(self.single_bytes)

    def __getitem__(self, index: int) -> bytes:
        """The token's bytes; none for an id that the tokenizer does not have."""
        found = self._known.get(index)
        if found is None:
            found = self._known[index] = self._spell(index)
        return found

    def _spell(self, index: int) -> bytes:
        name: str = self._tokenizer.convert_ids_to_tokens(index) or ""
        if self._byte_of:  # one letter that is none of the table's, and the whole token is plain text
            plain = any(letter not in self._byte_of for letter in name)
            return name.encode() if plain else bytes(self._byte_of[letter] for letter in name)
        return name.replace(_SPACE, " ").encode()


def decoders(tokenizer: Any) -> list[dict[str, Any]]:
    """The steps in which the library tokenizers turns this tokenizer's tokens into text, as it serialises them."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = None if backend is None else backend.decoder
    return [] if decoder is None else _steps(json.loads(decoder.__getstate__()))


def _steps(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    """A sequence of sequences as one."""
    if "decoders" in decoder:
        return [step for each in decoder["decoders"] for step in _steps(each)]
    return [decoder]


def _single_bytes(tokenizer: Any) -> dict[int, bytes]:
    ids = ((tokenizer.backend_tokenizer.token_to_id(f"<0x{byte:02X}>"), bytes([byte])) for byte in range(256))
    return {index: byte for index, byte in ids if index is not None}


def _letters() -> dict[str, int]:
    """The letters that byte-level BPE writes for bytes (GPT-2's table)."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {letter: byte for byte, letter in bytes_to_unicode().items()}
