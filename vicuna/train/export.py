"""The trained model as an ordinary Hugging Face folder, written file by file and read back before it gets its name."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from vicuna import manifest
from vicuna.errors import InputError
from vicuna.files import write_json
from vicuna.models.load import load_model, load_settings
from vicuna.prompt import Template
from vicuna.train.config import ExportConfig, TrainConfig
from vicuna.train.inputs import Inputs, identity, kind_of
from vicuna.train.lora import is_adapter, merged, write_adapter
from vicuna.train.model import whole_tensors
from vicuna.train.parallel import World
from vicuna.train.rope import scale_positions
from vicuna.train.tokenizer import store_template

T = TypeVar("T")
WHOLE, SHARD, INDEX = "model.safetensors", "model-{:05d}-of-{:05d}.safetensors", "model.safetensors.index.json"
"""File names as transformers reads them."""


def write_model(
    config: TrainConfig, world: World, model: Any, inputs: Inputs, dtype: torch.dtype, facts: Mapping[str, Any]
) -> None:
    """Write `OUT/model`: a whole model, or an adapter; all ranks together, an error on one is an error on all.

    Args:
        config: the run's settings.
        world: the ranks.
        model: the trained one, sharded or not.
        inputs: what it was made from.
        dtype: of the computation.
        facts: what the manifest shall tell of the run, besides what is known here.

    Raises:
        InputError: the folder cannot be written, or does not read back as it was written.
    """
    data, template = inputs.data, inputs.template if config.data.format == "conversations" else None
    facts = {"parameters": model.num_parameters(), **facts, "samples": len(data), "dropped": data.dropped}
    if template:
        facts |= {"template": template.name, "template_hash": template.hash, "max_length": config.model.max_length}
    made = manifest.making(
        Path(config.out) / "model", kind_of(config), parents=inputs.parents, config=identity(config, dtype), facts=facts
    )
    only = None if config.lora.kind == "none" else is_adapter
    tensors = whole_tensors(model, world.device, only)
    with world.one_fails_all_fail(f"writing {config.out}/model"):
        if not world.is_main:
            for _ in tensors:  # which no rank can gather alone
                pass
            return
        with contextlib.closing(_Drained(tensors)) as rest, made as part:
            if only is None:
                _write_whole(part, rest, model, config, inputs, template)
            else:
                _write_adapted(part, dict(rest), model, config, inputs, template)


class _Drained(Iterator[T]):
    """An iterator that is taken to its end also after an error, because other ranks take part in every item."""

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items

    def __next__(self) -> T:
        return next(self._items)

    def close(self) -> None:
        """Take what is left."""
        for _ in self._items:
            pass


def _write_whole(
    part: Path, tensors: Iterable[tuple[str, torch.Tensor]], model: Any, config: TrainConfig, inputs: Inputs,
    template: Template | None,
) -> None:  # fmt: skip
    dtype, learnt = _dtype_of(config.export, inputs.base), dict(model.named_parameters())
    writer = Writer(part, config.export.shard_gb * 1e9)
    for name, tensor in tensors:
        writer.add(name, tensor.to(dtype) if name in learnt else tensor)  # buffers are as the model needs them
    writer.close()
    _write_around(part, model, dtype, inputs.tokenizer, template)
    _check(part, model)


def _write_adapted(
    part: Path, adapter: Mapping[str, torch.Tensor], model: Any, config: TrainConfig, inputs: Inputs,
    template: Template | None,
) -> None:  # fmt: skip
    """The adapter, or the base model's own weights with the adapter merged into them."""
    if not config.lora.merge:
        _compare(*write_adapter(part, model, adapter, config.model.path))
        _write_tokenizer(part, inputs.tokenizer, template)
        return
    base = load_model(inputs.base, "auto", "cpu")
    scale_positions(base.config, config.rope)
    stored = whole_tensors(base, torch.device("cpu"))
    sums = ((name, merged(name, weight, adapter, config.lora)) for name, weight in stored)
    _write_whole(part, sums, base, config, inputs, template)


class Writer:
    """Tensors into safetensors files of a limited size; each is read back and compared when it is full."""

    def __init__(self, folder: Path, limit: float) -> None:
        """
        Args:
            folder: where the files go.
            limit: most bytes in a file; a larger tensor has one for itself.
        """
        self._folder, self._limit = folder, limit
        self._held: dict[str, torch.Tensor] = {}
        self._files: list[tuple[Path, list[str]]] = []
        self._bytes = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Take a tensor in main memory."""
        if self._held and sum(each.nbytes for each in self._held.values()) + tensor.nbytes > self._limit:
            self._flush()
        self._held[name] = tensor.contiguous()

    def close(self) -> None:
        """Write what is left, give the files their names, and write the index where there are several."""
        self._flush()
        count = len(self._files)
        places: dict[str, str] = {}
        for number, (path, names) in enumerate(self._files, 1):
            name = WHOLE if count == 1 else SHARD.format(number, count)
            os.replace(path, self._folder / name)
            places |= dict.fromkeys(names, name)
        if count > 1:
            write_json(self._folder / INDEX, {"metadata": {"total_size": self._bytes}, "weight_map": places})

    def _flush(self) -> None:
        path = self._folder / f"{len(self._files)}.safetensors"
        save_file(self._held, path, metadata={"format": "pt"})
        _compare(path, self._held)
        self._bytes += sum(each.nbytes for each in self._held.values())
        self._files.append((path, list(self._held)))
        self._held = {}


def _compare(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Read a safetensors file back.

    Raises:
        InputError: a tensor in it is not as it was written.
    """
    with safe_open(path, framework="pt") as file:
        for name, tensor in tensors.items():
            if not torch.equal(file.get_tensor(name), tensor):
                raise InputError(f"{path}: tensor {name} does not read back as it was written; check the disk")


def _dtype_of(config: ExportConfig, base: Path) -> torch.dtype:
    """The type of written weights: as asked for, or as the base model's are."""
    if config.dtype != "auto":
        found: torch.dtype = getattr(torch, config.dtype)
        return found
    stored = load_settings(base).dtype
    return stored if isinstance(stored, torch.dtype) else torch.float32


def _write_around(part: Path, model: Any, dtype: torch.dtype, tokenizer: Any, template: Template | None) -> None:
    """What belongs to the weights: configuration, generation settings, tokenizer with its chat template.

    Args:
        part: the folder.
        model: whose configuration is stored.
        dtype: of the weights in the folder.
        tokenizer: of the model.
        template: the prompts it was trained on; None for a base model.
    """
    from transformers import GenerationConfig

    settings = model.config
    settings.architectures, settings.dtype = [type(model).__name__], dtype
    settings.save_pretrained(part)
    generation = model.generation_config
    if template:
        stops = template.stop_ids(tokenizer)
        # Fresh: a base model's sampling settings may contradict each other, and are not the tuned model's.
        generation = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=list(stops) if len(stops) > 1 else stops[0],
            pad_token_id=tokenizer.pad_token_id,
        )
    generation.save_pretrained(part)
    _write_tokenizer(part, tokenizer, template)


def _write_tokenizer(part: Path, tokenizer: Any, template: Template | None) -> None:
    """The tokenizer, with the template that the model was trained on."""
    if template:
        store_template(tokenizer, template)
    tokenizer.save_pretrained(part)


def _check(part: Path, model: Any) -> None:
    """Load the folder as anybody would; each file's tensors were compared when it was written.

    Raises:
        InputError: a tensor is missing, or is of another shape than the one that was trained.
    """
    found = {name: value.shape for name, value in load_model(part, "auto", "cpu").state_dict().items()}
    for name, parameter in model.named_parameters():
        if found.get(name) != parameter.shape:
            shapes = f"{list(parameter.shape)} and reads back as {found.get(name)}"
            raise InputError(f"{part}: {name} was trained as {shapes}")
