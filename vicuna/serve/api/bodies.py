"""The bodies of replies as OpenAPI describes them.

Replies are written by `replies.py` without these models, which would cost too much; the tests hold every reply against
the description.
"""

from typing import Literal

from pydantic import BaseModel


class ErrorDetails(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every error."""

    error: ErrorDetails


class ModelRow(BaseModel):
    """A model, or one version of it (`name@version`)."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    version: str
    checkpoint_hash: str
    template_hash: str
    features: list[str]


class ModelList(BaseModel):
    """What is served now."""

    object: Literal["list"]
    data: list[ModelRow]


class Served(BaseModel):
    """Who answered, with which weights."""

    workers: list[str]
    checkpoint_hash: str
    version: str


class TokenUsage(BaseModel):
    """Tokens of a request and its answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Alternative(BaseModel):
    """A token that was likely."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenRow(Alternative):
    """A token of the answer."""

    top_logprobs: list[Alternative]


class ChatLogprobs(BaseModel):
    """Log probabilities of a chat's answer."""

    content: list[TokenRow]
    refusal: None


class Message(BaseModel):
    """A chat's answer."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None


class ChatChoice(BaseModel):
    """One answer of a chat."""

    index: int
    message: Message
    logprobs: ChatLogprobs | None
    finish_reason: str


class _Completion(BaseModel):
    id: str
    created: int
    model: str
    system_fingerprint: str | None
    usage: TokenUsage
    vicuna: Served


class ChatCompletion(_Completion):
    """The reply of /v1/chat/completions."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class TextLogprobs(BaseModel):
    """Log probabilities of a plain completion's tokens."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(BaseModel):
    """One answer of a plain completion."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: str


class TextCompletion(_Completion):
    """The reply of /v1/completions."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class EmbeddingRow(BaseModel):
    """One text's vector: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens of the texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """The reply of /v1/embeddings."""

    object: Literal["list"]
    data: list[EmbeddingRow]
    model: str
    usage: EmbeddingUsage
    vicuna: Served


class TokenList(BaseModel):
    """The reply of /tokenize."""

    tokens: list[int]
    count: int
    max_model_len: int


class Health(BaseModel):
    """The controller is well."""

    status: Literal["ok"]
    workers: int
    models: list[str]
