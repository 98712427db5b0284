"""The embedded engine behind a worker and a controller, with a real (tiny) model; and the engine by itself."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_stack import Command, Site, site, until
from serve_tiny import checkpoint, model

from vicuna.config import ModelConfig
from vicuna.conversation import Message
from vicuna.errors import ConfigError
from vicuna.serve.config import EngineConfig, WorkerConfig
from vicuna.serve.engines.transformers import TransformersEngine, choose_device
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


def test_many_clients_that_leave_free_every_row(api: Site) -> None:
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
    idle = {"running": 0.0, "batch": 0.0, "waiting": 0.0}
    until(lambda: api.fleet()["workers"][0]["load"] == idle, "all rows to be free")


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
def config(folder: Path, **engine: Any) -> WorkerConfig:
    model = ModelConfig(path=str(folder), template=TEMPLATE)
    return WorkerConfig(model=model, engine=EngineConfig(threads=1, **engine))


def test_a_continued_job_goes_on_with_the_same_tokens_and_text(folder: Path) -> None:
    async def check() -> None:
        engine = TransformersEngine(config(folder))
        await engine.start()
        try:
            job = Job(
                id="1",
                model="tiny",
                messages=(Turn(role="user", content="hi"),),
                sampling=Sampling(temperature=1.0, seed=3, max_tokens=30, ignore_eos=True),
            )
            pieces = [piece async for piece in engine.generate(job)][1:]
            ids = [each for piece in pieces for each in piece.ids]
            text = "".join(piece.text for piece in pieces)
            for cut in (1, 7, 29):
                shown = "".join(piece.text for piece in pieces[:cut])
                part = job.model_copy(update={"emitted": tuple(ids[:cut]), "shown": shown})
                rest = [piece async for piece in engine.generate(part)][1:]
                assert ids[:cut] + [each for piece in rest for each in piece.ids] == ids
                assert shown + "".join(piece.text for piece in rest) == text
                assert rest[-1].finish == "length"
        finally:
            await engine.close()

    asyncio.run(check())


def test_a_step_that_fails_ends_its_answers_with_an_error_and_the_engine_goes_on(folder: Path) -> None:
    async def check() -> None:
        engine = TransformersEngine(config(folder))
        await engine.start()
        try:
            job = Job(id="1", model="tiny", tokens=(5, 6), sampling=Sampling(temperature=0, max_tokens=3))
            engine._model.forward = _out_of_memory
            with pytest.raises(Fault, match="OutOfMemoryError"):
                _ = [piece async for piece in engine.generate(job)]
            del engine._model.forward
            assert [piece async for piece in engine.generate(job)][-1].finish is not None
            assert engine.trouble() is None
        finally:
            await engine.close()

    asyncio.run(check())


def _out_of_memory(*args: Any, **kwargs: Any) -> None:
    raise torch.OutOfMemoryError("the memory is full")


def test_a_prompt_with_tokens_that_the_weights_lack_is_refused_and_the_batch_lives_on(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny")
    model(vocabulary=300).float().save_pretrained(folder)  # the tokenizer has more tokens than these weights

    async def check() -> None:
        engine = TransformersEngine(config(folder))
        await engine.start()
        try:
            good = Job(id="1", model="tiny", tokens=(5, 6), sampling=Sampling(temperature=0, max_tokens=3))
            bad = Job(id="2", model="tiny", prompt="The quick brown fox", sampling=Sampling(max_tokens=3))
            with pytest.raises(Fault, match="the model has no token") as caught:
                _ = [piece async for piece in engine.generate(bad)]
            assert (caught.value.status, caught.value.param) == (400, "prompt")
            assert [piece async for piece in engine.generate(good)][-1].finish is not None
        finally:
            await engine.close()

    asyncio.run(check())


def test_many_texts_hold_up_no_answer_for_more_than_a_step(folder: Path) -> None:
    async def check() -> None:
        engine = TransformersEngine(config(folder))
        await engine.start()
        try:
            texts = EmbedJob(id="e", model="tiny", tokens=((5, 6, 7, 8) * 10,) * 3000)
            vectors = asyncio.ensure_future(engine.embed(texts))
            await asyncio.sleep(0.05)
            job = Job(id="1", model="tiny", tokens=(5, 6), sampling=Sampling(max_tokens=20, ignore_eos=True))
            assert [piece async for piece in engine.generate(job)][-1].finish == "length"
            assert not vectors.done()
            assert len((await vectors).vectors) == 3000
            given_up = asyncio.ensure_future(engine.embed(texts))
            await asyncio.sleep(0.05)
            given_up.cancel()
            await asyncio.wait({given_up})
            assert engine._outlets == {}
        finally:
            await engine.close()

    asyncio.run(check())


def test_closing_ends_the_thread(folder: Path) -> None:
    async def check() -> None:
        engine = TransformersEngine(config(folder))
        await engine.start()
        await engine.close()
        assert engine.trouble() is not None

    asyncio.run(check())
    assert "engine" not in {thread.name for thread in threading.enumerate()}


def test_a_device_or_dtype_that_is_not_there_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigError, match=r"engine\.device"):
        choose_device(EngineConfig(device="warp"))
    with pytest.raises(ConfigError, match=r"engine\.dtype"):
        choose_device(EngineConfig(device="cpu", dtype="float3"))
