"""All that is called of vLLM, whose names and types change from version to version; this is written for 0.32 and 0.33.

Nothing of it is imported before an engine starts: that takes many seconds.
"""

import logging
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from vicuna.errors import ConfigError, InputError
from vicuna.serve import faults
from vicuna.serve.engines.vllm_steps import Steps
from vicuna.serve.faults import Fault
from vicuna.serve.protocol import Sampling

log = logging.getLogger(__name__)
ENVIRONMENT = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # as `vllm serve` has it; a fork would hold our open socket
    "VLLM_NO_USAGE_STATS": "1",  # what people run is not reported to vLLM's makers
}
"""What vLLM is told where the operator says nothing else."""


def known_arguments() -> set[str]:
    """The engine arguments that the installed vLLM has.

    Raises:
        ConfigError: there is none.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from vllm import AsyncEngineArgs
    except ImportError as error:
        raise ConfigError(f"the engine vllm needs vLLM: pip install 'vicuna[vllm]' ({error})") from error
    return {each.name for each in fields(AsyncEngineArgs)}


def make(arguments: Mapping[str, Any], steps: Steps) -> Any:
    """vLLM's engine. It is made in the event loop's thread, which it holds while it loads, as in vLLM's own server.

    Raises:
        ConfigError: vLLM does not take the settings, or cannot load the model with them.
    """
    from vllm import AsyncEngineArgs, AsyncLLMEngine

    try:
        return AsyncLLMEngine.from_engine_args(AsyncEngineArgs(**arguments), stat_loggers=[steps])
    except Exception as error:
        raise ConfigError(
            f"vLLM cannot serve {arguments['model']}: {_one_line(error)} (what it wrote above may say more)"
        ) from error


async def add_adapter(engine: Any, number: int, name: str, path: str) -> Any:
    """Have an adapter read; returns what names it in requests.

    Raises:
        InputError: vLLM cannot serve it.
    """
    from vllm.lora.request import LoRARequest

    adapter = LoRARequest(name, number, path)
    try:
        await engine.add_lora(adapter)
    except Exception as error:
        raise InputError(f"{path}: vLLM cannot serve this adapter: {_one_line(error)}") from error
    return adapter


def settings(
    sampling: Sampling, left: int, stop_ids: frozenset[int], biases: Mapping[int, float], logprobs: int | None
) -> Any:
    """An answer's settings. What ends it is decided here: the end tokens that vLLM finds itself are left aside.

    Args:
        sampling: how its tokens are chosen.
        left: most tokens that may come, at least 1.
        stop_ids: those that end it.
        biases: what to add to the logits of single tokens.
        logprobs: how many alternatives to give for each token; None for no log probabilities.

    Raises:
        Fault: 400; vLLM does not take one of them.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    try:
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            seed=sampling.seed,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            repetition_penalty=sampling.repetition_penalty,
            logit_bias=dict(biases) or None,
            logprobs=logprobs,
            max_tokens=left,
            stop_token_ids=sorted(stop_ids),
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
    except Exception as error:
        raise _fault_of(error) from error


async def outputs(
    engine: Any, name: str, ids: Sequence[int], asked: Any, adapter: Any | None
) -> AsyncGenerator[Any, None]:
    """vLLM's outputs for a prompt (`CompletionOutput`, each with new ids only); closing it ends the computation.

    Raises:
        Fault: the request is at fault, or vLLM failed.
    """
    from vllm.inputs import tokens_input

    stream = engine.generate(tokens_input(list(ids)), asked, name, lora_request=adapter)
    try:
        async for output in stream:
            (completion,) = output.outputs
            if completion.finish_reason == "abort":  # it is being stopped
                raise _failed("vLLM has given the answer up", 503)
            yield completion
    except Fault:
        raise
    except Exception as error:
        raise _fault_of(error) from error
    finally:
        await stream.aclose()


def _fault_of(error: Exception) -> Fault:
    """What vLLM raises, as a fault of the request or of the engine."""
    from vllm.exceptions import GracefulHTTPError, RetryableRequestError, VLLMClientError
    from vllm.v1.engine.exceptions import EngineDeadError

    if isinstance(error, VLLMClientError):
        return faults.invalid(_one_line(error), param=getattr(error, "parameter", None))
    if isinstance(error, EngineDeadError):
        return _failed("vLLM's engine has died", 503)
    if isinstance(error, RetryableRequestError):
        return _failed(f"vLLM did not finish the answer: {_one_line(error)}", 503)
    if isinstance(error, GracefulHTTPError):  # its limits on what may wait
        return faults.server_error(_one_line(error), 503, "full", retry_after=1.0)
    log.error("vLLM failed at an answer", exc_info=error)
    return _failed(f"vLLM failed: {type(error.__cause__ or error).__name__}", 500)


def _failed(message: str, status: int) -> Fault:
    return faults.server_error(message, status, "engine_failed")


def _one_line(error: Exception) -> str:
    """vLLM's words, not more than fit on a line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"
