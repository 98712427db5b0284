"""Checkpoints of several ranks: written by all, agreed on by all, taken over by another number of ranks."""

import itertools
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.train.test_checkpoint import RUN, alone, copied, fresh, same, small_disk, step, stored
from vicuna import manifest
from vicuna.errors import VicunaError
from vicuna.train.adamw8bit import AdamW8bit
from vicuna.train.checkpoint import Checkpoints, Position
from vicuna.train.config import CheckpointConfig
from vicuna.train.interval import FIRST, Cadence
from vicuna.train.launch import free_port
from vicuna.train.parallel import World, joined


def opened(folder: Path, world: World, run: dict = RUN) -> Checkpoints:
    return Checkpoints(folder, run, 2, world, asynchronous=True)


def sharded() -> tuple[nn.Module, torch.optim.Optimizer]:
    from torch.distributed.fsdp import fully_shard

    net, _ = fresh()
    fully_shard(net.hidden)
    fully_shard(net)
    return net, torch.optim.AdamW(net.parameters(), lr=1e-2, fused=True)


def in_bytes(net: nn.Module) -> torch.optim.Optimizer:
    return AdamW8bit([{"params": list(net.parameters()), "weight_decay": 0.0}], 1e-2, (0.9, 0.99))


def raised(work, *arguments) -> str:
    try:
        work(*arguments)
    except VicunaError as error:
        return str(error)
    return ""


def two_ranks_save(world: World, folder: Path) -> dict:
    """Sharded weights: what was saved, after a forward pass that left the root's weights gathered."""
    net, optimizer = sharded()
    torch.manual_seed(world.rank)
    step(net, optimizer)
    with torch.no_grad():
        net(torch.arange(4))
    checkpoints = opened(folder / "sharded", world)
    checkpoints.save(Position(1), net, optimizer)
    saved, numbers = copied(net, optimizer), torch.get_rng_state()
    losses = [step(net, optimizer) for _ in range(2)]
    checkpoints.save(Position(3), net, optimizer)
    checkpoints.finish()
    again, moved = sharded()
    if world.is_main:
        (checkpoints.complete()[-1] / "__1_0.distcp").unlink()
    world.gather(None)  # until both are here
    back = opened(folder / "sharded", world).restore(again, moved)
    return {
        "saved": saved, "back": back, "restored": copied(again, moved),
        "numbers": torch.equal(torch.get_rng_state(), numbers), "goes on": [step(again, moved) for _ in range(2)],
        "losses": losses,
    }  # fmt: skip


def two_ranks_replicate(world: World, folder: Path) -> dict:
    """The same weights on both ranks, as in QLoRA."""
    net, optimizer = fresh()
    step(net, optimizer)
    checkpoints = opened(folder / "replicated", world)
    checkpoints.save(Position(1), net, optimizer)
    checkpoints.finish()
    other, moved = fresh(seed=1)
    opened(folder / "replicated", world).restore(other, moved)
    return {"saved": copied(net, optimizer), "restored": copied(other, moved)}


def two_ranks_in_eight_bits(world: World, folder: Path) -> dict:
    """Moments in bytes, with scales that are split like the rows of the weights; 5 rows on two ranks."""
    from torch.distributed.fsdp import fully_shard

    net = fully_shard(nn.Linear(512, 5))
    optimizer = in_bytes(net)
    net(torch.randn(4, 512)).square().sum().backward()
    optimizer.step()
    checkpoints = opened(folder / "bytes", world)
    checkpoints.save(Position(1), net, optimizer)
    checkpoints.finish()
    return {"saved": copied(net, optimizer)}


def two_ranks_fail(world: World, folder: Path) -> dict:
    """What each rank is told when one of them cannot write, and when the run is another."""
    net, optimizer = sharded()
    step(net, optimizer)
    checkpoints = opened(folder / "full", world)
    checkpoints.save(Position(1), net, optimizer)
    checkpoints.finish()
    with small_disk(3000) if world.rank == 1 else small_disk(1 << 30):
        checkpoints.save(Position(2), net, optimizer)
        full = raised(checkpoints.finish)
    (folder / "file").write_text("")
    nowhere = opened(folder / "file" / "in", world)
    nowhere.save(Position(1), net, optimizer)
    other = opened(folder / "full", world, {**RUN, "seed": 1})
    return {"full": full, "nowhere": raised(nowhere.finish), "other": raised(other.restore, *sharded())}


def two_ranks_take_over(world: World, folder: Path) -> dict:
    """Go on with what one rank left."""
    net, optimizer = sharded()
    position = opened(folder / "single", world).restore(net, optimizer)
    draw = torch.rand(3)
    opened(folder / "single", world).restore(net, optimizer)
    return {"position": position, "restored": copied(net, optimizer), "draw": draw, "again": torch.rand(3)}


def two_ranks_plan(world: World, folder: Path) -> dict:
    """Each rank measures other times."""
    del folder
    cadence = Cadence(CheckpointConfig(every="auto"), world, 0)
    cadence.ran(1.0 + world.rank, writing=False)
    cadence.saved(FIRST, blocked=0.5 - world.rank / 4, written=3.0 * world.rank)
    return {"due": next(number for number in range(FIRST, 1000) if cadence.due(number, False))}


def one_of_two_dies(world: World, folder: Path) -> dict:
    """Rank 1 is killed while both write."""
    net = nn.Linear(2000, 2000)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    checkpoints = opened(folder / "dies", world)
    net(torch.randn(1, 2000)).sum().backward()
    optimizer.step()
    checkpoints.save(Position(1), net, optimizer)
    checkpoints.save(Position(2), net, optimizer)
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"told": raised(checkpoints.finish)}


SCENES = (
    two_ranks_save, two_ranks_replicate, two_ranks_in_eight_bits, two_ranks_fail, two_ranks_take_over, two_ranks_plan,
    one_of_two_dies,
)  # fmt: skip


def act(rank: int, port: int, folder: Path) -> None:
    """One of two ranks: all scenes, one after another; the last one kills rank 1."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with joined("cpu", 60, alone_too=False) as world:
        for scene in SCENES:
            torch.save(scene(world, folder), folder / f"{scene.__name__}-{rank}.pt")
        os._exit(0)  # the other rank is dead


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """What the ranks found: (scene, rank) → result; and the folder that they wrote to."""
    folder = tmp_path_factory.mktemp("two")
    stored(folder / "single", 2)
    port = free_port()
    spawn = multiprocessing.get_context("spawn")
    ranks = [spawn.Process(target=act, args=(rank, port, folder)) for rank in range(2)]
    for each in ranks:
        each.start()
    for each in ranks:
        each.join(120)
    assert [each.exitcode for each in ranks] == [0, -signal.SIGKILL]
    scenes = itertools.product(SCENES, range(2))
    found = {(scene, rank): folder / f"{scene.__name__}-{rank}.pt" for scene, rank in scenes}
    return {key: torch.load(path, weights_only=False) for key, path in found.items() if path.exists()}, folder


def test_two_ranks_agree_on_the_newest_that_both_find_whole(played):
    results, _ = played
    for rank in range(2):
        found = results[two_ranks_save, rank]
        assert found["back"] == Position(1)
        assert same(found["restored"], found["saved"])
        assert found["numbers"], "each rank has its own random numbers again"
        assert found["goes on"] == found["losses"]
    assert results[two_ranks_save, 0]["losses"] != results[two_ranks_save, 1]["losses"]


def test_one_rank_takes_over_what_two_left(played):
    results, folder = played
    net, optimizer = fresh(seed=1)
    assert alone(folder / "sharded").restore(net, optimizer) == Position(1)
    assert same(copied(net, optimizer), results[two_ranks_save, 0]["saved"])


def test_two_ranks_take_over_what_one_left(played):
    results, folder = played
    net, optimizer = fresh(seed=1)
    assert alone(folder / "single").restore(net, optimizer) == Position(2)
    first, second = (results[two_ranks_take_over, rank] for rank in range(2))
    for each in (first, second):
        assert each["position"] == Position(2)
        assert same(each["restored"], copied(net, optimizer))
        assert torch.equal(each["draw"], each["again"])
    assert torch.equal(first["draw"], torch.rand(3)), "the first rank's random numbers go on"
    assert not torch.equal(first["draw"], second["draw"]), "the new rank has its own"


def test_moments_in_bytes_go_to_another_number_of_ranks(played):
    results, folder = played
    net = nn.Linear(512, 5)
    optimizer = in_bytes(net)
    assert alone(folder / "bytes").restore(net, optimizer) == Position(1)
    found = copied(net, optimizer)
    assert found["optimizer.exp_avg.weight"].dtype == torch.uint8
    assert same(found, results[two_ranks_in_eight_bits, 1]["saved"])


def test_what_every_rank_holds_is_written_once(played):
    results, folder = played
    for rank in range(2):
        assert same(results[two_ranks_replicate, rank]["restored"], results[two_ranks_replicate, 0]["saved"])
    one = sum(each.stat().st_size for each in (folder / "single" / "step-00000002").glob("*.distcp"))
    both = sum(each.stat().st_size for each in (folder / "replicated" / "step-00000001").glob("*.distcp"))
    assert both < one + 10_000  # the second rank's random numbers


def test_an_error_on_one_rank_is_one_line_on_all(played):
    results, folder = played
    for rank in range(2):
        found = results[two_ranks_fail, rank]
        assert found["full"] == f"cannot write {folder}/full/step-00000002: File too large (on rank 1)"
        assert f"cannot write {folder}/file/in/step-00000001: Not a directory" in found["nowhere"]
        assert "is of a run with another seed" in found["other"]
    assert [each.name for each in (folder / "full").iterdir()] == ["step-00000001"]


def test_all_ranks_plan_the_same_next_checkpoint(played):
    results, _ = played
    slowest = FIRST + round((2 * 0.5 * 7200) ** 0.5 / 2)
    assert [results[two_ranks_plan, rank]["due"] for rank in range(2)] == [slowest, slowest]


def test_a_rank_that_dies_while_writing_leaves_an_error_and_no_half_checkpoint(played):
    results, folder = played
    told = results[one_of_two_dies, 0]["told"]
    assert told == f"cannot write {folder}/dies/step-00000002: a rank was lost meanwhile"
    whole = [each.name for each in (folder / "dies").glob("step-*")]
    assert whole == ["step-00000001"]
    manifest.verify(folder / "dies" / whole[0])
