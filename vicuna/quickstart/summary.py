"""What the quickstart took and what came out of it."""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vicuna import manifest
from vicuna.files import read_json
from vicuna.quickstart.children import Timing


class Peak:
    """The most memory that a family of processes held at once."""

    peak = 0
    """Bytes of resident memory; pages that processes share count once for each of them."""


@contextlib.contextmanager
def memory_of_family() -> Iterator[Peak]:
    """Watch this process and all its descendants, twice a second."""
    import psutil

    found, done = Peak(), threading.Event()
    me = psutil.Process()

    def resident(process: Any) -> int:
        try:
            return int(process.memory_info().rss)
        except psutil.Error:
            return 0  # it ended between listing and asking

    def watch() -> None:
        while not done.wait(0.5):
            with contextlib.suppress(psutil.Error):
                found.peak = max(found.peak, sum(map(resident, [me, *me.children(recursive=True)])))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def summarise(out: Path, timings: Sequence[Timing], seconds: float, peak: int) -> dict[str, Any]:
    """Everything that the last table shows, from the manifests of what was made."""
    tuned = manifest.read(out / "tuned" / "model").facts
    return {
        "stages": [{"stage": each.stage, "seconds": round(each.seconds, 1), "reused": each.reused} for each in timings],
        "seconds": round(seconds, 1),
        "peak_memory_bytes": peak,
        "raw": dict(manifest.read(out / "raw").facts),
        "data": dict(manifest.read(out / "clean").facts),
        "training": {
            key: tuned[key] for key in ("parameters", "samples", "steps", "tokens", "target_tokens", "seconds")
        },
        "loss": _last_loss(out / "tuned" / "metrics.jsonl"),
        "evaluation": dict(manifest.read(out / "eval").facts),
        "scores": read_json(out / "eval" / "scores.json"),
    }


def _last_loss(path: Path) -> float:
    """Mean loss of the last twentieth of the run, weighted by target tokens."""
    from vicuna.train.metrics import read_steps

    steps = read_steps(path)
    steps = steps[-max(1, len(steps) // 20) :]
    return sum(each.loss * each.targets for each in steps) / sum(each.targets for each in steps)


def show(summary: Mapping[str, Any], out: Path, api: str, page: str) -> None:
    """The summary as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    times = Table("stage", "seconds", title="vicuna quickstart")
    times.columns[1].justify = "right"
    for each in summary["stages"]:
        times.add_row(each["stage"], "done before" if each["reused"] else f"{each['seconds']:.1f}")
    times.add_section()
    times.add_row("all", f"{summary['seconds']:.1f}")
    console.print(times)
    results = Table("result", "value")
    for name, value in result_rows(summary):
        results.add_row(name, value)
    console.print(results)
    console.print(f"report: {out / 'eval' / 'report.html'}\ndata:   {out / 'clean' / 'report.html'}", highlight=False)
    if page:
        console.print(f"demo:   {page}  (API: {api}/v1; Ctrl-C ends them)", highlight=False)


def result_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The headline numbers as (name, value)."""
    data, training, evaluation = summary["data"], summary["training"], summary["evaluation"]
    rows = [
        ("rounds kept", f"{data['rounds_kept']:,} of {data['rounds_in']:,}"),
        ("training samples", f"{training['samples']:,}"),
        ("parameters", f"{training['parameters']:,}"),
        ("final loss", f"{summary['loss']:.3f}"),
        ("target tokens/s", f"{training['target_tokens'] / training['seconds']:,.0f}"),
    ]
    for name, share in evaluation["accuracy"].items():
        rows.append((f"held-out accuracy of {name}", _interval(share)))
    for pair in evaluation["pairs"]:
        what = f"win rate of {pair['model']} over {pair['baseline']} ({evaluation['judge']})"
        rows.append((what, _interval(pair["win_rate"]) if pair["win_rate"] else "nothing was scored"))
    return [*rows, ("peak memory", f"{summary['peak_memory_bytes'] / 2**30:.2f} GiB")]


def _interval(estimate: Mapping[str, Any]) -> str:
    if estimate["low"] is None:
        return f"{estimate['value']:.3f} (too few questions for an interval)"
    return f"{estimate['value']:.3f} (95%: {estimate['low']:.3f} to {estimate['high']:.3f})"
