"""The trained model as an ordinary Hugging Face folder, written file by file and read back before it gets its name."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from vicuna import manifest
from vicuna.errors import InputError
from vicuna.files import write_json
from vicuna.models.load import load_model, load_settings
from vicuna.prompt import Template
from vicuna.train.config import ExportConfig
from vicuna.train.parallel import World
from vicuna.train.tokenizer import store_template

WHOLE, SHARD, INDEX = "model.safetensors", "model-{:05d}-of-{:05d}.safetensors", "model.safetensors.index.json"
"""File names as transformers reads them."""


class Writer:
    """Tensors into safetensors files of a limited size; each is read back and compared when it is full."""

    def __init__(self, folder: Path, dtype: torch.dtype | None, limit: float) -> None:
        """
        Args:
            folder: where the files go.
            dtype: of what is written; None leaves it as it comes.
            limit: most bytes in a file; a larger tensor has one for itself.
        """
        self._folder, self._dtype, self._limit = folder, dtype, limit
        self._held: dict[str, torch.Tensor] = {}
        self._files: list[tuple[Path, list[str]]] = []
        self._bytes = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Take a tensor in main memory; it is copied only where its type changes."""
        tensor = tensor.to(self._dtype) if self._dtype and tensor.is_floating_point() else tensor
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
        with safe_open(path, framework="pt") as file:
            for name, tensor in self._held.items():
                if not torch.equal(file.get_tensor(name), tensor):
                    raise InputError(f"{path}: tensor {name} does not read back as it was written; check the disk")
        self._bytes += sum(each.nbytes for each in self._held.values())
        self._files.append((path, list(self._held)))
        self._held = {}


@contextlib.contextmanager
def making(world: World, folder: Path, kind: str, **identity: Any) -> Iterator[Path | None]:
    """`manifest.making` on rank 0, where the block gets the folder; a failure there is every rank's."""
    with world.one_fails_all_fail(f"writing {folder}"):
        if not world.is_main:
            yield None
            return
        with manifest.making(folder, kind, **identity) as part:
            yield part


def write_tensors(tensors: Iterable[tuple[str, torch.Tensor]], writer: Writer | None) -> None:
    """Write tensors that all ranks gather together.

    Args:
        tensors: every rank takes all of them, also after an error, or the others would wait for it.
        writer: on rank 0; None elsewhere.
    """
    failure: Exception | None = None
    for name, tensor in tensors:
        if writer and failure is None:
            try:
                writer.add(name, tensor)
            except Exception as error:  # noqa: BLE001 (raised below, when the others are through too)
                failure = error
    if failure:
        raise failure
    if writer:
        writer.close()


def dtype_of(config: ExportConfig, base: Path) -> torch.dtype:
    """The type of written weights: as asked for, or as the base model's are."""
    if config.dtype != "auto":
        found: torch.dtype = getattr(torch, config.dtype)
        return found
    stored = load_settings(base).dtype
    return stored if isinstance(stored, torch.dtype) else torch.float32


def write_around(part: Path, model: Any, dtype: torch.dtype, tokenizer: Any, template: Template | None) -> None:
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
    write_tokenizer(part, tokenizer, template)


def write_tokenizer(part: Path, tokenizer: Any, template: Template | None) -> None:
    """The tokenizer, with the template that the model was trained on."""
    if template:
        store_template(tokenizer, template)
    tokenizer.save_pretrained(part)


def check(part: Path, model: Any) -> None:
    """Load the folder as anybody would; each file's tensors were compared when it was written.

    Raises:
        InputError: a tensor is missing, or is of another shape than the one that was trained.
    """
    found = {name: value.shape for name, value in load_model(part, "auto", "cpu").state_dict().items()}
    for name, parameter in model.named_parameters():
        if found.get(name) != parameter.shape:
            shapes = f"{list(parameter.shape)} and reads back as {found.get(name)}"
            raise InputError(f"{part}: {name} was trained as {shapes}")
