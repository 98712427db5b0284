"""What the engine takes of the machine it is given: device, dtype, memory, and from it answers at once and context."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

from vicuna.errors import ConfigError
from vicuna.hardware import GIB
from vicuna.serve.config import EngineConfig
from vicuna.serve.engines.continuous.cache import BLOCK

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
SMALLEST = 256
"""Tokens of the smallest context that is worth serving, where the settings do not ask for less."""
USUAL = 2048
"""Tokens that a prompt and its answer are thought to need at most."""
SHARES = {"cpu": Fraction(1, 4), "other": Fraction(4, 5)}
"""How much of the free memory the cache takes. A CPU's memory is also everybody else's; on a GPU the rest is for what
one step computes."""
MOST = {"cpu": 32, "other": 256}
"""Most answers at once that are chosen. Beyond it, what one more brings, the others lose."""
DTYPES = ("float32", "bfloat16", "float16")
_CGROUPS = Path("/sys/fs/cgroup")


# ------------------------------------------------------------------------------------------- device and dtype
def device_and_dtype(config: EngineConfig) -> "tuple[torch.device, torch.dtype]":
    """Where the model runs and in which numbers.

    `auto` takes a GPU of CUDA or ROCm, else the CPU; other devices that torch knows (mps, xpu) run only where they are
    named, because nobody has measured them here. On a CPU it takes float32, for which every CPU has fast arithmetic;
    on a GPU bfloat16, in which models are trained; and float16 on GPUs that would only emulate bfloat16.

    Raises:
        ConfigError: this machine has no such device, or there is no such dtype.
    """
    import torch

    device = _device(config.device)
    if config.dtype != "auto":
        if config.dtype not in DTYPES:
            raise ConfigError(f"engine.dtype is auto, {', '.join(DTYPES)}; got {config.dtype!r}")
        dtype: torch.dtype = getattr(torch, config.dtype)
        return device, dtype
    if device.type == "cpu":
        return device, torch.float32
    if device.type == "cuda":
        with torch.cuda.device(device):
            if not torch.cuda.is_bf16_supported(including_emulation=False):
                log.info("%s has no arithmetic in bfloat16, so float16 is taken", name_of(device))
                return device, torch.float16
    return device, torch.bfloat16


def _device(name: str) -> "torch.device":
    import torch

    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0].split(". ")[0]
        raise ConfigError(f"engine.device {name!r} cannot be used on this machine: {reason}") from error
    return device


def name_of(device: "torch.device") -> str:
    """The device in words: a GPU with its name, a CPU with the threads of one computation."""
    import torch

    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    return f"{device} ({threads} thread{'s' * (threads > 1)})" if device.type == "cpu" else str(device)


# ------------------------------------------------------------------------------------------- memory
def free_memory(device: "torch.device") -> int:
    """Bytes that can still be taken: of a GPU's memory, else of the machine's or of the container's, what is less.

    Ask once the weights are loaded.
    """
    import torch

    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    available: int = psutil.virtual_memory().available
    return min([available, *_left_in_groups(Path("/proc/self/cgroup"), _CGROUPS)])


class _Files(NamedTuple):
    """What a control group's files are called."""

    limits: tuple[str, ...]
    usage: str
    reclaimable: str
    """In memory.stat: what of the usage is only a copy of files, which gives way."""


_VERSION_1 = _Files(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = _Files(("memory.max", "memory.high"), "memory.current", "inactive_file")


def _left_in_groups(membership: Path, root: Path) -> Iterator[int]:
    """Bytes that each control group of this process may still take, where it has a limit.

    Args:
        membership: its groups, a line for each hierarchy: `0::/path` (version 2) or `4:memory:/path` (version 1).
        root: where the groups are mounted. Inside a container that may be the process's own group, whatever its path;
            so the path is walked up to the root, and what does not exist there has no limit.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
    """
    lines = membership.read_text().splitlines() if membership.is_file() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers == "":
            base, files = root, _VERSION_2
        elif "memory" in controllers.split(","):
            base, files = root / "memory", _VERSION_1
        else:
            continue
        group = base / path.lstrip("/")
        while group != base:
            yield from _left(group, files)
            group = group.parent
        yield from _left(base, files)


def _left(group: Path, files: _Files) -> Iterator[int]:
    bounds = [bound for limit in files.limits if (bound := _number(group / limit)) is not None]
    used = _number(group / files.usage)
    if bounds and used is not None:
        yield max(0, min(bounds) - used + _stated(group / "memory.stat", files.reclaimable))


def _number(path: Path) -> int | None:
    """The number in a file; None where there is no file, or it says `max`."""
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None


def _stated(path: Path, name: str) -> int:
    """The value behind a name in a file of lines such as `inactive_file 4096`; 0 where it is not there."""
    rows = (line.split() for line in path.read_text().splitlines()) if path.is_file() else ()
    return next((int(row[1]) for row in rows if row[0] == name), 0)


# ------------------------------------------------------------------------------------------- choices
@dataclass(frozen=True, kw_only=True)
class Chosen:
    """How much the engine does at once, and why."""

    slots: int
    """Most answers that are computed at once."""
    room: int
    """Tokens that the cache holds: whole blocks, and at least one answer that fills the context."""
    max_length: int
    """Context: the most tokens of a prompt with its answer."""
    prefill: int
    """Most prompt tokens in one step; 0: as many as the times of the steps allow."""
    bytes_per_token: int
    """Keys and values of one token."""
    why: Mapping[str, str]
    """What slots, room and max_length follow from, in words."""

    def describe(self, device: "torch.device", dtype: "torch.dtype") -> str:
        """One line for the log."""
        return "; ".join(
            (
                f"{name_of(device)}, {str(dtype).removeprefix('torch.')}",
                f"context {self.max_length} ({self.why['max_length']})",
                f"{self.slots} answer{'s' * (self.slots > 1)} at once ({self.why['slots']})",
                f"cache {size(self.room * self.bytes_per_token)}, {self.room} tokens ({self.why['room']})",
                f"prompts {self.prefill} tokens a step" if self.prefill else "prompts as the times of the steps allow",
            )
        )


def choose(
    config: EngineConfig,
    bytes_per_token: int,
    max_length: int,
    free: int,
    device_type: str,
    block: int = BLOCK,
    share: float = 1.0,
) -> Chosen:
    """Divide the memory.

    - The cache takes `engine.memory`; else a share of what is free (SHARES), but no more than all slots need with a
      full context each, and as much again for prompts that are kept where there is a prefix cache.
    - The context is all that the model and the settings allow or, where that is less, all that the cache holds.
    - Slots are as many as set, even where not all of them find memory: answers then wait. Else there are MOST, or as
      many as find a quarter of the context each, at most USUAL tokens: few answers fill a long context, and one that
      finds no room gives up its place for a while.

    Args:
        config: the settings; what is 0 is chosen.
        bytes_per_token: keys and values of one token in all layers.
        max_length: most tokens of prompt and answer that the model and the settings allow.
        free: bytes, as `free_memory` says.
        device_type: "cpu", "cuda", ...
        block: tokens in a block of the cache.
        share: what this model may take where several divide the memory; `engine.memory` is taken as it is.

    Raises:
        ConfigError: more memory is asked for than is free, or it holds not even a small context.
    """
    kind = "cpu" if device_type == "cpu" else "other"
    room, why_room = _room(config, bytes_per_token, max_length, free, kind, block, share)
    context = min(max_length, room)
    slots, why_slots = _slots(config, room, context, kind)
    whole = "all that the model and the settings allow"
    why_context = whole if context == max_length else f"all that the cache holds, not {max_length}"
    why = {"slots": why_slots, "room": why_room, "max_length": why_context}
    return Chosen(
        slots=slots,
        room=room,
        max_length=context,
        prefill=config.prefill,
        bytes_per_token=bytes_per_token,
        why=why,
    )


def _room(
    config: EngineConfig, bytes_per_token: int, max_length: int, free: int, kind: str, block: int, share: float
) -> tuple[int, str]:
    """Tokens that the cache holds, and why."""
    if not config.memory * GIB <= free:
        raise ConfigError(f"engine.memory asks for {config.memory:g} GiB, but only {size(free)} are free")
    part = SHARES[kind] * Fraction(share).limit_denominator(1000)
    budget = int(config.memory * GIB) if config.memory else int(free * part)
    fits = budget // bytes_per_token // block * block
    if fits < (smallest := min(max_length, SMALLEST)):
        whose = "engine.memory" if config.memory else f"{part} of the free memory"
        way_out = "Set more" if config.memory else "Free some memory, set engine.memory"
        raise ConfigError(
            f"{whose} is {size(budget)} and holds {fits} tokens of this model; the smallest context, {smallest} tokens,"
            f" takes {size(smallest * bytes_per_token)}. {way_out}, or take a smaller model"
        )
    if config.memory:
        return fits, "as set"
    contexts = (config.slots or MOST[kind]) * (2 if config.prefix_cache else 1)
    needed = contexts * -(-max_length // block) * block
    if needed <= fits:
        return needed, f"{contexts} full contexts; {size(free)} were free"
    return fits, f"{part} of the {size(free)} that were free"


def _slots(config: EngineConfig, room: int, context: int, kind: str) -> tuple[int, str]:
    """Most answers at once, and why."""
    if config.slots:
        return config.slots, "as set"
    usual = min(USUAL, -(-context // 4))
    if room // usual < MOST[kind]:
        return max(1, room // usual), f"the cache holds {usual} tokens of each"
    return MOST[kind], "more would only be slower"


def size(count: int) -> str:
    """Bytes in words."""
    if count >= GIB / 10:
        return f"{count / GIB:.1f} GiB"
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 / 10 else f"{count / 2**10:.1f} KiB"
