"""OpenAI's embeddings: the job for a worker, and the reply made of its vectors."""

import asyncio
import base64
import json
import struct
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from vicuna.serve import faults
from vicuna.serve.api.requests import EmbeddingRequest
from vicuna.serve.encoding import encode
from vicuna.serve.protocol import EmbedJob


def job(asked: EmbeddingRequest, name: str, model: str) -> EmbedJob:
    """What a worker is to embed."""
    inputs = asked.inputs()
    texts = tuple(each for each in inputs if isinstance(each, str))
    tokens = tuple(tuple(each) for each in inputs if not isinstance(each, str))
    return EmbedJob.model_construct(id=name, model=model, texts=texts, tokens=tokens, dimensions=asked.dimensions)


def vectors(reply: Mapping[str, Any], count: int) -> tuple[list[str], int]:
    """A worker's vectors, each as base64 of little-endian float32, and the tokens that they cost.

    Raises:
        Fault: the worker sent something else.
    """
    found, tokens = reply.get("vectors"), reply.get("tokens")
    if not isinstance(found, list) or len(found) != count or not isinstance(tokens, int):
        raise faults.server_error("the worker did not send one vector for each text", 502, "bad_worker_reply")
    return found, tokens


async def body(
    asked: EmbeddingRequest, found: Sequence[str], tokens: int, extension: Mapping[str, Any]
) -> AsyncGenerator[bytes, None]:
    """The reply's JSON in parts; between two vectors others get their turn, as there may be millions of numbers."""
    before = b'{"object":"list","data":['
    for index, vector in enumerate(found):
        shown = encode(vector) if asked.encoding_format == "base64" else _numbers(vector)
        yield before + b'{"object":"embedding","index":%d,"embedding":%b}' % (index, shown)
        before = b","
        await asyncio.sleep(0)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    rest = encode({"model": asked.model, "usage": usage, "vicuna": extension})
    yield b"]," + rest[1:]


def _numbers(vector: str) -> bytes:
    raw = base64.b64decode(vector)
    return json.dumps(struct.unpack(f"<{len(raw) // 4}f", raw), separators=(",", ":")).encode()
