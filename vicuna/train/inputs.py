"""What a run starts from, and what makes it this run and no other."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vicuna import manifest
from vicuna.config import to_dict
from vicuna.errors import InputError
from vicuna.models.load import checkpoint_hash, fetch, load_settings, load_template, load_tokenizer, need_weights
from vicuna.prompt import Template
from vicuna.prompt import template as named_template
from vicuna.train.config import TrainConfig
from vicuna.train.dataset import Dataset, dataset_hash
from vicuna.train.model import read_settings
from vicuna.train.parallel import World
from vicuna.train.prepare import prepare

MACHINES = ("launch", "parallel", "device", "threads", "attention", "compile", "gradient_checkpointing", "tf32")
"""Settings that decide the trained weights by rounding only: a run may go on under other ones."""
SURROUNDINGS = ("out", "checkpoint", "track", "dry_run")
"""Settings that do not decide them at all."""
PLACES = (("model", "path"), ("data", "path"), ("data", "held_out"), ("data", "cache"), ("data", "workers"))
"""Where the inputs are; their content hashes stand for them."""


@dataclass(frozen=True)
class Inputs:
    """What a run starts from."""

    base: Path
    """Folder of the base model."""
    tokenizer: Any
    template: Template
    data: Dataset
    held_out: Dataset | None
    parents: Mapping[str, str]
    """Name → content hash."""

    @property
    def width(self) -> int:
        """Of the base model's residual stream."""
        return int(load_settings(self.base).get_text_config().hidden_size)


def identity(config: TrainConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The settings that decide the trained weights; `dtype` is what they came to for the computation."""
    tree = {key: value for key, value in to_dict(config).items() if key not in (*MACHINES, *SURROUNDINGS)}
    for group, name in PLACES:
        del tree[group][name]
    return tree | {"dtype": str(dtype).removeprefix("torch.")}


def kind_of(config: TrainConfig) -> str:
    """Of what the run leaves: a whole model, or an adapter for one."""
    return "checkpoint" if config.lora.kind == "none" or config.lora.merge else "adapter"


def gather(config: TrainConfig, world: World, dtype: torch.dtype) -> Inputs | None:
    """Find and check everything; tokenise it once on each node.

    Args:
        config: the run's settings.
        world: the ranks, which call this together.
        dtype: of the computation.

    Returns:
        None where this very run has written its model already.

    Raises:
        InputError, IncompleteError: something is missing, damaged or not what it should be; or `OUT/model` holds
            other work.
    """
    with world.one_fails_all_fail("reading the inputs"):
        base = fetch(config.model.path, weights=not config.dry_run)
        parents = _parents(config, base) if world.is_main else {}
        done = world.is_main and _is_done(config, parents, dtype)
    parents, done = world.broadcast((parents, done))
    if done:
        return None
    with world.one_fails_all_fail("reading the inputs"):
        if not config.dry_run:
            need_weights(base)
        read_settings(config, base)  # what cannot be trained is refused before anything is made for it
        tokenizer = load_tokenizer(base)
        template = _template(config, base, tokenizer)
        cache, prepared = Path(config.data.cache or Path(config.out) / "tokens"), None
        if world.is_local_main:
            hashes = parents if world.is_main else None  # another node may have another copy of the data
            prepared = prepare(config.data, tokenizer, template, config.model.max_length, cache, hashes)
    prepared = world.gather(prepared)[world.rank - world.local_rank]  # by this node's first rank
    with world.one_fails_all_fail("reading the inputs"):
        assert prepared is not None
        data, held_out = prepared.open()
    return Inputs(base, tokenizer, template, data, held_out, parents)


def _template(config: TrainConfig, base: Path, tokenizer: Any) -> Template:
    """What to train with: a base model has no template yet, so here (and only here) the settings decide."""
    return named_template(config.model.template) if config.model.template else load_template(base, tokenizer=tokenizer)


def _parents(config: TrainConfig, base: Path) -> dict[str, str]:
    found = {"base": checkpoint_hash(base), "data": dataset_hash(config.data.path)}
    return found | ({"held_out": dataset_hash(config.data.held_out)} if config.data.held_out else {})


def _is_done(config: TrainConfig, parents: Mapping[str, str], dtype: torch.dtype) -> bool:
    """Whether this very run has written its model; another one's is not written over."""
    folder = Path(config.out) / "model"
    if config.dry_run:
        return False
    if manifest.matches(folder, kind_of(config), parents, identity(config, dtype)):
        return True
    if manifest.is_complete(folder):
        changed = manifest.differences(manifest.read(folder).config, identity(config, dtype))
        what = f"another {changed[0]}" if changed else "other data or another base model"
        raise InputError(f"{folder} is of a run with {what}; choose another --out or remove it")
    manifest.check_free(folder)
    return False
