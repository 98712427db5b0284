"""The memory that training a model takes, by part, known before anything is loaded.

Numbers of parameters come from the model itself, built without weights, and what a pass holds from `trace`. The rest is
arithmetic, and each part of it says from where.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from vicuna.models.trace import Trace

MASTER = 4
"""Bytes of a weight that learns, and of its gradient: float32."""
ADAMW = 8
"""Bytes that AdamW keeps for a weight: two float32 means."""
ADAMW_8BIT = 2 * (1 + 4 / 256)
"""The same in 8 bits with a float32 scale for each 256 (Dettmers et al. 2022, 8-bit Optimizers, section 2)."""
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight in 4 bits, with 8-bit scales of 64 and float32 scales of 256 of those (Dettmers et al. 2023, QLoRA,
section 3)."""
BLOCK = 256
"""Elements of a matrix's row that share a scale; what is not made of such rows keeps float32, as does the embedding."""
RESERVE = 3 / 2 * 2**30
"""Bytes of a GPU that no tensor gets: CUDA's context, NCCL's buffers, workspaces of products. An assumption."""
FRAGMENTS = 0.05
"""Share of what tensors take that the allocator loses between them. An assumption."""


@dataclass(frozen=True)
class Way:
    """How a model is trained, as far as memory asks."""

    compute: torch.dtype
    """Of forward and backward."""
    ranks: int = 1
    """Processes that train."""
    sharded: bool = False
    """Weights, gradients and optimiser are split over the ranks (FSDP2)."""
    reshard: bool = True
    """A sharded layer is given back between its forward and its backward pass."""
    offload: bool = False
    """What is sharded lies in main memory."""
    in_4bit: bool = False
    """Frozen matrices of the layers are in NF4."""
    in_8bit: bool = False
    """The optimiser's states are in 8 bits."""
    recompute: int = 0
    """Activations are computed again in every so many-th layer; 0 is none."""


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest GPU at the fullest moment of a step. The parts add up."""

    moment: str
    """Which moment that is."""
    weights: float
    gradients: float
    optimizer: float
    gathered: float
    """Whole weights of sharded layers, or their copies for autocast, and whole gradients on their way to the shards."""
    activations: float
    """What forward passes keep for backward passes."""
    working: float
    """What the moment itself needs: logits, or the gradients and the recomputed activations of one layer."""
    host: float = 0.0
    """Main memory for what is offloaded; not part of the total."""

    @property
    def total(self) -> float:
        """All parts on the GPU."""
        return self.weights + self.gradients + self.optimizer + self.gathered + self.activations + self.working

    @property
    def needed(self) -> float:
        """Memory that a GPU must have for it."""
        return self.total * (1 + FRAGMENTS) + RESERVE


@dataclass(frozen=True)
class Parameters:
    """Numbers of weights by part of the model. Tied weights count once, with the embedding."""

    embedding: int
    head: int
    layers: tuple[int, ...]
    """Of each decoder layer."""
    other: int
    """The final norm, mostly."""
    trainable: int
    """Those of all parts that learn."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.embedding + self.head + sum(self.layers) + self.other


def count(model: Any, layers: Sequence[nn.Module]) -> Parameters:
    """Numbers of weights by part.

    Args:
        model: a causal language model, on any device.
        layers: its decoder layers.
    """
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    in_layers = tuple(sum(each.numel() for each in layer.parameters()) for layer in layers)
    apart = 0 if head is embedding else head.numel()
    total = sum(each.numel() for each in model.parameters())
    return Parameters(
        embedding=embedding.numel(), head=apart, layers=in_layers,
        other=total - embedding.numel() - apart - sum(in_layers),
        trainable=sum(each.numel() for each in model.parameters() if each.requires_grad),
    )  # fmt: skip


def memory(model: Any, layers: Sequence[nn.Module], seen: Trace, way: Way) -> Memory:
    """Bytes on the fullest GPU at the fullest moment of a step.

    Weights that learn are float32, as are their gradients and AdamW's states; frozen ones are in the dtype of the
    computation, or in NF4. Sharded tensors are split along their first axis, and rank 0 has the larger part
    (torch.distributed.tensor, `Shard(0)`).

    Args:
        model: on any device and in any dtype, with the `requires_grad` of training.
        layers: its decoder layers.
        seen: one pass of it.
        way: how it is trained.
    """
    weights, gradients, optimizer = _states(model, layers, way)
    kept, working = _passing(seen, way)
    if way.in_4bit:  # one matrix at a time is unpacked for its product
        working += way.compute.itemsize * max(each.numel() for layer in layers for each in _frozen_matrices(layer))
    rest = Memory("", weights, gradients, optimizer, 0, kept, 0)
    at_loss, in_layer, at_end = (
        _gathered(model, layers, way) if way.sharded else (_cast(model, way), _cast(model, way), 0)
    )
    moments = [
        replace(rest, moment="the loss", gathered=at_loss, working=seen.loss),
        replace(rest, moment="the backward pass of a layer", gathered=in_layer, working=working),
        replace(rest, moment="the sum of the embeddings' gradients", gathered=at_end, activations=0),
    ]
    fullest = max(moments, key=lambda each: each.total)
    if way.offload:
        fullest = replace(fullest, weights=0, gradients=0, optimizer=0, host=weights + gradients + optimizer)
    return fullest


def _gathered(model: Any, layers: Sequence[nn.Module], way: Way) -> tuple[int, int, int]:
    """Bytes of whole weights and whole gradients that a sharded model has at the loss, in a layer, and at the end.

    FSDP2 gathers the root's weights (embedding, output matrix, final norm) for the whole pass and two layers at a time,
    one to use and one on its way, in the dtype of the computation. The root's gradients wait for the end of the pass,
    those of a layer for the end of the layer; to be summed they are copied to float32 (torch.distributed.fsdp,
    `fully_shard` and `MixedPrecisionPolicy`).
    """
    compute, largest = way.compute.itemsize, max(layers, key=lambda each: _sum(each.parameters()))
    inside = {id(each) for layer in layers for each in layer.parameters()}
    root = [each for each in model.parameters() if id(each) not in inside]
    whole = compute * (_sum(root) + 2 * _sum(largest.parameters()) if way.reshard else _sum(model.parameters()))
    waiting = _sum(each for each in root if each.requires_grad)
    leaving = _sum(each for each in largest.parameters() if each.requires_grad)
    return (
        whole,
        whole + compute * waiting + (compute + MASTER) * leaving,
        compute * _sum(root) + (compute + MASTER) * waiting,
    )


def _cast(model: Any, way: Way) -> int:
    """Bytes of the copies of float32 matrices that autocast makes for a pass."""
    learnt = {each.weight for each in model.modules() if isinstance(each, nn.Linear) and each.weight.requires_grad}
    return way.compute.itemsize * _sum(learnt) if way.compute.itemsize < MASTER else 0


def _states(model: Any, layers: Sequence[nn.Module], way: Way) -> tuple[float, float, float]:
    """Bytes of weights, gradients and optimiser states on the fullest rank."""
    packed = {id(each) for layer in layers for each in _frozen_matrices(layer)} if way.in_4bit else set()
    whole = model.get_input_embeddings().weight
    weights = gradients = optimizer = 0.0
    for each in model.parameters():
        size = _share(each, way.ranks if way.sharded else 1)
        if each.requires_grad:
            in_8bit = way.in_8bit and each.ndim == 2 and each.shape[1] % BLOCK == 0 and each is not whole
            weights += MASTER * size
            gradients += MASTER * size
            optimizer += (ADAMW_8BIT if in_8bit else ADAMW) * size
        else:
            weights += (NF4 if id(each) in packed else way.compute.itemsize) * size
    return weights, gradients, optimizer


def _share(parameter: torch.Tensor, ranks: int) -> int:
    """Elements of a parameter that the fullest of the ranks holds."""
    rows = parameter.shape[0] if parameter.ndim else 1
    return math.ceil(rows / ranks) * (parameter.numel() // rows) if rows else 0


def _passing(seen: Trace, way: Way) -> tuple[int, int]:
    """Bytes kept for the backward pass, and what its fullest layer needs beyond them.

    A recomputed layer keeps what enters it. The backward pass goes from the last layer to the first: in each of them
    all of that layer is there, and of those before it what they keep.
    """
    again = [way.recompute > 0 and number % way.recompute == 0 for number in range(len(seen.layers))]
    keeps = [seen.hidden if recomputed else size for recomputed, size in zip(again, seen.layers, strict=True)]
    before = [0, *itertools.accumulate(keeps)]
    fullest = max(
        before[number] + seen.layers[number] + (seen.hidden if recomputed else 0)
        for number, recomputed in enumerate(again)
    )
    return seen.outside + sum(keeps), fullest - sum(keeps) + seen.backward


def _frozen_matrices(layer: nn.Module) -> list[torch.Tensor]:
    """The weights of a layer's linear maps that do not learn."""
    maps = (each for each in layer.modules() if isinstance(each, nn.Linear))
    return [each.weight for each in maps if not each.weight.requires_grad]


def _sum(parameters: Iterable[torch.Tensor]) -> int:
    return sum(each.numel() for each in parameters)
