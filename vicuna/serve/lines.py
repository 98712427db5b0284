"""What a worker answers: JSON lines, in the shapes that `protocol` describes."""

import base64
import json
from typing import Any

from vicuna.serve.engines import Embedded, Piece
from vicuna.serve.faults import Fault

_encode = json.JSONEncoder(separators=(",", ":")).encode


def of_piece(piece: Piece) -> bytes:
    """A bit of an answer."""
    if piece.prompt_tokens is not None:
        return b'{"prompt_tokens":%d}\n' % piece.prompt_tokens
    row: dict[str, Any] = {"text": piece.text, "ids": piece.ids}
    if piece.finish:
        row["finish"] = piece.finish
    for name in ("logprobs", "delta", "usage"):
        if (value := getattr(piece, name)) is not None:
            row[name] = value
    return _line(row)


def of_vectors(embedded: Embedded) -> bytes:
    """All vectors of a job; for a thread, because there may be millions of numbers."""
    import numpy as np

    rows = (np.asarray(vector, dtype="<f4").tobytes() for vector in embedded.vectors)
    return _line({"vectors": [base64.b64encode(row).decode("ascii") for row in rows], "tokens": embedded.tokens})


def of_move(why: str) -> bytes:
    """Another worker goes on."""
    return _line({"moved": why})


def of_fault(fault: Fault) -> bytes:
    """An error, with the status that it would have had before the first line."""
    body = fault.body()
    body["error"]["status"] = fault.status
    return _line(body)


def _line(row: dict[str, Any]) -> bytes:
    return _encode(row).encode() + b"\n"
