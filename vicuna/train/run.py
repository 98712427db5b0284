"""One training run from settings to a checkpoint folder, on this rank together with the others."""

import functools
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vicuna import manifest
from vicuna.config import dump, to_dict
from vicuna.errors import ConfigError
from vicuna.files import write_text
from vicuna.hardware import cpu_count
from vicuna.models.load import checkpoint_hash, fetch, load_model, load_settings, load_template, load_tokenizer
from vicuna.prompt import Template
from vicuna.prompt import template as named_template
from vicuna.train import export, masks, report, trackers
from vicuna.train.checkpoint import Checkpoints, Position
from vicuna.train.config import TrainConfig
from vicuna.train.dataset import Dataset, dataset_hash
from vicuna.train.feed import Feed
from vicuna.train.forecast import Forecast, Load, forecast, out_of_memory, planned_on, show
from vicuna.train.interval import Cadence
from vicuna.train.launch import need_inputs
from vicuna.train.loop import Loop
from vicuna.train.lora import is_adapter, merged, write_adapter
from vicuna.train.metrics import Progress, Start, peak_memory
from vicuna.train.model import Objective, Precision, build, whole_tensors
from vicuna.train.optim import learning_rate, make_optimizer
from vicuna.train.packing import Plan, plan
from vicuna.train.parallel import World, joined
from vicuna.train.prepare import prepare
from vicuna.train.rope import scale_positions

logger = logging.getLogger(__name__)
MACHINES = ("launch", "parallel", "device", "threads", "attention", "compile", "gradient_checkpointing", "tf32")
"""Settings that decide the trained weights by rounding only: a run may go on under other ones."""
SURROUNDINGS = ("out", "checkpoint", "track", "dry_run")
"""Settings that do not decide them at all."""
PLACES = (("model", "path"), ("data", "path"), ("data", "held_out"), ("data", "cache"), ("data", "workers"))
"""Where the inputs are; their content hashes stand for them."""


def main(config: TrainConfig) -> None:
    """Train, or go on from the newest checkpoint, and write `OUT/model`; a finished run is kept as it is."""
    need_inputs(config)
    trackers.check(config.track.tracker)
    precision_of = choose_precision(config)
    alone_too = config.parallel.shard != "off" and (precision_of.device.type == "cuda" or config.parallel.shard == "on")
    with joined(precision_of.device.type, config.launch.timeout, alone_too=alone_too) as world:
        if not world.is_main:
            logging.getLogger("vicuna").setLevel(logging.WARNING)  # rank 0 speaks for all
        Run(config, world, Precision(world.device, precision_of.dtype)).run()


def choose_precision(config: TrainConfig) -> Precision:
    """The kind of device and the dtype of the computation.

    Raises:
        ConfigError: CUDA is asked for and is not there.
    """
    cuda = torch.cuda.is_available()
    if config.device == "cuda" and not cuda:
        raise ConfigError("device is cuda, and torch sees no CUDA device; use --device cpu or auto")
    device = torch.device("cuda" if cuda and config.device != "cpu" else "cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda" and local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"launch.ranks: this node has {torch.cuda.device_count()} GPUs, and rank {local_rank} would need one more"
        )
    if config.parallel.cpu_offload and device.type == "cpu":
        raise ConfigError("parallel.cpu_offload brings weights from main memory to GPUs, and this run is on the CPU")
    if config.dtype == "auto":
        return Precision(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    return Precision(device, getattr(torch, config.dtype))


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


class Run:
    """The stages of a run; every rank goes through all of them."""

    def __init__(self, config: TrainConfig, world: World, precision: Precision) -> None:
        self.config, self.world, self.precision = config, world, precision
        self.out = Path(config.out)

    def run(self) -> None:
        """From the inputs to the written model, or to where the run was told to stop."""
        config = self.config
        self._set_up_torch()
        inputs = self._inputs()
        if inputs is None:
            self._say(f"{self.out}/model is trained already")
            return
        steps = plan(
            inputs.data.lengths, config.capacity, config.batch.bins, config.seed, config.batch.epochs,
            config.batch.max_steps, width=self._width(inputs.base),
        )  # fmt: skip
        expected = self._forecast(inputs, steps)
        if config.dry_run:
            return
        try:
            self._train(inputs, steps, expected)
        except (RuntimeError, MemoryError) as error:
            if advice := out_of_memory(error, expected):
                raise advice from error
            raise

    def _set_up_torch(self) -> None:
        config, world = self.config, self.world
        cores = cpu_count()
        if config.threads or world.local_size > 1:
            torch.set_num_threads(config.threads or max(1, cores // world.local_size))
        if config.tf32 and world.device.type == "cuda":
            torch.backends.cuda.matmul.fp32_precision = "tf32"
            torch.backends.cudnn.fp32_precision = "tf32"
        torch.manual_seed(config.seed + world.rank)  # dropout; everything else has a generator of its own

    def _inputs(self) -> Inputs | None:
        """What the run starts from, tokenised once on each node; None where the model is there already."""
        config, world = self.config, self.world
        with world.one_fails_all_fail("reading the inputs"):
            base = fetch(config.model.path)
            parents = self._parents(base) if world.is_main else {}
            if world.is_main and self._is_done(parents):
                parents = {}
        parents = world.broadcast(parents)
        if not parents:
            return None
        with world.one_fails_all_fail("reading the inputs"):
            tokenizer = load_tokenizer(base)
            template = self._choose_template(base, tokenizer)
            cache = Path(config.data.cache or self.out / "tokens")
            prepared = None
            if world.is_local_main:
                prepared = prepare(config.data, tokenizer, template, config.model.max_length, cache)
        prepared = world.gather(prepared)[world.rank - world.local_rank]  # by this node's first rank
        assert prepared is not None
        data, held_out = prepared.open()
        return Inputs(base, tokenizer, template, data, held_out, parents)

    def _choose_template(self, base: Path, tokenizer: Any) -> Template:
        """What to train with: a base model has no template yet, so here (and only here) the settings decide."""
        name = self.config.model.template
        return named_template(name) if name else load_template(base, tokenizer=tokenizer)

    def _parents(self, base: Path) -> dict[str, str]:
        config = self.config
        found = {"base": checkpoint_hash(base), "data": dataset_hash(config.data.path)}
        return found | ({"held_out": dataset_hash(config.data.held_out)} if config.data.held_out else {})

    def _is_done(self, parents: Mapping[str, str]) -> bool:
        """Whether this very run has written its model; another one's is not written over."""
        folder = self.out / "model"
        if not self.config.dry_run and manifest.matches(folder, self._kind(), parents, self._identity()):
            return True
        manifest.check_free(folder)
        return False

    def _kind(self) -> str:
        return "checkpoint" if self.config.lora.kind == "none" or self.config.lora.merge else "adapter"

    def _identity(self) -> dict[str, Any]:
        """The settings that decide the trained weights."""
        tree = {key: value for key, value in to_dict(self.config).items() if key not in (*MACHINES, *SURROUNDINGS)}
        for group, name in PLACES:
            del tree[group][name]
        return tree | {"dtype": str(self.precision.dtype).removeprefix("torch.")}  # what `auto` came to

    # ------------------------------------------------------------------------------------------------ training
    def _train(self, inputs: Inputs, steps: Plan, expected: Forecast) -> None:
        config, world = self.config, self.world
        objective, backend = build(config, inputs.base, inputs.tokenizer, world, self.precision)
        self._say(f"attention: {backend}")
        optimizer = make_optimizer(objective.model, config.optim)
        run = {key: value for key, value in self._identity().items() if key != "export"} | {"parents": inputs.parents}
        checkpoints = Checkpoints(
            self.out / "checkpoints", run, config.checkpoint.keep, world, config.checkpoint.asynchronous
        )
        position = checkpoints.restore(objective, optimizer) or Position()
        if position.step:
            self._say(f"going on after step {position.step}")
        feed = functools.partial(Feed, capacity=config.capacity, world=world, blocks=backend.blocks)
        progress = self._open_progress(inputs, steps, expected, position)
        loop = Loop(
            objective, optimizer, feed(inputs.data, steps), functools.partial(_rate, config, len(steps)),
            config.optim.max_norm, checkpoints, Cadence(config.checkpoint, world, done=position.step), progress,
            self._held_out_feed(inputs, feed), config.track.held_out_every, world,
        )  # fmt: skip
        try:
            loop.run(position)
        finally:
            checkpoints.finish()
            if progress:
                progress.close()
        self._write_model(objective, inputs, position)
        self._finish(position)

    def _held_out_feed(self, inputs: Inputs, feed: Any) -> Feed | None:
        if inputs.held_out is None:
            return None
        bins = plan(inputs.held_out.lengths, self.config.capacity, 2**31, 0, 1.0, width=self._width(inputs.base))
        made: Feed = feed(inputs.held_out, bins)
        return made

    def _open_progress(self, inputs: Inputs, steps: Plan, expected: Forecast, position: Position) -> Progress | None:
        config, world, out = self.config, self.world, self.out
        if not world.is_main:
            return None
        write_text(out / "config.yaml", dump(config))
        masks.write(out / "data.json", inputs.data, inputs.tokenizer, config.seed)
        return Progress(
            out, Start(position.step, len(steps), world.size, self._device_name()),
            every=config.track.log_every,
            flops=lambda step: expected.flops.model(step.tokens, step.squares, step.targets),
            memory=functools.partial(peak_memory, world.device),
            tracker=trackers.open_tracker(config.track, out, settings=to_dict(config), done=position.step),
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------------ the end
    def _write_model(self, objective: Objective, inputs: Inputs, position: Position) -> None:
        """The model's folder, by all ranks together."""
        config, world, model = self.config, self.world, objective.model
        self._say(f"writing {self.out}/model")
        identity = {"parents": inputs.parents, "config": self._identity()}
        facts = self._facts(model, inputs, position)
        with export.making(world, self.out / "model", self._kind(), facts=facts, **identity) as part:
            if config.lora.kind == "none":
                self._write_whole(part, model, whole_tensors(model, world.device), inputs)
                return
            adapter = dict(whole_tensors(model, world.device, only=is_adapter))
            if part and config.lora.merge:
                base = load_model(inputs.base, "auto", "cpu")
                scale_positions(base.config, config.rope)
                tensors = whole_tensors(base, torch.device("cpu"))
                sums = ((name, merged(name, weight, adapter, config.lora)) for name, weight in tensors)
                self._write_whole(part, base, sums, inputs)
            elif part:
                write_adapter(part, model, adapter, config.model.path)
                export.write_tokenizer(part, inputs.tokenizer, self._template(inputs))

    def _write_whole(self, part: Path | None, model: Any, tensors: Any, inputs: Inputs) -> None:
        dtype = export.dtype_of(self.config.export, inputs.base)
        limit = self.config.export.shard_gb * 1e9
        export.write_tensors(tensors, export.Writer(part, dtype, limit) if part else None)
        if part:
            export.write_around(part, model, dtype, inputs.tokenizer, self._template(inputs))
            export.check(part, model)

    def _template(self, inputs: Inputs) -> Template | None:
        """What the model was trained to be prompted with; a base model knows none."""
        return inputs.template if self.config.data.format == "conversations" else None

    def _facts(self, model: Any, inputs: Inputs, position: Position) -> dict[str, Any]:
        config, data = self.config, inputs.data
        facts = {
            "parameters": model.num_parameters(), "steps": position.step, "tokens": position.tokens,
            "target_tokens": position.targets, "seconds": round(position.seconds, 1), "samples": len(data),
            "dropped": data.dropped, "ranks": self.world.size, "device": self._device_name(),
        }  # fmt: skip
        if template := self._template(inputs):
            facts |= {
                "template": template.name, "template_hash": template.hash, "max_length": config.model.max_length
            }  # fmt: skip
        return facts

    def _finish(self, position: Position) -> None:
        """What is left to do when the model is written: the page, and no checkpoints any more."""
        if self.world.is_main:
            page = report.write(self.out)
            shutil.rmtree(self.out / "checkpoints", ignore_errors=True)
            print(
                f"trained {position.step} steps on {position.targets:,} target tokens in {position.seconds:.0f} s: "
                f"{self.out}/model (report: {page})"
            )
        self.world.barrier()

    # ------------------------------------------------------------------------------------------------ small things
    def _forecast(self, inputs: Inputs, steps: Plan) -> Forecast:
        """What the run takes; printed before anything is loaded."""
        config, data = self.config, inputs.data
        learnt = np.concatenate([steps.samples(step) for step in range(len(steps))])
        lengths = data.lengths[learnt].astype(np.int64)
        load = Load(
            samples=len(learnt), tokens=int(lengths.sum()), targets=int(data.targets[learnt].sum()),
            squares=int((lengths**2).sum()), steps=len(steps), bins=sum(len(steps[step]) for step in range(len(steps))),
        )  # fmt: skip
        expected = forecast(config, inputs.base, load, *planned_on(config, self.world))
        self._say(show(expected))
        return expected

    def _width(self, base: Path) -> int:
        """Of the model's residual stream: what decides at which length attention costs as much as the rest."""
        return int(load_settings(base).hidden_size)

    def _device_name(self) -> str:
        device = self.world.device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

    def _say(self, text: object) -> None:
        if self.world.is_main:
            print(text, flush=True)


def _rate(config: TrainConfig, steps: int, step: int) -> float:
    return learning_rate(config.optim, step, steps)
