"""Checkpoints: what is read back is what was saved, bit for bit, and nothing torn is ever taken for whole."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from vicuna.errors import InputError, VicunaError
from vicuna.train.checkpoint import Checkpoints, Position
from vicuna.train.parallel import World, joined
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
