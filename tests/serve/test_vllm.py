"""The engine vllm: what it hands to vLLM, and what it makes of the outputs. vLLM itself needs a GPU."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from serve_tiny import checkpoint, model
from vllm_fake import (
    EngineDeadError,
    GracefulHTTPError,
    Logprob,
    LoRARequest,
    Play,
    RequestOutputKind,
    RetryableRequestError,
    SamplingParams,
    VLLMValidationError,
    installed,
)

from vicuna.config import ModelConfig
from vicuna.conversation import Message
from vicuna.errors import ConfigError, InputError
from vicuna.models.load import checkpoint_hash, load_template, load_tokenizer
from vicuna.prompt import encode_prompt
from vicuna.serve.config import AdapterConfig, EngineConfig, HostedConfig, VllmConfig
from vicuna.serve.engines import Engine, Piece
from vicuna.serve.engines.vllm import VllmEngine
from vicuna.serve.faults import Fault
from vicuna.serve.protocol import Job, Sampling, Turn

torch = pytest.importorskip("torch")
CONTEXT = 160
TEMPLATE = "vicuna_v1.1"
END = 1
"""The tokenizer's </s>."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("model") / "tiny", context=CONTEXT)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.adapters_kit import store

    return store(model().float(), tmp_path_factory.mktemp("adapter") / "kind", seed=1, r=12)


@pytest.fixture
def play() -> Iterator[Play]:
    with installed(Play()) as made:
        yield made


def config(folder: Path, adapters: tuple[AdapterConfig, ...] = (), **engine: Any) -> HostedConfig:
    given = ModelConfig(path=str(folder), template=TEMPLATE)
    return HostedConfig(model=given, engine=EngineConfig(kind="vllm", **engine), adapters=adapters)


@asynccontextmanager
async def started(settings: HostedConfig, play: Play) -> AsyncIterator[VllmEngine]:
    """The engine after its warm-up, which is no part of what the tests look at."""
    engine = VllmEngine(settings)
    chunks, play.chunks = play.chunks, [[5], [5]]
    error, play.error = play.error, None
    gives_up, play.gives_up = play.gives_up, False
    try:
        await engine.start()
        play.chunks, play.error, play.gives_up = chunks, error, gives_up
        play.asked.clear()
        play.aborted.clear()
        yield engine
    finally:
        await engine.close()


def answered(settings: HostedConfig, play: Play, job: Job) -> list[Piece]:
    async def ask() -> list[Piece]:
        async with started(settings, play) as engine:
            return [piece async for piece in engine.generate(job)]

    return asyncio.run(ask())


def chat(question: str = "hi", **more: Any) -> Job:
    return Job(id="1", model="tiny", messages=(Turn(role="user", content=question),), **more)


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def ids_of(pieces: list[Piece]) -> list[int]:
    return [each for piece in pieces for each in piece.ids]


def words(folder: Path, text: str) -> list[int]:
    ids: list[int] = load_tokenizer(folder)(text, add_special_tokens=False).input_ids
    return ids


# ------------------------------------------------------------------------------------------- what is handed over
def test_a_chat_is_handed_over_as_the_tokens_of_our_template(folder: Path, play: Play) -> None:
    tokenizer = load_tokenizer(folder)
    ids = encode_prompt([Message("user", "hi </s>")], tokenizer, load_template(folder, TEMPLATE, tokenizer))
    play.chunks = [[END]]
    pieces = answered(config(folder), play, chat("hi </s>"))
    assert play.asked[0].ids == ids
    assert pieces[0].prompt_tokens == len(ids)


def test_every_setting_of_an_answer_reaches_vllm(folder: Path, play: Play) -> None:
    sampling = Sampling(
        temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, max_tokens=3, seed=11, stop=("never",),
        stop_token_ids=(7, 99_999), presence_penalty=0.2, frequency_penalty=0.3, repetition_penalty=1.1,
    )  # fmt: skip
    play.chunks, play.logprobs = [[5, 5, 5]], [{5: Logprob(-1.0, 1)}] * 3
    answered(config(folder), play, chat(sampling=sampling, logprobs=2, extras={"logit_bias": {"9": -1.5}}))
    assert play.asked[0].params == SamplingParams(
        temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, max_tokens=3, seed=11, stop_token_ids=[END, 7],
        presence_penalty=0.2, frequency_penalty=0.3, repetition_penalty=1.1, logprobs=2, logit_bias={9: -1.5},
        ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.DELTA,
    )  # fmt: skip


def test_an_answer_that_ignores_the_end_has_only_the_clients_stop_tokens(folder: Path, play: Play) -> None:
    answered(config(folder), play, chat(sampling=Sampling(max_tokens=1, stop_token_ids=(7,), ignore_eos=True)))
    assert play.asked[0].params.stop_token_ids == [7]


def test_an_answer_without_a_limit_may_fill_the_context(folder: Path, play: Play) -> None:
    play.chunks = [[5] * CONTEXT]
    pieces = answered(config(folder), play, Job(id="1", model="tiny", tokens=(5, 6, 7)))
    assert play.asked[0].params.max_tokens == CONTEXT - 3
    assert (pieces[-1].finish, len(ids_of(pieces))) == ("length", CONTEXT - 3)


def test_the_settings_of_the_engine_become_vllms_arguments(folder: Path, play: Play) -> None:
    more = VllmConfig(memory=0.5, tensor_parallel=2, arguments='{"enforce_eager": true}')

    async def capacity() -> int:
        async with started(config(folder, slots=3, prefix_cache=False, vllm=more), play) as engine:
            return engine.capacity

    assert asyncio.run(capacity()) == 3
    made = play.arguments
    assert made is not None
    assert (made.model, made.max_model_len, made.max_num_seqs) == (str(folder), CONTEXT, 3)
    assert (made.dtype, made.gpu_memory_utilization, made.tensor_parallel_size) == ("bfloat16", 0.5, 2)
    assert (made.enable_prefix_caching, made.enforce_eager, made.skip_tokenizer_init) == (False, True, True)
    assert not made.enable_lora


def test_a_model_that_vllm_quantises_stands_in_for_no_other(folder: Path, play: Play) -> None:
    async def digest(**engine: Any) -> str:
        async with started(config(folder, **engine), play) as made:
            return made.models()[0].checkpoint_hash

    quantised = asyncio.run(digest(vllm=VllmConfig(arguments='{"quantization": "fp8"}')))
    assert quantised != asyncio.run(digest()) == checkpoint_hash(folder)


def test_without_a_number_of_slots_vllm_chooses(folder: Path, play: Play) -> None:
    async def capacity() -> int:
        async with started(config(folder), play) as engine:
            return engine.capacity

    assert asyncio.run(capacity()) == 256


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        (
            {"vllm": VllmConfig(arguments='{"enforce_eagr": true}')},
            "no engine argument enforce_eagr; did you mean enfo",
        ),
        ({"vllm": VllmConfig(arguments='{"max_num_seqs": 4}')}, r"max_num_seqs is decided by engine\.slots"),
        ({"quantize": "nf4"}, r"engine\.quantize is for the engine transformers; .*quantization"),
        ({"dtype": "float3"}, r"engine\.dtype is float32, bfloat16, float16 or auto; got 'float3'"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_loaded(
    folder: Path, play: Play, engine: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        answered(config(folder, **engine), play, chat())
    assert play.arguments is None


def test_what_vllm_says_against_a_model_is_told_in_one_line(folder: Path, play: Play) -> None:
    play.refuses = ValueError("bfloat16 is not supported\n  on this GPU")
    with pytest.raises(ConfigError, match=f"cannot serve {folder}: bfloat16 is not supported on this GPU"):
        answered(config(folder), play, chat())


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_the_package_the_error_says_how_to_install_it(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"pip install 'vicuna\[vllm\]'"):
        asyncio.run(VllmEngine(config(folder)).start())


# ------------------------------------------------------------------------------------------- what comes back
def test_the_text_is_that_of_all_ids_however_they_come(folder: Path, play: Play) -> None:
    said = "naïve 你好 🙂 Größe"
    ids = words(folder, said)
    for size in (1, 2, 5, len(ids)):
        play.chunks = [ids[at : at + size] for at in range(0, len(ids), size)]
        pieces = answered(config(folder), play, chat(sampling=Sampling(max_tokens=len(ids))))
        assert (text_of(pieces), ids_of(pieces), pieces[-1].finish) == (said, ids, "length")


def test_a_stop_token_ends_the_answer_and_is_not_shown(folder: Path, play: Play) -> None:
    ids = words(folder, "Hello")
    play.chunks = [[*ids, END]]
    pieces = answered(config(folder), play, chat())
    assert (text_of(pieces), ids_of(pieces), pieces[-1].finish) == ("Hello", [*ids, END], "stop")


def test_nothing_behind_a_stop_string_counts_and_the_rest_is_given_up(folder: Path, play: Play) -> None:
    first, second, third = words(folder, "I am"), words(folder, " fine,"), words(folder, " thank you!")
    play.chunks = [[*first, *second, *third], third]
    pieces = answered(config(folder), play, chat(sampling=Sampling(stop=("fine",))))
    assert (text_of(pieces), pieces[-1].finish) == ("I am ", "stop")
    assert len(first) < len(ids_of(pieces)) <= len([*first, *second])
    assert play.aborted == ["1"]


def test_an_answer_is_continued_from_its_ids_wherever_it_was_cut(folder: Path, play: Play) -> None:
    said = "naïve 你好 🙂 Größe"
    ids = words(folder, said)
    sampling = Sampling(max_tokens=len(ids))

    async def check() -> None:
        async with started(config(folder), play) as engine:
            play.chunks = [[each] for each in ids]
            whole = [piece async for piece in engine.generate(chat(sampling=sampling))][1:]
            prompt = play.asked[0].ids
            for cut in range(1, len(ids)):
                shown = text_of(whole[:cut])
                play.chunks = [[each] for each in ids[cut:]]
                job = chat(sampling=sampling, emitted=tuple(ids[:cut]), shown=shown)
                rest = [piece async for piece in engine.generate(job)]
                assert rest[0].prompt_tokens == len(prompt)
                assert play.asked[-1].ids == prompt + ids[:cut]
                assert play.asked[-1].params.max_tokens == len(ids) - cut
                assert (shown + text_of(rest), ids_of(rest)) == (said, ids[cut:])

    asyncio.run(check())


def test_an_answer_that_was_complete_when_it_moved_only_ends(folder: Path, play: Play) -> None:
    ids = words(folder, "I am fine")
    job = chat(sampling=Sampling(max_tokens=len(ids)), emitted=tuple(ids), shown="I am")
    pieces = answered(config(folder), play, job)
    assert (text_of(pieces), pieces[-1].finish, play.asked) == (" fine", "length", [])


def test_log_probabilities_have_openais_shape(folder: Path, play: Play) -> None:
    first, second = words(folder, "a")[0], words(folder, "b")[0]
    place = {first: Logprob(-3.5, 7), second: Logprob(-0.5, 1), 9: Logprob(float("-inf"), 2)}
    play.chunks, play.logprobs = [[first]], [place]
    pieces = answered(config(folder), play, chat(sampling=Sampling(max_tokens=1), logprobs=2))
    (row,) = pieces[-1].logprobs or []
    assert (row["token"], row["logprob"], row["bytes"]) == ("a", -3.5, [97])
    likeliest, second_likeliest = row["top_logprobs"]
    assert (likeliest["token"], likeliest["logprob"]) == ("b", -0.5)
    assert second_likeliest["logprob"] == -9999.0  # JSON has no infinity


def test_a_client_that_leaves_frees_its_place_at_once(folder: Path, play: Play) -> None:
    async def check() -> None:
        async with started(config(folder), play) as engine:
            pieces = engine.generate(chat(sampling=Sampling(max_tokens=9)))
            assert (await anext(pieces)).prompt_tokens
            assert (await anext(pieces)).ids == [5]
            assert engine.load()["waiting"] == 1
            await pieces.aclose()
            assert play.aborted == ["1"]
            assert engine.load()["waiting"] == 0

    asyncio.run(check())


def test_an_answer_that_is_cancelled_while_it_waits_is_aborted_too(folder: Path, play: Play) -> None:
    async def check() -> None:
        async with started(config(folder), play) as engine:
            pieces = engine.generate(chat(sampling=Sampling(max_tokens=9)))
            assert (await anext(pieces)).prompt_tokens
            assert (await anext(pieces)).ids == [5]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(pieces)
            assert play.aborted == ["1"]

    asyncio.run(check())


# ------------------------------------------------------------------------------------------- adapters
def test_adapters_are_models_of_their_own_on_one_engine(folder: Path, adapter: Path, play: Play) -> None:
    play.chunks = [[END]]
    both = (AdapterConfig(path=str(adapter), names=("kind", "nice"), version="2"),)

    async def check() -> None:
        async with started(config(folder, both), play) as engine:
            served = {each.name: each for each in engine.models()}
            for name in ("tiny", "kind", "nice"):
                job = replace_model(chat(), name)
                assert [piece async for piece in engine.generate(job)][-1].finish == "stop"
        assert list(served) == ["tiny", "kind", "nice"]
        assert served["tiny"].checkpoint_hash == checkpoint_hash(folder)
        assert served["kind"].checkpoint_hash == served["nice"].checkpoint_hash != served["tiny"].checkpoint_hash
        assert (served["kind"].version, served["kind"].template_hash) == ("2", served["tiny"].template_hash)

    asyncio.run(check())
    request = LoRARequest("kind", 1, str(adapter))
    assert [asked.adapter for asked in play.asked] == [None, request, request]
    assert play.adapters == [request]
    made = play.arguments
    assert made is not None
    assert (made.enable_lora, made.max_loras, made.max_lora_rank) == (True, 1, 16)  # the next room above rank 12


def test_an_adapter_that_vllm_cannot_serve_is_named_before_the_worker_joins(
    folder: Path, adapter: Path, play: Play
) -> None:
    play.adapter_error = Exception("Call to add_lora method failed: LoRA rank 12 is too high")
    with pytest.raises(InputError, match=f"{adapter}: vLLM cannot serve this adapter: .*rank 12"):
        answered(config(folder, (AdapterConfig(path=str(adapter)),)), play, chat())


def replace_model(job: Job, name: str) -> Job:
    return job.model_copy(update={"model": name})


# ------------------------------------------------------------------------------------------- what goes wrong
def test_a_setting_that_vllm_does_not_take_is_the_requests_fault(folder: Path, play: Play) -> None:
    with pytest.raises(Fault, match="temperature must be in") as caught:
        answered(config(folder), play, chat(sampling=Sampling(temperature=3)))
    assert (caught.value.status, caught.value.param, play.asked) == (400, "temperature", [])


def test_a_bias_on_a_token_that_the_model_lacks_is_refused(folder: Path, play: Play) -> None:
    with pytest.raises(Fault, match="no token 99999") as caught:
        answered(config(folder), play, chat(extras={"logit_bias": {"99999": 1}}))
    assert (caught.value.status, caught.value.param) == (400, "logit_bias")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (VLLMValidationError("no", "prompt"), 400, None),
        (EngineDeadError("see above"), 503, "engine_failed"),
        (RetryableRequestError("again"), 503, "engine_failed"),
        (GracefulHTTPError("too many wait"), 503, "full"),
        (RuntimeError("out of memory"), 500, "engine_failed"),
    ],
)
def test_what_vllm_raises_is_a_fault_that_says_whose_it_is(
    folder: Path, play: Play, error: Exception, status: int, code: str | None
) -> None:
    play.error = error
    with pytest.raises(Fault) as caught:
        answered(config(folder), play, chat())
    assert (caught.value.status, caught.value.code) == (status, code)


def test_an_answer_that_vllm_gives_up_is_not_taken_for_a_whole_one(folder: Path, play: Play) -> None:
    play.gives_up = True
    with pytest.raises(Fault, match="given the answer up") as caught:
        answered(config(folder), play, chat())
    assert (caught.value.status, caught.value.code) == (503, "engine_failed")


def test_an_engine_that_has_died_says_so(folder: Path, play: Play) -> None:
    async def check() -> None:
        async with started(config(folder), play) as engine:
            assert engine.trouble() is None
            play.dead = True
            assert "died" in (engine.trouble() or "")
        assert play.closed
        assert engine.trouble() == "vLLM is not running"

    asyncio.run(check())


# ------------------------------------------------------------------------------------------- numbers
def stats(**scheduler: Any) -> tuple[Any, Any]:
    """Numbers of one step, as vLLM tells them."""
    said = {
        "num_running_reqs": 3,
        "num_waiting_reqs": 1,
        "num_skipped_waiting_reqs": 1,
        "kv_cache_usage": 0.25,
        "prefix_cache_stats": SimpleNamespace(queries=30, hits=16),
    }
    iteration = SimpleNamespace(
        prompt_token_stats=SimpleNamespace(computed=14),
        num_generation_tokens=3,
        num_preempted_reqs=1,
        finished_requests=[SimpleNamespace(queued_time=0.5)],
    )
    return SimpleNamespace(**said | scheduler), iteration


def test_vllms_numbers_become_steps_and_the_load(folder: Path, play: Play) -> None:
    async def check() -> None:
        async with started(config(folder), play) as engine:
            steps: list[Any] = []
            engine.observe(steps.append)
            assert engine.load() == {"batch": 0, "waiting": 0, "cache_room": 4096, "cache_used": 0}
            answers = [engine.generate(chat(sampling=Sampling(max_tokens=9))) for _ in range(4)]
            for answer in answers:
                assert (await anext(answer)).prompt_tokens
                assert (await anext(answer)).ids
            play.stats.record(*stats(), mm_cache_stats=None, engine_idx=0)
            assert engine.load() == {"batch": 3, "waiting": 1, "cache_room": 4096, "cache_used": 1024}
            for answer in answers:
                await answer.aclose()
            assert engine.load() == {"batch": 0, "waiting": 0, "cache_room": 4096, "cache_used": 0}
        (step,) = steps
        assert 0 <= step.seconds < 60
        assert replace(step, seconds=0.0) == type(step)(
            seconds=0.0, prompt_tokens=14, answer_tokens=3, running=3, waiting=2, used=1024, kept=0, room=4096,
            looked_up=30, found=16, queued=(0.5,), put_back=1,
        )  # fmt: skip

    asyncio.run(check())


def test_a_step_without_outputs_is_a_step_too(folder: Path, play: Play) -> None:
    async def check() -> None:
        async with started(config(folder), play) as engine:
            steps: list[Any] = []
            engine.observe(steps.append)
            play.stats.record(None, None)  # nothing to tell
            play.stats.record(stats()[0], None)
            assert [(step.answer_tokens, step.running) for step in steps] == [(0, 3)]

    asyncio.run(check())


def test_work_without_a_step_for_a_minute_counts_as_hung(
    folder: Path, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        async with started(config(folder), play) as engine:
            answer = engine.generate(chat(sampling=Sampling(max_tokens=9)))
            assert (await anext(answer)).prompt_tokens
            assert (await anext(answer)).ids
            assert engine.trouble() is None
            monkeypatch.setattr("vicuna.serve.engines.vllm_steps.STUCK", -1.0)
            assert "no step" in (engine.trouble() or "")
            await answer.aclose()
            assert engine.trouble() is None  # nobody waits

    asyncio.run(check())


# ------------------------------------------------------------------------------------------- with a GPU
GPU = torch.cuda.is_available() and importlib.util.find_spec("vllm") is not None
SHARE = VllmConfig(memory=0.2, arguments='{"enforce_eager": true}')
GREEDY = Sampling(temperature=0, max_tokens=24, ignore_eos=True)


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of 64 numbers, as the kernels for GPUs want them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = checkpoint(tmp_path_factory.mktemp("model") / "tiny", context=CONTEXT)
    torch.manual_seed(0)
    shape = LlamaConfig.from_pretrained(folder)
    shape.update({"hidden_size": 256, "head_dim": 64, "intermediate_size": 256, "initializer_range": 0.2})
    LlamaForCausalLM(shape).save_pretrained(folder)
    return folder


async def read(engine: Engine, job: Job) -> list[Piece]:
    return [piece async for piece in engine.generate(job)]


def single(folder: Path, kind: str, **engine: Any) -> HostedConfig:
    """In float32, so that equal computations do not differ in an argmax."""
    made = config(folder, dtype="float32", **engine)
    return replace(made, engine=replace(made.engine, kind=kind))


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a CUDA device and the package vllm")
def test_on_a_gpu_greedy_answers_move_between_vllm_and_transformers(larger: Path) -> None:
    from vicuna.serve.engines.transformers import TransformersEngine

    jobs = [chat(f"{'word ' * count}how are you {count}?", sampling=GREEDY) for count in range(6)]

    async def check() -> None:
        ours, theirs = (
            TransformersEngine(single(larger, "transformers")),
            VllmEngine(single(larger, "vllm", vllm=SHARE)),
        )
        try:
            await ours.start()
            await theirs.start()
            assert ours.models()[0].same_version(theirs.models()[0])
            wanted = await asyncio.gather(*(read(ours, job) for job in jobs))
            for job, answer, other in zip(jobs, wanted, await asyncio.gather(*(read(theirs, job) for job in jobs))):
                assert (ids_of(other), text_of(other)) == (ids_of(answer), text_of(answer))
                shown = text_of(answer[:9])
                part = job.model_copy(update={"emitted": tuple(ids_of(answer[:9])), "shown": shown})
                assert shown + text_of(await read(theirs, part)) == text_of(answer)
        finally:
            await ours.close()
            await theirs.close()

    asyncio.run(check())


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a CUDA device and the package vllm")
def test_on_a_gpu_a_seed_repeats_an_answer_and_abandoned_answers_leave_nothing_behind(larger: Path) -> None:
    seeded = chat(sampling=Sampling(temperature=1.0, seed=5, max_tokens=24, ignore_eos=True))
    endless = chat(sampling=Sampling(ignore_eos=True))

    async def check() -> None:
        engine = VllmEngine(single(larger, "vllm", slots=4, vllm=SHARE))
        try:
            await engine.start()
            steps: list[Any] = []
            engine.observe(steps.append)
            first = await read(engine, seeded)
            for _ in range(8):
                pieces = engine.generate(endless)
                assert (await anext(pieces)).prompt_tokens
                assert (await anext(pieces)).ids
                await pieces.aclose()
            assert ids_of(await read(engine, seeded)) == ids_of(first)
            assert (steps[-1].running, steps[-1].waiting, steps[-1].used) == (0, 0, 0)
            assert sum(step.answer_tokens for step in steps) >= 48
            assert sum(step.found for step in steps) > 0
            assert engine.trouble() is None
        finally:
            await engine.close()

    asyncio.run(check())


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a CUDA device and the package vllm")
def test_on_a_gpu_log_probabilities_and_adapters_are_those_of_the_model(larger: Path, tmp_path: Path) -> None:
    from tests.adapters_kit import adapted
    from vicuna.models.load import load_model

    weights = load_model(larger, torch.float32, "cpu")
    around = adapted(weights, seed=1, r=8, target_modules=["q_proj", "v_proj", "down_proj"])
    around.save_pretrained(tmp_path / "kind")
    settings = replace(single(larger, "vllm", vllm=SHARE), adapters=(AdapterConfig(path=str(tmp_path / "kind")),))

    async def check() -> None:
        engine = VllmEngine(settings)
        try:
            await engine.start()
            for name, truth in (("tiny", weights), ("kind", around)):
                job = Job(id="1", model=name, tokens=(5, 6, 7), sampling=GREEDY, logprobs=5)
                (row, *_) = [row for piece in await read(engine, job) for row in piece.logprobs or []]
                with torch.inference_mode():
                    likeliest = torch.log_softmax(truth(torch.tensor([[5, 6, 7]])).logits[0, -1], -1).topk(5)
                said = [each["logprob"] for each in row["top_logprobs"]]
                assert said == pytest.approx(likeliest.values.tolist(), abs=1e-2)
        finally:
            await engine.close()

    asyncio.run(check())
