"""Checkpoints: what is read back is what was saved, bit for bit, and nothing torn is ever taken for whole."""

import itertools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from vicuna import manifest
from vicuna.errors import InputError, VicunaError
from vicuna.train.checkpoint import Checkpoints, Position
from vicuna.train.config import CheckpointConfig
from vicuna.train.interval import FIRST, Cadence
from vicuna.train.parallel import World, free_port, joined
from vicuna.train.state import learnt

RUN = {"optim": {"lr": 1e-3}, "seed": 0}
WORDS, WIDTH = 37, 8  # a vocabulary that two ranks cannot share evenly


class Net(nn.Module):
    """Embedding, a hidden layer with dropout, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, WIDTH)
        self.hidden = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.5))
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.hidden(self.table(words))))


def fresh(seed: int = 0) -> tuple[Net, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    net = Net()
    return net, torch.optim.AdamW(net.parameters(), lr=1e-2, fused=True)


def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    """One step on words that the random numbers choose."""
    words = torch.randint(WORDS, (16,))
    loss = nn.functional.cross_entropy(net(words), words)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def copied(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """Everything that learns, whole, on this rank."""
    whole = {}
    for name, value in learnt(net, optimizer).items():
        value = value.full_tensor() if hasattr(value, "full_tensor") else value
        whole[name] = value.clone() if isinstance(value, torch.Tensor) else value
    return whole


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype if isinstance(a[name], torch.Tensor)
        else a[name] == b[name] for name in a
    )  # fmt: skip


def alone(folder: Path, keep: int = 2, asynchronous: bool = True, run: dict = RUN) -> Checkpoints:
    return Checkpoints(folder, run, keep, World(), asynchronous)


def stored(folder: Path, *steps: int) -> None:
    """Checkpoints at these steps of one training."""
    net, optimizer = fresh()
    checkpoints = alone(folder, keep=len(steps))
    for number in range(1, max(steps) + 1):
        step(net, optimizer)
        if number in steps:
            checkpoints.save(Position(number), net, optimizer)
    checkpoints.finish()


# ------------------------------------------------------------------------------------------------- one rank, whole
@pytest.mark.parametrize("asynchronous", [True, False], ids=["asynchronous", "synchronous"])
def test_a_restored_run_goes_on_bit_for_bit(tmp_path, asynchronous):
    net, optimizer = fresh()
    checkpoints = alone(tmp_path, asynchronous=asynchronous)
    for _ in range(3):
        step(net, optimizer)
    checkpoints.save(Position(3, 300, 30, 1.5), net, optimizer)
    saved = copied(net, optimizer)
    losses = [step(net, optimizer) for _ in range(3)]
    checkpoints.finish()
    assert checkpoints.blocked > 0
    assert checkpoints.written > 0

    other, moved = fresh(seed=1)
    assert alone(tmp_path).restore(other, moved) == Position(3, 300, 30, 1.5)
    assert same(copied(other, moved), saved)
    assert [step(other, moved) for _ in range(3)] == losses
    assert same(copied(other, moved), copied(net, optimizer))


def test_each_asynchronous_save_keeps_the_moment_it_was_called_at(tmp_path):
    net, optimizer = fresh()
    checkpoints = alone(tmp_path, keep=3)
    moments = {}
    for number in (1, 2, 3):
        step(net, optimizer)
        moments[number] = copied(net, optimizer)
        checkpoints.save(Position(number), net, optimizer)
        for each in learnt(net, optimizer).values():
            each.add_(100)  # while it is written
        for name, value in learnt(net, optimizer).items():
            value.copy_(moments[number][name])
    checkpoints.finish()
    for number in (3, 2, 1):
        other, moved = fresh(seed=1)
        assert alone(tmp_path).restore(other, moved) == Position(number)
        assert same(copied(other, moved), moments[number])
        shutil.rmtree(checkpoints.complete()[-1])


def test_nothing_to_restore_is_none(tmp_path):
    net, optimizer = fresh()
    before = copied(net, optimizer)
    assert alone(tmp_path / "absent").restore(net, optimizer) is None
    assert same(copied(net, optimizer), before)


def test_only_the_newest_stay(tmp_path):
    net, optimizer = fresh()
    checkpoints = alone(tmp_path, keep=2)
    for number in (2, 4, 6, 8):
        step(net, optimizer)
        checkpoints.save(Position(number), net, optimizer)
    checkpoints.finish()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["step-00000006", "step-00000008"]
    assert checkpoints.complete() == [tmp_path / "step-00000006", tmp_path / "step-00000008"]


def test_a_step_that_is_stored_is_not_written_again(tmp_path):
    stored(tmp_path, 2)
    net, optimizer = fresh()
    checkpoints = alone(tmp_path)
    position = checkpoints.restore(net, optimizer)
    before = (tmp_path / "step-00000002" / "manifest.json").stat().st_mtime_ns
    checkpoints.save(position, net, optimizer)
    checkpoints.finish()
    assert (tmp_path / "step-00000002" / "manifest.json").stat().st_mtime_ns == before


def test_frozen_weights_and_weights_that_never_moved(tmp_path):
    """The frozen ones are the base model's and are not stored; the others have no optimiser state, then or later."""
    net, _ = fresh()
    net.table.requires_grad_(False)
    optimizer = torch.optim.AdamW([each for each in net.parameters() if each.requires_grad], fused=True)
    net.hidden(torch.randn(4, WIDTH)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    names = set(learnt(net, optimizer))
    assert not [name for name in names if "table" in name]
    assert "model.head.weight" in names
    assert "optimizer.exp_avg.head.weight" not in names
    checkpoints = alone(tmp_path)
    checkpoints.save(Position(1), net, optimizer)
    checkpoints.finish()

    other, _ = fresh(seed=1)
    table = other.table.weight.clone()
    other.table.requires_grad_(False)
    moved = torch.optim.AdamW([each for each in other.parameters() if each.requires_grad], fused=True)
    assert alone(tmp_path).restore(other, moved) == Position(1)
    assert same(copied(other, moved), copied(net, optimizer))
    assert torch.equal(other.table.weight, table)


def test_eight_bit_optimiser_states_come_back_bit_for_bit(tmp_path):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    net = nn.Linear(128, 64)  # bitsandbytes keeps small matrices in 32 bits: 8,192 values are in 8

    def moves(module: nn.Module) -> torch.optim.Optimizer:
        return bitsandbytes.optim.AdamW8bit(module.parameters(), lr=1e-3)

    def go(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        module(torch.randn(8, 128)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    optimizer = moves(net)
    go(net, optimizer)
    assert learnt(net, optimizer)["optimizer.state1.weight"].dtype == torch.uint8
    checkpoints = alone(tmp_path)
    checkpoints.save(Position(1), net, optimizer)
    saved = copied(net, optimizer)
    go(net, optimizer)
    checkpoints.finish()
    other = nn.Linear(128, 64)
    moved = moves(other)
    alone(tmp_path).restore(other, moved)
    assert same(copied(other, moved), saved)
    go(other, moved)
    assert same(copied(other, moved), copied(net, optimizer))


def test_wrappers_leave_no_trace_in_the_names(tmp_path):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    net, optimizer = fresh()
    step(net, optimizer)
    names = set(learnt(net, optimizer))
    net.hidden = checkpoint_wrapper(net.hidden)  # type: ignore[assignment]
    net.head = torch.compile(net.head)  # type: ignore[assignment]
    assert {"_checkpoint_wrapped_module", "_orig_mod"} & {
        part for name, _ in net.named_parameters() for part in name.split(".")
    }
    assert set(learnt(net, optimizer)) == names


def test_a_parameter_that_the_optimiser_does_not_move_is_refused(tmp_path):
    net, _ = fresh()
    with pytest.raises(ValueError, match=r"head\.bias is not one of the optimiser's"):
        learnt(net, torch.optim.AdamW([each for each in net.parameters() if each is not net.head.bias]))


def test_sharded_weights_of_a_world_of_one(tmp_path):
    from torch.distributed.fsdp import fully_shard

    with joined("cpu", 60, alone_too=True) as world:
        net, _ = fresh()
        fully_shard(net)
        optimizer = torch.optim.AdamW(net.parameters(), fused=True)
        step(net, optimizer)
        checkpoints = Checkpoints(tmp_path, RUN, 2, world, asynchronous=True)
        checkpoints.save(Position(1), net, optimizer)
        checkpoints.finish()
        saved = copied(net, optimizer)
    other, moved = fresh(seed=1)
    assert alone(tmp_path).restore(other, moved) == Position(1)
    assert same(copied(other, moved), saved)


# -------------------------------------------------------------------------------------------------- one rank, torn
def truncate(path: Path) -> str:
    os.truncate(path / "__0_0.distcp", 1000)
    return "step-00000006/__0_0.distcp is changed"


def flip(path: Path) -> str:
    with open(path / "__0_0.distcp", "r+b") as file:
        file.seek(2000)
        byte = file.read(1)[0]
        file.seek(2000)
        file.write(bytes([byte ^ 1]))
    return "step-00000006/__0_0.distcp is changed"


def lose(path: Path) -> str:
    (path / "metadata").unlink()
    return "step-00000006/metadata is missing"


def move(path: Path) -> str:
    (path / "position.json").write_text(json.dumps({"step": 5}))
    return "step-00000006/position.json is changed"


def unname(path: Path) -> str:
    (path / "manifest.json").unlink()
    return "step-00000006 has no manifest.json"


def tear(path: Path) -> str:
    os.truncate(path / "manifest.json", 20)
    return "step-00000006/manifest.json:"


@pytest.mark.parametrize("harm", [truncate, flip, lose, move, unname, tear])
def test_a_torn_checkpoint_is_passed_over_by_name_and_replaced(tmp_path, caplog, harm):
    stored(tmp_path, 3, 6)
    said = harm(tmp_path / "step-00000006")
    net, optimizer = fresh(seed=1)
    checkpoints = alone(tmp_path, keep=1)
    assert checkpoints.restore(net, optimizer) == Position(3)
    assert said in caplog.text
    assert checkpoints.complete() == [tmp_path / "step-00000003"]
    step(net, optimizer)
    checkpoints.save(Position(4), net, optimizer)  # older than the torn one, which must not count as the newest
    checkpoints.finish()
    assert [each.name for each in tmp_path.iterdir()] == ["step-00000004"]
    assert alone(tmp_path).restore(*fresh()) == Position(4)


def test_a_torn_checkpoint_gives_its_name_to_the_same_step(tmp_path):
    stored(tmp_path, 3, 6)
    truncate(tmp_path / "step-00000006")
    net, optimizer = fresh()
    checkpoints = alone(tmp_path)
    checkpoints.restore(net, optimizer)
    checkpoints.save(Position(6), net, optimizer)
    checkpoints.finish()
    assert alone(tmp_path).restore(*fresh()) == Position(6)


def test_what_a_killed_start_left_is_ignored_and_removed(tmp_path):
    stored(tmp_path, 3)
    left = tmp_path / ".step-00000006.partial"
    left.mkdir()
    (left / "__0_0.distcp").write_bytes(b"half")
    net, optimizer = fresh()
    checkpoints = alone(tmp_path)
    assert checkpoints.restore(net, optimizer) == Position(3)
    checkpoints.save(Position(4), net, optimizer)
    checkpoints.finish()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def test_checkpoints_of_another_run_are_refused_by_the_setting(tmp_path):
    stored(tmp_path, 1)
    other = {**RUN, "optim": {"lr": 2e-3}}
    with pytest.raises(InputError, match=r"is of a run with another optim.lr; choose another --out"):
        alone(tmp_path, run=other).restore(*fresh())


@contextmanager
def small_disk(limit: int) -> Iterator[None]:
    """No file may grow beyond `limit` bytes, as on a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("asynchronous", [True, False], ids=["asynchronous", "synchronous"])
def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path, asynchronous):
    stored(tmp_path, 3)
    net, optimizer = fresh()
    checkpoints = alone(tmp_path, asynchronous=asynchronous)
    assert checkpoints.restore(net, optimizer) == Position(3)
    with small_disk(5000), pytest.raises(VicunaError) as caught:
        checkpoints.save(Position(6), net, optimizer)
        checkpoints.finish()
    assert str(caught.value) == f"cannot write {tmp_path}/step-00000006: File too large"
    assert [each.name for each in tmp_path.iterdir()] == ["step-00000003"]
    checkpoints.save(Position(6), net, optimizer)  # once there is room again
    checkpoints.finish()
    assert alone(tmp_path).restore(*fresh()) == Position(6)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    net, optimizer = fresh()
    checkpoints = alone(tmp_path / "file" / "checkpoints")
    checkpoints.save(Position(1), net, optimizer)
    with pytest.raises(InputError, match=r"^cannot write .*step-00000001: Not a directory$"):
        checkpoints.save(Position(2), net, optimizer)


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from torch import nn
from vicuna.train.checkpoint import Checkpoints, Position
from vicuna.train.parallel import World
from vicuna.train.state import learnt

torch.set_num_threads(1)
folder, draw, seen = Path(sys.argv[1]), random.Random(0), 0

def made():
    net = nn.Linear(256, 256)
    return net, torch.optim.AdamW(net.parameters(), fused=True)

def restored():
    net, optimizer = made()
    position = Checkpoints(folder, {}, 2, World(), True).restore(net, optimizer)
    number = position.step if position else 0
    for name, value in learnt(net, optimizer).items():
        assert not number or torch.equal(value, torch.full_like(value, number)), (name, number)
    return number, net, optimizer

def save_for_ever():
    number, net, optimizer = restored()
    for each in net.parameters():
        each.grad = torch.ones_like(each)
    optimizer.step()
    checkpoints = Checkpoints(folder, {}, 2, World(), True)
    while True:
        number += 1
        for value in learnt(net, optimizer).values():
            value.fill_(number)
        checkpoints.save(Position(number), net, optimizer)

for _ in range(int(sys.argv[2])):
    child = os.fork()
    if not child:
        save_for_ever()
    time.sleep(draw.uniform(0.02, 0.25))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    number = restored()[0]
    assert number >= seen, (number, seen)
    seen = number
print("saved", seen)
"""


def test_kill_9_at_any_moment_of_the_writing_leaves_the_newest_complete_one_whole(tmp_path):
    """Twelve children save as fast as they can; every tensor of step n is filled with n."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), "12"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) > 12
    assert "not using" not in done.stderr


# ------------------------------------------------------------------------------------------------------- two ranks
def sharded() -> tuple[nn.Module, torch.optim.Optimizer]:
    from torch.distributed.fsdp import fully_shard

    net, _ = fresh()
    fully_shard(net.hidden)
    fully_shard(net)
    return net, torch.optim.AdamW(net.parameters(), lr=1e-2, fused=True)


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
    checkpoints = Checkpoints(folder / "sharded", RUN, 2, world, asynchronous=True)
    checkpoints.save(Position(1), net, optimizer)
    saved, numbers = copied(net, optimizer), torch.get_rng_state()
    losses = [step(net, optimizer) for _ in range(2)]
    checkpoints.save(Position(3), net, optimizer)
    checkpoints.finish()
    again, moved = sharded()
    checkpoints.complete()[-1].joinpath("__1_0.distcp").unlink() if world.is_main else None
    world.barrier()
    back = Checkpoints(folder / "sharded", RUN, 2, world, asynchronous=True).restore(again, moved)
    return {
        "saved": saved, "back": back, "restored": copied(again, moved),
        "numbers": torch.equal(torch.get_rng_state(), numbers), "goes on": [step(again, moved) for _ in range(2)],
        "losses": losses,
    }  # fmt: skip


def two_ranks_replicate(world: World, folder: Path) -> dict:
    """The same weights on both ranks, as in QLoRA."""
    net, optimizer = fresh()
    step(net, optimizer)
    checkpoints = Checkpoints(folder / "replicated", RUN, 2, world, asynchronous=True)
    checkpoints.save(Position(1), net, optimizer)
    checkpoints.finish()
    other, moved = fresh(seed=1)
    Checkpoints(folder / "replicated", RUN, 2, world, asynchronous=True).restore(other, moved)
    return {"saved": copied(net, optimizer), "restored": copied(other, moved)}


def two_ranks_fail(world: World, folder: Path) -> dict:
    """What each rank is told when one of them cannot write, and when the run is another."""
    net, optimizer = sharded()
    step(net, optimizer)
    checkpoints = Checkpoints(folder / "full", RUN, 2, world, asynchronous=True)
    checkpoints.save(Position(1), net, optimizer)
    checkpoints.finish()
    with small_disk(3000) if world.rank == 1 else small_disk(1 << 30):
        checkpoints.save(Position(2), net, optimizer)
        full = raised(checkpoints.finish)
    (folder / "file").write_text("")
    nowhere = Checkpoints(folder / "file" / "in", RUN, 2, world, asynchronous=True)
    nowhere.save(Position(1), net, optimizer)
    other = Checkpoints(folder / "full", {**RUN, "seed": 1}, 2, world, asynchronous=True)
    return {"full": full, "nowhere": raised(nowhere.finish), "other": raised(other.restore, *sharded())}


def two_ranks_take_over(world: World, folder: Path) -> dict:
    """Go on with what one rank left."""
    net, optimizer = sharded()
    position = Checkpoints(folder / "single", RUN, 2, world, asynchronous=True).restore(net, optimizer)
    draw = torch.rand(3)
    Checkpoints(folder / "single", RUN, 2, world, asynchronous=True).restore(net, optimizer)
    return {"position": position, "restored": copied(net, optimizer), "draw": draw, "again": torch.rand(3)}


def two_ranks_plan(world: World, folder: Path) -> dict:
    """Each rank measures other times."""
    del folder
    cadence = Cadence(CheckpointConfig(every="auto"), world, 0)
    cadence.ran(1.0 + world.rank, writing=False)
    cadence.saved(FIRST, blocked=0.5 - world.rank / 4, written=3.0 * world.rank)
    return {"due": [step for step in range(FIRST, 1000) if cadence.due(step, False)][0]}


def one_of_two_dies(world: World, folder: Path) -> dict:
    """Rank 1 is killed while both write."""
    net = nn.Linear(2000, 2000)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    checkpoints = Checkpoints(folder / "dies", RUN, 2, world, asynchronous=True)
    net(torch.randn(1, 2000)).sum().backward()
    optimizer.step()
    checkpoints.save(Position(1), net, optimizer)
    checkpoints.save(Position(2), net, optimizer)
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"told": raised(checkpoints.finish)}


SCENES = (two_ranks_save, two_ranks_replicate, two_ranks_fail, two_ranks_take_over, two_ranks_plan, one_of_two_dies)


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
