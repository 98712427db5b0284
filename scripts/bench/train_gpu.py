"""The bars of training on one GPU, in one command of less than eight minutes that needs no network and no checkpoint.

    python scripts/bench/train_gpu.py                       # on an idle H200; torch, transformers, accelerate, numpy
    python scripts/bench/train_gpu.py --device cpu --tiny   # shows that it works

Random weights of the named shapes are made on the device and learn samples as long as shared chats are. Each part
is a process of its own with a share of the time; what fails or takes too long says so, and the rest goes on. Prints the
tables for docs/benchmarks.md, writes $OUT/train_gpu.json (or --json), ends with status 1 where a bar is missed or was
not measured.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from shapes import SHAPES
from torch.distributed.tensor import DTensor

from vicuna.hardware import peak_flops
from vicuna.models.flops import flops
from vicuna.train import loss, packing
from vicuna.train import model as building
from vicuna.train.batch import Segments, make_batch
from vicuna.train.config import OptimConfig, TrainConfig
from vicuna.train.dataset import Sample
from vicuna.train.kernels import KERNELS, Kernel, Scores
from vicuna.train.loop import train_step
from vicuna.train.optim import make_optimizer
from vicuna.train.parallel import World, joined

LONGEST = 2048
"""Tokens of the longest sample, and positions of a padded one."""
TIMED = 2
"""Optimiser steps that are timed, after one that is not."""
PARTS = {
    "ours-7b": 140, "padded-7b": 60, "flattened-7b": 90, "ours-1b": 60, "kernels": 40, "compiled-7b": 110,
    "padded-1b": 40, "flattened-1b": 40,
}  # fmt: skip
"""Most seconds for each part, in the order in which they are needed."""


@dataclass(frozen=True)
class Row:
    """What one way of training did; `failed` says why it did not."""

    part: str
    way: str
    failed: str = ""
    target_rate: float = 0.0
    """Target tokens in a second."""
    token_rate: float = 0.0
    position_rate: float = 0.0
    """With padding."""
    mfu: float | None = None
    """Of the mathematics of the tokens, without padding and without what is recomputed; None where no peak is known."""
    peak_gb: float | None = None
    """Most memory of the GPU, in 10^9 bytes."""
    loss: float = 0.0


@dataclass(frozen=True)
class Timing:
    """What one way of computing a part of a pass took, forward and backward."""

    what: str
    way: str
    failed: str = ""
    milliseconds: float = 0.0
    peak_mb: float | None = None
    """Over what its inputs take."""


class Meter:
    """Times steps and adds up what is in them."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self._work = flops(model, building.decoder_layers(model), 0)
        self._device = device
        self._marks: list[float] = []
        self._sums = np.zeros(4)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def mark(self) -> None:
        """The first step begins, or one has ended."""
        _wait(self._device)
        self._marks.append(time.perf_counter())

    def add(self, step: int, samples: Sequence[Sample], positions: int) -> None:
        """What is in a step (from 0); the first one only warms up."""
        if step > 0:
            lengths = [len(each.ids) for each in samples]
            targets = sum(int(each.is_target[1:].sum()) for each in samples)
            self._sums += (sum(lengths), sum(n * n for n in lengths), targets, positions)

    def row(self, part: str, way: str, value: float) -> Row:
        """The rates of the steps after the first."""
        seconds = self._marks[-1] - self._marks[1]
        tokens, squares, targets, positions = self._sums
        cuda = self._device.type == "cuda"
        peak = peak_flops(torch.cuda.get_device_name()) if cuda else None
        return Row(
            part, way, "", targets / seconds, tokens / seconds, positions / seconds,
            self._work.model(tokens, squares, targets) / seconds / peak if peak else None,
            torch.cuda.max_memory_allocated() / 1e9 if cuda else None, value,
        )  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """Where and how large."""

    device: torch.device
    shape: str
    tiny: bool

    @property
    def longest(self) -> int:
        """Tokens of the longest sample."""
        return 128 if self.tiny else LONGEST

    @property
    def mean(self) -> int:
        """Tokens of a sample, about."""
        return 480 * self.longest // LONGEST

    @property
    def step_tokens(self) -> int:
        """About so many positions go into one optimiser step."""
        return 4 * self.longest if self.tiny else {"7b": 32_768, "1b": 65_536}[self.shape]

    def config(self) -> Any:
        """transformers' settings of the model."""
        from transformers import LlamaConfig

        shape = SHAPES["tiny" if self.tiny else self.shape]
        return LlamaConfig(**shape, max_position_embeddings=self.longest, use_cache=False, tie_word_embeddings=False)

    def samples(self, count: int) -> list[Sample]:
        """Lengths as of shared chats: log-normal around 334 of 2048; 74% of the tokens are targets."""
        draw = np.random.default_rng(0)
        drawn = np.exp(draw.normal(np.log(334 * self.longest / LONGEST), 0.9, count))
        lengths = drawn.clip(8, self.longest).astype(int)
        words = self.config().vocab_size
        return [Sample(str(n), draw.integers(0, words, n).astype(np.int32), draw.random(n) < 0.74) for n in lengths]


def ours(part: str, setting: Setting, *, compiled: bool) -> Iterator[Row]:
    """This project's step, with several amounts of recomputation."""
    with ExitStack() as stack:
        world = stack.enter_context(joined(setting.device.type, 600, alone_too=setting.device.type == "cuda"))
        objective = _random_objective(setting, world)
        if compiled:
            for layer in building.decoder_layers(objective.model):
                layer.compile(dynamic=True)
        optimizer = make_optimizer(objective.model, OptimConfig())
        for every, factor in _ways(setting, compiled):
            capacity = factor * setting.longest
            said = {0: "nothing", 1: "all layers", 2: "every 2nd layer"}[every]
            way = f"{'compiled, ' if compiled else ''}{said} recomputed, bins of {capacity}"
            for number, layer in enumerate(building.decoder_layers(objective.model)):
                layer.gradient_checkpointing = bool(every) and number % every == 0  # type: ignore[assignment]
            yield _attempt(part, way, lambda way=way, capacity=capacity: _our_steps(  # type: ignore[misc]
                part, way, setting, world, objective, optimizer, capacity))  # fmt: skip


def _ways(setting: Setting, compiled: bool) -> list[tuple[int, int]]:
    """(every so many-th layer is recomputed, bin size in longest samples), what surely fits first."""
    if setting.tiny:
        return [(1, 2), (0, 1)]
    if compiled:
        return [(1, 4), (2, 4)]
    return [(1, 4), (2, 2), (2, 4), (0, 1), (0, 2)] if setting.shape == "7b" else [(0, 4), (0, 8), (2, 8), (1, 8)]


def _random_objective(setting: Setting, world: World) -> building.Objective:
    """As a run builds it, but for the weights, which are random and made where they are needed."""
    config = TrainConfig()
    precision = building.Precision(world.device, torch.bfloat16)
    objective, backend = building.empty(setting.config(), config, world, precision)
    print(f"attention: {backend}", file=sys.stderr)
    with torch.no_grad():
        for parameter in objective.parameters():
            local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            _ = local.normal_(0, 0.02) if local.ndim > 1 else local.fill_(1)
    return objective.train()


def _our_steps(
    part: str, way: str, setting: Setting, world: World, objective: building.Objective,
    optimizer: torch.optim.Optimizer, capacity: int,
) -> Row:  # fmt: skip
    bins = max(1, setting.step_tokens // capacity)
    samples = setting.samples(2 * (1 + TIMED) * setting.step_tokens // setting.mean)  # more than will be packed
    lengths = np.array([len(each.ids) for each in samples], np.int32)
    plan = packing.plan(lengths, capacity, bins, seed=0, max_steps=1 + TIMED)
    meter = Meter(objective.model, setting.device)
    value = 0.0
    meter.mark()
    for step in range(1 + TIMED):
        passes = [[samples[i] for i in which] for which in plan[step]]
        meter.add(step, [each for group in passes for each in group], capacity * bins)
        targets = sum(int(each.is_target[1:].sum()) for group in passes for each in group)
        batches = (make_batch(group, world.device) for group in passes)
        value, _ = train_step(objective, optimizer, batches, targets, 1.0, world)
        meter.mark()
    return meter.row(part, way, value)


def peer(part: str, setting: Setting, *, flattened: bool) -> Iterator[Row]:
    """transformers' Trainer: samples end to end, or each padded to the longest length as FastChat's recipe has them."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(setting.device):
        model = AutoModelForCausalLM.from_config(setting.config(), attn_implementation="sdpa", dtype=torch.float32)
    # FastChat's own batch is 2 with recomputation; of the flattening ones the best counts.
    for batch, recompute in [(16, True), (4, True), (4, False)] if flattened else [(2, True)]:
        way = f"{'all layers' if recompute else 'nothing'} recomputed, batches of {batch} samples"
        if recompute:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        else:
            model.gradient_checkpointing_disable()
        yield _attempt(part, way, lambda way=way, batch=batch: _peer_steps(  # type: ignore[misc]
            part, way, setting, model, batch, flattened))  # fmt: skip


def _peer_steps(part: str, way: str, setting: Setting, model: Any, batch: int, flattened: bool) -> Row:
    from transformers import DataCollatorWithFlattening, Trainer, TrainerCallback, TrainingArguments

    accumulated = max(1, setting.step_tokens // (batch * (setting.mean if flattened else setting.longest)))
    samples = setting.samples((2 + TIMED) * batch * accumulated)
    meter = Meter(model, setting.device)
    for step in range(1 + TIMED):
        group = samples[step * batch * accumulated : (step + 1) * batch * accumulated]
        positions = sum(len(each.ids) for each in group) if flattened else len(group) * setting.longest
        meter.add(step, group, positions)

    class Marks(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 0:
                meter.mark()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            meter.mark()

    class InOrder(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(samples)

    rows = [{"input_ids": each.ids.tolist(), "labels": np.where(each.is_target, each.ids, -100).tolist()}
            for each in samples]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        options = TrainingArguments(
            folder, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulated, max_steps=1 + TIMED,
            bf16=True, optim="adamw_torch_fused", learning_rate=2e-5, lr_scheduler_type="constant", max_grad_norm=1.0,
            report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, remove_unused_columns=False,
            use_cpu=setting.device.type == "cpu",
        )  # fmt: skip
        collate = DataCollatorWithFlattening() if flattened else lambda group: _padded(group, setting.longest)
        trainer = InOrder(model, options, train_dataset=rows, data_collator=collate, callbacks=[Marks()])
        value = trainer.train().training_loss
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # gives the model its own forward back
    trainer.optimizer = None
    model.zero_grad(set_to_none=True)
    return meter.row(part, way, value)


def _padded(group: Sequence[dict[str, list[int]]], length: int) -> dict[str, torch.Tensor]:
    def rows(name: str, filler: int) -> torch.Tensor:
        return torch.tensor([each[name] + [filler] * (length - len(each[name])) for each in group])

    mask = torch.tensor([[1] * len(each["input_ids"]) + [0] * (length - len(each["input_ids"])) for each in group])
    return {"input_ids": rows("input_ids", 0), "labels": rows("labels", -100), "attention_mask": mask}


def kernels(setting: Setting) -> Iterator[Timing]:
    """Attention of a bin by each kernel, and ways of cross-entropy over the vocabulary."""
    config, device, dtype = setting.config(), setting.device, torch.bfloat16
    lengths, room = [], 4 * setting.longest
    for sample in setting.samples(200):
        if len(sample.ids) <= room:
            lengths.append(len(sample.ids))
            room -= len(sample.ids)
    size = config.hidden_size // config.num_attention_heads
    for name, known in KERNELS.items():
        if known.needs_cuda and device.type != "cuda":
            continue

        def attend(name: str = name, load: Callable[[], Kernel] = known.load) -> tuple[float, float | None]:
            segments = Segments.of(lengths, device, blocks=name == "flex")
            heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
            leaves = [torch.randn(1, each, sum(lengths), size, device=device, dtype=dtype) for each in heads]
            kernel = load()
            return _timed(lambda q, k, v: kernel(q, k, v, segments, Scores(size**-0.5)).sum(), leaves)

        yield _attempt_timing(f"attention, {sum(lengths)} tokens", name, attend)
    rows = 3 * setting.longest
    for way, function in _cross_entropies().items():

        def score(function: Callable[..., torch.Tensor] = function) -> tuple[float, float | None]:
            hidden = torch.randn(rows, config.hidden_size, device=device, dtype=dtype)
            weight = torch.randn(config.vocab_size, config.hidden_size, device=device, dtype=dtype).mul_(0.02)
            targets = torch.randint(0, config.vocab_size, (rows,), device=device)
            return _timed(lambda h, w: function(h, w, targets), [hidden, weight])

        yield _attempt_timing(f"output matrix and cross-entropy, {rows} targets", way, score)


def _cross_entropies() -> dict[str, Callable[..., torch.Tensor]]:
    def full(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")

    def own(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        rows = max(1, loss.LOGITS[hidden.device.type] // len(weight))
        summed: torch.Tensor = loss.LinearCrossEntropy.apply(hidden, weight, None, targets, rows, True)
        return summed

    found: dict[str, Callable[..., torch.Tensor]] = {"full logits": full, "ours": own}
    if hasattr(F, "linear_cross_entropy"):
        found["torch's"] = lambda h, w, t: F.linear_cross_entropy(
            h, w, t, reduction="sum", options=torch.nn.LinearCrossEntropyOptions()
        )
    if liger := loss._liger():
        found["liger's"] = liger
    return found


def _timed(function: Callable[..., torch.Tensor], leaves: list[torch.Tensor]) -> tuple[float, float | None]:
    """Median milliseconds of a forward and backward pass, and the most memory over the inputs in MB."""
    cuda, times = leaves[0].device.type == "cuda", []
    for leaf in leaves:
        leaf.requires_grad_()
    before = torch.cuda.memory_allocated() if cuda else 0
    for repetition in range(12):
        if cuda and repetition == 2:
            torch.cuda.reset_peak_memory_stats()
        _wait(leaves[0].device)
        began = time.perf_counter()
        torch.autograd.grad(function(*leaves), leaves)
        _wait(leaves[0].device)
        times.append(time.perf_counter() - began)
    peak = (torch.cuda.max_memory_allocated() - before) / 1e6 if cuda else None
    return float(np.median(times[2:])) * 1e3, peak


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _attempt(part: str, way: str, run: Callable[[], Row]) -> Row:
    """The row, or why there is none; then its memory is free again."""
    try:
        return run()
    except Exception as error:  # noqa: BLE001 (a way that does not fit must not end the others)
        return Row(part, way, _reason(error))
    finally:
        _clean()


def _attempt_timing(what: str, way: str, run: Callable[[], tuple[float, float | None]]) -> Timing:
    try:
        return Timing(what, way, "", *run())
    except Exception as error:  # noqa: BLE001 (as above)
        return Timing(what, way, _reason(error))
    finally:
        _clean()


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def _clean() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def run_part(part: str, device: str, tiny: bool) -> Iterator[Row | Timing]:
    """The rows of a part, as they come, in this process."""
    kind, _, shape = part.partition("-")
    setting = Setting(torch.device(device), shape or "7b", tiny)
    torch.set_float32_matmul_precision("high")
    if kind in ("ours", "compiled"):
        yield from ours(part, setting, compiled=kind == "compiled")
    elif kind == "kernels":
        yield from kernels(setting)
    else:
        yield from peer(part, setting, flattened=kind == "flattened")


def start_part(part: str, options: argparse.Namespace, seconds: float) -> list[Row | Timing]:
    """The rows of a part, from a process that is ended when its time is over."""
    with tempfile.TemporaryDirectory() as folder:
        rows, said = Path(folder) / "rows", Path(folder) / "said"
        command = [sys.executable, __file__, "--part", part, "--device", options.device, "--rows", str(rows)]
        # For all alike: memory that is free between other pieces is not lost.
        environment = os.environ | {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
        with said.open("w") as log:
            process = subprocess.Popen(command + ["--tiny"] * options.tiny, stdout=log, stderr=log, env=environment)
            try:
                process.wait(seconds)
                failed = f"exit status {process.returncode}" if process.returncode else ""
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                failed = f"out of time after {seconds:.0f} s"
        written = rows.read_text().splitlines() if rows.exists() else []
        found = [(Row if "part" in each else Timing)(**each) for each in map(json.loads, written)]
        if failed:
            last = (said.read_text().strip().splitlines() or [""])[-1]
            found.append(Row(part, "the rest", f"{failed}: {last[:160]}"))
    return found


def show(rows: Sequence[Row], timings: Sequence[Timing]) -> str:
    """Both tables in markdown."""
    lines = ["| part | way | target tokens/s | tokens/s | positions/s | MFU | memory, GB | loss |", "| --- " * 8 + "|"]
    for row in rows:
        if row.failed:
            lines.append(f"| {row.part} | {row.way} | {row.failed} | | | | | |")
            continue
        mfu, memory = f"{row.mfu:.1%}" if row.mfu else "", f"{row.peak_gb:.1f}" if row.peak_gb else ""
        lines.append(f"| {row.part} | {row.way} | {row.target_rate:,.0f} | {row.token_rate:,.0f} "
                     f"| {row.position_rate:,.0f} | {mfu} | {memory} | {row.loss:.3f} |")  # fmt: skip
    lines += ["", "| what | way | ms, forward and backward | memory, MB |", "| --- " * 4 + "|"]
    for each in timings:
        memory = f"{each.peak_mb:.0f}" if each.peak_mb is not None else ""
        lines.append(f"| {each.what} | {each.way} | {each.failed or f'{each.milliseconds:.2f}'} | {memory} |")
    return "\n".join(lines)


def bars(rows: Sequence[Row]) -> list[tuple[str, float, float | None]]:
    """(what, at least, measured or None)."""

    def best(shape: str, *kinds: str, value: Callable[[Row], float | None], only: str = "") -> float | None:
        parts = [f"{kind}-{shape}" for kind in kinds]
        found = [value(row) for row in rows if row.part in parts and not row.failed and only in row.way]
        return max((each for each in found if each is not None), default=None)

    def mfu(row: Row) -> float | None:
        return row.mfu

    def rate(row: Row) -> float | None:
        return row.target_rate

    def ratio(peer: str) -> float | None:
        mine, theirs = best("7b", "ours", "compiled", value=rate), best("7b", peer, value=rate)
        return mine / theirs if mine and theirs else None

    less = [best("7b", "ours", "compiled", value=mfu, only=only) for only in ("nothing", "every 2nd")]
    return [
        ("7B, MFU with less than all layers recomputed", 0.5, max((each for each in less if each), default=None)),
        ("7B, MFU with all layers recomputed", 0.45, best("7b", "ours", "compiled", value=mfu, only="all layers")),
        ("1B, MFU", 0.45, best("1b", "ours", value=mfu)),
        ("7B, target tokens/s over those of the padded recipe", 3.0, ratio("padded")),
        ("7B, target tokens/s over those of Trainer with flattening", 1.2, ratio("flattened")),
    ]


def main() -> int:
    """Run the parts, print the tables, and say whether the bars hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of two small layers instead of each")
    parser.add_argument("--minutes", type=float, default=7.5, help="parts that would begin later are left out")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", help="write the rows there; $OUT/train_gpu.json where OUT is set")
    parser.add_argument("--part", choices=PARTS, help="only this one, in this process; with --rows")
    parser.add_argument("--rows", help="file that the part's rows are added to")
    options = parser.parse_args()
    if options.part:
        with open(options.rows, "a") as file:
            for row in run_part(options.part, options.device, options.tiny):
                file.write(json.dumps(asdict(row)) + "\n")
                file.flush()
        return 0
    found: list[Row | Timing] = []
    end = time.monotonic() + 60 * options.minutes
    for part in options.parts:
        left = end - time.monotonic()
        seconds = min(PARTS[part], left)
        found += start_part(part, options, seconds) if left > 5 else [Row(part, "all of it", "no time was left")]
        print(f"{part}: done, {end - time.monotonic():.0f} s left", file=sys.stderr)
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    rows, timings = [row for row in found if isinstance(row, Row)], [row for row in found if isinstance(row, Timing)]
    results = [] if options.tiny else bars(rows)  # of small shapes they would mean nothing
    print(f"{name}, torch {torch.__version__}{', tiny shapes' if options.tiny else ''}\n\n{show(rows, timings)}\n")
    for what, least, value in results:
        said = "not measured" if value is None else f"{value:.2f}, {'holds' if value >= least else 'missed'}"
        print(f"{what}: at least {least:g}: {said}")
    folder = os.environ.get("OUT")
    if target := options.json or (f"{folder}/train_gpu.json" if folder else None):
        Path(target).write_text(json.dumps({"device": name, "rows": [asdict(each) for each in found]}, indent=2) + "\n")
    return int(not all(value is not None and value >= least for _, least, value in results))


if __name__ == "__main__":
    sys.exit(main())
