"""The engine `vllm`: vLLM inside the worker, its models on this machine's GPUs.

vLLM computes token ids and nothing else. Template, tokenizer, text and stop strings are ours, so prompts and texts are
byte for byte those of the engine `transformers`, and an answer may begin on one and end on the other. An answer that
is continued is a prompt with the answer's ids at its end. Two things follow: presence and frequency penalties count
from there, and the draws are vLLM's own. A seed repeats an answer as far as vLLM's arithmetic repeats; where an answer
moves to or from the engine `transformers`, its rest is drawn from the same distribution, but not with the same dice.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vicuna.serve import faults
from vicuna.serve.config import AdapterConfig, HostedConfig
from vicuna.serve.engines import SLOTS, STUCK, Embedded, Piece, Step, likelihood, vllm_api
from vicuna.serve.engines.prompting import Beginning, Prompting
from vicuna.serve.engines.spelling import Spelling
from vicuna.serve.engines.vllm_arguments import arguments
from vicuna.serve.engines.vllm_steps import Steps
from vicuna.serve.names import names_of
from vicuna.serve.protocol import EmbedJob, Job, Sampling, ServedModel

log = logging.getLogger(__name__)
FEATURES = frozenset({"chat", "completions", "token_prompts", "logprobs", "logit_bias", "tokenize", "resume"})
"""vLLM computes answers or vectors, never both in one engine."""


@dataclass(frozen=True)
class _Answer:
    """One answer under way."""

    found: Beginning
    stop_ids: frozenset[int]
    """Of those that end it, the ones that the model has: vLLM refuses others."""
    settings: Any
    """vLLM's."""

    def take(self, ids: Sequence[int], rows: list[dict[str, Any]] | None, ended: bool) -> Piece:
        """The piece that new ids make; nothing behind a stop string counts."""
        text = ""
        for count, token in enumerate(ids, 1):
            if token in self.stop_ids:
                shown = text + self.found.text.flush()
                return Piece(shown, list(ids[:count]), "stop", logprobs=rows[: count - 1] if rows else None)
            text += self.found.text.push([token])
            if self.found.text.stopped:
                return Piece(text, list(ids[:count]), "stop", logprobs=rows[:count] if rows else None)
        if not ended:
            return Piece(text, list(ids), logprobs=rows)
        text += self.found.text.flush()
        return Piece(text, list(ids), "stop" if self.found.text.stopped else "length", logprobs=rows)


class VllmEngine:
    """See the module."""

    kind = "vllm"

    def __init__(self, config: HostedConfig) -> None:
        self.capacity = config.engine.slots or SLOTS
        self._config = config
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenizing")
        self._steps = Steps()
        self._engine: Any = None
        self._adapters: dict[str, Any] = {}

    # ------------------------------------------------------------------------------------- loading
    async def start(self) -> None:
        """Load the model and its adapters, and compute a first token."""
        self._loop = asyncio.get_running_loop()
        began = time.monotonic()
        self._engine = vllm_api.make(await asyncio.to_thread(self._prepare), self._steps)
        found = self._engine.vllm_config
        self.capacity = found.scheduler_config.max_num_seqs
        self._steps.room = found.cache_config.kv_cache_size_tokens or 0
        await self._load_adapters()
        sampling = Sampling(temperature=0, max_tokens=2, ignore_eos=True)
        async for _ in self.generate(Job(id="warm-up", model="", tokens=(0, 0), sampling=sampling)):
            pass
        log.info("model loaded and warm after %.1f s: %s", time.monotonic() - began, self._describe())

    def _prepare(self) -> dict[str, Any]:
        """Read what we need of the model ourselves; returns vLLM's engine arguments."""
        from vicuna.models.load import checkpoint_hash, load_settings, need_weights

        known = vllm_api.known_arguments()
        model = self._config.model
        settings = load_settings(model.path).get_text_config()
        need_weights(Path(model.path))
        longest = getattr(settings, "max_position_embeddings", None)
        self._max_length = min(model.max_length, longest or model.max_length)
        self._vocabulary: int = settings.vocab_size
        made = arguments(self._config, self._max_length, known)
        self._prompting = Prompting(model, self._max_length, self._vocabulary)
        self._spelling = Spelling(self._prompting.tokenizer)
        self._stop_ids = self._prompting.stop_ids(_stated_stop_ids(model.path, settings))
        self._models = self._served(checkpoint_hash(model.path), made.get("quantization") or "")
        return made

    def _served(self, base: str, quantize: str) -> list[ServedModel]:
        """The model, of checkpoint hash `base` and quantised while loading as `quantize` says, and its adapters."""
        from vicuna.models.adapters import adapter_hash, check_origin, served_hash

        template = self._prompting.template.hash
        found: list[tuple[HostedConfig | AdapterConfig, str]] = [(self._config, served_hash(base, quantize=quantize))]
        for adapter in self._config.adapters:
            check_origin(adapter.path, checkpoint_hash=base, template_hash=template)
            found.append((adapter, served_hash(base, adapter=adapter_hash(adapter.path), quantize=quantize)))
        return [
            ServedModel(
                name=name,
                checkpoint_hash=digest,
                template_hash=template,
                max_length=self._max_length,
                version=each.version,
                features=FEATURES,
            )
            for each, digest in found
            for name in names_of(each)
        ]

    async def _load_adapters(self) -> None:
        """Have vLLM read the adapters now, so that one it cannot serve is found before the worker joins."""
        for number, each in enumerate(self._config.adapters, 1):
            names = names_of(each)
            adapter = await vllm_api.add_adapter(self._engine, number, names[0], each.path)
            self._adapters |= dict.fromkeys(names, adapter)

    def _describe(self) -> str:
        return (
            f"{self._config.engine.vllm.tensor_parallel} GPUs, context {self._max_length}, {self.capacity} slots, "
            f"cache of {self._steps.room} tokens, template {self._prompting.template.name}"
        )

    def models(self) -> Sequence[ServedModel]:
        """What is served, under each of its names."""
        return self._models

    # ------------------------------------------------------------------------------------- one answer
    async def generate(self, job: Job) -> AsyncGenerator[Piece, None]:
        """The answer's pieces."""
        answer = await self._loop.run_in_executor(self._tokenizing, self._begin, job)
        yield Piece(prompt_tokens=len(answer.found.prompt))
        if end := answer.found.end:
            yield end
            return
        if answer.found.waiting_text:
            yield Piece(answer.found.waiting_text)
        adapter = self._adapters.get(job.model)
        outputs = vllm_api.outputs(self._engine, job.id, answer.found.ids, answer.settings, adapter)
        async with contextlib.aclosing(outputs):
            with self._steps.answering():
                async for output in outputs:
                    rows = None if job.logprobs is None else self._rows(output, job.logprobs)
                    piece = answer.take(output.token_ids, rows, output.finish_reason is not None)
                    yield piece
                    if piece.finish:
                        return

    def _begin(self, job: Job) -> _Answer:
        """The job as tokens and vLLM's settings.

        Raises:
            Fault: 400; the prompt is too long, or vLLM does not take a setting.
        """
        found = self._prompting.begin(job, self._stop_ids)
        stop_ids = frozenset(token for token in found.stop_ids if token < self._vocabulary)
        left = max(1, found.limit - len(found.ids))
        return _Answer(found, stop_ids, vllm_api.settings(job.sampling, left, stop_ids, found.biases, job.logprobs))

    def _rows(self, output: Any, alternatives: int) -> list[dict[str, Any]]:
        """OpenAI's rows about new tokens. vLLM's numbers are those of our module `likelihood`: the model's own."""
        rows = []
        for token, place in zip(output.token_ids, output.logprobs, strict=True):
            ranked = sorted((each.rank, index, each.logprob) for index, each in place.items())
            top = [self._row(index, value) for rank, index, value in ranked if rank <= alternatives]
            rows.append({**self._row(token, place[token].logprob), "top_logprobs": top})
        return rows

    def _row(self, token: int, logprob: float) -> dict[str, Any]:
        return likelihood.row(self._spelling, token, max(logprob, likelihood.LOWEST))

    async def tokenize(self, job: Job) -> list[int]:
        """Token ids of the job's prompt."""
        return await self._loop.run_in_executor(self._tokenizing, self._prompting.tokenized, job)

    async def embed(self, job: EmbedJob) -> Embedded:
        """Not among the features."""
        raise faults.unsupported("model", "the engine vllm computes no vectors; serve the model with transformers")

    # ------------------------------------------------------------------------------------- state
    def load(self) -> Mapping[str, float]:
        """Answers in the batch and waiting for it, and tokens in the cache."""
        return self._steps.load()

    def observe(self, watch: Callable[[Step], None]) -> None:
        """Tell of each step from now on."""
        self._steps.watch = watch

    def trouble(self) -> str | None:
        """Why vLLM cannot work."""
        if self._engine is None:
            return "vLLM is not running"
        if self._engine.errored:
            return "vLLM's engine has died; what it wrote above says why"
        return f"vLLM has done no step for more than {STUCK:g} s" if self._steps.stuck() else None

    async def close(self) -> None:
        """End vLLM and its processes."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await asyncio.to_thread(engine.shutdown)
        self._tokenizing.shutdown(wait=False, cancel_futures=True)


def _stated_stop_ids(path: str, settings: Any) -> int | list[int] | None:
    """The ids that end an answer as the model's generation settings have them, as `from_pretrained` reads them."""
    from transformers import GenerationConfig

    from vicuna.models.load import readable

    stated: Any = GenerationConfig.from_model_config(settings)
    if (Path(path) / "generation_config.json").exists():
        with readable(f"{path} holds generation settings that transformers cannot read"):
            stated = GenerationConfig.from_pretrained(path, local_files_only=True)
    ids: int | list[int] | None = stated.eos_token_id
    return ids
