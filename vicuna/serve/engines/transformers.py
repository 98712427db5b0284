"""The embedded engine: a Hugging Face model in this process, batched continuously, on a CPU or a GPU.

The model runs in a thread of its own; requests and pieces pass between it and the event loop once per step.
"""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vicuna.errors import InputError
from vicuna.serve import faults
from vicuna.serve.config import AdapterConfig, HostedConfig
from vicuna.serve.engines import STUCK, Embedded, Piece, Step
from vicuna.serve.engines.prompting import Beginning, Prompting
from vicuna.serve.faults import Fault
from vicuna.serve.names import names_of
from vicuna.serve.protocol import EmbedJob, Job, Sampling, ServedModel

log = logging.getLogger(__name__)
PROBE = 64
"""Tokens of the cache that is made to learn how large a token's keys and values are."""
POSSIBLE_KINDS = {"full_attention", "sliding_attention"}

FEATURES = frozenset(
    {"chat", "completions", "token_prompts", "embeddings", "logprobs", "logit_bias", "tokenize", "resume"}
)


class TransformersEngine:
    """See the module."""

    kind = "transformers"

    def __init__(self, config: HostedConfig, share: float = 1.0) -> None:
        self.capacity = 0
        self._share = share
        self._config = config
        self._served: list[ServedModel] = []
        self._adapter_of: dict[str, int] = {}
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenizing")
        self._intake: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._outlets: dict[Any, asyncio.Queue[Any]] = {}
        self._thread: threading.Thread | None = None
        self._step_began: float | None = None
        self._ended = False
        self._watch: Callable[[Step], None] | None = None
        self._sums: Counter[str] = Counter()

    # ------------------------------------------------------------------------------------- loading
    async def start(self) -> None:
        """Load tokenizer, template, weights and adapters, start the thread, and compute a first token."""
        self._loop = asyncio.get_running_loop()
        began = time.monotonic()
        await self._loaded()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        sampling = Sampling(temperature=0, max_tokens=2, ignore_eos=True)
        warm_up = Job(id="warm-up", model=self._served[0].name, tokens=(0, 0), sampling=sampling)
        async for _ in self.generate(warm_up):
            pass
        log.info("%s: loaded and warm after %.1f s", self._served[0].name, time.monotonic() - began)

    async def _loaded(self) -> None:
        """Load in a thread that nobody waits for when the process is told to stop meanwhile."""
        ended: asyncio.Future[None] = self._loop.create_future()

        def settle(error: BaseException | None) -> None:
            if not ended.done():
                ended.set_result(None) if error is None else ended.set_exception(error)

        def load() -> None:
            try:
                self._load()
            except Exception as error:  # noqa: BLE001 - raised again where it is awaited
                self._tell(settle, error)
            else:
                self._tell(settle, None)

        threading.Thread(target=load, name="loading", daemon=True).start()
        await ended

    def _load(self) -> None:
        from vicuna.models.load import checkpoint_hash, load_model
        from vicuna.serve.engines.continuous import machine
        from vicuna.serve.engines.continuous.attention import block_size
        from vicuna.serve.engines.continuous.products import speed_up
        from vicuna.serve.engines.spelling import Spelling

        self._set_threads()
        path, settings = self._config.model.path, self._config.engine
        device, dtype = machine.device_and_dtype(settings)
        self._model = load_model(path, dtype, device, quantize=settings.quantize)
        self._refuse_odd_layers()
        longest = self._longest()
        self._prompting = Prompting(self._config.model, longest, self._vocabulary())
        adapters = self._load_adapters(checkpoint_hash(path), device, longest)
        size = f"{self._model.num_parameters() / 1e6:.1f} million parameters, template {self._prompting.template.name}"
        gain = speed_up(self._model)
        if gain > 1:
            size += f", matrix products by oneDNN ({gain:.1f} times as fast here as torch's own choice)"
        free = machine.free_memory(device)
        block = block_size(device, self._model.dtype)
        chosen = machine.choose(settings, self._bytes_per_token(), longest, free, device.type, block, self._share)
        self._prompting.max_length = chosen.max_length
        self._served = [model.model_copy(update={"max_length": chosen.max_length}) for model in self._served]
        self.capacity = chosen.slots
        self._stop_ids = self._prompting.stop_ids(getattr(self._model.generation_config, "eos_token_id", None))
        self._spelling = Spelling(self._prompting.tokenizer)
        self._make_machines(chosen, adapters)
        if settings.quantize:
            size += f", weights in {settings.quantize}"
        if adapters:
            size += f", {len(adapters)} LoRA adapter{'s' if len(adapters) > 1 else ''}"
        log.info("%s: %s, %s", self._served[0].name, size, chosen.describe(device, self._model.dtype))

    def _make_machines(self, chosen: Any, adapters: Sequence[Any]) -> None:
        from vicuna.serve.engines.continuous.batcher import Batcher
        from vicuna.serve.engines.continuous.embedding import Embedder

        self._batcher = Batcher(
            self._model,
            slots=chosen.slots,
            room=chosen.room,
            max_length=chosen.max_length,
            prefix_cache=self._config.engine.prefix_cache,
            prefill=chosen.prefill,
            adapters=adapters,
        )
        self._embedder = Embedder(self._model, self._batcher.cache, self._batcher.pools)

    def _load_adapters(self, base: str, device: Any, longest: int) -> list[Any]:
        """Note what is served under which name; returns the adapters."""
        from vicuna.models.adapters import load_adapter, served_hash

        template, quantize = self._prompting.template.hash, self._config.engine.quantize
        adapters: list[Any] = []
        self._serve(self._config, served_hash(base, quantize=quantize), longest, FEATURES)
        for each in self._config.adapters:
            adapter = load_adapter(each.path, self._model, checkpoint_hash=base, template_hash=template)
            adapters.append(adapter)
            digest = served_hash(base, adapter=adapter.hash, quantize=quantize)
            self._serve(each, digest, longest, FEATURES - {"embeddings"}, len(adapters))
        return adapters

    def _serve(
        self,
        each: HostedConfig | AdapterConfig,
        checkpoint_hash: str,
        longest: int,
        features: frozenset[str],
        adapter: int = 0,
    ) -> None:
        for name in names_of(each):
            self._adapter_of[name] = adapter
            model = ServedModel(
                name=name,
                checkpoint_hash=checkpoint_hash,
                template_hash=self._prompting.template.hash,
                max_length=longest,
                version=each.version,
                features=features,
            )
            self._served.append(model)

    def _refuse_odd_layers(self) -> None:
        kinds = set(getattr(self._model.config.get_text_config(), "layer_types", None) or ())
        if odd := kinds - POSSIBLE_KINDS:
            what = ", ".join(sorted(odd))
            raise InputError(f"{self._config.model.path}: the engine `transformers` cannot batch layers of kind {what}")

    def _longest(self) -> int:
        """The longest context that settings and model allow."""
        wanted = self._config.model.max_length
        return min(wanted, getattr(self._model.config.get_text_config(), "max_position_embeddings", None) or wanted)

    def _vocabulary(self) -> int:
        return int(self._model.config.get_text_config().vocab_size)

    def _bytes_per_token(self) -> int:
        """What the keys and values of a token take, from computing one."""
        from vicuna.serve.engines.continuous.batcher import Batcher
        from vicuna.serve.engines.continuous.embedding import Embedder, Texts

        batcher = Batcher(self._model, slots=1, room=PROBE, max_length=PROBE)
        probe = Embedder(self._model, batcher.cache, batcher.pools)
        probe.add(Texts([[0]]))
        probe.step()
        return batcher.pools.bytes_per_token

    def models(self) -> Sequence[ServedModel]:
        """What is served, under each of its names."""
        return self._served

    # ------------------------------------------------------------------------------------- one answer
    async def generate(self, job: Job) -> AsyncGenerator[Piece, None]:
        """The answer's pieces."""
        found = await self._loop.run_in_executor(self._tokenizing, self._prompting.begin, job, self._stop_ids)
        yield Piece(prompt_tokens=len(found.prompt))
        if end := found.end:
            yield end
            return
        if found.waiting_text:
            yield Piece(found.waiting_text)
        async with contextlib.aclosing(self._computed(self._seat(job, found))) as pieces:
            async for piece in pieces:
                yield piece
                if piece.finish:
                    return

    async def _computed(self, work: Any) -> AsyncGenerator[Any, None]:
        """What the thread makes of an answer's seat or of texts; closing it ends the computation."""
        if self._ended:
            raise _no_engine()
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

    def _seat(self, job: Job, found: Beginning) -> Any:
        """The answer's place in the batch."""
        from vicuna.serve.engines.continuous.seats import Seat
        from vicuna.serve.engines.likelihood import Wish

        wish = None if job.logprobs is None else Wish(job.logprobs, self._spelling)
        return Seat(
            prompt=found.prompt,
            emitted=job.emitted,
            sampling=job.sampling,
            limit=found.limit,
            stop_ids=found.stop_ids,
            text=found.text,
            wish=wish,
            biases=found.biases,
            adapter=self._adapter_of[job.model],
        )

    async def tokenize(self, job: Job) -> list[int]:
        """Token ids of the job's prompt."""
        return await self._loop.run_in_executor(self._tokenizing, self._prompting.tokenized, job)

    # ------------------------------------------------------------------------------------- vectors
    async def embed(self, job: EmbedJob) -> Embedded:
        """Vectors of the job's texts."""
        from vicuna.serve.engines.continuous.embedding import Texts

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
        self._set_threads()
        try:
            while self._take_in():
                if self._batcher.busy:
                    self._step(self._batcher, self._embedder.hungry)
                if self._embedder.busy:
                    self._step(self._embedder, self._batcher.spare)
        finally:
            self._tell(self._end)

    def _set_threads(self) -> None:
        """torch keeps some of its numbers of threads for each thread that computes."""
        import torch

        if self._config.engine.threads:
            torch.set_num_threads(self._config.engine.threads)

    def _step(self, machine: Any, limit: float) -> None:
        self._step_began = time.monotonic()
        try:
            events = machine.step(limit)
        except Exception as error:
            log.exception("a step of the model failed")
            fault = faults.server_error(f"the model failed: {type(error).__name__}", code="engine_failed")
            events = [(work, fault) for work in machine.clear()]
        self._step_began = None
        step = self._batcher.last if machine is self._batcher else None
        if events or step:
            self._tell(self._deliver, events, step)

    def _tell(self, what: Callable[..., None], *args: Any) -> None:
        """Call something in the event loop's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(what, *args)

    def _end(self) -> None:
        """The thread has ended, whatever the reason: nobody gets anything any more."""
        self._ended = True
        for outlet in self._outlets.values():
            outlet.put_nowait(_no_engine())

    def _take_in(self) -> bool:
        """Add what has come; with nothing to do, wait for it. False: the engine is to end."""
        from vicuna.serve.engines.continuous.seats import Seat

        while not ((self._batcher.busy or self._embedder.busy) and self._intake.empty()):
            work = self._intake.get()
            if work is None:
                return False
            (self._batcher if isinstance(work, Seat) else self._embedder).add(work)
        return True

    def _deliver(self, events: list[tuple[Any, Any]], step: Step | None) -> None:
        for work, item in events:
            outlet = self._outlets.get(work)
            if outlet is not None:
                outlet.put_nowait(item)
        if step is not None:
            self._sums.update(looked_up=step.looked_up, found=step.found)
            if self._watch is not None:
                self._watch(step)

    # ------------------------------------------------------------------------------------- state
    def load(self) -> Mapping[str, float]:
        """Answers in the batch and waiting for it, tokens in the cache, and prompt tokens that it had already."""
        last = self._batcher.last
        return {
            "batch": float(len(self._batcher.running)),
            "waiting": float(len(self._batcher.waiting) + self._intake.qsize()),
            "cache_used": float(last.used),
            "cache_kept": float(last.kept),
            "cache_room": float(last.room),
            "prefix_looked_up": float(self._sums["looked_up"]),
            "prefix_found": float(self._sums["found"]),
        }

    def observe(self, watch: Callable[[Step], None]) -> None:
        """Tell of each step from now on."""
        self._watch = watch

    def trouble(self) -> str | None:
        """Why the engine cannot work."""
        if self._ended or self._thread is None or not self._thread.is_alive():
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


def _no_engine() -> Fault:
    return faults.server_error("the engine has ended", 503, "engine_failed")
