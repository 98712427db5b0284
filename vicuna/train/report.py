"""The page of a run, finished or not: how it learnt, how fast, on what, at what cost; from the run's files alone."""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vicuna import manifest, page
from vicuna.config import load, to_dict
from vicuna.errors import InputError
from vicuna.files import write_text
from vicuna.manifest import Manifest
from vicuna.train import charts, masks
from vicuna.train.config import ReportConfig, TrainConfig
from vicuna.train.expense import Expense, expense
from vicuna.train.figures import clock, count
from vicuna.train.metrics import (
    HELD_OUT,
    METRICS,
    STARTS,
    HeldOut,
    Row,
    Start,
    read_held_out,
    read_starts,
    read_steps,
)
from vicuna.train.trackers import leaves

NAME = "report.html"


@dataclass(frozen=True)
class Run:
    """What the files of a run say."""

    rows: list[Row]
    held_out: list[HeldOut]
    starts: list[Start]
    settings: Mapping[str, Any]
    """The tree of config.yaml."""
    learnt: masks.Learnt | None
    """None where the run wrote no data.json."""
    made: Manifest | None
    """Of the trained model; None where there is none yet."""

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.starts[-1].total

    @property
    def finished(self) -> bool:
        """Whether the trained model is there."""
        return self.made is not None


def main(config: ReportConfig) -> None:
    """The command: write the page of a run."""
    print(write(Path(config.run)))


def write(folder: Path) -> Path:
    """Write `report.html` into a run's folder.

    Raises:
        InputError: it is not the folder of a run, or no step was done yet.
    """
    write_text(folder / NAME, render(read(folder), folder.name))
    return folder / NAME


def read(folder: Path) -> Run:
    """What the page is made from."""
    rows, starts = read_steps(folder / METRICS), read_starts(folder / STARTS)
    if not starts:
        raise InputError(f"{folder} is not the folder of a run ({STARTS} is missing); give what --out named")
    if not rows:
        raise InputError(f"{folder} has no step to report yet")
    return Run(
        rows,
        read_held_out(folder / HELD_OUT),
        starts,
        _settings_of(folder / "config.yaml"),
        masks.read(folder / masks.NAME) if (folder / masks.NAME).exists() else None,
        manifest.find(folder / "model"),
    )


def _settings_of(path: Path) -> dict[str, Any]:
    """The tree of the run's settings, as this version knows them.

    Raises:
        ConfigError: the file is damaged, or another version wrote it.
    """
    return to_dict(load(TrainConfig, ["--config", str(path)]))


def render(run: Run, name: str) -> str:
    """The whole page."""
    spent = expense(run.rows, run.starts, run.settings["track"]["price"])
    sections = [
        page.Section("Loss", _loss(run)),
        page.Section("Speed", _speed(run, spent)),
        page.Section("What is learnt", _data(run)),
        page.Section("Settings", _settings(run.settings)),
        page.Section("How it was made", _origin(run)),
    ]
    return page.page(f"Training run {name}", sections, lead=_lead(run, spent), head=masks.HEAD)


def _lead(run: Run, spent: Expense) -> str:
    targets = sum(row.targets for row in run.rows)
    state = "finished" if run.finished else f"not finished: {run.rows[-1].step:,} of {run.total:,} steps so far"
    machines = dict.fromkeys(f"{each.ranks} × {'CPU' if each.device == 'cpu' else each.device}" for each in run.starts)
    sentence = f"{_base(run.settings['model']['path'])} learnt {count(targets)} target tokens on "
    sentence += f"{', then '.join(machines)}; {state}."
    return f"<p>{html.escape(sentence)}</p>{page.cards([*_results(run), *_costs(run, spent)])}"


def _base(path: str) -> str:
    """What to call the base model; the folder of one that a run has made is always named `model`."""
    *_, above, name = ("", *Path(path).parts)
    return f"{above}/{name}" if name == "model" else name


def _results(run: Run) -> list[tuple[str, str]]:
    rows = run.rows
    tail = rows[-charts.window(len(rows)) :]
    targets = sum(row.targets for row in tail)
    what = f"loss, last {len(tail)} steps" if len(tail) > 1 else "loss, last step"
    cards = [(f"{sum(row.loss * row.targets for row in tail) / targets:.3f}", what)]
    if run.held_out:
        cards.append((f"{run.held_out[-1].loss:.3f}", f"held-out loss, step {run.held_out[-1].step:,}"))
    return [
        *cards,
        (f"{rows[-1].step:,}", "steps" if run.finished else f"of {run.total:,} steps"),
        (count(sum(row.targets for row in rows)), "target tokens"),
    ]


def _costs(run: Run, spent: Expense) -> list[tuple[str, str]]:
    seconds = sum(row.seconds for row in run.rows)
    cards = [(f"{sum(row.targets for row in run.rows) / seconds:,.0f}", "target tokens/s")]
    if spent.mfu is not None:
        cards.append((f"{spent.mfu:.1%}", "MFU"))
    times = "" if len(run.starts) == 1 else f" over {len(run.starts)} starts"
    cards.append((clock(spent.seconds), f"time{times}"))
    if spent.gpu_hours is not None:
        cards.append((f"{spent.gpu_hours:,.1f}", "GPU hours"))
    if spent.dollars is not None:
        cards.append((f"${spent.dollars:,.2f}", spent.price))
    if spent.kwh is not None:
        cards.append((f"{spent.kwh:,.1f} kWh", "at the GPUs' full power"))
    return cards


def _loss(run: Run) -> str:
    batch = run.settings["batch"]
    epochs = 1.0 if batch["max_steps"] else batch["epochs"]  # cut short, the run does not say where an epoch ends
    small = charts.learning_rate(run.rows) + charts.gradient(run.rows, run.settings["optim"]["max_norm"])
    return charts.loss(run.rows, run.held_out, run.starts, epochs) + f'<div class="pair">{small}</div>'


def _speed(run: Run, spent: Expense) -> str:
    small = charts.fill(run.rows) + charts.memory(run.rows, run.starts[-1].device)
    note = (
        f'<p class="soft">{spent.in_steps:.0%} of the time from each start to its last step went into steps; the rest '
        "is loading, checkpoints, held-out losses, and steps that were lost.</p>"
    )
    return charts.throughput(run.rows, run.starts) + f'<div class="pair">{small}</div>' + note + _starts(run, spent)


def _starts(run: Run, spent: Expense) -> str:
    rows = []
    for number, (start, seconds) in enumerate(zip(run.starts, spent.by_start, strict=True), 1):
        lost = f"{start.lost:,}" if start.lost else "–"
        rows.append((number, f"{start.done:,}", lost, start.ranks, start.device, clock(seconds)))
    return page.table(("start", "after step", "steps done again", "ranks", "device", "time"), rows)


def _data(run: Run) -> str:
    if run.learnt is None:
        return '<p class="soft">The run wrote no data.json.</p>'
    found = run.learnt
    facts = [
        (f"{found.samples:,}", "samples"),
        (count(found.tokens), "tokens"),
        (f"{found.targets / found.tokens:.1%}", "of them learnt"),
        (f"{sum(found.left_out.values()):,}", "samples left out"),
    ]
    lost = [*found.left_out.items(), *([("cut at the end, and learnt", found.cut)] if found.cut else [])]
    table = page.table(("left out or cut", "samples"), [(reason, f"{number:,}") for reason, number in lost])
    head = f"<h3>{len(found.shown)} samples, token by token</h3>"
    return page.cards(facts) + (table if lost else "") + head + masks.viewer(found.shown)


def _settings(settings: Mapping[str, Any]) -> str:
    usual = leaves(to_dict(TrainConfig()))
    rows = [(name, value, usual.get(name, "–")) for name, value in leaves(settings).items() if value != usual.get(name)]
    text = html.escape(yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True))
    table = page.table(("setting", "here", "by default"), [[_cell(each) for each in row] for row in rows])
    return f"{table}<details><summary>All settings</summary><pre>{text}</pre></details>"


def _cell(value: Any) -> str:
    return "(empty)" if value == "" else str(value)


def _origin(run: Run) -> str:
    if run.made is None:
        return '<p class="soft">The model is not written yet.</p>'
    made = run.made
    hashes = [*(("made from: " + name, value) for name, value in made.parents.items()), ("the model", made.hash)]
    facts = [
        *made.versions.items(),
        ("commit", made.commit or "–"),
        ("made on", made.created),
    ]
    return page.table(("content hash", ""), hashes) + page.table(("version", ""), facts)
