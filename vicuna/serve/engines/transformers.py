"""The embedded engine: a Hugging Face model in this process, batched continuously, on a CPU or a GPU.

The model runs in a thread of its own; requests and pieces pass between it and the event loop once per step.
"""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vicuna.errors import ConfigError, InputError
from vicuna.serve import faults
from vicuna.serve.config import EngineConfig, HostedConfig
from vicuna.serve.engines import SLOTS, Embedded, Piece, Step
from vicuna.serve.engines.prompting import Prompting
from vicuna.serve.faults import Fault
from vicuna.serve.names import names_of
from vicuna.serve.protocol import EmbedJob, Job, Sampling, ServedModel

log = logging.getLogger(__name__)
STUCK = 60.0
"""Seconds after which one step of the model counts as hung."""
FEATURES = frozenset(
    {"chat", "completions", "token_prompts", "embeddings", "logprobs", "logit_bias", "tokenize", "resume"}
)


class TransformersEngine:
    """See the module."""

    kind = "transformers"

    def __init__(self, config: HostedConfig) -> None:
        self.capacity = config.engine.slots or SLOTS
        self._names = names_of(config)
        self._config = config
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenizing")
        self._intake: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._outlets: dict[Any, asyncio.Queue[Any]] = {}
        self._thread: threading.Thread | None = None
        self._step_began: float | None = None

    # ------------------------------------------------------------------------------------- loading
    async def start(self) -> None:
        """Load tokenizer, template and weights, start the thread, and compute a first token."""
        self._loop = asyncio.get_running_loop()
        began = time.monotonic()
        await asyncio.to_thread(self._load)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        sampling = Sampling(temperature=0, max_tokens=2, ignore_eos=True)
        async for _ in self.generate(Job(id="warm-up", model="", tokens=(0, 0), sampling=sampling)):
            pass
        log.info("model loaded and warm after %.1f s: %s", time.monotonic() - began, self._describe())

    def _load(self) -> None:
        from vicuna.models.load import checkpoint_hash, load_model
        from vicuna.serve.engines.batching import POSSIBLE_KINDS, Batcher
        from vicuna.serve.engines.embedding import Embedder
        from vicuna.serve.engines.slots import layer_kinds
        from vicuna.serve.engines.spelling import Spelling

        path = self._config.model.path
        self._device, dtype = choose_device(self._config.engine)
        self._model = load_model(path, dtype, self._device)
        self._checkpoint_hash = checkpoint_hash(path)
        if odd := set(layer_kinds(self._model.config.get_text_config())) - POSSIBLE_KINDS:
            raise InputError(f"{path}: the engine `transformers` cannot batch layers of kind {', '.join(sorted(odd))}")
        settings = self._model.config.get_text_config()
        longest = getattr(settings, "max_position_embeddings", None)
        self._max_length = min(self._config.model.max_length, longest or self._config.model.max_length)
        self._prompting = Prompting(self._config.model, self._max_length, settings.vocab_size)
        self._stop_ids = self._prompting.stop_ids(getattr(self._model.generation_config, "eos_token_id", None))
        self._spelling = Spelling(self._prompting.tokenizer)
        self._batcher = Batcher(self._model, self.capacity, self._max_length)
        self._embedder = Embedder(self._model)

    def _describe(self) -> str:
        parameters = sum(each.numel() for each in self._model.parameters())
        return (
            f"{parameters / 1e6:.1f} million parameters, {self._model.dtype}, on {self._device}, context "
            f"{self._max_length}, {self.capacity} slots, template {self._prompting.template.name}"
        )

    def models(self) -> Sequence[ServedModel]:
        """What is served, under each of its names."""
        return [self._served(name) for name in self._names]

    def _served(self, name: str) -> ServedModel:
        return ServedModel(
            name=name,
            checkpoint_hash=self._checkpoint_hash,
            template_hash=self._prompting.template.hash,
            max_length=self._max_length,
            version=self._config.version,
            features=FEATURES,
        )

    # ------------------------------------------------------------------------------------- one answer
    async def generate(self, job: Job) -> AsyncGenerator[Piece, None]:
        """The answer's pieces."""
        seat, waiting_text = await self._loop.run_in_executor(self._tokenizing, self._prepare, job)
        yield Piece(prompt_tokens=seat.prompt_tokens)
        if len(seat.ids) >= seat.limit or seat.text.stopped:
            yield Piece(waiting_text + seat.text.flush(), [], "stop" if seat.text.stopped else "length")
            return
        if waiting_text:
            yield Piece(waiting_text)
        async with contextlib.aclosing(self._computed(seat)) as pieces:
            async for piece in pieces:
                yield piece
                if piece.finish:
                    return

    async def _computed(self, work: Any) -> AsyncGenerator[Any, None]:
        """What the thread makes of an answer's seat or of texts; closing it ends the computation."""
        outlet = self._outlets[work] = asyncio.Queue()
        self._intake.put(work)
        try:
            while True:
                item = await outlet.get()
                if isinstance(item, Fault):
                    raise item
                yield item
        finally:
            work.aborted = True  # the thread frees what it holds before its next step
            del self._outlets[work]

    def _prepare(self, job: Job) -> tuple[Any, str]:
        """The job as tokens, and text of an answer's first part that its first worker had held back."""
        from vicuna.serve.engines.batching import Seat
        from vicuna.serve.engines.likelihood import Wish

        prompt = self._prompting.ids(job)
        biases = {int(token): float(bias) for token, bias in job.extras.get("logit_bias", {}).items()}
        self._prompting.refuse_unknown(biases, "logit_bias")
        wish = None if job.logprobs is None else Wish(job.logprobs, self._spelling)
        sampling = job.sampling
        limit = min(self._max_length, len(prompt) + (sampling.max_tokens or self._max_length))
        stop_ids = frozenset(sampling.stop_token_ids)
        if not sampling.ignore_eos:
            stop_ids |= self._stop_ids
        text = self._prompting.text(job, prompt)
        seat = Seat(prompt, job.emitted, sampling, limit, stop_ids, text, wish, biases)
        return seat, text.push(job.emitted) if job.emitted else ""

    async def tokenize(self, job: Job) -> list[int]:
        """Token ids of the job's prompt."""
        return await self._loop.run_in_executor(self._tokenizing, self._prompting.tokenized, job)

    # ------------------------------------------------------------------------------------- vectors
    async def embed(self, job: EmbedJob) -> Embedded:
        """Vectors of the job's texts."""
        from vicuna.serve.engines.embedding import Texts

        size = self._model.config.get_text_config().hidden_size
        if job.dimensions not in (None, size):
            raise faults.unsupported("dimensions", f"this model's vectors have {size} numbers and cannot be shortened")
        ids = [self._prompting.text_ids(tokens) for tokens in job.tokens]
        for text in job.texts:  # one at a time, so that prompts of others get in between
            ids.append(await self._loop.run_in_executor(self._tokenizing, self._prompting.text_ids, text))
        async with contextlib.aclosing(self._computed(Texts(ids))) as computed:
            vectors = await anext(computed)
        return Embedded(vectors, sum(map(len, ids)))

    # ------------------------------------------------------------------------------------- the thread
    def _run(self) -> None:
        import torch

        if self._config.engine.threads:
            torch.set_num_threads(self._config.engine.threads)
        while self._take_in():
            for machine in (self._batcher, self._embedder):
                if machine.busy:
                    self._step(machine)

    def _step(self, machine: Any) -> None:
        self._step_began = time.monotonic()
        try:
            events = machine.step()
        except Exception as error:
            log.exception("a step of the model failed")
            fault = faults.server_error(f"the model failed: {type(error).__name__}", code="engine_failed")
            events = [(work, fault) for work in machine.clear()]
        self._step_began = None
        if events:
            self._loop.call_soon_threadsafe(self._deliver, events)

    def _take_in(self) -> bool:
        """Add what has come; with nothing to do, wait for it. False: the engine is to end."""
        from vicuna.serve.engines.batching import Seat

        while not ((self._batcher.busy or self._embedder.busy) and self._intake.empty()):
            work = self._intake.get()
            if work is None:
                return False
            (self._batcher if isinstance(work, Seat) else self._embedder).add(work)
        return True

    def _deliver(self, events: list[tuple[Any, Any]]) -> None:
        for work, item in events:
            outlet = self._outlets.get(work)
            if outlet is not None:
                outlet.put_nowait(item)

    # ------------------------------------------------------------------------------------- state
    def load(self) -> Mapping[str, float]:
        """Answers in the batch and waiting for it."""
        running, waiting = len(self._batcher.rows), len(self._batcher.waiting) + self._intake.qsize()
        return {"batch": float(running), "waiting": float(waiting)}

    def observe(self, watch: Callable[[Step], None]) -> None:
        """Tell of each step from now on."""
        self._watch = watch

    def trouble(self) -> str | None:
        """Why the engine cannot work."""
        if self._thread is None or not self._thread.is_alive():
            return "the engine's thread has ended"
        began = self._step_began
        if began is not None and time.monotonic() - began > STUCK:
            return f"one step of the model has taken more than {STUCK:g} s"
        return None

    async def close(self) -> None:
        """End the thread after its current step."""
        self._intake.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, 5.0)
        self._tokenizing.shutdown(wait=False, cancel_futures=True)


def choose_device(config: EngineConfig) -> tuple[Any, Any]:
    """Torch device and dtype for the settings.

    Raises:
        ConfigError: there is no such device or dtype.
    """
    import torch

    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"engine.device {config.device!r} cannot be used on this machine: {reason}") from error
    if config.dtype == "auto":
        return device, torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype = getattr(torch, config.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise ConfigError(f"engine.dtype is float32, bfloat16, float16 or auto; got {config.dtype!r}")
    return device, dtype
