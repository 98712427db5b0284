"""The embedded engine's thread: however it ends nobody waits for ever, and whoever waits has its turn."""

import asyncio
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from batch_kit import assert_all_is_free, batcher, seat, served  # noqa: E402
from serve_tiny import checkpoint  # noqa: E402

from vicuna.config import ModelConfig  # noqa: E402
from vicuna.serve.config import EngineConfig, WorkerConfig  # noqa: E402
from vicuna.serve.engines import Piece  # noqa: E402
from vicuna.serve.engines.continuous.embedding import Embedder, Texts  # noqa: E402
from vicuna.serve.engines.continuous.seats import Seat  # noqa: E402
from vicuna.serve.engines.transformers import TransformersEngine  # noqa: E402
from vicuna.serve.faults import Fault  # noqa: E402
from vicuna.serve.protocol import EmbedJob, Job, Sampling  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("model") / "tiny", context=2000)


def engine_of(folder: Path) -> TransformersEngine:
    model = ModelConfig(path=str(folder), template="vicuna_v1.1")
    return TransformersEngine(WorkerConfig(model=model, engine=EngineConfig(kind="transformers", threads=1)))


async def answer(engine: TransformersEngine, tokens: int) -> list[Piece]:
    sampling = Sampling(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    return [piece async for piece in engine.generate(Job(id="1", model="tiny", tokens=(5, 6), sampling=sampling))]


async def fault_of(work: "asyncio.Future[object]") -> Fault:
    with pytest.raises(Fault) as caught:
        await asyncio.wait_for(work, 30)
    return caught.value


def test_closing_ends_answers_and_vectors_that_are_under_way_with_a_fault(folder: Path) -> None:
    async def check() -> None:
        engine = engine_of(folder)
        await engine.start()
        under_way = asyncio.ensure_future(answer(engine, 1900))
        vectors = asyncio.ensure_future(engine.embed(EmbedJob(id="e", model="tiny", tokens=((5, 6, 7) * 300,) * 3000)))
        under = asyncio.Event()
        engine.observe(lambda step: under.set() if step.running else None)
        await under.wait()
        await engine.close()
        for work in (under_way, vectors):
            assert (await fault_of(work)).status == 503

    asyncio.run(check())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_lets_nobody_wait_and_makes_the_engine_ill(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        engine = engine_of(folder)
        await engine.start()
        assert engine.trouble() is None
        monkeypatch.setattr(engine, "_take_in", lambda: 1 / 0)
        for _ in range(2):  # the first one is in the thread's hands, the second comes too late
            assert (await fault_of(asyncio.ensure_future(answer(engine, 1900)))).code == "engine_failed"
        assert engine.trouble() is not None
        await engine.close()

    asyncio.run(check())


class Leaving(Seat):
    """An answer that is aborted just after the batcher has looked whether it is."""

    left = leaves = False

    @property
    def aborted(self) -> bool:
        was, self.left = self.left, self.left or self.leaves
        return was

    @aborted.setter
    def aborted(self, value: bool) -> None:
        self.left = value


def test_an_answer_that_is_aborted_while_the_batch_changes_gives_its_blocks_back() -> None:
    made = batcher()
    ends, leaving = seat([5, 6, 7] * 20, 50), seat([8, 6, 7] * 20, 50)
    leaving.__class__ = Leaving
    for each in (ends, leaving):
        made.add(each)
    made.step()
    assert leaving.generated == 1
    ends.aborted = leaving.leaves = True
    for _ in range(3):
        made.step()
    assert_all_is_free(made)


def test_a_long_text_is_embedded_however_many_answers_want_its_room() -> None:
    made = batcher(slots=8, room=320)
    machine = Embedder(served("llama"), made.cache, made.pools)
    machine.add(texts := Texts([list(range(2, 242))]))
    arrived = steps = 0
    while not texts.done:
        steps += 1
        assert steps < 200
        while len(made.running) + len(made.waiting) < 8:
            arrived += 1
            made.add(seat([3 + arrived % 300, 5, 6, 7], 10 + 37 * arrived % 50))
        made.step(machine.hungry)
        machine.step(made.spare)


def test_texts_that_need_too_much_memory_are_computed_in_smaller_steps() -> None:
    made = batcher()
    machine = Embedder(served("llama"), made.cache, made.pools)
    sizes: list[int] = []

    def at_most_50(_: object, args: tuple[torch.Tensor, ...], kwargs: dict[str, object]) -> None:
        sizes.append(args[0].shape[1])
        if sizes[-1] > 50:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def no_memory(*_: object) -> None:
        raise MemoryError

    ids = [list(range(2, 200)), [7, 8, 9]]
    machine.add(easy := Texts(ids))
    while machine.busy:
        machine.step()
    layer = served("llama").model.layers[0]
    hook = layer.register_forward_pre_hook(at_most_50, with_kwargs=True)
    machine.add(hard := Texts(ids))
    while machine.busy:
        machine.step()
    hook.remove()
    assert max(sizes) > 50
    torch.testing.assert_close(torch.tensor(hard.vectors), torch.tensor(easy.vectors), atol=1e-4, rtol=1e-4)
    hook = layer.register_forward_pre_hook(no_memory)
    machine.add(hopeless := Texts(ids))
    while machine.busy:
        machine.step()
    hook.remove()
    assert hopeless.fault is not None
    assert (hopeless.fault.status, hopeless.fault.code) == (503, "out_of_memory")
    assert made.cache.used == 0


def test_texts_beside_answers_are_computed_in_pieces_that_do_not_hold_them_up() -> None:
    made = batcher(slots=4)
    for number in range(4):
        made.add(seat([5 + number, 6], 100))
    for _ in range(10):
        made.step()
    for _ in range(20):
        made._pace.learn(0.010, 0, 4)
        made._pace.learn(0.010 + 40 * 0.0005, 40, 4)
    assert 16 <= made.spare <= 60
