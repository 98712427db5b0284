"""What a run will take - memory, time, money - before anything is loaded; and what to change where it is too much."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from vicuna.errors import ConfigError, VicunaError
from vicuna.hardware import GPUS, Device, find_gpu, find_price
from vicuna.models.estimate import Memory, Parameters, Way, count, memory
from vicuna.models.flops import Flops, flops
from vicuna.models.load import empty_model, load_settings
from vicuna.models.trace import trace
from vicuna.train import figures
from vicuna.train.config import TrainConfig
from vicuna.train.lora import add_adapter
from vicuna.train.loss import LOGITS, LinearCrossEntropy
from vicuna.train.model import decoder_layers, shards
from vicuna.train.node import world_size
from vicuna.train.parallel import World

MFU = {"none": 0.45, "lora": 0.30, "qlora": 0.20}
"""Share of a GPU's peak rate that training is taken to reach, by kind of adapter: assumed. Published are 33 to 39%
for 8 billion parameters on H100s (torchtitan, December 2024), 40 to 46% (nanochat), and 20 to 34% with LoRA on an A100,
by the tokens per second in LLaMA-Factory's wiki, "Performance comparison". Unpacking 4-bit weights costs more."""
_SIGNS = ("DefaultCPUAllocator: ", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Parts of messages of errors that have no type of their own."""


class OutOfMemory(VicunaError):
    """A device has too little memory for the run."""


@dataclass(frozen=True)
class Load:
    """What the run computes, over all its epochs."""

    samples: int
    tokens: int
    targets: int
    squares: int
    """Sum of the samples' squared lengths."""
    steps: int
    bins: int


@dataclass(frozen=True)
class Forecast:
    """What a run will take."""

    config: TrainConfig
    folder: Path
    """The base model's."""
    load: Load
    ranks: int
    device: Device
    """Of each rank."""
    parameters: Parameters
    memory: Memory
    """Of the device of each rank."""
    flops: Flops

    @property
    def fits(self) -> bool:
        """Whether the device has the memory."""
        return self.memory.needed <= self.device.memory

    @property
    def hours(self) -> float | None:
        """Hours that each rank works; None where the device's peak rate is not known."""
        if self.device.tflops is None:
            return None
        work = self.flops.model(self.load.tokens, self.load.squares, self.load.targets)
        return work / (self.device.tflops * 1e12 * MFU[self.config.lora.kind] * self.ranks) / 3600


def named_gpu(config: TrainConfig) -> Device | None:
    """What launch.gpu names; None where it is empty.

    Raises:
        ConfigError: nothing is known of it.
    """
    found = find_gpu(config.launch.gpu) if config.launch.gpu else None
    if config.launch.gpu and found is None:
        raise ConfigError(f"launch.gpu: nothing is known of {config.launch.gpu!r}, but of {', '.join(GPUS)}")
    return found


def planned_on(config: TrainConfig, world: World) -> tuple[int, Device]:
    """Number of ranks and kind of device to plan for: those of this run, or those that the settings name."""
    ranks = world_size(config, os.environ)
    if named := named_gpu(config):
        return ranks, named
    if world.device.type == "cuda":
        found = torch.cuda.get_device_properties(world.device)
        return ranks, replace(find_gpu(found.name) or Device(found.name, 0), memory=found.total_memory)
    return ranks, Device("cpu", psutil.virtual_memory().total // max(ranks, world.local_size))


def forecast(config: TrainConfig, folder: Path, load: Load, ranks: int, device: Device) -> Forecast:
    """What a run takes on each of its devices, and in all.

    Args:
        config: the run's settings.
        folder: the base model's; only its config.json is read.
        load: what is computed.
        ranks: processes that train.
        device: of each of them.

    Raises:
        ConfigError: the base model has no layers of the kinds that the adapter is for.
        InputError: the folder's model cannot be read, or not be trained here.
    """
    kind = "cpu" if device.name == "cpu" else "cuda"
    sharded = shards(config, World(size=ranks, device=torch.device(kind)))
    auto = "bfloat16" if kind == "cuda" else "float32"
    compute: torch.dtype = getattr(torch, auto if config.dtype == "auto" else config.dtype)
    way = Way(
        compute=compute, ranks=ranks, sharded=sharded, reshard=config.parallel.reshard,
        offload=config.parallel.cpu_offload, in_4bit=config.lora.kind == "qlora",
        in_8bit=config.optim.name == "adamw8bit", recompute=config.gradient_checkpointing,
    )  # fmt: skip
    # Autocast over float32 weights leaves the residual stream in float32, so float32 is the nearer bound.
    autocast = not sharded and config.lora.kind == "none"
    dtype, factor = torch.float32 if autocast else compute, 1
    settings = load_settings(folder)
    if dtype == torch.float32 and getattr(settings.get_text_config(), "num_experts_per_tok", None):
        # The meta device computes experts in bfloat16 only; float32 holds twice as much.
        dtype, factor = torch.bfloat16, 2
    model, layers = _empty(config, settings, dtype)

    def loss(hidden: torch.Tensor, targets: torch.Tensor, head: Any) -> torch.Tensor:
        rows = max(1, LOGITS[kind] // head.weight.shape[0])
        found: torch.Tensor = LinearCrossEntropy.apply(hidden, head.weight, head.bias, targets, rows, True)
        return found

    seen = trace(model, layers, config.capacity, loss).times(factor)
    return Forecast(
        config, folder, load, ranks, device, count(model, layers), memory(model, layers, seen, way),
        flops(model, layers, config.gradient_checkpointing),
    )  # fmt: skip


def _empty(config: TrainConfig, settings: Any, dtype: torch.dtype) -> tuple[Any, list[nn.Module]]:
    """The model that learns, without weights, and its decoder layers."""
    model = empty_model(settings, dtype)
    if config.lora.kind != "none":
        add_adapter(model, config.lora)
    return model.to(dtype), decoder_layers(model)


# ---------------------------------------- for people
def show(expected: Forecast) -> str:
    """The forecast as lines, the last of which says whether the memory is enough."""
    load, memory, parameters = expected.load, expected.memory, expected.parameters
    part = (
        "" if parameters.trainable == parameters.total else f", {figures.count(parameters.trainable)} of them learning"
    )
    lines = [
        f"{expected.folder}: {figures.count(parameters.total)} parameters{part}, on {_devices(expected)}",
        f"{_several(load.steps, 'step')}, {_several(load.bins, 'bin')} of {expected.config.capacity:,} tokens: "
        f"{_several(load.samples, 'sample')}, "
        f"{load.tokens:,} tokens, {load.targets:,} targets",
        f"memory on each, at its fullest ({memory.moment}):",
        *(f"  {name:<12} {figures.size(size):>10}" for name, size in _parts(memory)),
        f"  {'in all':<12} {figures.size(memory.needed):>10}",
    ]
    if memory.host:
        lines.append(f"  {'beside it':<12} {figures.size(memory.host):>10} of main memory for each GPU")
    lines += _expense(expected)
    room = f"{figures.size(memory.needed)} of the {figures.size(expected.device.memory)} there are"
    lines.append(f"it fits: {room}" if expected.fits else f"WARNING: {_too_much(expected)}")
    return "\n".join(lines)


def _parts(memory: Memory) -> list[tuple[str, float]]:
    parts = {
        "weights": memory.weights, "gradients": memory.gradients, "optimiser": memory.optimizer,
        "gathered": memory.gathered, "activations": memory.activations,
        "logits" if memory.moment == "the loss" else "working": memory.working,
        "reserve": memory.needed - memory.total,
    }  # fmt: skip
    return [(name, size) for name, size in parts.items() if size]


def _expense(expected: Forecast) -> list[str]:
    """Time, money and energy, as far as they are known."""
    device, hours = expected.device, expected.hours
    if hours is None:
        return [] if device.name == "cpu" else [f"the peak rate of {device.name} is not known, so hours are not either"]
    gpu_hours = hours * expected.ranks
    share = MFU[expected.config.lora.kind]
    lines = [f"{_hours(hours)}, {gpu_hours:,.1f} GPU-hours, at an assumed {share:.0%} of the peak rate (MFU)"]
    if price := expected.config.track.price:
        lines.append(f"${gpu_hours * price:,.2f}, at ${price:.2f} for a GPU-hour")
    else:
        found = [(kind, find_price(device.name, spot=kind == "spot")) for kind in ("on demand", "spot")]
        costs = [f"${gpu_hours * each.usd:,.2f} {kind} (${each.usd:.2f} for a GPU-hour: {each.where}, {each.date})"
                 for kind, each in found if each]  # fmt: skip
        lines.append(" or ".join(costs) or f"no price is known for {device.name}; give one with --track.price")
    if device.watts:
        lines.append(f"at most {gpu_hours * device.watts / 1000:,.1f} kWh in the GPUs")
    return lines


def _too_much(expected: Forecast) -> str:
    memory, each = expected.memory, "rank" if expected.device.name == "cpu" else "GPU"
    return (
        f"the run needs about {figures.size(memory.needed)} on each {each}, and there are "
        f"{figures.size(expected.device.memory)}; what needs less: {_advice(expected)}"
    )


def _advice(expected: Forecast) -> str:
    found = [f"{flag} ({figures.size(other.memory.needed)})" for flag, other in _remedies(expected)]
    return ", ".join(found) or "a smaller model"


def _remedies(expected: Forecast) -> Iterator[tuple[str, Forecast]]:
    """Settings under which the run needs less memory, the gentlest first, and what it then takes.

    The first two change nothing but time, so each of the others comes on top of them.
    """
    config, best = expected.config, expected
    if config.gradient_checkpointing != 1:
        best = _again(best, gradient_checkpointing=1)
        yield "--gradient_checkpointing 1", best
    if config.capacity > config.model.max_length:
        best = _again(best, batch=replace(config.batch, tokens=config.model.max_length))
        yield f"--batch.tokens {config.model.max_length}", best
    for flag, other in _further(best):
        if other.memory.needed < 0.95 * best.memory.needed:  # less is within the error of the estimate
            yield flag, other


def _further(best: Forecast) -> Iterator[tuple[str, Forecast]]:
    """More GPUs, and settings that change the result or cost much time."""
    config, auto = best.config, replace(best.config.parallel, shard="auto", cpu_offload=False)
    if best.device.name != "cpu" and config.lora.kind != "qlora":
        yield f"{2 * best.ranks} GPUs", _again(best, 2 * best.ranks)
        yield "--parallel.cpu_offload true", _again(best, parallel=replace(auto, cpu_offload=True))
    yield "--optim.name adamw8bit", _again(best, optim=replace(config.optim, name="adamw8bit"))
    if config.data.format == "conversations":
        for kind in ("lora", "qlora"):
            yield f"--lora.kind {kind}", _again(best, lora=replace(config.lora, kind=kind), parallel=auto)


def _again(expected: Forecast, ranks: int = 0, **changes: Any) -> Forecast:
    config = replace(expected.config, **changes)
    return forecast(config, expected.folder, expected.load, ranks or expected.ranks, expected.device)


def out_of_memory(error: BaseException, expected: Forecast) -> OutOfMemory | None:
    """What to tell of an error that says that memory ran out; None where it says something else.

    torch has a type for it on GPUs; on the CPU it is a RuntimeError of its allocator, or Python's MemoryError.
    """
    if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(sign in str(error) for sign in _SIGNS):
        return None
    if not expected.fits:
        return OutOfMemory(f"out of memory: {_too_much(expected)}")
    return OutOfMemory(
        f"out of memory, though the run was estimated to need {figures.size(expected.memory.needed)} of "
        f"{figures.size(expected.device.memory)}; see what else is on the device. What needs less: {_advice(expected)}"
    )


def _devices(expected: Forecast) -> str:
    if expected.device.name == "cpu":
        return "the CPU" if expected.ranks == 1 else f"{expected.ranks} ranks on the CPU"
    return expected.device.name if expected.ranks == 1 else f"{expected.ranks} x {expected.device.name}"


def _hours(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.0f} minutes"


def _several(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
