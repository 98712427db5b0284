"""One training run from settings to a model's folder, on this rank together with the others."""

import contextlib
import functools
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import torch

from vicuna.config import dump, to_dict
from vicuna.errors import ConfigError
from vicuna.files import write_text
from vicuna.hardware import cpu_count
from vicuna.models.quantized import bitsandbytes
from vicuna.train import export, inputs, masks, report, trackers
from vicuna.train.checkpoint import Checkpoints, Position
from vicuna.train.config import TrainConfig
from vicuna.train.feed import Feed
from vicuna.train.forecast import Forecast, Load, forecast, named_gpu, out_of_memory, planned_on, show
from vicuna.train.inputs import Inputs
from vicuna.train.interval import Cadence
from vicuna.train.loop import Loop
from vicuna.train.metrics import Progress, Start, peak_memory
from vicuna.train.model import Objective, Precision, build
from vicuna.train.node import need_inputs
from vicuna.train.optim import learning_rate, make_optimizer
from vicuna.train.packing import Plan, plan
from vicuna.train.parallel import World, joined

FEW = 50
"""Steps below which a run is warned of."""


def main(config: TrainConfig) -> None:
    """Train, or go on from the newest checkpoint, and write `OUT/model`; a finished run is kept as it is."""
    need_inputs(config)
    trackers.check(config.track.tracker)
    named_gpu(config)
    if config.lora.kind == "qlora" or config.optim.name == "adamw8bit":
        bitsandbytes("lora.kind qlora" if config.lora.kind == "qlora" else "optim.name adamw8bit")
    device, dtype = choose_device(config), config.dtype
    if dtype == "auto":
        dtype = "bfloat16" if device == "cuda" else "float32"
    alone_too = config.parallel.shard == "on" or (config.parallel.shard == "auto" and device == "cuda")
    with joined(device, config.launch.timeout, alone_too=alone_too) as world:
        if not world.is_main:
            logging.getLogger("vicuna").setLevel(logging.WARNING)  # rank 0 speaks for all
        Run(config, world, Precision(world.device, getattr(torch, dtype))).run()


def choose_device(config: TrainConfig) -> str:
    """The kind of device that this rank computes on.

    Raises:
        ConfigError: a GPU is asked for, or something that needs one, and it is not there.
    """
    count, local_rank = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    if config.device == "cuda" and not count:
        raise ConfigError("device is cuda, and torch sees no CUDA device; use --device cpu or auto")
    if config.device != "cpu" and 0 < count <= local_rank:
        raise ConfigError(f"launch.ranks: this node has {count} GPUs, and rank {local_rank} would need one more")
    device = "cuda" if count and config.device != "cpu" else "cpu"
    if config.parallel.cpu_offload and device == "cpu":
        raise ConfigError("parallel.cpu_offload brings weights from main memory to GPUs, and this run is on the CPU")
    return device


class Run:
    """The stages of a run; every rank goes through all of them."""

    def __init__(self, config: TrainConfig, world: World, precision: Precision) -> None:
        self._config, self._world, self._precision = config, world, precision
        self._out = Path(config.out)

    def run(self) -> None:
        """From the inputs to the written model, or to where the run was told to stop."""
        config = self._config
        self._set_up_torch()
        found = inputs.gather(config, self._world, self._precision.dtype)
        if found is None:
            self._say(f"{self._out}/model is trained already")
            if self._world.is_main and (self._out / "checkpoints").exists():  # a kill came between
                self._clear_up()
            return
        steps = plan(
            found.data.lengths, config.capacity, config.batch.bins, config.seed, config.batch.epochs,
            config.batch.max_steps, width=found.width,
        )  # fmt: skip
        expected = self._forecast(found, steps)
        if config.dry_run:
            return
        try:
            objective, position = self._train(found, steps, expected)
        except (RuntimeError, MemoryError) as error:
            if advice := out_of_memory(error, expected):
                raise advice from error
            raise
        self._say(f"writing {self._out}/model")
        export.write_model(config, self._world, objective.model, found, self._precision.dtype, self._facts(position))
        self._finish(position)

    def _set_up_torch(self) -> None:
        config, world = self._config, self._world
        if config.threads or world.local_size > 1:
            torch.set_num_threads(config.threads or max(1, cpu_count() // world.local_size))
        if config.tf32 and world.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        torch.manual_seed(config.seed + world.rank)  # dropout; everything else has a generator of its own

    def _forecast(self, found: Inputs, steps: Plan) -> Forecast:
        """What the run takes; said before anything is loaded."""
        lengths = found.data.lengths[steps.order].astype(np.int64)
        load = Load(
            samples=len(lengths), tokens=int(lengths.sum()), targets=int(found.data.targets[steps.order].sum()),
            squares=int((lengths**2).sum()), steps=len(steps), bins=len(steps.ends),
        )  # fmt: skip
        expected = forecast(self._config, found.base, load, *planned_on(self._config, self._world))
        self._say(show(expected))
        if len(steps) < FEW and not self._config.batch.max_steps:
            self._say(f"WARNING: the run has {len(steps)} steps, which is little to learn in; lower --batch.bins")
        return expected

    def _train(self, found: Inputs, steps: Plan, expected: Forecast) -> tuple[Objective, Position]:
        config, world, out = self._config, self._world, self._out
        objective, backend = build(config, found.base, found.tokenizer, world, self._precision)
        self._say(f"attention: {backend}")
        optimizer = make_optimizer(objective.model, config.optim)
        run = inputs.identity(config, self._precision.dtype) | {"parents": found.parents}
        del run["export"]
        checkpoints = Checkpoints(out / "checkpoints", run, config.checkpoint.keep, world,
                                  config.checkpoint.asynchronous)  # fmt: skip
        position = checkpoints.restore(objective, optimizer) or Position()
        if position.step:
            self._say(f"going on after step {position.step}")
        feed = functools.partial(Feed, capacity=config.capacity, world=world, blocks=backend.blocks)
        held_out = None
        if found.held_out is not None:
            whole = len(found.held_out)  # as many bins as samples at most, so all of them are one step
            held_out = feed(found.held_out, plan(found.held_out.lengths, config.capacity, whole, 0, width=found.width))
        with world.one_fails_all_fail(f"writing to {out}"):
            progress = self._open_progress(found, len(steps), expected, position) if world.is_main else None
        loop = Loop(
            objective=objective, optimizer=optimizer, feed=feed(found.data, steps),
            rate_of=lambda step: learning_rate(config.optim, step, len(steps)), max_norm=config.optim.max_norm,
            checkpoints=checkpoints, cadence=Cadence(config.checkpoint, world, position.step), progress=progress,
            held_out=held_out, held_out_every=config.track.held_out_every, world=world,
        )  # fmt: skip
        with contextlib.closing(progress) if progress else contextlib.nullcontext():
            try:
                loop.run(position)
            finally:
                checkpoints.finish()
        return objective, position

    def _open_progress(self, found: Inputs, steps: int, expected: Forecast, position: Position) -> Progress:
        config, out = self._config, self._out
        write_text(out / "config.yaml", dump(config))
        masks.write(out / "data.json", found.data, found.tokenizer, config.seed)
        return Progress(
            out, Start(position.step, steps, self._world.size, self._device()),
            every=config.track.log_every,
            flops=lambda step: expected.flops.model(step.tokens, step.squares, step.targets),
            memory=functools.partial(peak_memory, self._world.device),
            tracker=trackers.open_tracker(config.track, out, settings=to_dict(config), done=position.step),
        )  # fmt: skip

    def _facts(self, position: Position) -> dict[str, object]:
        return {
            "steps": position.step, "tokens": position.tokens, "target_tokens": position.targets,
            "seconds": round(position.seconds, 1), "ranks": self._world.size, "device": self._device(),
        }  # fmt: skip

    def _finish(self, position: Position) -> None:
        with self._world.one_fails_all_fail(f"writing the report of {self._out}"):
            if self._world.is_main:
                self._clear_up()
        self._say(f"trained {position.step} steps on {position.targets:,} target tokens in {position.seconds:.0f} s: "
                  f"{self._out}/model (report: {self._out / report.NAME})")  # fmt: skip

    def _clear_up(self) -> None:
        """What is left when the model is written: the page, and no checkpoints any more."""
        report.write(self._out)
        shutil.rmtree(self._out / "checkpoints", ignore_errors=True)

    def _device(self) -> str:
        device = self._world.device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

    def _say(self, text: object) -> None:
        if self._world.is_main:
            print(text, flush=True)
