"""Draw what the engine `transformers` does with a few answers, step by step: docs/images/scheduler.png.

    python scripts/draw_scheduler.py

Nothing in the picture is made up: a tiny model with random weights computes the answers, with few slots and a small
cache so that it comes to everything that can happen.
"""

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vicuna.serve.engines import Step
from vicuna.serve.engines.continuous.batcher import Batcher
from vicuna.serve.engines.continuous.seats import Seat
from vicuna.serve.engines.detokenize import Window
from vicuna.serve.engines.text import AnswerText
from vicuna.serve.protocol import Sampling

BLOCK = 16
SLOTS, BLOCKS, PREFILL, CONTEXT, VOCABULARY = 4, 20, 64, 320, 512
OUT = Path(__file__).parents[1] / "docs" / "images" / "scheduler.png"
INK, WAITING, FREE = "#24292f", "#d9dde3", "#eef0f3"
PROMPT, CACHED, TOKEN, BACK = "#3b75c4", "#a9c7ec", "#2e8b57", "#c8372d"


@dataclass
class Moment:
    """What happened to one answer in one step."""

    state: str
    """waiting, running, back (its place was taken), left (nobody wants it any more)."""
    found: int = 0
    """Tokens that the cache held already."""
    computed: int = 0
    """Tokens of the prompt that were computed."""
    wrote: bool = False
    """Whether it got a token."""
    ended: bool = False


@dataclass
class Lane:
    """One answer: what it asks, and what became of it."""

    name: str
    arrives: Callable[["Recording"], bool]
    prompt: Callable[["Recording"], list[int]]
    tokens: int
    leaves: int = -1
    """Step before which its reader goes; -1: stays."""
    seat: Seat | None = None
    moments: dict[int, Moment] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether it came to its end."""
        return any(each.ended or each.state == "left" for each in self.moments.values())


class Watched(Batcher):
    """Keeps what each answer computed in the last step."""

    def _compute(self, spans: Any) -> Any:
        self.computed = {seat: (span.start, len(span.ids)) for seat, span in spans}
        return super()._compute(spans)


@dataclass
class Recording:
    """All lanes, and what every step said of itself."""

    lanes: list[Lane]
    steps: list[Step] = field(default_factory=list)

    def lane(self, name: str) -> Lane:
        """The lane whose name begins so."""
        return next(lane for lane in self.lanes if lane.name.startswith(name))


def script() -> Recording:
    """Who asks what, and when."""
    draw = random.Random(0)

    def words(count: int) -> list[int]:
        return [draw.randrange(2, VOCABULARY) for _ in range(count)]

    system, story = words(48), words(150)
    prompts = {name: words(count) for name, count in (("a", 14), ("b", 10), ("d", 30), ("e", 12), ("f", 9))}

    def at(step: int) -> Callable[[Recording], bool]:
        return lambda recording: len(recording.steps) >= step

    def turn(recording: Recording) -> list[int]:
        """What was asked and answered before, and a new question."""
        seat = recording.lane("A").seat
        assert seat is not None
        return [*seat.ids, *prompts["f"]]

    return Recording(
        [
            Lane("A: a question", at(0), lambda _: system + prompts["a"], 15),
            Lane("B: the same system prompt", at(2), lambda _: system + prompts["b"], 22),
            Lane("C: a long prompt", at(3), lambda _: story, 24),
            Lane("D: its reader leaves", at(4), lambda _: prompts["d"], 60, leaves=12),
            Lane("E: one more than there are slots", at(6), lambda _: system + prompts["e"], 20),
            Lane("F: the next turn after A", lambda recording: recording.lane("A").over, turn, 8),
        ]
    )


def model() -> Any:
    """Random weights: what it says is nonsense, when it says it is not."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=CONTEXT,
    )  # fmt: skip
    return LlamaForCausalLM(shape).eval()


def sit(lane: Lane, recording: Recording) -> Seat:
    """The answer as the engine gets it."""
    prompt = lane.prompt(recording)
    text = AnswerText(Window(lambda ids: "x" * len(ids)), [], "")
    return Seat(prompt, (), Sampling(temperature=0), len(prompt) + lane.tokens, frozenset(), text)


def record(recording: Recording) -> None:
    """Let the batcher compute all of it."""
    batcher = Watched(model(), slots=SLOTS, room=BLOCKS * BLOCK, max_length=CONTEXT, prefill=PREFILL)
    while batcher.busy or any(lane.seat is None for lane in recording.lanes):
        number = len(recording.steps)
        for lane in recording.lanes:
            if lane.seat is None and lane.arrives(recording):
                lane.seat = sit(lane, recording)
                batcher.add(lane.seat)
            elif lane.seat is not None and number == lane.leaves:
                lane.seat.aborted = True
        sat = set(batcher.running)
        lengths = {seat: len(seat.ids) for seat in (*sat, *batcher.waiting)}
        filled = {seat: seat.filled for seat in lengths}
        batcher.computed = {}
        events = dict(batcher.step())
        for lane in recording.lanes:
            if lane.seat in lengths and not lane.over:
                lane.moments[number] = moment(lane.seat, batcher, sat, lengths[lane.seat], filled[lane.seat], events)
        recording.steps.append(batcher.last)


def moment(seat: Seat, batcher: Watched, sat: set[Seat], length: int, filled: int, events: dict[Any, Any]) -> Moment:
    """What the last step did to one answer."""
    piece = events.get(seat)
    if piece is None and seat.aborted:
        return Moment("left")
    if seat in batcher.waiting:
        return Moment("back" if seat in sat else "waiting")
    start, count = batcher.computed.get(seat, (seat.filled, 0))
    written = start == length - 1 and count == 1
    return Moment(
        "running",
        found=start - filled,
        computed=0 if written else count,
        wrote=piece is not None,
        ended=piece is not None and piece.finish is not None,
    )


# ------------------------------------------------------------------------------------------- the picture
def draw(recording: Recording, path: Path) -> None:
    """One lane for each answer over the steps; below, the cache and the tokens of each step."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 8.5, "font.family": "DejaVu Sans", "text.color": INK, "hatch.linewidth": 0.6})
    figure, (lanes, cache, tokens) = pyplot.subplots(
        3, 1, figsize=(9, 6.4), sharex=True, layout="constrained", height_ratios=(6, 2.0, 1.8)
    )
    for row, lane in enumerate(recording.lanes):
        lanes.axhline(row, color=FREE, linewidth=1, zorder=0)
        draw_lane(lanes, lane, row)
    lanes.set_yticks(range(len(recording.lanes)), [lane.name for lane in recording.lanes])
    lanes.set_ylim(len(recording.lanes) - 0.4, -0.6)
    draw_cache(cache, recording.steps)
    draw_tokens(tokens, recording.steps)
    for axes in (lanes, cache, tokens):
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xlim(0, len(recording.steps))
    legend(figure)
    figure.savefig(path, dpi=200)


def draw_lane(axes: Any, lane: Lane, row: int) -> None:
    """What became of one answer."""
    for step, each in lane.moments.items():
        if each.state == "waiting":
            axes.barh(row, 1, 0.3, step, color=WAITING)
        elif each.state == "back":
            axes.barh(row, 1, 0.72, step, color=BACK)
        elif each.state == "left":
            axes.plot(step + 0.8, row, "x", color=BACK, markersize=6, markeredgewidth=2)
        draw_running(axes, each, step, row)


def draw_running(axes: Any, each: Moment, step: int, row: int) -> None:
    """Prompt tokens as a box with their number, in two halves where some came from the cache; a new token as a dot."""
    halves = [(each.found, CACHED, INK, "////"), (each.computed, PROMPT, "white", "")]
    halves = [half for half in halves if half[0]]
    for place, (count, colour, ink, hatch) in enumerate(halves):
        height = 0.72 / len(halves)
        middle = row - 0.36 + height * (place + 0.5)
        axes.barh(middle, 0.94, height, step + 0.03, color=colour, hatch=hatch, edgecolor="white", linewidth=0)
        on = _on(colour) if hatch else None
        axes.text(step + 0.5, middle, str(count), color=ink, fontsize=6.5, ha="center", va="center", bbox=on)
    if each.wrote:
        axes.plot(step + 1, row, "o", color=TOKEN, markersize=4.5, zorder=3, clip_on=False)
    if each.ended:
        axes.vlines(step + 1, row - 0.3, row + 0.3, color=TOKEN, linewidth=2, clip_on=False)


def draw_cache(axes: Any, steps: Sequence[Step]) -> None:
    """Blocks in use, kept and free."""
    edges = range(len(steps) + 1)
    used = [step.used // BLOCK for step in steps]
    held = [(step.used + step.kept) // BLOCK for step in steps]
    axes.stairs([BLOCKS] * len(steps), edges, baseline=held, fill=True, color=FREE)
    axes.stairs(held, edges, baseline=used, fill=True, facecolor=CACHED, hatch="////", edgecolor="white", linewidth=0)
    axes.stairs(used, edges, fill=True, color=PROMPT)
    axes.set(ylim=(0, BLOCKS), yticks=[0, BLOCKS], ylabel="blocks of\nthe cache")
    axes.text(0.4, BLOCKS - 1, "free", va="top")
    axes.text(len(steps) / 2, BLOCKS / 3, "in use", color="white", ha="center")
    axes.text(len(steps) - 0.3, BLOCKS / 2, "kept for\nlater", ha="right", bbox=_on(CACHED))


def draw_tokens(axes: Any, steps: Sequence[Step]) -> None:
    """What the model computed in each step."""
    edges = range(len(steps) + 1)
    prompts = [step.prompt_tokens for step in steps]
    both = [step.prompt_tokens + step.answer_tokens for step in steps]
    axes.stairs(prompts, edges, fill=True, color=PROMPT)
    axes.stairs(both, edges, baseline=prompts, fill=True, color=TOKEN)
    axes.axhline(PREFILL, color=INK, linewidth=0.8, linestyle=":")
    axes.text(len(steps), PREFILL - 3, "most prompt tokens of a step", ha="right", va="top")
    axes.set(yticks=[0, PREFILL], ylabel="tokens of\na step", xlabel="step")


def _on(colour: str) -> dict[str, Any]:
    """A box behind a text, so that it can be read on a hatched ground."""
    return {"boxstyle": "round,pad=0.1", "facecolor": colour, "linewidth": 0}


def legend(figure: Any) -> None:
    """What the colours mean."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks = [
        Patch(facecolor=WAITING, label="waits"),
        Patch(facecolor=PROMPT, label="prompt computed"),
        Patch(facecolor=CACHED, hatch="////", edgecolor="white", label="prompt in the cache"),
        Line2D([], [], linestyle="", marker="o", color=TOKEN, markersize=5, label="new token"),
        Patch(facecolor=BACK, label="no room: waits again"),
        Line2D([], [], linestyle="", marker="x", color=BACK, markeredgewidth=2, label="reader leaves"),
    ]
    figure.legend(handles=marks, loc="outside upper center", ncols=6, frameon=False, handlelength=1.3)


def main() -> None:
    """Record and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help=f"where to write (.png or .svg; default {OUT.name})")
    options = parser.parse_args()
    recording = script()
    record(recording)
    draw(recording, options.out)


if __name__ == "__main__":
    main()
