"""The model that learns: built empty, split over the ranks, filled tensor by tensor; no GPU ever holds it whole."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from vicuna.errors import ConfigError, InputError
from vicuna.models.load import empty_model, load_model, load_settings
from vicuna.train import attention
from vicuna.train.attention import Backend
from vicuna.train.batch import Batch
from vicuna.train.config import TrainConfig
from vicuna.train.lora import adapter_weights, add_adapter, base_name, is_adapter
from vicuna.train.loss import check_logits, target_loss
from vicuna.train.parallel import World
from vicuna.train.quantise import load_in_4bit
from vicuna.train.rope import scale_positions
from vicuna.train.vocabulary import embedding_names, grow, grown


@dataclass(frozen=True)
class Precision:
    """How forward and backward compute; what learns is kept in float32."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> torch.autocast:
        """The context of a forward pass over float32 weights. Sharded weights are cast where they are gathered."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)


class Objective(nn.Module):
    """The model with its loss: one call is one pass. It is the root of what is sharded."""

    def __init__(self, model: Any, precision: Precision) -> None:
        super().__init__()
        self.model = model
        self.precision = precision
        self.is_sharded = False

    def forward(self, batch: Batch) -> torch.Tensor:
        """The sum of -log p over the batch's targets; a float32 scalar."""
        with contextlib.nullcontext() if self.is_sharded else self.precision.autocast():
            hidden = self.model.base_model(
                input_ids=batch.tokens, position_ids=batch.positions, segments=batch.segments, use_cache=False
            ).last_hidden_state  # (1, T, D)
            before = hidden[0].index_select(0, batch.before)  # (N, D); its backward pass adds where indexing's sorts
            return target_loss(before, batch.targets, self.model.get_output_embeddings())


def build(
    config: TrainConfig, folder: Path, tokenizer: Any, world: World, precision: Precision
) -> tuple[Objective, Backend]:
    """The objective of a run on its device, with the base model's weights and, where one is asked for, an adapter.

    Args:
        config: the run's settings.
        folder: the base model's.
        tokenizer: the base model's; the embeddings grow where it has more tokens than they have rows.
        world, precision: who computes, and how.

    Raises:
        ConfigError: the base model cannot do what the settings ask of it.
        InputError: it cannot be read, or not be trained here.
    """
    settings = read_settings(config, folder)
    growth = grow(settings, tokenizer, adapter=config.lora.kind != "none")
    if growth and world.is_main:
        print(growth)
    if config.lora.kind == "qlora":
        model = load_in_4bit(folder, precision.dtype, world.device, settings)
        objective, backend = _prepare(model, config, world, precision)
    else:
        objective, backend = empty(settings, config, world, precision)
    with world.one_fails_all_fail(f"loading {folder}"):
        source = _source(folder, objective.model, config) if world.is_main else {}
    _fill(objective.model, source, world, adapter_only=config.lora.kind == "qlora")
    attention.check(objective.model, backend, objective, world.device, precision.dtype)
    if isinstance(objective, FSDPModule):
        objective.reshard()  # a pass without gradients leaves the root's weights gathered; no optimiser may see those
    if config.compile:
        for layer in decoder_layers(objective.model):
            _compile(layer, backend)
    return objective, backend


def read_settings(config: TrainConfig, folder: Path) -> Any:
    """transformers' configuration from which the model is built, with scaled positions where they are asked for.

    Raises:
        ConfigError: samples may be longer than the context.
        InputError: the base model is of a kind that cannot be trained here.
    """
    settings = load_settings(folder)
    if settings.get_text_config() is not settings:
        raise InputError(f"{folder} holds a {settings.model_type} model, in which text is one part of several; take a "
                         "model of text alone")  # fmt: skip
    check_logits(settings)
    scale_positions(settings, config.rope)
    limit = getattr(settings, "max_position_embeddings", None)  # some kinds of positions have no end
    if limit and config.model.max_length > limit:
        raise ConfigError(
            f"model.max_length is {config.model.max_length}, and {folder} has {limit} positions; lower it, or scale "
            "the positions with --rope.kind and --rope.factor"
        )
    return settings


def empty(settings: Any, config: TrainConfig, world: World, precision: Precision) -> tuple[Objective, Backend]:
    """The objective of a run in its device's memory, split over the ranks, with parameters that have no values yet.

    Args:
        settings: transformers' configuration of the model.
        config, world, precision: as for `build`.
    """
    learnt = config.lora.kind == "none"
    model = empty_model(settings, torch.float32 if learnt else precision.dtype, buffers=True)
    objective, backend = _prepare(model, config, world, precision)
    _materialise(objective, torch.device("cpu") if config.parallel.cpu_offload else world.device)
    return objective, backend


def _prepare(model: Any, config: TrainConfig, world: World, precision: Precision) -> tuple[Objective, Backend]:
    """The model with its adapter, attention, recomputation and split."""
    if config.lora.kind != "none":
        add_adapter(model, config.lora)
    backend = attention.choose(config.attention, model.config, precision.device, precision.dtype)
    attention.install(model, backend)
    _recompute(model, config.gradient_checkpointing)
    objective = Objective(model, precision)
    if shards(config, world):
        _shard(objective, config, world)
    return objective, backend


def shards(config: TrainConfig, world: World) -> bool:
    """Whether the weights are split over the ranks."""
    if config.parallel.shard == "auto":
        return config.lora.kind != "qlora" and (world.size > 1 or world.device.type == "cuda")
    return config.parallel.shard == "on"


def decoder_layers(model: Any) -> list[nn.Module]:
    """The repeated layers of a model, which transformers names as those that must stay on one device.

    Raises:
        InputError: the model's class names none.
    """
    kinds = set(model._no_split_modules or ())
    # By the names of all its classes, because sharding derives new ones.
    found = [module for module in model.modules() if kinds & {each.__name__ for each in type(module).__mro__}]
    if not found:
        raise InputError(
            f"{type(model).__name__} does not say what its decoder layers are, so it cannot be trained here"
        )
    return found


def whole_tensors(
    model: Any, device: torch.device, only: Callable[[str], bool] | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Each stored tensor of a model in main memory, gathered from the ranks one at a time; every rank must take all.

    Args:
        model: its tied weights come once, under the name that transformers reads them by.
        device: where ranks exchange tensors.
        only: name → whether it is wanted; None wants all.
    """
    for name, value in _stored(model):
        if only is None or only(name):
            yield name, _whole(value, device).cpu()


def _stored(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers that are in a model's files, tied ones once; each whole, or this rank's part of it."""
    once = dict(model.named_parameters())
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - set(once)
    return ((name, value) for name, value in model.state_dict().items() if name not in tied)


def _whole(value: torch.Tensor, device: torch.device) -> torch.Tensor:
    if not isinstance(value, DTensor):
        return value
    if value.device != device:  # offloaded to main memory
        local = value.to_local().to(device)
        value = DTensor.from_local(local, value.device_mesh, value.placements, shape=value.shape, stride=value.stride())
    return value.full_tensor()


def _recompute(model: Any, every: int) -> None:
    """Recompute activations in the backward pass of every `every`-th decoder layer; 0 is none."""
    if not every:
        return
    # The second name is transformers 5.17's; it goes away in 6.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    for number, layer in enumerate(decoder_layers(model)):
        if not hasattr(layer, "gradient_checkpointing"):
            raise ConfigError(f"gradient_checkpointing: {type(layer).__name__} cannot recompute; set it to 0")
        layer.gradient_checkpointing = number % every == 0  # type: ignore[assignment]


def _compile(layer: nn.Module, backend: Backend) -> None:
    """Compile a layer, or its parts: of a recomputed one, a kernel that cannot be traced leaves nothing to compile."""
    broken = getattr(layer, "gradient_checkpointing", False) and backend.name == "sdpa"
    for module in layer.children() if broken else [layer]:
        module.compile(dynamic=True)


def _shard(objective: Objective, config: TrainConfig, world: World) -> None:
    """Split the weights over the ranks: each decoder layer is gathered for itself, the rest with the root."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    how: dict[str, Any] = {
        "mesh": init_device_mesh(world.device.type, (world.size,)),
        "mp_policy": MixedPrecisionPolicy(param_dtype=objective.precision.dtype, reduce_dtype=torch.float32),
        "offload_policy": CPUOffloadPolicy() if config.parallel.cpu_offload else OffloadPolicy(),
    }
    for layer in decoder_layers(objective.model):
        fully_shard(layer, reshard_after_forward=config.parallel.reshard, **how)
    fully_shard(objective, **how)
    objective.is_sharded = True


def _materialise(objective: Objective, device: torch.device) -> None:
    """Give parameters memory on the device, and bring the buffers there."""
    buffers = {name: buffer.clone() for name, buffer in objective.named_buffers()}
    objective.to_empty(device=device)
    objective.model.tie_weights()
    for name, buffer in objective.named_buffers():
        buffer.copy_(buffers[name])


def _source(folder: Path, model: Any, config: TrainConfig) -> dict[str, torch.Tensor]:
    """Name → whole first value in main memory, from the base model's folder or as an adapter begins."""
    found = dict(adapter_weights(model, config.seed)) if config.lora.kind != "none" else {}
    if config.lora.kind == "qlora":
        return found
    stored, tables = load_model(folder, "auto", "cpu").state_dict(), embedding_names(model)
    for name, value in _stored(model):
        if not is_adapter(name):
            weights = stored[base_name(name)]
            found[name] = grown(weights, value.shape[0]) if name in tables else weights
    return found


@torch.no_grad()
def _fill(model: Any, source: Mapping[str, torch.Tensor], world: World, *, adapter_only: bool) -> None:
    """Give parameters and buffers their values from rank 0, one at a time; `source` is empty elsewhere."""
    for name, value in _stored(model):
        if adapter_only and not is_adapter(name):
            continue
        whole = torch.empty(value.shape, dtype=value.dtype, device=world.device)
        if world.is_main:
            whole.copy_(source[name])
        if world.size > 1:
            torch.distributed.broadcast(whole, 0)
        if isinstance(value, DTensor):
            part = distribute_tensor(whole, value.device_mesh, value.placements, src_data_rank=None)
            value.to_local().copy_(part.to_local())
        else:
            value.copy_(whole)
