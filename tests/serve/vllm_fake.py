"""A stand-in for the package vllm, with the few names that we call: it notes what it is given and replays outputs.

It knows nothing of models. Names, fields and behaviour are those of vLLM 0.32 and 0.33.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any


class VLLMClientError(Exception):
    pass


class VLLMValidationError(VLLMClientError):
    def __init__(self, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter


class GracefulHTTPError(Exception):
    pass


class RetryableRequestError(Exception):
    pass


class EngineDeadError(Exception):
    pass


class RequestOutputKind(Enum):
    CUMULATIVE = 0
    DELTA = 1


@dataclass
class SamplingParams:
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] | None = None
    logprobs: int | None = None
    max_tokens: int | None = 16
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    detokenize: bool = True
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE

    def __post_init__(self) -> None:
        if self.temperature > 2:
            raise VLLMValidationError(f"temperature must be in [0, 2], got {self.temperature}.", "temperature")


@dataclass
class AsyncEngineArgs:
    model: str
    skip_tokenizer_init: bool = False
    max_model_len: int | None = None
    dtype: str = "auto"
    enable_prefix_caching: bool | None = None
    gpu_memory_utilization: float = 0.92
    tensor_parallel_size: int = 1
    data_parallel_size: int = 1
    max_num_seqs: int | None = None
    enable_lora: bool = False
    max_loras: int = 1
    max_lora_rank: int = 16
    disable_log_stats: bool = False
    enforce_eager: bool = False
    quantization: str | None = None


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


@dataclass(frozen=True)
class Logprob:
    logprob: float
    rank: int


@dataclass
class Asked:
    """One request as the engine got it."""

    ids: list[int]
    params: SamplingParams
    adapter: LoRARequest | None


@dataclass
class Play:
    """What the engine does, and what was done to it."""

    chunks: list[list[int]] = field(default_factory=lambda: [[5]])
    """New ids of each output of the next answers; cut at `max_tokens` and at stop ids, as vLLM does it."""
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    error: Exception | None = None
    """What the next answers raise."""
    gives_up: bool = False
    """Whether the next answers end because the engine is being stopped."""
    endless: bool = False
    """Whether the next answers never end."""
    refuses: Exception | None = None
    """What starting the engine raises."""
    adapter_error: Exception | None = None
    arguments: AsyncEngineArgs | None = None
    stats: Any = None
    asked: list[Asked] = field(default_factory=list)
    adapters: list[LoRARequest] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    dead: bool = False
    closed: bool = False


class Engine:
    """`AsyncLLM`."""

    def __init__(self, play: Play) -> None:
        self._play = play
        slots = play.arguments.max_num_seqs if play.arguments else None
        self.vllm_config = SimpleNamespace(
            scheduler_config=SimpleNamespace(max_num_seqs=slots or 256),
            cache_config=SimpleNamespace(kv_cache_size_tokens=4096),
        )

    @property
    def errored(self) -> bool:
        return self._play.dead

    async def add_lora(self, adapter: LoRARequest) -> bool:
        if self._play.adapter_error:
            raise self._play.adapter_error
        self._play.adapters.append(adapter)
        return True

    def shutdown(self, timeout: float | None = None) -> None:
        self._play.closed = True

    async def generate(
        self, prompt: dict[str, Any], params: SamplingParams, request_id: str, *, lora_request: LoRARequest | None
    ) -> AsyncGenerator[Any, None]:
        play = self._play
        play.asked.append(Asked(prompt["prompt_token_ids"], params, lora_request))
        if play.error:
            raise play.error
        try:
            given = 0
            for chunk in play.chunks:
                ids, finish = _cut(chunk, given, params)
                rows = play.logprobs[given : given + len(ids)] if params.logprobs is not None else None
                given += len(ids)
                if finish is None and not play.endless and chunk is play.chunks[-1]:
                    finish = "abort" if play.gives_up else None
                yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, logprobs=rows, finish_reason=finish)])
                if finish:
                    return
            await asyncio.Event().wait()
        except (asyncio.CancelledError, GeneratorExit):
            play.aborted.append(request_id)
            raise


def _cut(chunk: list[int], given: int, params: SamplingParams) -> tuple[list[int], str | None]:
    for place, token in enumerate(chunk, 1):
        if token in (params.stop_token_ids or ()):
            return chunk[:place], "stop"
        if params.max_tokens is not None and given + place >= params.max_tokens:
            return chunk[:place], "length"
    return chunk, None


@contextmanager
def installed(play: Play) -> Iterator[Play]:
    """The package as if it were installed."""

    class AsyncLLMEngine:
        @staticmethod
        def from_engine_args(arguments: AsyncEngineArgs, stat_loggers: list[Any]) -> Engine:
            play.arguments = arguments
            if play.refuses:
                raise play.refuses
            (factory,) = stat_loggers
            play.stats = factory(SimpleNamespace(), 0)
            play.stats.log_engine_initialized()
            return Engine(play)

    def tokens_input(prompt_token_ids: list[int]) -> dict[str, Any]:
        return {"type": "token", "prompt_token_ids": prompt_token_ids}

    contents: dict[str, list[Any]] = {
        "vllm": [AsyncEngineArgs, AsyncLLMEngine, SamplingParams],
        "vllm.inputs": [tokens_input],
        "vllm.sampling_params": [RequestOutputKind],
        "vllm.lora": [],
        "vllm.lora.request": [LoRARequest],
        "vllm.exceptions": [GracefulHTTPError, RetryableRequestError, VLLMClientError],
        "vllm.v1": [],
        "vllm.v1.engine": [],
        "vllm.v1.engine.exceptions": [EngineDeadError],
    }
    before = {name: sys.modules.get(name) for name in contents}
    for name, things in contents.items():
        module = sys.modules[name] = ModuleType(name)
        for thing in things:
            setattr(module, thing.__name__, thing)
    try:
        yield play
    finally:
        for name, module_before in before.items():
            if module_before is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module_before
