"""Several processes train as one: the same numbers, the same data, and none of them waits for a dead one."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.train import runs
from vicuna import manifest
from vicuna.train.supervise import LOST

TWO = {"launch": {"ranks": 2, "timeout": 120}}


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory) -> Path:
    """The run on one rank."""
    out = tmp_path_factory.mktemp("alone")
    runs.train(world, out)
    return out


def ranks_of(child) -> list[psutil.Process]:
    """The processes that train, in the order of their ranks."""
    found = [each for each in psutil.Process(child.pid).children(recursive=True) if "RANK" in each.environ()]
    return sorted(found, key=lambda each: int(each.environ()["RANK"]))


def finish(child) -> tuple[int, str]:
    _, said = child.communicate(timeout=180)
    assert "Traceback" not in said
    return child.returncode, said


def close(one: Path, other: Path) -> None:
    """The same losses, and the same weights up to rounding."""
    for (step, loss, norm), (other_step, other_loss, other_norm) in zip(runs.losses(one), runs.losses(other)):
        assert step == other_step
        assert loss == pytest.approx(other_loss, rel=1e-4)
        assert norm == pytest.approx(other_norm, rel=1e-3)
    assert len(runs.losses(one)) == len(runs.losses(other))
    assert runs.same_weights(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("ranks", "recomputed"), [(2, 0), (3, 1)])
def test_more_ranks_learn_what_one_learns(world, alone, tmp_path, ranks, recomputed):
    """Two bins a step on three ranks: one of them has an empty pass. The vocabulary of 451 divides by neither."""
    child = runs.start(world, tmp_path, launch={"ranks": ranks}, gradient_checkpointing=recomputed)
    status, said = finish(child)
    assert status == 0, said
    close(tmp_path, alone)
    facts = manifest.verify(tmp_path / "model").facts
    assert facts["ranks"] == ranks
    assert facts["target_tokens"] == manifest.read(alone / "model").facts["target_tokens"]


def test_sharding_on_one_rank_changes_nothing(world, alone, tmp_path):
    runs.train(world, tmp_path, parallel={"shard": "on"})
    close(tmp_path, alone)


@pytest.mark.parametrize("told", [0, 1])
def test_a_signal_to_one_rank_stops_all_at_the_same_step_and_the_run_goes_on(world, alone, tmp_path, told):
    out = tmp_path / "run"
    child = runs.start(world, out, **TWO, checkpoint={"every": 0})
    runs.wait_for_steps(child, out, 3)
    ranks_of(child)[told].send_signal(signal.SIGTERM)
    status, said = finish(child)
    assert status == 143
    assert said.count("start again to go on from there") == 1
    (saved,) = (out / "checkpoints").glob("step-*")
    assert runs.position(saved)["step"] == len(runs.losses(out))
    runs.train(world, out)  # on one rank
    close(out, alone)


def test_a_killed_rank_ends_the_others_and_a_new_start_gives_the_same_bits(world, tmp_path):
    unbroken, out = tmp_path / "unbroken", tmp_path / "run"
    status, said = finish(runs.start(world, unbroken, **TWO))
    assert status == 0, said
    child = runs.start(world, out, **TWO)
    runs.wait_for_steps(child, out, 7)
    ranks_of(child)[1].send_signal(signal.SIGKILL)
    status, said = finish(child)
    assert status == 128 + signal.SIGKILL
    assert "rank 1" in said
    status, said = finish(runs.start(world, out, **TWO))
    assert status == 0, said
    assert runs.losses(out) == runs.losses(unbroken)
    assert runs.same_weights(out, unbroken)


def test_a_run_begun_on_one_rank_goes_on_with_two(world, alone, tmp_path):
    child = runs.start(world, tmp_path, launch={"ranks": 1})
    runs.wait_for_steps(child, tmp_path, 5)
    child.send_signal(signal.SIGTERM)
    assert finish(child)[0] == 143
    status, said = finish(runs.start(world, tmp_path, **TWO))
    assert status == 0, said
    close(tmp_path, alone)


def test_a_mistake_is_said_once_for_all_ranks(world, tmp_path):
    status, said = finish(runs.start(world, tmp_path, **TWO, model={"max_length": 512}, batch={"tokens": 512}))
    assert status == 2
    assert said.count("has 256 positions") == 1


def test_a_disk_that_takes_no_more_ends_all_ranks(world, tmp_path):
    out = tmp_path / "run"
    status, said = finish(runs.start(world, out, limit=60_000, **TWO, checkpoint={"every": 0}))
    assert status == 1
    assert said.count(f"error: cannot write {out / 'model'}") == 1
    assert not (out / "model").exists()


def test_a_file_that_the_first_rank_alone_cannot_write_is_one_line(world, tmp_path):
    (tmp_path / "config.yaml").mkdir()
    status, said = finish(runs.start(world, tmp_path, **TWO))
    assert status == 1
    assert said.count("error: ") == 1
    assert f"error: cannot write {tmp_path / 'config.yaml'}: Is a directory" in said


@pytest.mark.slow
def test_a_rank_that_stops_to_answer_ends_all_when_their_patience_does(world, tmp_path):
    child = runs.start(world, tmp_path, launch={"ranks": 2, "timeout": 5}, batch={"epochs": 500})
    runs.wait_for_steps(child, tmp_path, 4)
    stopped = ranks_of(child)[1]
    stopped.suspend()
    status, said = finish(child)
    assert status == LOST
    assert "lost" in said
    assert not stopped.is_running()


def test_the_model_may_be_written_in_several_files(world, alone, tmp_path):
    status, said = finish(runs.start(world, tmp_path, **TWO, export={"shard_gb": 5e-5}))
    assert status == 0, said
    assert len(list((tmp_path / "model").glob("model-*-of-*.safetensors"))) > 1
    assert (tmp_path / "model" / "model.safetensors.index.json").exists()
    close(tmp_path, alone)


def test_no_rank_stays_behind_when_its_launcher_is_killed(world, tmp_path):
    child = runs.start(world, tmp_path, **TWO, batch={"epochs": 500})
    runs.wait_for_steps(child, tmp_path, 2)
    ranks = ranks_of(child)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate(timeout=60)
    _, alive = psutil.wait_procs(ranks, timeout=30)
    assert not alive
