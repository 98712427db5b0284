"""Optimisers and adapters on two ranks, which hold the parameters split or both hold them whole."""

import datetime
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tests.train.test_lora import KINDS, adapter_of, with_adapter
from tests.train.test_optim import Net, take_steps
from vicuna.train.config import OptimConfig
from vicuna.train.lora import adapter_weights
from vicuna.train.optim import make_optimizer
from vicuna.train.parallel import World, sum_gradients

RANKS = 2
SLACK = {"adamw": 1e-6, "adamw8bit": 0.0}
"""torch's fused kernel rounds the end of a tensor in another way than its middle, and a split tensor has more ends."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What two ranks leave behind."""
    made: Path = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(rank_main, (made,), nprocs=RANKS)
    return made


def rank_main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", rank=rank, world_size=RANKS, store=dist.FileStore(str(folder / "store"), RANKS),
        timeout=datetime.timedelta(seconds=120),
    )  # fmt: skip
    for name in SLACK:
        learn_split(folder, name)
    for kind in KINDS:
        adapt_split(folder, kind, rank)
    sum_whole(folder, rank)
    dist.barrier()
    os._exit(0)  # gloo's threads may still drop tensors, which aborts a process whose interpreter is ending


def settings(name: str) -> OptimConfig:
    return OptimConfig(name=name, lr=1e-2, weight_decay=0.1)


def learn_split(folder: Path, name: str) -> None:
    """Three steps and a checkpoint, then three more."""
    net = Net()
    fully_shard(net, mesh=init_device_mesh("cpu", (RANKS,)))
    optimizer = make_optimizer(net, settings(name))
    take_steps(net, optimizer, 0, 3)
    model_state, state = get_state_dict(net, optimizer)
    dcp.save({"model": model_state, "optimizer": state}, checkpoint_id=folder / name)
    take_steps(net, optimizer, 3, 3)
    whole = {key: each.full_tensor().detach() for key, each in net.named_parameters()}
    torch.save(whole, folder / f"{name}.pt")


def adapt_split(folder: Path, kind: str, rank: int) -> None:
    """Three steps of an adapter on split weights, each rank with its own text."""
    model = with_adapter(kind, begun=True)
    for layer in model.model.layers:
        fully_shard(layer, mesh=init_device_mesh("cpu", (RANKS,)), mp_policy=MixedPrecisionPolicy())
    fully_shard(model, mesh=init_device_mesh("cpu", (RANKS,)))
    for name, value in adapter_weights(model, seed=0):
        parameter = model.get_parameter(name)
        assert isinstance(parameter, DTensor)
        part = distribute_tensor(value, parameter.device_mesh, parameter.placements)
        parameter.detach().copy_(part)
    optimizer = make_optimizer(model, settings("adamw"))
    for _ in range(3):
        model_loss(model, rank).backward()
        optimizer.step()
        optimizer.zero_grad()
    found = {name: each.full_tensor() for name, each in adapter_of(model).items()}
    torch.save(found, folder / f"{kind}.pt")


def model_loss(model, rank: int) -> torch.Tensor:
    """Of this rank's text, through the root's own call, which gathers what is split."""
    ids = torch.randint(0, 61, (1, 24), generator=torch.Generator().manual_seed(rank))
    return model(input_ids=ids, labels=ids, use_cache=False).loss


def compare(net: Net, folder: Path, name: str) -> None:
    found = torch.load(folder / f"{name}.pt")
    for key, each in net.named_parameters():
        assert torch.allclose(each, found[key], rtol=SLACK[name], atol=SLACK[name]), key


def sum_whole(folder: Path, rank: int) -> None:
    """Gradients of parameters that both ranks hold; rank 1 had no pass for one of them."""
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((3, 2), (4,), ())]
    for number, each in enumerate(parameters):
        if rank == 0 or number != 1:
            each.grad = torch.full(each.shape, 10.0 * rank + number)
    sum_gradients(parameters, World(rank, RANKS))
    torch.save([each.grad for each in parameters], folder / f"sums-{rank}.pt")


@pytest.mark.parametrize("name", SLACK)
def test_split_parameters_learn_as_whole_ones(folder, name):
    net = Net()
    take_steps(net, make_optimizer(net, settings(name)), 0, 6)
    compare(net, folder, name)


@pytest.mark.parametrize("name", SLACK)
def test_a_checkpoint_of_two_ranks_goes_on_in_one_process(folder, name):
    net = Net()
    optimizer = make_optimizer(net, settings(name))
    model_state, state = get_state_dict(net, optimizer)
    dcp.load({"model": model_state, "optimizer": state}, checkpoint_id=folder / name)
    set_state_dict(net, optimizer, model_state_dict=model_state, optim_state_dict=state)
    take_steps(net, optimizer, 3, 3)
    compare(net, folder, name)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_on_split_weights_learns_as_on_whole_ones(folder, kind):
    model = with_adapter(kind, begun=True)
    optimizer = make_optimizer(model, settings("adamw"))
    for _ in range(3):
        (sum(model_loss(model, rank) for rank in range(RANKS)) / RANKS).backward()
        optimizer.step()
        optimizer.zero_grad()
    found, begun = torch.load(folder / f"{kind}.pt"), dict(adapter_weights(model, seed=0))
    for name, each in adapter_of(model).items():
        assert not torch.equal(each, begun[name])
        assert torch.allclose(each, found[name], atol=1e-4), name


def test_gradients_add_up_over_ranks_that_hold_the_same_parameters(folder):
    for rank in range(RANKS):
        sums = torch.load(folder / f"sums-{rank}.pt")
        assert [each.shape for each in sums] == [(3, 2), (4,), ()]
        assert [each.unique().tolist() for each in sums] == [[10.0], [1.0], [14.0]]


def test_a_rank_alone_keeps_its_gradients():
    parameter = torch.nn.Parameter(torch.zeros(3))
    sum_gradients([parameter], World())
    assert parameter.grad is None
