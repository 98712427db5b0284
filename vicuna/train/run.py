"""One training run from settings to a checkpoint folder."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vicuna import manifest
from vicuna.config import dump, to_dict
from vicuna.errors import ConfigError, InputError
from vicuna.files import write_text
from vicuna.hardware import peak_flops
from vicuna.models.load import check_vocabulary, checkpoint_hash, load_model, load_template, load_tokenizer
from vicuna.prompt import Template
from vicuna.train import attention, checkpoint, loop, packing
from vicuna.train.batch import Batch, make_batch
from vicuna.train.config import TrainConfig
from vicuna.train.dataset import Dataset, dataset_hash, load
from vicuna.train.metrics import Progress, Work
from vicuna.train.optim import learning_rate, make_optimizer
from vicuna.train.tokenizer import store_template

logger = logging.getLogger(__name__)
IRRELEVANT = ("out", "checkpoint", "log_every", "threads", "device")
"""Settings that do not decide the trained weights (but for rounding), so that a run may go on under other ones."""
PATHS = ("model", "data")
"""Groups whose `path` is not part of the run's identity: the parents' content hashes stand for it."""


def main(config: TrainConfig) -> None:
    """Train, or go on from the newest checkpoint, and write `OUT/model`; a finished run is kept as it is."""
    if not config.model.path:
        raise ConfigError("model.path is missing; name a base model's folder with --model.path")
    if not config.data.path:
        raise ConfigError("data.path is missing; name cleaned conversations with --data.path")
    out = Path(config.out)
    precision = choose_precision(config)
    identity = _identity(config, precision)
    parents = {"base": checkpoint_hash(config.model.path), "data": dataset_hash(config.data.path)}
    if manifest.matches(out / "model", "checkpoint", parents, identity):
        print(f"{out}/model is trained already")
        return
    manifest.check_free(out / "model")
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    tokenizer = load_tokenizer(config.model.path)
    template = _template(config, tokenizer)
    data = load(config.data, tokenizer, template, config.model.max_length)
    model = _model(config, tokenizer, precision)
    optimizer = make_optimizer(model, config.optim)
    write_text(out / "config.yaml", dump(config))
    position = _train(config, out, {**identity, "parents": parents}, data, model, optimizer, precision)
    facts = _facts(position, data, model, template, config)
    _write_model(out / "model", model, tokenizer, template, parents, identity, facts)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    print(
        f"trained {position.step} steps on {position.targets:,} target tokens in {position.seconds:.0f} s: {out}/model"
    )


def _identity(config: TrainConfig, precision: loop.Precision) -> dict[str, Any]:
    """The settings that decide the trained weights."""
    tree = {key: value for key, value in to_dict(config).items() if key not in IRRELEVANT}
    for group in PATHS:
        tree[group].pop("path")
    return tree | {"dtype": str(precision.dtype).removeprefix("torch.")}  # what `auto` came to


def choose_precision(config: TrainConfig) -> loop.Precision:
    """The device and the dtype of the computation.

    Raises:
        ConfigError: CUDA is asked for and is not there.
    """
    cuda = torch.cuda.is_available()
    if config.device == "cuda" and not cuda:
        raise ConfigError("device is cuda, and torch sees no CUDA device; use --device cpu or auto")
    device = torch.device("cuda" if cuda and config.device != "cpu" else "cpu")
    if config.dtype == "auto":
        return loop.Precision(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    return loop.Precision(device, getattr(torch, config.dtype))


def _template(config: TrainConfig, tokenizer: Any) -> Template:
    """The template to train with: a base model has none yet, so here (and only here) the settings decide."""
    if config.model.template:
        from vicuna.prompt import template

        return template(config.model.template)
    return load_template(config.model.path, tokenizer=tokenizer)


def _model(config: TrainConfig, tokenizer: Any, precision: loop.Precision) -> Any:
    model = load_model(config.model.path, torch.float32, precision.device)
    check_vocabulary(model, tokenizer)
    limit = model.config.max_position_embeddings
    if config.model.max_length > limit:
        raise ConfigError(
            f"model.max_length is {config.model.max_length}, and {config.model.path} has {limit} positions"
        )
    attention.install(model)
    if config.gradient_checkpointing:
        # The second name is transformers 5.17's; it goes away in 6.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return model


def _train(
    config: TrainConfig,
    out: Path,
    identity: Mapping[str, Any],
    data: Dataset,
    model: Any,
    optimizer: torch.optim.Optimizer,
    precision: loop.Precision,
) -> checkpoint.Position:
    """The run's steps, from the newest checkpoint on."""
    lengths = [len(sample.ids) for sample in data.samples]
    batch = config.batch
    plan = packing.plan(lengths, batch.tokens, config.seed, batch.epochs, batch.accumulation, batch.max_steps)
    position = checkpoint.restore(out / "checkpoints", identity, model, optimizer) or checkpoint.Position()
    _announce(config, data, model, plan, position, precision)
    progress = Progress(
        out / "metrics.jsonl", position.step, len(plan), config.log_every, _work(model, precision.device)
    )

    def batches_of(step: int) -> list[Batch]:
        return [make_batch([data.samples[i] for i in each], precision.device) for each in plan[step]]

    def rate_of(step: int) -> float:
        return learning_rate(config.optim, step, len(plan))

    def save() -> None:
        checkpoint.save(out / "checkpoints", identity, position, model, optimizer, config.checkpoint.keep)

    try:
        loop.train(
            model, optimizer, len(plan), batches_of, rate_of, position,
            max_norm=config.optim.max_norm, capacity=config.batch.tokens, precision=precision,
            after=progress.add, save=save, save_every=config.checkpoint.every,
        )  # fmt: skip
    finally:
        progress.close()
    return position


def _work(model: Any, device: torch.device) -> Work:
    head = model.get_output_embeddings().weight
    tables = {each.data_ptr(): each.numel() for each in (head, model.get_input_embeddings().weight)}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Work(model.num_parameters() - sum(tables.values()), head.numel(), peak_flops(name))


def _announce(
    config: TrainConfig, data: Dataset, model: Any, plan: Any, position: checkpoint.Position, precision: loop.Precision
) -> None:
    lengths = [len(sample.ids) for sample in data.samples]
    bins = [each for step in plan for each in step]
    size = model.num_parameters() / 1e6
    print(
        f"{size:.1f} million parameters on {precision.device}, {precision.dtype}; {len(data.samples):,} samples, "
        f"{data.tokens:,} tokens, {data.targets / data.tokens:.1%} of them learnt; "
        f"{len(plan)} steps, packing fills {packing.fill(lengths, bins, config.batch.tokens):.1%}"
    )
    if position.step:
        print(f"going on after step {position.step}")


def _facts(
    position: checkpoint.Position, data: Dataset, model: Any, template: Template, config: TrainConfig
) -> dict[str, Any]:
    facts = {
        "parameters": model.num_parameters(), "steps": position.step, "tokens": position.tokens,
        "target_tokens": position.targets, "seconds": round(position.seconds, 1), "samples": len(data.samples),
        "dropped": data.dropped,
    }  # fmt: skip
    chat = {"template": template.name, "template_hash": template.hash, "max_length": config.model.max_length}
    return facts | (chat if config.data.format == "conversations" else {})


def _write_model(
    folder: Path,
    model: Any,
    tokenizer: Any,
    template: Template,
    parents: Mapping[str, str],
    identity: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    """An ordinary Hugging Face folder, read back and compared before it gets its name."""
    from transformers import GenerationConfig

    model.set_attn_implementation("sdpa")  # what anybody else who loads the folder shall use
    if "template" in facts:
        store_template(tokenizer, template)
        stops = template.stop_ids(tokenizer)
        # Fresh: a base model's sampling settings may contradict each other, and are not the tuned model's.
        model.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=list(stops) if len(stops) > 1 else stops[0],
            pad_token_id=tokenizer.pad_token_id,
        )
    with manifest.making(folder, "checkpoint", parents=parents, config=identity, facts=facts) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        _compare(part, model)


def _compare(folder: Path, model: Any) -> None:
    """Read the weights back; any difference means that the disk did not keep what was written."""
    written = load_model(folder, torch.float32, "cpu").state_dict()
    for name, tensor in model.state_dict().items():
        if not torch.equal(written[name], tensor.cpu()):
            raise InputError(f"{folder}: tensor {name} does not read back as it was written; check the disk")
