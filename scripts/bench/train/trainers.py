"""Fine-tuning on one CPU core: our trainer beside FastChat's, TRL's and transformers', on the same chats and weights.

    .venv/bin/python scripts/bench/train/trainers.py run --peers DIR --out OUT.json     (about an hour; idle machine)
    .venv/bin/python scripts/bench/train/trainers.py table OUT.json

DIR holds the environments that `peers.py` makes. What is equal: first weights (4 layers, width 256, vocabulary 8,000),
chats, optimiser (AdamW, constant rate, no decay, clipping at 1), bfloat16 computation, one thread. What is counted:
target tokens per CPU second without the first step, the process's highest memory, and the loss on held-out chats by
this file's own evaluator, since each trainer's own is another mean. Every run is a process of its own.
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CURRENT, FASTCHAT = "trl 1.16.0", "fschat 0.2.36 train"
"""Folders of `--peers`."""
CHATS, HELD_OUT, VOCABULARY = 400, 64, 8_000
PER_STEP = 4
"""Chats in a step of those that take rows; packers take one full row, which holds as many on average."""
TEMPLATE = (
    "{{ bos_token }}{{ 'A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user\\'s questions.' }}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ ' USER: ' if loop.first else 'USER: ' }}{{ m.content }}{{ ' ASSISTANT:' }}"
    "{% else %}{% generation %}{{ ' ' + m.content + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)
"""Vicuna v1.1 as a chat template with marks around what is learnt, for the peers that want one."""


@dataclass
class Meter:
    """What a run's steps took."""

    budget: int
    """Target tokens after which a run ends."""
    steps: list[dict[str, float]] = field(default_factory=list)
    pending: dict[str, float] = field(default_factory=dict)
    mark: float = 0.0

    def begin(self) -> None:
        """Start the clock."""
        self.mark = time.process_time()

    def see(self, positions: int, tokens: int, targets: int) -> None:
        """A batch of the step that runs."""
        for name, count in (("positions", positions), ("tokens", tokens), ("targets", targets)):
            self.pending[name] = self.pending.get(name, 0) + count

    def end(self) -> bool:
        """A step is over; returns whether the run is."""
        now = time.process_time()
        self.steps.append({**self.pending, "cpu": now - self.mark})
        self.pending, self.mark = {}, now
        return len(self.steps) > 3 and sum(each["targets"] for each in self.steps) >= self.budget


# ------------------------------------------------------------------------------------------------ the trainers
@dataclass(frozen=True)
class Job:
    """One run."""

    task: Path
    length: int
    recompute: bool
    meter: Meter
    rate: float


def ours(job: Job) -> Any:
    """`vicuna.train`: its model, batches and step."""
    import torch

    from vicuna.config import from_dict
    from vicuna.models.load import load_tokenizer
    from vicuna.prompt import template
    from vicuna.train.config import TrainConfig
    from vicuna.train.feed import Feed
    from vicuna.train.loop import train_step
    from vicuna.train.model import Precision, build
    from vicuna.train.optim import make_optimizer
    from vicuna.train.packing import plan
    from vicuna.train.parallel import World
    from vicuna.train.prepare import prepare

    config = from_dict(TrainConfig, {
        "model": {"path": str(job.task / "model"), "template": "vicuna_v1.1", "max_length": job.length},
        "data": {"path": str(job.task / "train.jsonl"), "overlong": "cut"},
        "optim": {"lr": job.rate, "schedule": "constant", "warmup": 0.0}, "batch": {"bins": 1, "epochs": 50},
        "gradient_checkpointing": int(job.recompute), "dtype": "bfloat16", "device": "cpu",
    }, "the bench")  # fmt: skip
    world, tokenizer = World(), load_tokenizer(job.task / "model")
    data, _ = prepare(config.data, tokenizer, template("vicuna_v1.1"), job.length, job.task / "tokens").open()
    steps = plan(data.lengths, job.length, 1, 0, 50.0, width=256)
    feed = Feed(data, steps, job.length, world)
    objective, _ = build(config, job.task / "model", tokenizer, world, Precision(world.device, torch.bfloat16))
    optimizer = make_optimizer(objective.model, config.optim)
    for group in optimizer.param_groups:
        group["lr"] = job.rate
    objective.train()
    job.meter.begin()
    for step in range(len(steps)):
        train_step(objective, optimizer, feed.batches(step), feed.targets(step), 1.0, world)
        job.meter.see(feed.positions(step), feed.tokens(step), feed.targets(step))
        if job.meter.end():
            break
    return objective.model


def fastchat(job: Job) -> Any:
    """FastChat's own `train()`; it pads every row to the full length."""
    import fastchat.train.train as theirs  # type: ignore[import-not-found]

    made: list[Any] = []

    class Watched(watched(theirs.Trainer, job.meter)):  # type: ignore[misc]
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, callbacks=[callback(job.meter)], **more)
            made.append(self)

    theirs.Trainer = Watched
    words = {"model_name_or_path": job.task / "model", "data_path": job.task / "train.json",
             "model_max_length": job.length, "lazy_preprocess": True, **arguments(job)}  # fmt: skip
    sys.argv = ["train.py", *(word for key, value in words.items() for word in (f"--{key}", str(value)))]
    try:
        theirs.train()
    except KeyError:
        # In one process it ends so after its model is written: it restores an FSDP setting that was never made.
        if not made:
            raise
    return made[0].model


def transformers_padded(job: Job) -> Any:
    """transformers' Trainer, rows padded to the longest of a batch."""
    from transformers import DataCollatorForSeq2Seq

    rows = [row | {"attention_mask": [1] * len(row["input_ids"])} for row in tokenised(job)]
    return _transformers(job, rows, DataCollatorForSeq2Seq(tokenizer_of(job), padding="longest"))


def transformers_flattened(job: Job) -> Any:
    """transformers' Trainer with its collator that puts rows end to end."""
    from transformers import DataCollatorWithFlattening

    return _transformers(job, tokenised(job), DataCollatorWithFlattening())


def _transformers(job: Job, rows: list[dict[str, Any]], collator: Any) -> Any:
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    trainer = watched(Trainer, job.meter)(
        model=AutoModelForCausalLM.from_pretrained(job.task / "model"), args=TrainingArguments(**arguments(job)),
        train_dataset=rows, data_collator=collator, callbacks=[callback(job.meter)],
    )  # fmt: skip
    trainer.train()
    return trainer.model


def trl_padded(job: Job) -> Any:
    """TRL's SFTTrainer as it is."""
    return _trl(job, _messages(job), assistant_only_loss=True, max_length=job.length)


def trl_padding_free(job: Job) -> Any:
    """TRL without padding; it wants rows that are cut already."""
    return _trl(job, tokenised(job), padding_free=True, max_length=None)


def trl_packing(job: Job) -> Any:
    """TRL's best-fit packing; one full row is a step."""
    more = {"packing": True, "packing_strategy": "bfd", "per_device_train_batch_size": 1}
    return _trl(job, _messages(job), assistant_only_loss=True, max_length=job.length, **more)


def _trl(job: Job, rows: list[dict[str, Any]], **more: Any) -> Any:
    from datasets import Dataset  # type: ignore[import-not-found]
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]

    trainer = watched(SFTTrainer, job.meter)(
        model=AutoModelForCausalLM.from_pretrained(job.task / "model"), args=SFTConfig(**(arguments(job) | more)),
        train_dataset=Dataset.from_list(rows), processing_class=tokenizer_of(job), callbacks=[callback(job.meter)],
    )  # fmt: skip
    trainer.train()
    return trainer.model


TRAINERS: dict[str, tuple[str, Callable[[Job], Any]]] = {
    "vicuna": ("", ours),
    "FastChat": (FASTCHAT, fastchat),
    "Trainer, padded": (CURRENT, transformers_padded),
    "Trainer, flattened": (CURRENT, transformers_flattened),
    "TRL, padded": (CURRENT, trl_padded),
    "TRL, padding-free": (CURRENT, trl_padding_free),
    "TRL, packing": (CURRENT, trl_packing),
}
"""Name → (environment; empty is this one, how it is run)."""


# ------------------------------------------------------------------------------------------------ what they share
def tokenizer_of(job: Job) -> Any:
    """The tokenizer, with the chat template that the peers mask by."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.task / "model")
    tokenizer.chat_template, tokenizer.pad_token = TEMPLATE, tokenizer.unk_token
    return tokenizer


def _messages(job: Job, name: str = "train.json") -> list[dict[str, Any]]:
    roles = {"human": "user", "gpt": "assistant"}
    rows = json.loads((job.task / name).read_text(encoding="utf-8"))
    return [
        {"messages": [{"role": roles[turn["from"]], "content": turn["value"]} for turn in row["conversations"]]}
        for row in rows
    ]


def tokenised(job: Job, name: str = "train.json") -> list[dict[str, Any]]:
    """Rows of token ids and labels, cut to the length, by transformers' own masks."""
    tokenizer, rows = tokenizer_of(job), []
    for row in _messages(job, name):
        made = tokenizer.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True)
        ids, mask = made["input_ids"][: job.length], made["assistant_masks"][: job.length]
        rows.append({"input_ids": ids, "labels": [t if m else -100 for t, m in zip(ids, mask, strict=True)]})
    return rows


def arguments(job: Job) -> dict[str, Any]:
    """What every Trainer is told."""
    return {
        "output_dir": tempfile.mkdtemp(), "per_device_train_batch_size": PER_STEP, "learning_rate": job.rate,
        "lr_scheduler_type": "constant", "weight_decay": 0.0, "max_grad_norm": 1.0, "optim": "adamw_torch",
        "bf16": True, "use_cpu": True, "num_train_epochs": 50, "logging_steps": 1000, "save_strategy": "no",
        "report_to": "none", "seed": 0, "gradient_checkpointing": job.recompute, "disable_tqdm": True,
    }  # fmt: skip


def watched(trainer: Any, meter: Meter) -> Any:
    """A Trainer that tells the meter of its batches."""

    class Watched(trainer):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
            ids, labels = inputs["input_ids"], inputs["labels"]
            meter.see(ids.numel(), int((ids != 0).sum()), int((labels[:, 1:] != -100).sum()))
            return super().training_step(model, inputs, *args, **more)

    return Watched


def callback(meter: Meter) -> Any:
    """Starts the meter and tells it of steps."""
    from transformers import TrainerCallback

    class Tell(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            meter.begin()

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            control.should_training_stop = meter.end()

    return Tell()


def held_out_loss(job: Job, model: Any) -> float:
    """Mean loss over the target tokens of held-out chats, one by one in float32, by transformers' own attention."""
    import torch
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(job.task / "model", dtype=torch.float32).eval()
    plain.load_state_dict(model.state_dict())
    total, count = 0.0, 0
    with torch.no_grad():
        for row in tokenised(Job(job.task, 1024, False, job.meter, 0.0), "held_out.json"):
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])[1:]
            logits = plain(input_ids=ids, use_cache=False).logits[0, :-1]
            losses = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
            total, count = total + float(losses), count + int((labels != -100).sum())
    return total / count


def work(options: argparse.Namespace) -> None:
    """One run, in this interpreter."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    meter = Meter(options.budget)
    job = Job(options.task, options.length, bool(options.recompute), meter, options.rate)
    model = TRAINERS[options.trainer][1](job)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    steps = meter.steps[1:]
    total = {name: sum(each[name] for each in steps) for name in ("positions", "tokens", "targets", "cpu")}
    print("RESULT " + json.dumps({
        "trainer": options.trainer, "length": options.length, "recompute": bool(options.recompute),
        "targets_per_cpu_second": total["targets"] / total["cpu"], "fill": total["tokens"] / total["positions"],
        "peak_mb": peak, "steps": len(meter.steps), "targets": sum(each["targets"] for each in meter.steps),
        "held_out": held_out_loss(job, model) if options.held_out else None,
    }))  # fmt: skip


# ------------------------------------------------------------------------------------------------ the comparison
def make_task(folder: Path, peers: Path) -> None:
    """Chats, a LLaMA tokenizer in both forms, and random first weights; once."""
    if (folder / "model" / "model.safetensors").exists():
        return
    sys.path.insert(0, str(HERE))
    import chats  # type: ignore[import-not-found]
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    chats.write(folder / "train.jsonl", CHATS, seed=1)
    chats.write(folder / "held_out.jsonl", HELD_OUT, seed=2)
    rows = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    text = "\n".join(turn["value"] for row in rows for turn in row["conversations"])
    (folder / "text.txt").write_text(text, encoding="utf-8")
    script = HERE.parent / "data" / "llama_tokenizer.py"
    python = peers / FASTCHAT / "bin" / "python"
    subprocess.run([python, script, folder / "text.txt", folder / "model", str(VOCABULARY)], check=True)
    torch.manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4,
             "num_attention_heads": 4, "max_position_embeddings": 2048, "pad_token_id": 0}  # fmt: skip
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(folder / "model")


def measure(options: argparse.Namespace) -> None:
    """Every trainer in turn, repetition by repetition, so that a busy stretch of the machine hits all alike."""
    make_task(options.task, options.peers)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
                   "CUDA_VISIBLE_DEVICES": ""}  # fmt: skip
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    for repetition in range(options.repetitions):
        for recompute in options.recompute:
            for name in options.trainers:
                place = TRAINERS[name][0]
                python = str(options.peers / place / "bin" / "python") if place else sys.executable
                words = {"trainer": name, "recompute": recompute, "task": options.task, "length": options.length,
                         "rate": options.rate, "budget": options.budget, "held-out": options.held_out}  # fmt: skip
                flags = [word for key, value in words.items() for word in (f"--{key}", str(value))]
                command = [python, __file__, "work", *flags]
                done = subprocess.run(command, env=environment, capture_output=True, text=True)
                found = [line[7:] for line in done.stdout.splitlines() if line.startswith("RESULT ")]
                if not found:
                    print(f"{name}: failed\n{done.stderr[-1500:]}", file=sys.stderr)
                    continue
                rows.append(json.loads(found[0]) | {"repetition": repetition})
                options.out.write_text(json.dumps(rows, indent=1))
                print(found[0], flush=True)
    table(rows)


def table(rows: Sequence[dict[str, Any]]) -> None:
    """Medians, and ratios of them to our own."""
    print("| recompute | trainer | runs | fill | target tokens per CPU second | ours is | peak MB | held-out loss |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for recompute in (False, True):
        for name in TRAINERS:
            mine = [row for row in rows if (row["trainer"], row["recompute"]) == (name, recompute)]
            if not mine:
                continue
            middle = {key: statistics.median(row[key] for row in mine) for key in ("targets_per_cpu_second", "peak_mb",
                                                                                  "fill")}  # fmt: skip
            base = [row["targets_per_cpu_second"] for row in rows if row["trainer"] == "vicuna"
                    and row["recompute"] == recompute]  # fmt: skip
            ratio = statistics.median(base) / middle["targets_per_cpu_second"] if base else float("nan")
            losses = [row["held_out"] for row in mine if row["held_out"]]
            loss = f"{statistics.median(losses):.4f} at {mine[0]['targets']:,.0f}" if losses else ""
            speed, peak, fill = middle["targets_per_cpu_second"], middle["peak_mb"], middle["fill"]
            cells = ("on" if recompute else "off", name, len(mine), f"{fill:.2f}", f"{speed:,.0f}", f"{ratio:.2f} ×",
                     f"{peak:,.0f}", loss)  # fmt: skip
            print("|", " | ".join(str(cell) for cell in cells), "|")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "work"):
        each = commands.add_parser(name)
        each.add_argument("--task", type=Path, default=Path(tempfile.gettempdir()) / "vicuna-trainers")
        each.add_argument("--length", type=int, default=2048)
        each.add_argument("--budget", type=int, default=6000, help="target tokens of a run")
        each.add_argument("--rate", type=float, default=1e-3)
        each.add_argument("--held-out", type=int, default=0, help="1: take the held-out loss at the end")
        each.add_argument("--recompute", type=int, nargs="+" if name == "run" else None, default=[0, 1])
    run = commands.choices["run"]
    run.add_argument("--peers", type=Path, required=True)
    run.add_argument("--out", type=Path, required=True)
    run.add_argument("--repetitions", type=int, default=3)
    run.add_argument("--trainers", nargs="+", default=list(TRAINERS), choices=TRAINERS)
    commands.choices["work"].add_argument("--trainer", required=True)
    commands.add_parser("table").add_argument("results", type=Path)
    options = parser.parse_args()
    if options.command == "table":
        table(json.loads(options.results.read_text()))
    else:
        {"run": measure, "work": work}[options.command](options)


if __name__ == "__main__":
    main()
