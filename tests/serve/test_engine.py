"""The embedded engine behind a worker and a controller, with a real (tiny) model; and the engine by itself."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_stack import Command, Site, site, until
from serve_tiny import checkpoint, model

from tests.adapters_kit import adapted, store
from vicuna.config import ModelConfig
from vicuna.conversation import Message
from vicuna.errors import InputError
from vicuna.serve.config import AdapterConfig, EngineConfig, WorkerConfig
from vicuna.serve.engines import Piece, Step
from vicuna.serve.engines.transformers import TransformersEngine
from vicuna.serve.faults import Fault
from vicuna.serve.protocol import EmbedJob, Job, Sampling, Turn

torch = pytest.importorskip("torch")
CONTEXT = 160
TEMPLATE = "vicuna_v1.1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("model") / "tiny", context=CONTEXT)


@pytest.fixture(scope="module")
def api(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("site")) as made:
        made.join("--model.path", str(folder), "--model.template", TEMPLATE, "--engine.threads", "1")
        yield made


def prompt_ids(folder: Path, messages: list[Message]) -> tuple[Any, list[int]]:
    from vicuna.models.load import load_template, load_tokenizer
    from vicuna.prompt import encode_prompt

    words = load_tokenizer(folder)
    return words, encode_prompt(messages, words, load_template(folder, TEMPLATE, words))


def expected(folder: Path, question: str, tokens: int) -> tuple[str, int, int]:
    """What `generate` answers to the prompt of the one prompt truth: text, prompt tokens, answer tokens."""
    from vicuna.models.load import load_model

    words, ids = prompt_ids(folder, [Message("user", question)])
    model = load_model(folder, torch.float32, "cpu")
    given = torch.tensor([ids])
    out = model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=tokens, do_sample=False)
    answer = out[0, len(ids) :].tolist()
    whole = words.decode(ids + answer, skip_special_tokens=True)
    text = whole[len(words.decode(ids, skip_special_tokens=True)) :]
    return text.removeprefix(" "), len(ids), len(answer)


def body(question: str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": question}], "temperature": 0, **more}


def test_greedy_answers_through_the_api_are_those_of_generate(api: Site, folder: Path) -> None:
    questions = [f"{'word ' * i}how are you {i}?" for i in range(6)]

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=60) as client:
            address = f"{api.api}/v1/chat/completions"
            return await asyncio.gather(*(client.post(address, json=body(q, max_tokens=12)) for q in questions))

    for question, reply in zip(questions, asyncio.run(ask()), strict=True):
        text, prompt, answer = expected(folder, question, 12)
        assert reply.json()["choices"][0]["message"]["content"] == text
        assert reply.json()["usage"] == {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
        }


def test_text_that_looks_like_a_stop_token_stays_text(api: Site, folder: Path) -> None:
    question = "a </s> b USER: c ASSISTANT: d"
    reply = httpx.post(f"{api.api}/v1/chat/completions", json=body(question, max_tokens=5), timeout=60).json()
    assert reply["usage"]["prompt_tokens"] == len(prompt_ids(folder, [Message("user", question)])[1])


def test_an_overlong_prompt_is_400_with_both_numbers_and_the_engine_lives_on(api: Site, folder: Path) -> None:
    question = "quick brown fox " * 60
    tokens = len(prompt_ids(folder, [Message("user", question)])[1])
    reply = httpx.post(f"{api.api}/v1/chat/completions", json=body(question), timeout=60)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "context_length_exceeded"
    assert f"{CONTEXT} tokens" in reply.json()["error"]["message"]
    assert f"{tokens} tokens" in reply.json()["error"]["message"]
    assert httpx.post(f"{api.api}/v1/chat/completions", json=body("hi", max_tokens=3), timeout=60).status_code == 200


def test_a_prompt_of_megabytes_is_refused_before_it_is_tokenised_and_costs_the_worker_nothing(api: Site) -> None:
    before = api.fleet()["workers"][0]
    for asked in (body("x" * 3_900_000), {"model": "tiny", "prompt": "hello world " * 300_000}):
        route = "chat/completions" if "messages" in asked else "completions"
        reply = httpx.post(f"{api.api}/v1/{route}", json=asked, timeout=60)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert "00000 characters" in reply.json()["error"]["message"]
    after = api.fleet()["workers"][0]
    assert (after["id"], after["state"], after["last_failure"]) == (before["id"], "live", before["last_failure"])


def test_an_answer_ends_where_the_context_ends(api: Site, folder: Path) -> None:
    reply = httpx.post(
        f"{api.api}/v1/chat/completions", json=body("hi", max_tokens=5000, ignore_eos=True), timeout=60
    ).json()
    assert reply["usage"]["total_tokens"] == CONTEXT
    assert reply["choices"][0]["finish_reason"] == "length"


def test_a_seed_repeats_an_answer_and_streams_say_the_same(api: Site) -> None:
    asked = body("hi", max_tokens=20, seed=5) | {"temperature": 1.0, "top_p": 0.9}
    address = f"{api.api}/v1/chat/completions"
    first, second = (httpx.post(address, json=asked, timeout=60).json() for _ in range(2))
    assert first["choices"] == second["choices"]
    other = httpx.post(address, json=asked | {"seed": 6}, timeout=60).json()
    assert other["choices"] != first["choices"]
    import openai

    with openai.OpenAI(base_url=f"{api.api}/v1", api_key="none") as client:
        stream = client.chat.completions.create(**asked, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == first["choices"][0]["message"]["content"]


def test_completions_take_text_and_token_ids(api: Site) -> None:
    address = f"{api.api}/v1/completions"
    asked = {"model": "tiny", "temperature": 0, "max_tokens": 5}
    assert httpx.post(address, json=asked | {"prompt": "The quick"}, timeout=60).status_code == 200
    assert httpx.post(address, json=asked | {"prompt": [5, 6]}, timeout=60).json()["usage"]["prompt_tokens"] == 2
    reply = httpx.post(address, json=asked | {"prompt": [5, 99999]}, timeout=60)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "prompt")


def test_a_template_that_cannot_say_the_messages_is_a_400(api: Site) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]
    reply = httpx.post(f"{api.api}/v1/chat/completions", json={"model": "tiny", "messages": messages}, timeout=60)
    assert reply.status_code == 400
    assert "system message" in reply.json()["error"]["message"]


def test_many_clients_that_leave_free_every_block(api: Site) -> None:
    async def one(client: httpx.AsyncClient, index: int) -> None:
        try:
            async with asyncio.timeout(0.02 * (index % 9)):
                await client.post(f"{api.api}/v1/chat/completions", json=body(f"hi {index}", ignore_eos=True))
        except TimeoutError:
            pass

    async def all_of_them() -> None:
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=60) as client:
            await asyncio.gather(*(one(client, index) for index in range(60)))

    asyncio.run(all_of_them())
    until(lambda: api.fleet()["in_flight"] == 0, "all slots to be free")
    busy = ("running", "batch", "waiting", "cache_used")
    until(lambda: not any(api.fleet()["workers"][0]["load"][name] for name in busy), "all memory to be free")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--model.path", "/nowhere"], "is not a folder"),
        (["--model.template", "vicuna_v1.1"], "needs --model.path"),
        (["--names", "x", "--engine.kind", "scripted", "--engine.script", "/nowhere.yaml"], "cannot read"),
    ],
)
def test_a_worker_that_cannot_start_says_why_in_one_line(tmp_path: Path, flags: list[str], says: str) -> None:
    command = Command(tmp_path, "worker", *flags)
    assert command.wait() in (1, 2)
    lines = command.output().strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert says in lines[0]


def test_log_probabilities_are_those_of_the_model_and_spell_the_answer(api: Site, folder: Path) -> None:
    from vicuna.models.load import load_model

    asked = body("how are you", max_tokens=12, logprobs=True, top_logprobs=20, ignore_eos=True)
    choice = httpx.post(f"{api.api}/v1/chat/completions", json=asked, timeout=60).json()["choices"][0]
    rows = choice["logprobs"]["content"]
    words, ids = prompt_ids(folder, [Message("user", "how are you")])
    spelled = b"".join(bytes(row["bytes"]) for row in rows).decode("utf-8", "replace")
    assert spelled.lstrip(" ") == choice["message"]["content"].lstrip(" ")
    with torch.inference_mode():
        logits = load_model(folder, torch.float32, "cpu")(torch.tensor([ids])).logits[0, -1]
    truth = torch.log_softmax(logits, -1).topk(20)
    assert [row["logprob"] for row in rows[0]["top_logprobs"]] == pytest.approx(truth.values.tolist(), abs=1e-3)
    assert rows[0]["logprob"] == pytest.approx(float(truth.values[0]), abs=1e-3)  # greedy takes the likeliest
    named = [bytes(row["bytes"]) for row in rows[0]["top_logprobs"]]
    assert named[0].decode("utf-8", "replace") == words.decode([int(truth.indices[0])])


def test_a_bias_is_obeyed_and_one_on_a_token_that_is_not_there_is_refused(api: Site) -> None:
    address = f"{api.api}/v1/completions"
    asked = {"model": "tiny", "prompt": [5, 6], "temperature": 0, "max_tokens": 4, "logprobs": 0}
    free = httpx.post(address, json=asked, timeout=60).json()["choices"][0]["logprobs"]["tokens"]
    forced = httpx.post(address, json=asked | {"logit_bias": {"40": 100}}, timeout=60).json()["choices"][0]["logprobs"]
    assert len(set(forced["tokens"])) == 1
    assert forced["tokens"] != free
    wrong = httpx.post(address, json=asked | {"logit_bias": {"99999": 1}}, timeout=60)
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "logit_bias")


def test_vectors_are_of_length_one_and_a_text_that_is_too_long_is_refused(api: Site, folder: Path) -> None:
    address = f"{api.api}/v1/embeddings"
    reply = httpx.post(address, json={"model": "tiny", "input": ["The quick fox", "Hello! " * 20, "hi"]}, timeout=60)
    vectors = [row["embedding"] for row in reply.json()["data"]]
    assert [len(each) for each in vectors] == [32, 32, 32]
    assert [sum(x * x for x in each) for each in vectors] == pytest.approx([1, 1, 1], abs=1e-3)
    again = httpx.post(address, json={"model": "tiny", "input": "hi"}, timeout=60).json()["data"][0]["embedding"]
    assert again == pytest.approx(vectors[2], abs=1e-4)
    for wrong, param, says in (
        ({"input": ["hi", "word " * 500]}, "input", f"{CONTEXT} tokens"),
        ({"input": [5, 99999]}, "input", "no token 99999"),
        ({"input": "hi", "dimensions": 8}, "dimensions", "32 numbers"),
    ):
        refused = httpx.post(address, json={"model": "tiny", **wrong}, timeout=60)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
        assert says in refused.json()["error"]["message"]


def test_tokens_are_those_that_the_engine_reads(api: Site, folder: Path) -> None:
    reply = httpx.post(f"{api.api}/tokenize", json={"model": "tiny", "messages": body("hi")["messages"]}, timeout=60)
    assert reply.json()["tokens"] == prompt_ids(folder, [Message("user", "hi")])[1]
    assert reply.json()["max_model_len"] == CONTEXT


def test_settings_that_are_null_take_nobody_down(api: Site) -> None:
    address = f"{api.api}/v1/chat/completions"
    for stream in (False, True) * 5:
        reply = httpx.post(address, json=body("hi", max_tokens=3, stream=stream) | {"temperature": None}, timeout=60)
        assert reply.status_code == 200
    (worker,) = api.fleet()["workers"]
    assert (worker["state"], worker["failures_in_a_row"]) == ("live", 0)


# ------------------------------------------------------------------------------------------- the engine by itself
def config(folder: Path, adapters: tuple[AdapterConfig, ...] = (), **engine: Any) -> WorkerConfig:
    model = ModelConfig(path=str(folder), template=TEMPLATE)
    return WorkerConfig(model=model, adapters=adapters, engine=EngineConfig(threads=1, **engine))


@asynccontextmanager
async def running(settings: WorkerConfig) -> AsyncIterator[TransformersEngine]:
    engine = TransformersEngine(settings)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


async def answer(engine: TransformersEngine, job: Job) -> list[Piece]:
    """Its pieces after the first, which has the prompt's size."""
    return [piece async for piece in engine.generate(job)][1:]


def ids_of(pieces: list[Piece]) -> list[int]:
    return [token for piece in pieces for token in piece.ids]


def job(tokens: Sequence[int], count: int, name: str = "tiny", **sampling: Any) -> Job:
    """A greedy answer of so many tokens."""
    settings = Sampling(**{"temperature": 0.0, "max_tokens": count, "ignore_eos": True} | sampling)
    return Job(id="1", model=name, tokens=tuple(tokens), sampling=settings)


def test_a_continued_job_goes_on_with_the_same_tokens_and_text(folder: Path) -> None:
    async def check() -> None:
        async with running(config(folder)) as engine:
            whole = Job(
                id="1",
                model="tiny",
                messages=(Turn(role="user", content="hi"),),
                sampling=Sampling(temperature=1.0, seed=3, max_tokens=30, ignore_eos=True),
            )
            pieces = await answer(engine, whole)
            ids = ids_of(pieces)
            text = "".join(piece.text for piece in pieces)
            for cut in (1, 7, 29):
                shown = "".join(piece.text for piece in pieces[:cut])
                rest = await answer(engine, whole.model_copy(update={"emitted": tuple(ids[:cut]), "shown": shown}))
                assert ids[:cut] + ids_of(rest) == ids
                assert shown + "".join(piece.text for piece in rest) == text
                assert rest[-1].finish == "length"

    asyncio.run(check())


def test_the_next_turn_of_a_conversation_is_computed_from_where_the_last_one_ended(folder: Path) -> None:
    async def turns(engine: TransformersEngine) -> list[list[int]]:
        said = list(range(5, 45))
        answers = []
        for more in ([7, 8, 9], [11] * 20, [3]):
            said += more
            answers.append(ids_of(await answer(engine, job(said, 12))))
            said += answers[-1]
        return answers

    async def check() -> None:
        async with running(config(folder)) as engine, running(config(folder, prefix_cache=False)) as forgetful:
            steps: list[Step] = []
            engine.observe(steps.append)
            before = engine.load()
            assert await turns(engine) == await turns(forgetful)
            load = engine.load()
            found = load["prefix_found"] - before["prefix_found"]
            assert load["prefix_looked_up"] - before["prefix_looked_up"] == 43 + (43 + 12 + 20) + (43 + 12 + 20 + 13)
            assert found == sum(step.found for step in steps) == 48 + 80
            assert load["cache_used"] == 0
            assert 0 < load["cache_kept"] <= load["cache_room"]
            assert forgetful.load()["prefix_found"] == forgetful.load()["cache_kept"] == 0

    asyncio.run(check())


def test_adapters_are_models_of_their_own_names_beside_the_base_model(folder: Path, tmp_path: Path) -> None:
    from vicuna.models.load import load_model

    base = load_model(folder, torch.float32, "cpu")
    for number in range(2):
        store(base, tmp_path / f"tuned-{number}", seed=number)
    settings = config(folder, tuple(AdapterConfig(path=str(tmp_path / f"tuned-{number}")) for number in range(2)))
    prompt = list(range(5, 45))

    def truth(net: Any) -> list[int]:
        ids = torch.tensor([prompt])
        out = net.generate(input_ids=ids, attention_mask=torch.ones_like(ids), min_new_tokens=12, max_new_tokens=12,
                           do_sample=False)  # fmt: skip
        return list(out[0, len(prompt) :].tolist())

    async def check() -> None:
        async with running(settings) as engine:
            names = ["tiny", "tuned-0", "tuned-1"]
            assert [model.name for model in engine.models()] == names
            assert len({model.checkpoint_hash for model in engine.models()}) == 3
            assert ["embeddings" in model.features for model in engine.models()] == [True, False, False]
            expected = [truth(net) for net in (base, adapted(base, 0), adapted(base, 1))]
            assert expected[0] != expected[1] != expected[2]
            for _ in range(2):  # the second time from the prefix cache
                jobs = [job(prompt, 12, name) for name in names]
                answers = await asyncio.gather(*(answer(engine, each) for each in jobs))
                assert [ids_of(pieces) for pieces in answers] == expected

    asyncio.run(check())


def test_each_step_is_told_in_the_event_loops_thread(folder: Path) -> None:
    steps: list[tuple[Step, threading.Thread]] = []

    async def check() -> None:
        async with running(config(folder, slots=2)) as engine:
            engine.observe(lambda step: steps.append((step, threading.current_thread())))
            await asyncio.gather(*(answer(engine, job([5 + number, 6], 10)) for number in range(5)))

    asyncio.run(check())
    assert {thread for _, thread in steps} == {threading.current_thread()}
    assert sum(step.answer_tokens for step, _ in steps) == 50
    assert max(step.running for step, _ in steps) == 2
    assert max(step.waiting for step, _ in steps) >= 1
    assert sum(len(step.queued) for step, _ in steps) == 5


@pytest.mark.parametrize("prefill", [0, 64])
def test_nobody_stalls_while_a_prompt_of_2000_tokens_is_computed(tmp_path: Path, prefill: int) -> None:
    folder = checkpoint(tmp_path / "tiny", context=2300)

    async def check() -> None:
        async with running(config(folder, prefill=prefill)) as engine:
            steps: list[Step] = []
            streams = [asyncio.ensure_future(answer(engine, job([5 + number, 6], 2000))) for number in range(4)]
            under_way = asyncio.Event()
            engine.observe(lambda step: under_way.set() if step.answer_tokens == 4 else None)
            await under_way.wait()
            engine.observe(steps.append)
            await answer(engine, job([2 + (7 * place) % 397 for place in range(2000)], 3))
            assert not any(stream.done() for stream in streams)
            for stream in streams:
                stream.cancel()
            await asyncio.wait(streams)
            during = [step for step in steps if step.prompt_tokens]
            assert 1999 <= sum(step.prompt_tokens for step in during) <= 2000  # a last piece of one token is none
            assert all(step.answer_tokens >= 4 for step in during)  # each of the others in every step
            assert not prefill or max(step.prompt_tokens for step in during) == prefill

    asyncio.run(check())


def test_an_overlong_prompt_and_an_unknown_token_are_refused_with_both_numbers(folder: Path) -> None:
    async def check() -> None:
        async with running(config(folder)) as engine:
            for tokens, says in (([5] * CONTEXT, f"{CONTEXT} tokens"), ([5, 99999], "no token 99999")):
                with pytest.raises(Fault, match=says) as caught:
                    await answer(engine, job(tokens, 3))
                assert caught.value.status == 400
            assert len(ids_of(await answer(engine, job([5] * (CONTEXT - 1), 3)))) == 1
            with pytest.raises(Fault, match=f"{CONTEXT + 1} tokens"):
                await engine.embed(EmbedJob(id="e", model="tiny", tokens=((5,) * (CONTEXT + 1),)))

    asyncio.run(check())


def test_a_step_that_fails_ends_its_answers_with_an_error_and_the_engine_goes_on(folder: Path) -> None:
    async def check() -> None:
        async with running(config(folder)) as engine:
            engine._model.forward = _broken
            for each in await asyncio.gather(
                *(answer(engine, job([5, 6], 3)) for _ in range(3)), return_exceptions=True
            ):
                assert isinstance(each, Fault)
                assert (each.status, each.code) == (500, "engine_failed")
                assert "ZeroDivisionError" in str(each)
            del engine._model.forward
            assert (await answer(engine, job([5, 6], 3)))[-1].finish == "length"
            assert engine.trouble() is None
            assert engine.load()["cache_used"] == 0

    asyncio.run(check())


def _broken(*args: Any, **kwargs: Any) -> None:
    raise ZeroDivisionError


def test_out_of_memory_ends_the_one_answer_that_cannot_be_computed_and_the_engine_goes_on(folder: Path) -> None:
    async def check() -> None:
        async with running(config(folder)) as engine:
            engine._model.forward = _out_of_memory
            with pytest.raises(Fault, match="not enough memory") as caught:
                await answer(engine, job([5, 6], 3))
            assert (caught.value.status, caught.value.code) == (503, "out_of_memory")
            del engine._model.forward
            assert (await answer(engine, job([5, 6], 3)))[-1].finish == "length"
            assert engine.trouble() is None
            assert engine.load()["cache_used"] == 0

    asyncio.run(check())


def _out_of_memory(*args: Any, **kwargs: Any) -> None:
    raise torch.OutOfMemoryError("the memory is full")


def test_a_prompt_with_tokens_that_the_weights_lack_is_refused_and_the_batch_lives_on(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny")
    model(vocabulary=300).float().save_pretrained(folder)  # the tokenizer has more tokens than these weights

    async def check() -> None:
        async with running(config(folder)) as engine:
            bad = Job(id="2", model="tiny", prompt="The quick brown fox", sampling=Sampling(max_tokens=3))
            with pytest.raises(Fault, match="the model has no token") as caught:
                await answer(engine, bad)
            assert (caught.value.status, caught.value.param) == (400, "prompt")
            assert (await answer(engine, job([5, 6], 3)))[-1].finish is not None

    asyncio.run(check())


def test_many_texts_hold_up_no_answer_for_more_than_a_step(folder: Path) -> None:
    async def check() -> None:
        async with running(config(folder)) as engine:
            free = ids_of(await answer(engine, job([5, 6], 20)))
            texts = EmbedJob(id="e", model="tiny", tokens=((5, 6, 7, 8) * 10,) * 3000)
            vectors = asyncio.ensure_future(engine.embed(texts))
            await asyncio.sleep(0.05)
            assert ids_of(await answer(engine, job([5, 6], 20))) == free
            assert not vectors.done()
            assert len((await vectors).vectors) == 3000
            given_up = asyncio.ensure_future(engine.embed(texts))
            await asyncio.sleep(0.05)
            given_up.cancel()
            await asyncio.wait({given_up})
            assert engine._outlets == {}
            await answer(engine, job([5, 6], 5))
            assert engine.load()["cache_used"] == 0

    asyncio.run(check())


def test_closing_ends_the_thread(folder: Path) -> None:
    async def check() -> None:
        engine = TransformersEngine(config(folder))
        await engine.start()
        await engine.close()
        assert engine.trouble() is not None

    asyncio.run(check())
    assert "engine" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("gemma2", "soft-capped scores"), ("gpt_oss", "attention sinks"), ("mamba", "layers of kind linear_attention")],
)
def test_a_model_that_cannot_be_batched_is_refused_when_the_worker_starts(
    tmp_path: Path, kind: str, reason: str
) -> None:
    folder = checkpoint(tmp_path / "tiny")
    model(kind).float().save_pretrained(folder)
    with pytest.raises(InputError, match=reason):
        asyncio.run(TransformersEngine(config(folder)).start())
