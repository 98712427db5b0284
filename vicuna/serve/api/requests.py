"""What clients send: OpenAI's requests, checked field by field.

Shapes: OpenAI's API reference, chat completions, completions and embeddings, November 2026; `top_k`, `min_p`,
`repetition_penalty`, `stop_token_ids`, `ignore_eos` and `priority` after vLLM. A field that is null has its default and
a field that is not known is let through.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError, PydanticUseDefault, from_json

from vicuna.serve.api.messages import Messages, Object, Tools
from vicuna.serve.faults import Fault, invalid, unsupported
from vicuna.serve.protocol import Finite, Sampling

LONGEST_MODEL = 500
"""Characters of a model's name with its version."""
MAX_STOPS = 16
MAX_STOP_LENGTH = 1000
MAX_PROMPTS = 2048
MAX_BIASES = 1024
MAX_DIMENSIONS = 65_536
LARGEST = 2**31 - 1
COMPLETION_TOKENS = 16
"""OpenAI's default of `max_tokens` where plain text is continued."""
PASSED = {
    "tools": ("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"),
    "response_format": ("response_format",),
    "logit_bias": ("logit_bias",),
}
"""Fields that go to the engine as they came, by the feature that they need."""

# fail_fast: checking a list ends at its first mistake; describing millions of them would hold everybody else up.


def _refer_null_to_default(value: Any) -> Any:
    if value is None:
        raise PydanticUseDefault
    return value


def _refuse_many(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > MAX_BIASES:
        raise PydanticCustomError("too_long", f"Dictionary should have at most {MAX_BIASES} items")
    return value


NullIsDefault = BeforeValidator(_refer_null_to_default)
Flag = Annotated[bool, NullIsDefault]
Count = Annotated[int, Field(ge=1, le=LARGEST)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
TokenId = Annotated[int, Field(ge=0, le=LARGEST)]
Tokens = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
Bias = Annotated[Finite, Field(ge=-100, le=100)]
Biases = Annotated[
    dict[str, Bias],
    BeforeValidator(_refuse_many),
    Field(json_schema_extra={"maxProperties": MAX_BIASES, "propertyNames": {"pattern": "^[0-9]{1,9}$"}}),
]


class StreamOptions(BaseModel):
    """What a stream carries beside the text."""

    include_usage: bool | None = None


class _Request(BaseModel):
    """What every request has."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: Annotated[str, Field(min_length=1, max_length=LONGEST_MODEL)]
    priority: Annotated[int, Field(ge=-LARGEST, le=LARGEST), NullIsDefault] = 0
    """The lower, the sooner."""


class _AnswerRequest(_Request):
    """What chat and plain completions share."""

    stream: Flag = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128), NullIsDefault] = 1
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=256, fail_fast=True)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    max_tokens: Count | None = None
    temperature: Annotated[Finite, Field(ge=0, le=10), NullIsDefault] = 1.0
    top_p: Annotated[Finite, Field(gt=0, le=1), NullIsDefault] = 1.0
    top_k: Annotated[int, Field(ge=-1, le=LARGEST), NullIsDefault] = 0
    min_p: Annotated[Finite, Field(ge=0, lt=1), NullIsDefault] = 0.0
    presence_penalty: Annotated[Finite, Field(ge=-2, le=2), NullIsDefault] = 0.0
    frequency_penalty: Annotated[Finite, Field(ge=-2, le=2), NullIsDefault] = 0.0
    repetition_penalty: Annotated[Finite, Field(ge=0.01, le=10), NullIsDefault] = 1.0
    ignore_eos: Flag = False
    logit_bias: Biases | None = None

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

    def check_bias(self) -> None:
        """Raise a Fault where `logit_bias` names something that is no token id."""
        for key in self.logit_bias or ():
            if not (key.isascii() and key.isdigit() and len(key) < 10):
                raise invalid(f"logit_bias: keys are token ids; got {key[:50]!r}", param="logit_bias")


class ChatRequest(_AnswerRequest):
    """POST /v1/chat/completions."""

    messages: Messages
    max_completion_tokens: Count | None = None
    tools: Tools | None = None
    tool_choice: str | Object | None = None
    parallel_tool_calls: bool | None = None
    functions: Tools | None = None
    function_call: str | Object | None = None
    response_format: Annotated[Object, Field(json_schema_extra={"required": ["type"]})] | None = None
    logprobs: Flag = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    modalities: list[str] | None = None

    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    def alternatives(self) -> int | None:
        """For `Job.logprobs`.

        Raises:
            Fault: alternatives are asked for without the log probabilities.
        """
        if self.logprobs:
            return self.top_logprobs or 0
        if self.top_logprobs:
            raise invalid("top_logprobs is only given together with logprobs: true", param="top_logprobs")
        return None

    def needs(self) -> set[str]:
        """What an engine must be able to do.

        Raises:
            Fault: something that no engine can do.
        """
        self.check_bias()
        if self.modalities and self.modalities != ["text"]:
            raise unsupported("modalities", "answers are text")
        needs = {"chat"}.union(*(message.needs() for message in self.messages))
        if self.tools or self.functions:
            needs.add("tools")
        if self.response_format is not None and _kind(self.response_format) != "text":
            needs.add("response_format")
        if self.logit_bias:
            needs.add("logit_bias")
        if self.logprobs:
            needs.add("logprobs")
        return needs


class CompletionRequest(_AnswerRequest):
    """POST /v1/completions."""

    prompt: (
        str
        | Tokens
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
        | Annotated[list[Tokens], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
    )
    echo: Flag = False
    suffix: str | None = None
    best_of: Annotated[int, Field(ge=1, le=128)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    def limit(self) -> int | None:
        return self.max_tokens or COMPLETION_TOKENS

    def prompts(self) -> list[str | list[int]]:
        """Each prompt that is to be continued, as text or as token ids."""
        return _each(self.prompt)

    def needs(self) -> set[str]:
        """What an engine must be able to do.

        Raises:
            Fault: something that no engine can do.
        """
        self.check_bias()
        prompts = self.prompts()
        if self.suffix:
            raise unsupported("suffix", "text can be continued, not filled in")
        if (self.best_of or 1) > self.n:
            raise unsupported("best_of", f"all of the {self.n} answers are given, none is chosen; use n")
        if self.echo and not isinstance(prompts[0], str):
            raise unsupported("echo", "only prompts given as text can be echoed")
        if self.echo and self.logprobs is not None:
            raise unsupported("logprobs", "log probabilities of the prompt are not computed; leave out echo")
        needs = {"completions" if isinstance(prompts[0], str) else "token_prompts"}
        if self.logit_bias:
            needs.add("logit_bias")
        if self.logprobs is not None:
            needs.add("logprobs")
        return needs


Text = Annotated[str, Field(min_length=1)]


class EmbeddingRequest(_Request):
    """POST /v1/embeddings."""

    input: (
        Text
        | Tokens
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
        | Annotated[list[Tokens], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
    )
    encoding_format: Annotated[Literal["float", "base64"], NullIsDefault] = "float"
    dimensions: Annotated[int, Field(ge=1, le=MAX_DIMENSIONS)] | None = None

    def inputs(self) -> list[str | list[int]]:
        """Each text that is to be embedded, as text or as token ids."""
        return _each(self.input)


class TokenizeRequest(_Request):
    """POST /tokenize: a prompt, or messages as an engine would read them."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["prompt"]}, {"required": ["messages"]}]})

    prompt: str | None = None
    messages: Messages | None = None

    def needs(self) -> set[str]:
        """What an engine must be able to do.

        Raises:
            Fault: both were given, or neither.
        """
        if (self.prompt is None) == (self.messages is None):
            raise invalid("give either prompt or messages", param="prompt")
        if self.messages is None:
            return {"tokenize"}
        return {"tokenize", "chat"}.union(*(message.needs() for message in self.messages))


def extras(needs: set[str], body: bytes) -> Object:
    """The fields of a request that engines get as they came; none for a request that needs no more than text."""
    wanted = [name for need in PASSED if need in needs for name in PASSED[need]]
    if needs & {"tools", "images"} and needs & {"chat"}:
        wanted.append("messages")
    if not wanted:
        return {}
    given = from_json(body)
    return {name: given[name] for name in wanted if given.get(name) is not None}


def timeout(given: str | None) -> float:
    """Seconds that the client has for its answer, from the header x-vicuna-timeout; infinity where it sets no limit.

    Raises:
        Fault: it is no such number.
    """
    if given is None:
        return math.inf
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        message = f"x-vicuna-timeout is a time in seconds above 0; got {given[:50]!r}"
        raise Fault(message, status=400, param="x-vicuna-timeout")
    return seconds


def _each(given: Any) -> list[str | list[int]]:
    if isinstance(given, str):
        return [given]
    rows: list[Any] = given
    return [rows] if isinstance(rows[0], int) else rows


def _kind(given: Object) -> str:
    kind = given.get("type")
    if not isinstance(kind, str):
        raise invalid("response_format.type is missing", param="response_format.type")
    return kind
