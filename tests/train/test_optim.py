"""The optimiser: which parameters decay, and AdamW with moments in 8 bits."""

import io
import sys

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from vicuna.errors import ConfigError
from vicuna.train.config import OptimConfig
from vicuna.train.optim import make_optimizer, set_learning_rate


class Net(nn.Module):
    """An embedding, matrices whose rows are whole blocks, one whose rows are not, and vectors; some of one row."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(30, 256)
        self.wide = nn.Linear(512, 256, bias=False)
        self.narrow = nn.Linear(100, 41, bias=False)
        self.row = nn.Linear(256, 1)
        self.norm = nn.Parameter(torch.ones(16))

    def get_input_embeddings(self) -> nn.Module:
        return self.table


def take_steps(net: Net, optimizer: torch.optim.Optimizer, first: int, steps: int) -> None:
    """Steps whose gradients depend on the weights and on the step's number alone."""
    for step in range(first, first + steps):
        draw = torch.Generator().manual_seed(step)
        for each in net.parameters():
            drawn = torch.randn(each.shape, generator=draw).to(each.device)
            if isinstance(each, DTensor):
                drawn = distribute_tensor(drawn, each.device_mesh, each.placements)
            each.grad = each.detach() * 0.1 + drawn
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", ["adamw", "adamw8bit"])
def test_matrices_decay_and_vectors_do_not(name):
    net = Net()
    before = {key: each.detach().clone() for key, each in net.named_parameters()}
    optimizer = make_optimizer(net, OptimConfig(name=name, lr=0.1, weight_decay=0.5))
    for each in net.parameters():
        each.grad = torch.zeros_like(each)
    optimizer.step()
    for key, each in net.named_parameters():
        share = 1 - 0.1 * 0.5 if each.ndim >= 2 else 1
        assert torch.allclose(each, before[key] * share), key


@pytest.mark.parametrize("name", ["adamw", "adamw8bit"])
def test_frozen_parameters_are_left_alone(name):
    net = Net()
    net.wide.requires_grad_(False)
    net.norm.requires_grad_(False)
    net.row.requires_grad_(False)
    optimizer = make_optimizer(net, OptimConfig(name=name))
    held = [each for group in optimizer.param_groups for each in group["params"]]
    assert all(group["params"] for group in optimizer.param_groups)
    assert {id(each) for each in held} == {id(net.table.weight), id(net.narrow.weight)}


def test_eight_bits_move_the_weights_nearly_as_float32_does():
    nets = [Net(), Net()]
    start = torch.cat([each.detach().flatten() for each in nets[0].parameters()])
    moves = []
    for net, name in zip(nets, ["adamw", "adamw8bit"], strict=True):
        take_steps(net, make_optimizer(net, OptimConfig(name=name, lr=1e-2)), 0, 20)
        moves.append(torch.cat([each.detach().flatten() for each in net.parameters()]) - start)
    assert torch.nn.functional.cosine_similarity(moves[0], moves[1], dim=0) > 0.99
    wide, table = nets[1].wide.weight, nets[1].table.weight
    assert torch.allclose(table, nets[0].table.weight, atol=1e-5)
    assert not torch.equal(wide, nets[0].wide.weight)


def test_only_matrices_of_whole_blocks_have_their_moments_in_bytes():
    net = Net()
    optimizer = make_optimizer(net, OptimConfig(name="adamw8bit"))
    take_steps(net, optimizer, 0, 1)
    kinds = {key: optimizer.state[each]["exp_avg"].dtype for key, each in net.named_parameters()}
    assert kinds == {
        "table.weight": torch.float32, "wide.weight": torch.uint8, "narrow.weight": torch.float32,
        "row.weight": torch.uint8, "row.bias": torch.float32, "norm": torch.float32,
    }  # fmt: skip
    assert optimizer.state[net.wide.weight]["exp_avg_sq_scale"].shape == (256, 2)


def test_a_stored_state_goes_on_bit_for_bit():
    whole, first = Net(), Net()
    take_steps(whole, make_optimizer(whole, OptimConfig(name="adamw8bit", lr=1e-2)), 0, 6)
    optimizer = make_optimizer(first, OptimConfig(name="adamw8bit", lr=1e-2))
    take_steps(first, optimizer, 0, 3)
    file = io.BytesIO()
    torch.save({"net": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    stored = torch.load(file, weights_only=True)
    second = Net()
    second.load_state_dict(stored["net"])
    optimizer = make_optimizer(second, OptimConfig(name="adamw8bit", lr=1e-2))
    optimizer.load_state_dict(stored["optimizer"])
    take_steps(second, optimizer, 3, 3)
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_rate_of_the_next_step_can_be_set():
    net = Net()
    optimizer = make_optimizer(net, OptimConfig(name="adamw8bit"))
    before = net.wide.weight.detach().clone()
    set_learning_rate(optimizer, 0.0)
    take_steps(net, optimizer, 0, 1)
    assert torch.equal(net.wide.weight, before)


def test_without_bitsandbytes_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as Python itself notes what is not there
    with pytest.raises(ConfigError) as caught:
        make_optimizer(Net(), OptimConfig(name="adamw8bit"))
    assert str(caught.value) == (
        "optim.name adamw8bit needs the package bitsandbytes; install it with: pip install bitsandbytes"
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_eight_bits_on_a_gpu_move_the_weights_as_on_a_cpu():
    whole, net = Net(), Net()
    take_steps(whole, make_optimizer(whole, OptimConfig(name="adamw8bit", lr=1e-2)), 0, 3)
    optimizer = make_optimizer(net.cuda(), OptimConfig(name="adamw8bit", lr=1e-2))
    take_steps(net, optimizer, 0, 3)
    for key, each in net.named_parameters():
        assert torch.allclose(each.cpu(), whole.get_parameter(key), atol=2e-3), key
