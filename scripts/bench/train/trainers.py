"""Fine-tuning on one CPU core: our trainer beside FastChat's, TRL's and transformers', on the same chats and weights.

    .venv/bin/python scripts/bench/train/trainers.py run --peers DIR --out OUT.json     (15 minutes, machine idle)
    .venv/bin/python scripts/bench/train/trainers.py loss --peers DIR --out LOSS.json   (30 minutes)
    .venv/bin/python scripts/bench/train/trainers.py table OUT.json LOSS.json

DIR holds the environments that `scripts/bench/peers.py` makes. What is equal: first weights (4 layers, width 256,
vocabulary 8,000), chats, optimiser (torch's fused AdamW, constant rate, no decay, clipping at 1), bfloat16 computation
over float32 weights, one thread, about 1,300 target tokens in a step; chats are tokenised before the first step.

`run` counts target tokens per CPU second from the second step to the last, and the process's highest memory until
then. `loss` takes the loss on held-out chats by this file's own evaluator, since each trainer's own is another mean:
at the same number of target tokens for all, in a straight line between the steps before and after it. Every run is a
process of its own, trainers take turns, and each repetition has another order of the chats.
"""

import argparse
import contextlib
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

import chats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import peers

HERE = Path(__file__).resolve().parent
CHATS, HELD_OUT, VOCABULARY = 400, 64, 8_000
PER_STEP = 4
"""Chats in a step of those that take rows; packers take one full row, which holds about as many."""
COUNTED = ("targets_per_cpu_second", "peak_mb", "fill", "held_out")
FASTCHAT, BEST, LOSS = 5.0, 1.6, 0.005
"""Bars: our speed as a multiple of FastChat's and of the best peer's; share by which our loss may be above the best."""
TEMPLATE = (
    "{{ bos_token }}{{ 'A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user\\'s questions.' }}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ ' USER: ' if loop.first else 'USER: ' }}{{ m.content }}{{ ' ASSISTANT:' }}"
    "{% else %}{% generation %}{{ ' ' + m.content + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)
"""Vicuna v1.1 as a chat template with marks around what is learnt, for the peers that want one."""


class Enough(Exception):
    """A run has had its target tokens."""


@dataclass
class Meter:
    """What a run's steps took."""

    budget: int
    """Target tokens after which a run ends."""
    keeps: bool
    """Whether the weights of the last two steps are kept."""
    steps: list[dict[str, float]] = field(default_factory=list)
    weights: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    """Target tokens learnt until then, and the state."""
    peak: float = 0.0
    """Megabytes, until the end of the last step."""
    pending: dict[str, float] = field(default_factory=dict)
    mark: float = 0.0

    def begin(self) -> None:
        """Start the clock."""
        self.mark = time.process_time()

    def see(self, positions: int, tokens: int, targets: int) -> None:
        """A batch of the step that runs."""
        for name, count in (("positions", positions), ("tokens", tokens), ("targets", targets)):
            self.pending[name] = self.pending.get(name, 0) + count

    def end(self, model: Any) -> bool:
        """A step is over; returns whether the run is."""
        now = time.process_time()
        self.steps.append({**self.pending, "cpu": now - self.mark})
        self.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if self.keeps:
            state = {name: value.detach().clone() for name, value in model.state_dict().items()}
            self.weights = [*self.weights, (self.targets, state)][-2:]
        self.pending, self.mark = {}, time.process_time()
        return len(self.steps) > 3 and self.targets >= self.budget

    @property
    def targets(self) -> float:
        """Learnt so far."""
        return sum(each["targets"] for each in self.steps)


# ------------------------------------------------------------------------------------------------ the trainers
@dataclass(frozen=True)
class Job:
    """One run."""

    task: Path
    length: int
    recompute: bool
    meter: Meter
    rate: float
    seed: int
    out: str
    """Folder for what the trainer writes."""


def ours(job: Job) -> None:
    """`vicuna.train` as its one rank runs, with its files and lines."""
    from vicuna.config import from_dict
    from vicuna.train import run
    from vicuna.train.config import TrainConfig
    from vicuna.train.loop import Loop
    from vicuna.train.metrics import Progress, Step

    made: list[Any] = []

    class Watched(Loop):
        def run(self, position: Any) -> None:
            made.append(self.objective.model)
            job.meter.begin()
            super().run(position)

    class Told(Progress):
        def add(self, step: Step) -> None:
            super().add(step)
            job.meter.see(step.capacity, step.tokens, step.targets)
            if job.meter.end(made[0]):
                raise Enough

    config = from_dict(TrainConfig, {
        "out": job.out, "seed": job.seed, "dtype": "bfloat16", "device": "cpu", "threads": 1,
        "model": {"path": str(job.task / "model"), "template": "vicuna_v1.1", "max_length": job.length},
        "data": {"path": str(job.task / "train.jsonl"), "overlong": "cut"}, "batch": {"bins": 1, "epochs": 50},
        "optim": {"lr": job.rate, "schedule": "constant", "warmup": 0.0}, "checkpoint": {"every": 0},
        "track": {"tracker": "none"}, "gradient_checkpointing": int(job.recompute),
    }, "the benchmark")  # fmt: skip
    vars(run).update(Loop=Watched, Progress=Told)
    with contextlib.suppress(Enough):
        run.main(config)


def fastchat(job: Job) -> None:
    """FastChat's own `train()`; it pads every row to the full length."""
    import fastchat.train.train as theirs  # type: ignore[import-not-found]

    class Watched(watched(theirs.Trainer, job.meter)):  # type: ignore[misc]
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, callbacks=[callback(job.meter)], **more)

    theirs.Trainer = Watched
    words = {"model_name_or_path": job.task / "model", "data_path": job.task / "train.json",
             "model_max_length": job.length, **arguments(job)}  # fmt: skip
    sys.argv = ["train.py", *(word for key, value in words.items() for word in (f"--{key}", str(value)))]
    try:
        theirs.train()
    except KeyError:
        # In one process it ends so after its model is written: it restores an FSDP setting that was never made.
        if not job.meter.steps:
            raise


def transformers_padded(job: Job) -> None:
    """transformers' Trainer, rows padded to the longest of a batch."""
    from transformers import DataCollatorForSeq2Seq

    rows = [row | {"attention_mask": [1] * len(row["input_ids"])} for row in tokenised(job)]
    _transformers(job, rows, DataCollatorForSeq2Seq(tokenizer_of(job), padding="longest"))


def transformers_flattened(job: Job) -> None:
    """transformers' Trainer with its collator that puts rows end to end."""
    from transformers import DataCollatorWithFlattening

    _transformers(job, tokenised(job), DataCollatorWithFlattening())


def _transformers(job: Job, rows: list[dict[str, Any]], collator: Any) -> None:
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    trainer = watched(Trainer, job.meter)(
        model=AutoModelForCausalLM.from_pretrained(job.task / "model"), args=TrainingArguments(**arguments(job)),
        train_dataset=rows, data_collator=collator, callbacks=[callback(job.meter)],
    )  # fmt: skip
    trainer.train()


def trl_padded(job: Job) -> None:
    """TRL's SFTTrainer as it is."""
    _trl(job, _messages(job), assistant_only_loss=True, max_length=job.length)


def trl_padding_free(job: Job) -> None:
    """TRL without padding; it wants rows that are cut already."""
    _trl(job, tokenised(job), padding_free=True, max_length=None)


def trl_packing(job: Job) -> None:
    """TRL's best-fit packing; one full row is a step."""
    more = {"packing": True, "packing_strategy": "bfd", "per_device_train_batch_size": 1}
    _trl(job, _messages(job), assistant_only_loss=True, max_length=job.length, **more)


def _trl(job: Job, rows: list[dict[str, Any]], **more: Any) -> None:
    from datasets import Dataset  # type: ignore[import-not-found]
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]

    trainer = watched(SFTTrainer, job.meter)(
        model=AutoModelForCausalLM.from_pretrained(job.task / "model"), args=SFTConfig(**(arguments(job) | more)),
        train_dataset=Dataset.from_list(rows), processing_class=tokenizer_of(job), callbacks=[callback(job.meter)],
    )  # fmt: skip
    trainer.train()


TRAINERS: dict[str, tuple[str, Callable[[Job], None]]] = {
    "vicuna": ("", ours),
    "FastChat": (peers.FASTCHAT, fastchat),
    "Trainer, padded": (peers.TRL, transformers_padded),
    "Trainer, flattened": (peers.TRL, transformers_flattened),
    "TRL, padded": (peers.TRL, trl_padded),
    "TRL, padding-free": (peers.TRL, trl_padding_free),
    "TRL, packing": (peers.TRL, trl_packing),
}
"""Name → (environment of `--peers`; empty is this one, how it is run)."""


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
        "output_dir": job.out, "per_device_train_batch_size": PER_STEP, "learning_rate": job.rate,
        "lr_scheduler_type": "constant", "weight_decay": 0.0, "max_grad_norm": 1.0, "optim": "adamw_torch_fused",
        "bf16": True, "use_cpu": True, "num_train_epochs": 50, "logging_steps": 1000, "save_strategy": "no",
        "report_to": "none", "seed": job.seed, "gradient_checkpointing": job.recompute, "disable_tqdm": True,
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

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **more: Any) -> None:
            control.should_training_stop = meter.end(model)

    return Tell()


def held_out_loss(job: Job) -> float:
    """At the run's budget of target tokens, in a straight line between the steps before and after it."""
    (before, old), (after, new) = job.meter.weights
    share = (job.meter.budget - before) / (after - before)
    return (1 - share) * _loss_of(job, old) + share * _loss_of(job, new)


def _loss_of(job: Job, weights: dict[str, Any]) -> float:
    """Mean loss over the target tokens of held-out chats, one by one in float32, by transformers' own attention."""
    import torch
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(job.task / "model", dtype=torch.float32).eval()
    plain.load_state_dict(weights)
    total, count = 0.0, 0
    with torch.no_grad():
        for row in tokenised(job, "held_out.json"):
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])[1:]
            logits = plain(input_ids=ids, use_cache=False).logits[0, :-1]
            losses = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
            total, count = total + float(losses), count + int((labels != -100).sum())
    return total / count


def work(options: argparse.Namespace) -> None:
    """One run, in this interpreter."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    random.seed(options.seed)
    meter = Meter(options.budget, keeps=bool(options.held_out))
    with tempfile.TemporaryDirectory() as out:
        job = Job(options.task, options.length, bool(options.recompute), meter, options.rate, options.seed, out)
        TRAINERS[options.trainer][1](job)
    counted = meter.steps[1:]
    total = {name: sum(each[name] for each in counted) for name in ("positions", "tokens", "targets", "cpu")}
    print("RESULT " + json.dumps({
        "trainer": options.trainer, "length": options.length, "recompute": bool(options.recompute),
        "seed": options.seed, "steps": len(meter.steps), "targets": meter.targets, "budget": meter.budget,
        "fill": total["tokens"] / total["positions"],
        **({"held_out": held_out_loss(job)} if options.held_out else
           {"targets_per_cpu_second": total["targets"] / total["cpu"], "peak_mb": meter.peak}),
    }))  # fmt: skip


# ------------------------------------------------------------------------------------------------ the comparison
def make_task(folder: Path, environments: Path) -> None:
    """Chats, a LLaMA tokenizer in both forms, and random first weights; once."""
    if (folder / "model" / "model.safetensors").exists():
        return
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("train", CHATS, 1), ("held_out", HELD_OUT, 2)):
        chats.write(folder / f"{name}.jsonl", count, seed)
        rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        (folder / f"{name}.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    rows = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    text = "\n".join(turn["value"] for row in rows for turn in row["conversations"])
    (folder / "text.txt").write_text(text, encoding="utf-8")
    script, python = HERE.parent / "data" / "llama_tokenizer.py", peers.python_of(environments, peers.FASTCHAT)
    subprocess.run([python, script, folder / "text.txt", folder / "model", str(VOCABULARY)], check=True)
    torch.manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4,
             "num_attention_heads": 4, "max_position_embeddings": 2048, "pad_token_id": 0}  # fmt: skip
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(folder / "model")


def compare(options: argparse.Namespace) -> None:
    """Every trainer in turn, repetition by repetition, so that a busy stretch of the machine hits all alike."""
    make_task(options.task, options.peers)
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    for seed in range(options.repetitions):
        for recompute in options.recompute:
            for name in options.trainers:
                if row := _in_own_process(options, name, {"recompute": recompute, "seed": seed}):
                    rows.append(row)
                    options.out.write_text(json.dumps(rows, indent=1))
    table(rows)


def _in_own_process(options: argparse.Namespace, name: str, which: dict[str, int]) -> dict[str, Any] | None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
                   "CUDA_VISIBLE_DEVICES": ""}  # fmt: skip
    place = TRAINERS[name][0]
    python = peers.python_of(options.peers, place) if place else sys.executable
    words = which | {"trainer": name, "task": options.task, "length": options.length, "rate": options.rate,
                     "budget": options.budget, "held-out": int(options.command == "loss")}  # fmt: skip
    flags = [word for key, value in words.items() for word in (f"--{key}", str(value))]
    done = subprocess.run([python, __file__, "work", *flags], env=environment, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            print(line[7:], flush=True)
            row: dict[str, Any] = json.loads(line[7:])
            return row
    print(f"{name}: failed\n{done.stderr[-1500:]}", file=sys.stderr)
    return None


def table(rows: Sequence[dict[str, Any]]) -> None:
    """Medians and ours as a ratio of each; then the bars."""
    print("| recompute | trainer | fill | target tokens per CPU second | ours is | peak MB | held-out loss |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for recompute in (False, True):
        rate = _median(rows, "vicuna", recompute, "targets_per_cpu_second")
        for name in TRAINERS:
            speed, peak, fill, loss = (_median(rows, name, recompute, key) for key in COUNTED)
            if fill is None:
                continue
            cells = ("on" if recompute else "off", name, f"{fill:.2f}",
                     f"{speed:,.0f}" if speed else "", f"{rate / speed:.2f} ×" if rate and speed else "",
                     f"{peak:,.0f}" if peak else "", f"{loss:.4f}" if loss else "")  # fmt: skip
            print("|", " | ".join(cells), "|")
    for recompute in (False, True):
        _bars(rows, recompute)


def _bars(rows: Sequence[dict[str, Any]], recompute: bool) -> None:
    """Ours beside FastChat and the best of the peers."""
    medians = {name: [_median(rows, name, recompute, key) for key in COUNTED] for name in TRAINERS}
    speed, peak, _, loss = medians.pop("vicuna")
    speeds, peaks, _, losses = ([each for each in column if each] for column in zip(*medians.values(), strict=True))
    said = "with" if recompute else "without"
    if speed and peak and speeds:
        print(f"{said} recomputation: {speed / max(speeds):.2f} × the best peer's speed (bar: {BEST}), "
              f"{peak / min(peaks):.2f} × the least peak of the peers (bar: 1)")  # fmt: skip
        if theirs := medians["FastChat"][0]:
            print(f"{said} recomputation: {speed / theirs:.2f} × FastChat's speed (bar: {FASTCHAT})")
    if loss and losses:
        print(f"{said} recomputation: {loss / min(losses) - 1:+.2%} of the best peer's loss (bar: {LOSS:+.1%})")


def _median(rows: Sequence[dict[str, Any]], name: str, recompute: bool, key: str) -> float | None:
    found = [row[key] for row in rows if (row["trainer"], row["recompute"]) == (name, recompute) and key in row]
    return statistics.median(found) if found else None


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, recompute, budget in (("run", [0, 1], 6_000), ("loss", [0], 30_000), ("work", None, None)):
        each = commands.add_parser(name)
        each.add_argument("--task", type=Path, default=Path(tempfile.gettempdir()) / "vicuna-trainers")
        each.add_argument("--length", type=int, default=2048)
        each.add_argument("--rate", type=float, default=1e-3)
        each.add_argument("--budget", type=int, default=budget, help="target tokens of a run")
        each.add_argument("--recompute", type=int, nargs="+" if recompute else None, default=recompute)
        if name != "work":
            each.add_argument("--peers", type=Path, required=True)
            each.add_argument("--out", type=Path, required=True)
            each.add_argument("--repetitions", type=int, default=3)
            each.add_argument("--trainers", nargs="+", default=list(TRAINERS), choices=TRAINERS)
    for name, kind in (("--trainer", str), ("--seed", int), ("--held-out", int)):
        commands.choices["work"].add_argument(name, type=kind, required=True)
    commands.add_parser("table").add_argument("results", type=Path, nargs="+")
    options = parser.parse_args()
    if options.command == "table":
        table([row for path in options.results for row in json.loads(path.read_text())])
    else:
        {"run": compare, "loss": compare, "work": work}[options.command](options)


if __name__ == "__main__":
    main()
