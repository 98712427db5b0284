"""What travels between controllers and workers, as JSON over HTTP.

A worker registers with each controller (`Registration`), gives signs of life (`Heartbeat`) and leaves (`Leave`). A
controller sends a worker one `Job` per answer, or an `EmbedJob`. An answer comes back as JSON lines:

    {"prompt_tokens": 7}                                    first; the prompt's size
    {"text": "Hel", "ids": [12], "logprobs": [...]}         a piece; `logprobs`, `delta` only where asked for
    {"text": "lo", "ids": [9, 2], "finish": "stop"}         the last piece; `usage` where the engine counts by itself
    (an empty line)                                         a sign of life: the engine is at work
    {"moved": "draining"}                                   the worker hands the rest of the answer to another
    {"error": {"message", "type", "param", "code", "status"}}
"""

from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vicuna.serve.config import LONGEST_NAME
from vicuna.serve.faults import first_problem

PROTOCOL = 2
"""Version of the messages between controller and workers; both must agree."""
BEATS_PER_LEASE = 3
"""Heartbeats that a worker sends at least while a lease runs."""
ADDRESSEE = "x-vicuna-worker"
"""Header of a job: the id of the worker that it is meant for."""
ModelT = TypeVar("ModelT", bound=BaseModel)
Finite = Annotated[float, Field(allow_inf_nan=False)]
WorkerId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,100}$")]
Hash = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{0,200}$")]
"""As worker ids, a plain word: both travel in headers."""

FEATURES: Final = {
    "chat": "answer chats",
    "completions": "continue plain text",
    "token_prompts": "continue token ids",
    "embeddings": "embed text",
    "logprobs": "give log probabilities",
    "tools": "call tools",
    "response_format": "answer in a given format",
    "logit_bias": "change the odds of single tokens",
    "images": "read messages with parts that are not text",
    "tokenize": "show tokens",
    "resume": "continue an answer that another worker began",
}
"""What an engine may be able to do, in words for error messages."""


class ServedModel(BaseModel):
    """A model under one of its names, with the hashes that tell whether two workers serve the same thing."""

    model_config = ConfigDict(frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME, pattern=r"^[^@]+$")]
    checkpoint_hash: Hash = ""
    template_hash: Hash = ""
    max_length: Annotated[int, Field(ge=1)]
    version: Annotated[str, Field(max_length=LONGEST_NAME, pattern=r"^[^@]*$")] = ""
    """Label of this version, as in `name@version`; "" where the operator gave none."""
    features: frozenset[str] = frozenset()
    """What its engine can do; of FEATURES."""

    def same_version(self, other: "ServedModel") -> bool:
        """Whether an answer begun on one may go on on the other."""
        return (self.checkpoint_hash, self.template_hash) == (other.checkpoint_hash, other.template_hash)


class Registration(BaseModel):
    """A worker asks to join a fleet."""

    protocol: int = PROTOCOL
    worker_id: WorkerId
    address: Annotated[str, Field(pattern=r"^https?://[^/\s]+$", max_length=300)]
    engine: Annotated[str, Field(max_length=LONGEST_NAME)] = ""
    models: Annotated[list[ServedModel], Field(min_length=1, max_length=100)]
    capacity: Annotated[int, Field(ge=1, le=100_000)]
    started: Finite = 0.0
    """When the worker began, in seconds since 1970: of two versions of a model, that of the oldest worker is active."""


class Heartbeat(BaseModel):
    """A worker's sign of life."""

    worker_id: WorkerId
    draining: bool = False
    running: Annotated[int, Field(ge=0)] = 0
    """Answers that it computes, whichever controller sent them."""
    load: Annotated[dict[str, Finite], Field(max_length=100)] = {}


class Leave(BaseModel):
    """A worker goes; it takes no new work."""

    worker_id: WorkerId


class Which(BaseModel):
    """An operator names a worker."""

    worker: Annotated[str, Field(min_length=1, max_length=300)]
    """Its id or its address."""


class Sampling(BaseModel):
    """How the tokens of one answer are chosen and when it ends."""

    model_config = ConfigDict(frozen=True)

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int | None = None
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    ignore_eos: bool = False


class Turn(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(frozen=True)

    role: Literal["system", "user", "assistant"]
    content: str


class Job(BaseModel):
    """One answer to compute. With `emitted` or `shown` set, an answer that another worker began is continued.

    Exactly one of `messages` (a chat), `prompt` (plain text) and `tokens` (ids) is given.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    model: str
    messages: tuple[Turn, ...] | None = None
    prompt: str | None = None
    tokens: tuple[int, ...] | None = None
    sampling: Sampling = Sampling()
    logprobs: int | None = None
    """How many alternatives to give for each token (0: the token's own log probability alone); None: nothing."""
    extras: dict[str, Any] = {}
    """Fields of the client's request for engines that have more than text (`tools`, `response_format`, `logit_bias`,
    `messages` as they came), untouched. A worker gets them only if its model has the features that they need."""
    emitted: tuple[int, ...] = ()
    """Token ids that the client's answer consists of so far; empty where the engine has none to give."""
    shown: str = ""
    """Text that the client has so far."""

    @property
    def prompt_field(self) -> str:
        """The field of the client's request that the prompt came from."""
        return "prompt" if self.messages is None else "messages"


class EmbedJob(BaseModel):
    """Texts, or token ids, to embed."""

    model_config = ConfigDict(frozen=True)

    id: str
    model: str
    texts: tuple[str, ...] = ()
    tokens: tuple[tuple[int, ...], ...] = ()
    """Instead of texts."""
    dimensions: int | None = None
    """Length of the vectors; None: the model's own."""


def parse(cls: type[ModelT], body: bytes) -> ModelT:
    """Read a request's body.

    Raises:
        Fault: it is not JSON, or not of this shape; `param` names the field.
    """
    try:
        return cls.model_validate_json(body)
    except ValidationError as error:
        raise first_problem(error.errors(include_url=False, include_input=False)) from None
