"""What clients send: OpenAI's requests, checked field by field.

Shapes: OpenAI's API reference, chat completions and completions, November 2026.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticUseDefault

from vicuna.serve.faults import invalid, unsupported
from vicuna.serve.protocol import Finite, Sampling, Turn

MAX_STOPS = 16
MAX_STOP_LENGTH = 1000
MAX_MESSAGES = 10_000
MAX_PARTS = 1000
MAX_PROMPTS = 2048

# fail_fast: checking a list ends at its first mistake; describing millions of them would hold everybody else up.


def _refer_null_to_default(value: Any) -> Any:
    if value is None:
        raise PydanticUseDefault
    return value


NullIsDefault = BeforeValidator(_refer_null_to_default)
Flag = Annotated[bool, NullIsDefault]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, fail_fast=True)]


class TextPart(BaseModel):
    """A part of a message's content; only text is understood."""

    type: str
    text: str | None = None


class ChatMessage(BaseModel):
    """A message as clients send it."""

    role: str
    content: str | Annotated[list[TextPart], Field(max_length=MAX_PARTS, fail_fast=True)] | None = None

    def turn(self, index: int) -> Turn:
        """The message as plain text.

        Raises:
            Fault: a role or a kind of content that the engines do not know.
        """
        role = "system" if self.role == "developer" else self.role
        where = f"messages.{index}"
        if role not in ("system", "user", "assistant"):
            known = "system, developer, user, assistant"
            raise invalid(f"{where}.role is one of {known}; got {self.role!r}", param=f"{where}.role")
        if self.content is None:
            raise invalid(f"{where}.content is missing", param=f"{where}.content")
        if isinstance(self.content, str):
            return Turn.model_construct(role=role, content=self.content)
        for part in self.content:
            if part.type != "text" or part.text is None:
                raise unsupported(f"{where}.content", f"only parts of type 'text' are understood; got {part.type!r}")
        return Turn.model_construct(role=role, content="".join(part.text or "" for part in self.content))


class StreamOptions(BaseModel):
    """What a stream carries beside the text."""

    include_usage: bool | None = None


class _Request(BaseModel):
    """What chat and plain completions share. A field that is null has its default; unknown fields are let through."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: Annotated[str, Field(min_length=1)]
    stream: Flag = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128), NullIsDefault] = 1
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None
    stop_token_ids: Annotated[list[int], Field(max_length=256, fail_fast=True)] | None = None
    seed: int | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[Finite, Field(ge=0, le=10), NullIsDefault] = 1.0
    top_p: Annotated[Finite, Field(gt=0, le=1), NullIsDefault] = 1.0
    top_k: Annotated[int, Field(ge=-1), NullIsDefault] = 0
    min_p: Annotated[Finite, Field(ge=0, lt=1), NullIsDefault] = 0.0
    presence_penalty: Annotated[Finite, Field(ge=-2, le=2), NullIsDefault] = 0.0
    frequency_penalty: Annotated[Finite, Field(ge=-2, le=2), NullIsDefault] = 0.0
    repetition_penalty: Annotated[Finite, Field(gt=0, le=10), NullIsDefault] = 1.0
    ignore_eos: Flag = False
    logit_bias: dict[str, Any] | None = None

    def sampling(self, seed: int) -> Sampling:
        """The settings for one answer."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling.model_construct(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=max(0, self.top_k),
            min_p=self.min_p,
            max_tokens=self.limit(),
            seed=seed,
            stop=tuple(stops),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            ignore_eos=self.ignore_eos,
        )

    def limit(self) -> int | None:
        """Most tokens of one answer; None leaves it to the context."""
        return self.max_tokens

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def refuse_unsupported(self) -> None:
        """Name the first setting that no engine here has."""
        if self.logit_bias:
            raise unsupported("logit_bias", "not supported by this service")


class ChatRequest(_Request):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: Flag = False
    modalities: list[str] | None = None

    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    def refuse_unsupported(self) -> None:
        super().refuse_unsupported()
        if self.tools or self.functions:
            raise unsupported("tools" if self.tools else "functions", "the models served here cannot call tools")
        if self.response_format and self.response_format.get("type") != "text":
            raise unsupported("response_format", "only {'type': 'text'} is supported")
        if self.logprobs:
            raise unsupported("logprobs", "not supported by this service")
        if self.modalities and self.modalities != ["text"]:
            raise unsupported("modalities", "only text is supported")


class CompletionRequest(_Request):
    """POST /v1/completions."""

    prompt: (
        str
        | Tokens
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
        | Annotated[list[Tokens], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
    )
    echo: Flag = False
    suffix: str | None = None
    best_of: Annotated[int, NullIsDefault] = 1
    logprobs: int | None = None

    def limit(self) -> int | None:
        return self.max_tokens or 16  # OpenAI's default for this endpoint

    def prompts(self) -> list[str | list[int]]:
        """Each prompt that is to be continued, as text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        rows: list[Any] = list(self.prompt)
        return [rows] if isinstance(rows[0], int) else rows

    def refuse_unsupported(self) -> None:
        super().refuse_unsupported()
        if self.suffix:
            raise unsupported("suffix", "text can be continued, not filled in")
        if self.best_of > 1:
            raise unsupported("best_of", "only 1 is supported; use n")
        if self.logprobs is not None:
            raise unsupported("logprobs", "not supported by this service")
        if self.echo and any(not isinstance(each, str) for each in self.prompts()):
            raise unsupported("echo", "only prompts given as text can be echoed")
