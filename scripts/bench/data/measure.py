"""Run a command and measure it: CPU seconds of all its processes, wall time, memory. Linux only (reads /proc)."""

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SAMPLE = 0.1
"""Seconds between two looks at the memory."""


@dataclass(frozen=True)
class Cost:
    """What one run of a command took."""

    wall: float
    """Seconds from start to end."""
    cpu: float
    """User and system seconds of the command and of all its descendants."""
    tree_mb: float
    """Highest sum over the process tree of PSS (shared pages are divided among those who share them), in MB."""
    process_mb: float
    """Highest resident set of a single process (shared pages counted in full), in MB."""

    def row(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> Cost:
    """Run a command to its end.

    Raises:
        SystemExit: it failed; its last words are shown.
    """
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in command], env={**os.environ, **(environment or {})}, stdout=said, stderr=said
        )
        with _watched(process.pid) as peaks:
            _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            words = " ".join(str(word) for word in command)
            sys.exit(f"error: {words}\n{said.read().decode(errors='replace')[-3000:]}")
    largest = max(peaks.process, usage.ru_maxrss * 1024)
    return Cost(wall, usage.ru_utime + usage.ru_stime, peaks.tree / 1e6, largest / 1e6)


@dataclass
class _Peaks:
    tree: int = 0
    process: int = 0


@contextlib.contextmanager
def _watched(root: int) -> Iterator[_Peaks]:
    peaks, over = _Peaks(), threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE):
            tree = [_memory(each) for each in _tree(root)]
            peaks.tree = max(peaks.tree, sum(shared for shared, _ in tree))
            peaks.process = max([peaks.process, *(highest for _, highest in tree)])

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def _tree(root: int) -> Iterator[int]:
    """A process and all its descendants that are alive."""
    todo = [root]
    while todo:
        process = todo.pop()
        yield process
        with contextlib.suppress(OSError):  # it has just ended
            for task in Path(f"/proc/{process}/task").iterdir():
                todo += [int(word) for word in (task / "children").read_text().split()]


def _memory(process: int) -> tuple[int, int]:
    """PSS now and the highest resident set so far, in bytes; zeros for a process that has just ended."""
    try:
        shared = _field(Path(f"/proc/{process}/smaps_rollup"), "Pss:")
        return shared, _field(Path(f"/proc/{process}/status"), "VmHWM:")
    except OSError:
        return 0, 0


def _field(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


# ------------------------------------------------------------------------------------------------ what is shown
def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A markdown table."""
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    return "\n".join([*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)])


def share(part: int, whole: int) -> str:
    """`98/100 (98.0%)`; a dash where there is nothing to count."""
    return f"{part}/{whole} ({100 * part / whole:.1f}%)" if whole else "-"


def machine() -> str:
    """What it ran on, in one line."""
    names = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in names if line.startswith("model name")), platform.machine())
    load = os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores, Python {platform.python_version()}, load {load:.1f} at the start"


def save(path: str | None, results: Mapping[str, Any]) -> None:
    """Write the results as JSON, if a file was named."""
    if path:
        Path(path).write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
