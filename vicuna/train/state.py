"""What decides the next step: the weights that learn, their optimiser states, and the random numbers of each rank."""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule

from vicuna.train.parallel import World, local

_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")
"""What torch.compile and torch's activation checkpointing put into the names of parameters."""


def learnt(model: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The trainable weights and their optimiser states, not copied.

    Args:
        model: the root of what is sharded, if it is: weights that are still gathered are given back first.
        optimizer: over the model's trainable parameters.

    Returns:
        `model.NAME` and `optimizer.KEY.NAME` → tensor (a DTensor where it is sharded) or number. Frozen weights and
        buffers are left out: they are the base model's.
    """
    named = _named(model, optimizer)
    weights = {f"model.{name}": parameter.detach() for name, parameter in named.items()}
    return weights | {
        f"optimizer.{key}.{name}": value
        for name, parameter in named.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def like(stored: Collection[str], model: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """`learnt` of a model that has not learnt yet, with optimiser states for the parameters that have some in `stored`.

    The optimiser makes them itself, in a step without gradients; the weights mean nothing until they are loaded.
    """
    named = _named(model, optimizer)
    moved = {name.split(".", 2)[2] for name in stored if name.startswith("optimizer.")}
    for name, parameter in named.items():
        parameter.grad = torch.zeros_like(parameter) if name in moved else None
    optimizer.step()
    optimizer.zero_grad()
    return learnt(model, optimizer)


def take_numbers(state: Mapping[str, Any], model: Any, optimizer: torch.optim.Optimizer) -> None:
    """Give the optimiser the numbers of a loaded `learnt`; its tensors were loaded in place."""
    for name, parameter in _named(model, optimizer).items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if not isinstance(value, torch.Tensor):
                optimizer.state[parameter][key] = state[f"optimizer.{key}.{name}"]


def _named(model: Any, optimizer: torch.optim.Optimizer) -> dict[str, torch.nn.Parameter]:
    """The trainable parameters, under the names that they have without wrappers."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # a forward pass without a backward one leaves the root's weights gathered
    moving = {id(each) for group in optimizer.param_groups for each in group["params"]}
    named = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            if id(parameter) not in moving:
                raise ValueError(f"parameter {name} is not one of the optimiser's; was the sharded root given?")
            for wrapper in _WRAPPERS:
                name = name.replace(wrapper, "")
            named[name] = parameter
    return named


# ------------------------------------------------------------------------------------------------- random numbers
def random_numbers(world: World) -> dict[str, torch.Tensor]:
    """The state of this rank's generators; each rank has names of its own."""
    states = {f"random.{world.rank}.cpu": torch.get_rng_state()}
    if world.device.type == "cuda":
        states[f"random.{world.rank}.cuda"] = torch.cuda.get_rng_state(world.device)
    return states


def stored_random_numbers(stored: Collection[str], world: World) -> dict[str, torch.Tensor]:
    """What to load for `set_random_numbers`: this rank's states, if it was there, and the first rank's."""
    wanted = {"random.0.cpu": torch.get_rng_state()} | random_numbers(world)
    return {name: state for name, state in wanted.items() if name in stored}


def set_random_numbers(state: Mapping[str, Any], step: int, world: World) -> None:
    """Go on with this rank's random numbers; a rank that was not there before draws its own from the first rank's.

    Args:
        state: as `stored_random_numbers`, loaded.
        step: optimiser steps done.
        world: the ranks of now.
    """
    seed = hashlib.sha256(state["random.0.cpu"].numpy().tobytes() + f" {world.rank} {step}".encode()).digest()
    torch.manual_seed(int.from_bytes(seed[:8], "big"))
    if (cpu := state.get(f"random.{world.rank}.cpu")) is not None:
        torch.set_rng_state(cpu)
    if (cuda := state.get(f"random.{world.rank}.cuda")) is not None:
        torch.cuda.set_rng_state(cuda, world.device)


# ----------------------------------------------------------------------------------------------------------- a copy
class Staging:
    """A copy of the state in main memory, every time in the same place.

    Fresh memory would cost more than the copy: the system hands it out page by page.
    """

    def __init__(self, device: torch.device) -> None:
        """Copy from `device`; for CUDA the place is pinned, which its copies are fast with."""
        self._device = device
        self._copies: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def copy(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The state as it is now. It stays so until the next call, whatever training does meanwhile."""
        copied = dict(state)
        for name, tensor in _tensors(state):
            if name not in self._copies:
                pinned = self._device.type == "cuda"
                self._copies[name] = torch.empty_like(tensor, device="cpu", pin_memory=pinned)
            copied[name] = self._copies[name]
            local(copied[name]).copy_(local(tensor), non_blocking=True)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return copied


def _tensors(state: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, value) for name, value in state.items() if isinstance(value, torch.Tensor))
