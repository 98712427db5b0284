"""Log probabilities of an answer's tokens as OpenAI's two APIs show them.

An engine gives one row per token: `token`, `logprob`, `bytes`, and `top_logprobs` with such rows of the likeliest
tokens. Chats show the rows as they are; plain completions show four lists side by side.
"""

import codecs
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def chat(rows: Sequence[Row]) -> dict[str, Any]:
    """The `logprobs` of a chat's choice."""
    return {"content": list(rows), "refusal": None}


class Columns:
    """The `logprobs` of a plain completion's choice, for its rows as they come."""

    def __init__(self, offset: int = 0) -> None:
        """`offset`: characters of the choice's text before the first token (an echoed prompt)."""
        self._offset = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def of(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The next tokens, each with the place of its first character in the text."""
        offsets = []
        for row in rows:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(_bytes(row)))
        return {
            "tokens": [_name(row) for row in rows],
            "token_logprobs": [row["logprob"] for row in rows],
            "top_logprobs": [{_name(each): each["logprob"] for each in [*row["top_logprobs"], row]} for row in rows],
            "text_offset": offsets,
        }


def _bytes(row: Row) -> bytes:
    return row["token"].encode("utf-8", "replace") if row["bytes"] is None else bytes(row["bytes"])


def _name(row: Row) -> str:
    """The token's text; that of a part of a character as OpenAI writes it, since all of them would look the same."""
    content = _bytes(row)
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{each:02x}" for each in content)
