"""What each flag of FastChat's trainers becomes: a setting of ours, or a reason why there is none."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vicuna.errors import ConfigError
from vicuna.train.fastchat_flags import NEEDLESS, REFUSED, RENAMED, SWITCHED


@dataclass(frozen=True)
class Became:
    """What a flag became."""

    settings: Mapping[str, list[str]] = field(default_factory=dict)
    """Ours by dotted name, with the words of their values."""
    why: str = ""
    """Where the meaning changed, or where there is no setting."""


@dataclass(frozen=True)
class Old:
    """The old command line, which a flag's meaning may depend on."""

    flags: Mapping[str, str]
    """Name → value, defaults included."""
    launch: Mapping[str, str]
    """What the launcher was told: `ranks` of a node and `nodes`, where it was."""
    script: str = ""
    """Such as train_mem; empty if not given."""

    def is_on(self, name: str) -> bool:
        """Of a switch.

        Raises:
            ConfigError: it is set to neither.
        """
        value = self.flags.get(name, "False").lower()
        if value not in ("true", "yes", "t", "y", "1", "false", "no", "f", "n", "0"):
            raise ConfigError(f"--{name} is True or False; got {value!r}")
        return value in ("true", "yes", "t", "y", "1")

    def number(self, name: str) -> float:
        """Of a flag that is a number.

        Raises:
            ConfigError: it is none.
        """
        try:
            return float(self.flags[name])
        except ValueError:
            raise ConfigError(f"--{name} is a number; got {self.flags[name]!r}") from None

    @property
    def evaluates(self) -> str:
        """When the held-out loss was taken: no, steps or epoch."""
        return self.flags.get("eval_strategy", self.flags.get("evaluation_strategy", "no"))


def became(name: str, old: Old) -> Became:
    """What the flag became; KeyError for one that is in no table."""
    value = old.flags[name]
    if name in RENAMED:
        return Became({RENAMED[name]: value.split()})
    if name in SWITCHED:
        key, on, off = SWITCHED[name]
        return Became({key: [on if old.is_on(name) else off]})
    if name in DEPENDENT:
        return DEPENDENT[name](value, old)
    if name in REFUSED:
        why, *harmless = REFUSED[name]
        needless = value.lower() in {"false", "0", "0.0", "none", "no", "", *harmless}
        return Became({}, "not needed" if needless else f"NOT SUPPORTED: {why}")
    return Became({}, f"not needed: {NEEDLESS[name]}")


# ---------------------------------------- flags whose meaning changed, or depends on others
def _model(value: str, old: Old) -> Became:
    if old.script == "train_with_template":
        return Became({"model.path": [value]}, "name the prompt with --model.template")
    template = {"model.template": ["vicuna_v1.1"]}
    return Became({"model.path": [value], **template}, "FastChat trained every base model with this prompt")


def _data(value: str, old: Old) -> Became:
    return _conversations("data.path", value)


def _held_out(value: str, old: Old) -> Became:
    if old.evaluates == "no":
        return Became({}, "not taken over: FastChat did not use it, because --evaluation_strategy is no")
    return _conversations("data.held_out", value)


def _conversations(key: str, path: str) -> Became:
    if not path.endswith(".json"):
        return Became({key: [path]})
    made = shlex.join(["python", "-m", "vicuna.data", "convert", path, "--out", f"{path}l"])
    return Became({key: [f"{path}l"]}, f"a JSON array is read line by line now; make it once: {made}")


def _out(value: str, old: Old) -> Became:
    return Became({"out": [value]}, f"the trained model is in {value}/model")


def _length(value: str, old: Old) -> Became:
    why = "FastChat cut what is longer; here that has to be said, and `python -m vicuna.data split` loses less"
    if old.number("model_max_length") > 2048:
        why += (". Where the base model has fewer positions, FastChat scaled them by itself: "
                "--rope.kind linear --rope.factor (length / positions)")  # fmt: skip
    return Became({"model.max_length": [value], "data.overlong": ["cut"]}, why)


def _bins(value: str, old: Old) -> Became:
    rows, passes = (
        int(old.number(f"{each}")) for each in ("per_device_train_batch_size", "gradient_accumulation_steps")
    )
    ranks, nodes = old.launch.get("ranks", ""), old.launch.get("nodes", "1").rpartition(":")[2]
    known = ranks.isdecimal() and nodes.isdecimal()
    processes = int(ranks) * int(nodes) if known else 1
    why = f"{rows} rows x {passes} passes x {processes} processes"
    why += "" if known else " (their number is not on the line: multiply by it)"
    return Became(
        {"batch.bins": [str(rows * passes * processes)]},
        f"{why}. A bin is filled with short conversations where a row was padded, so a step learns from more of them "
        "and there are fewer steps",
    )


def _passes(value: str, old: Old) -> Became:
    return Became(_bins(value, old).settings, "part of --batch.bins")


def _max_steps(value: str, old: Old) -> Became:
    if old.number("max_steps") <= 0:
        return Became({}, "not needed")
    return Became({"batch.max_steps": [value]}, "the run ends sooner if --batch.epochs passes are done before")


def _max_norm(value: str, old: Old) -> Became:
    return Became({"optim.max_norm": [value if old.number("max_grad_norm") else ".inf"]})


def _optimizer(value: str, old: Old) -> Became:
    if value in ("adamw_torch", "adamw_torch_fused", "adamw_hf"):
        return Became({"optim.name": ["adamw"]})
    if value in ("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit"):
        return Became({"optim.name": ["adamw8bit"]})
    return Became({}, "NOT SUPPORTED: there are adamw (taken now) and adamw8bit")


def _schedule(value: str, old: Old) -> Became:
    if value in ("cosine", "linear"):
        return Became({"optim.schedule": [value]})
    if value in ("constant", "constant_with_warmup"):
        return Became({"optim.schedule": ["constant"]})
    return Became({}, "NOT SUPPORTED: there are cosine (taken now), linear and constant")


def _warmup(value: str, old: Old) -> Became:
    if old.flags["lr_scheduler_type"] == "constant":
        return Became({"optim.warmup": ["0"]}, "this schedule had no warm-up; constant_with_warmup has")
    if "warmup_steps" in old.flags and old.number("warmup_steps"):
        return Became({}, "not needed: --warmup_steps went first")
    return Became({"optim.warmup": [value]})


def _warmup_steps(value: str, old: Old) -> Became:
    if old.number("warmup_steps") >= 1:
        return Became({}, "NOT SUPPORTED as a count: --optim.warmup is a share of all steps (--dry_run counts them)")
    return Became({"optim.warmup": [value]} if old.number("warmup_steps") else {}, "a share of all steps")


def _precision(value: str, old: Old) -> Became:
    if old.is_on("fp16"):
        return Became({"dtype": ["bfloat16"]}, "float16 is not trained in: bfloat16 needs no loss scaling")
    return Became({"dtype": ["bfloat16" if old.is_on("bf16") else "float32"]})


def _fsdp(value: str, old: Old) -> Became:
    words = set(value.split())
    settings: dict[str, list[str]] = {}
    if "no_shard" in words:
        settings["parallel.shard"] = ["off"]
    elif "offload" in words:
        settings["parallel.cpu_offload"] = ["true"]
    if "shard_grad_op" in words:
        settings["parallel.reshard"] = ["false"]
    hybrid = "; NOT SUPPORTED: hybrid sharding, so weights are shared among all nodes" if "hybrid" in value else ""
    return Became(settings, f"decoder layers are sharded over all ranks unless --parallel.shard is off{hybrid}")


def _evaluation(value: str, old: Old) -> Became:
    if value == "no":
        return Became({}, "not needed: without held-out data there is no held-out loss")
    if "eval_data_path" not in old.flags:
        return Became({}, "nothing is held out: add --data.held_out FILE or --data.held_out_share 0.02")
    also = " too" if value == "steps" else ""
    return Became({}, f"it is taken every so many steps here{also} (--track.held_out_every)")


def _evaluation_steps(value: str, old: Old) -> Became:
    if old.evaluates != "steps":
        return Became({}, f"not needed: --evaluation_strategy is {old.evaluates}")
    return Became({"track.held_out_every": [value]})


def _saving(value: str, old: Old) -> Became:
    if value == "no":
        return Became({"checkpoint.every": ["0"]}, "then a run that is killed begins again")
    also = " too" if value == "steps" else ""
    return Became({}, f"it is done every so many steps here{also} (--checkpoint.every, or auto)")


def _saving_steps(value: str, old: Old) -> Became:
    if (strategy := old.flags.get("save_strategy", "steps")) != "steps":
        return Became({}, f"not needed: --save_strategy is {strategy}")
    return Became({"checkpoint.every": [value]}, "auto, the default, weighs a checkpoint's time against lost steps")


def _tracker(value: str, old: Old) -> Became:
    if value in ("none", "tensorboard", "wandb"):
        return Became({"track.tracker": [value]})
    return Became(
        {"track.tracker": ["auto"]}, "" if value == "all" else "NOT SUPPORTED: there are tensorboard and wandb"
    )


def _adapter(value: str, old: Old) -> Became:
    return Became({"lora.kind": ["qlora" if old.is_on("q_lora") else "lora"]})


DEPENDENT: Mapping[str, Callable[[str, Old], Became]] = {
    "model_name_or_path": _model, "data_path": _data, "eval_data_path": _held_out, "output_dir": _out,
    "model_max_length": _length, "per_device_train_batch_size": _bins, "gradient_accumulation_steps": _passes,
    "max_steps": _max_steps, "max_grad_norm": _max_norm, "optim": _optimizer, "lr_scheduler_type": _schedule,
    "warmup_ratio": _warmup, "warmup_steps": _warmup_steps, "bf16": _precision, "fp16": _precision, "fsdp": _fsdp,
    "evaluation_strategy": _evaluation, "eval_strategy": _evaluation, "eval_steps": _evaluation_steps,
    "save_strategy": _saving, "save_steps": _saving_steps, "report_to": _tracker, "q_lora": _adapter,
}  # fmt: skip
"""Flags whose meaning changed, or depends on others."""
FLAGS = frozenset([*RENAMED, *SWITCHED, *DEPENDENT, *REFUSED, *NEEDLESS])
"""All that are known."""
SWITCHES = frozenset([*SWITCHED, "bf16", "fp16", "q_lora", *REFUSED, *NEEDLESS])
"""Flags that may stand without a value: what matters of it, or whether it is one, is nothing here."""
