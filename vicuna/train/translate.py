"""FastChat's training command of 2023 as one of ours: every flag is translated, or named with what became of it.

The flags are those of `train.py`, `train_mem.py` and `train_lora.py`, which take all TrainingArguments of transformers;
the tables are in `vicuna.train.fastchat`.
"""

import difflib
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vicuna.config import load
from vicuna.errors import ConfigError
from vicuna.train.config import TrainConfig
from vicuna.train.fastchat import FLAGS, SWITCHES, Became, Old, became
from vicuna.train.fastchat_flags import DEFAULTS, LORA_DEFAULTS

USAGE = """usage: python -m vicuna.train translate -- [torchrun ... fastchat/train/train.py] --model_name_or_path ...

Prints the command that does the same here, and on standard error what became of each flag."""
OTHER_SCRIPTS = {
    "train_flant5": "T5 is no causal language model",
    "train_lora_t5": "T5 is no causal language model",
    "train_baichuan": "use train.py's flags, and --model.template for its prompt",
    "train_yuan2": "use train.py's flags, and --model.template for its prompt",
}
LAUNCHERS = {"nproc_per_node": "ranks", "num_gpus": "ranks", "num_processes": "ranks", "nnodes": "nodes"}
"""Flags of torchrun, deepspeed and accelerate that say how many processes there are."""


@dataclass
class Line:
    """FastChat's command line, taken apart."""

    variables: list[str] = field(default_factory=list)
    """NAME=value words in front."""
    launcher: list[str] = field(default_factory=list)
    """torchrun, deepspeed, ... with its own words."""
    script: str = ""
    """Stem of the script's name, such as train_mem; empty where the line begins with its flags."""
    flags: dict[str, str] = field(default_factory=dict)
    """Name → value, in order; lists are joined by spaces."""


def main(argv: Sequence[str]) -> int:
    """The `translate` command.

    Raises:
        ConfigError: a flag is none of FastChat's, lacks its value, or belongs to a script that has no counterpart.
    """
    words = list(argv[1:] if argv[:1] == ["--"] else argv)
    if not words or words in (["--help"], ["-h"]):
        print(USAGE, file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    command, notes = translate(words)
    print("\n".join(notes), file=sys.stderr)
    print(command)
    return 0


def translate(words: Sequence[str]) -> tuple[str, list[str]]:
    """The new command, quoted for a shell, and a line about each old flag.

    Raises:
        ConfigError: see `main`; or the new command would not be accepted.
    """
    line = take_apart(words)
    counts = _counts(line.launcher)
    settings, notes = _settings(line, counts)
    if line.launcher:
        notes.insert(0, f"{shlex.join(line.launcher)}{_about_launch(counts, settings)}")
    load(TrainConfig, [word for key, values in settings.items() for word in (f"--{key}", *values)])
    start = shlex.join([*line.variables, "python", "-m", "vicuna.train"])
    return " \\\n    ".join([start, *(f"--{key} {shlex.join(values)}" for key, values in settings.items())]), notes


# ---------------------------------------- the old line
def take_apart(words: Sequence[str]) -> Line:
    """Variables, launcher, script and flags.

    Raises:
        ConfigError: a word or a flag that is not FastChat's, or a flag without its value.
    """
    line, rest = Line(), list(words)
    while rest and "=" in rest[0] and not rest[0].startswith("-"):
        line.variables.append(rest.pop(0))
    at = next((i for i, word in enumerate(rest) if word.endswith(".py") or word.startswith("fastchat.train.")), None)
    if at is not None:
        line.launcher = [word for word in rest[:at] if word != "-m"]
        line.script = rest[at].removesuffix(".py").replace("/", ".").rpartition(".")[2]
        del rest[: at + 1]
    if line.script in OTHER_SCRIPTS:
        raise ConfigError(f"{line.script} cannot be translated: {OTHER_SCRIPTS[line.script]}")
    if rest and not rest[0].startswith("--"):
        raise ConfigError(f"unexpected {rest[0]!r}: after the script (a .py file) come its flags")
    line.flags = _flags(rest)
    return line


def _flags(words: Sequence[str]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = _known(name.replace("-", "_"))
            found[name] = [value] if equals else []
        else:
            found[name].append(word)
    for name, values in found.items():
        if not values and name not in SWITCHES:
            raise ConfigError(f"--{name} needs a value")
    return {name: " ".join(values) if values else "True" for name, values in found.items()}


def _known(name: str) -> str:
    if name in FLAGS:
        return name
    near = difflib.get_close_matches(name, FLAGS, 1)
    hint = f"; did you mean --{near[0]}?" if near else "; leave it out if you can do without"
    raise ConfigError(f"--{name} is unknown to FastChat's trainers and to transformers 4{hint}")


# ---------------------------------------- the new one
def _counts(launcher: Sequence[str]) -> dict[str, str]:
    """How many processes the launcher started: `ranks` on a node, and `nodes`, where it was told."""
    found = {}
    words = iter(launcher)
    for word in words:
        name, equals, value = word.lstrip("-").replace("-", "_").partition("=")
        if word.startswith("-") and name in LAUNCHERS:
            found[LAUNCHERS[name]] = value if equals else next(words, "")
    return found


def _is_one_node(counts: Mapping[str, str]) -> bool:
    return counts.get("nodes", "1") in ("1", "1:1")


def _about_launch(counts: Mapping[str, str], settings: Mapping[str, list[str]]) -> str:
    if not _is_one_node(counts):
        return (": on several nodes start the new command on each of them under the same launcher "
                "(torchrun ... -m vicuna.train ...), or by SkyPilot without one")  # fmt: skip
    flag = f" → --launch.ranks {settings['launch.ranks'][0]}" if "launch.ranks" in settings else ""
    return f"{flag}: a run starts its own ranks, one for each GPU if it is not told, on a free port"


def _settings(line: Line, counts: Mapping[str, str]) -> tuple[dict[str, list[str]], list[str]]:
    """New settings, and a line about each old flag, also of those whose default was another one."""
    is_lora = line.script == "train_lora" or any(name.startswith(("lora_", "q_lora")) for name in line.flags)
    defaults = DEFAULTS | (LORA_DEFAULTS if is_lora else {})
    old = Old({**defaults, **line.flags}, counts, line.script)
    settings: dict[str, list[str]] = {}
    notes = []
    unsaid = [name for name in defaults if name not in line.flags]
    for name in [*line.flags, *unsaid]:
        found = became(name, old)
        if name in unsaid and found.settings.keys() <= settings.keys():
            continue  # another flag settled it
        settings |= found.settings
        notes.append(_note(name, old.flags[name], found, unsaid=name in unsaid))
    if counts.get("ranks", "").isdecimal() and _is_one_node(counts):
        settings |= {"launch.ranks": [counts["ranks"]]}
    return settings, notes


def _note(name: str, value: str, found: Became, *, unsaid: bool) -> str:
    start = f"--{name} {value}{' (the default then)' if unsaid else ''}"
    flags = " ".join(f"--{key} {' '.join(words)}" for key, words in found.settings.items())
    return start + (f" → {flags}" if flags else "") + (f": {found.why}" if found.why else "")
