"""The drawings of a run's page."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vicuna import page
from vicuna.hardware import GIB, find_gpu
from vicuna.train.figures import size
from vicuna.train.metrics import HeldOut, Row, Start

Curve = npt.NDArray[np.float64]
FULL, HALF, PHONE = 10.8, 4.8, 4.6
"""Widths in inches: of the page, of one of two drawings side by side, of a phone."""
_DRAWN = 1200
"""Points of a curve that are drawn one by one; of a longer one, the range of each stretch."""
_GREY = "#808892"


def window(count: int) -> int:
    """Steps that a smoothed curve takes the mean of: a thirtieth of the run."""
    return max(1, count // 30)


def smooth(values: Curve, weights: Curve, width: int) -> Curve:
    """Weighted mean of the `width` values around each, of fewer at the ends. All of shape (N,)."""
    ones = np.ones(width)
    lead = (width - 1) // 2  # the middle of the whole convolution: "same" would be longer than a short curve
    whole = slice(lead, lead + len(values))
    totals: Curve = np.convolve(values * weights, ones)[whole] / np.convolve(weights, ones)[whole]
    return totals


def loss(rows: Sequence[Row], held_out: Sequence[HeldOut], starts: Sequence[Start], epochs: float) -> str:
    """The loss of each step, its mean, and the held-out loss."""
    steps, values, weights = _of(rows, "step", "loss", "targets")
    mean = smooth(values, weights, window(len(rows)))

    def draw(width: float) -> Any:
        drawing, axes = page.new_figure(width, 3.6)
        _faint(axes, steps, values, page.COLOURS[0])
        _line(axes, steps, mean, page.COLOURS[0], "training")
        if held_out:
            at, levels = [each.step for each in held_out], [each.loss for each in held_out]
            axes.plot(at, levels, color=page.COLOURS[3], marker="o", markersize=4, linewidth=1.6, label="held out")
        known = np.concatenate([mean, [each.loss for each in held_out]])
        low, high = min(known.min(), np.quantile(values, 0.005)), max(known.max(), np.quantile(values, 0.995))
        _span(axes, float(low), float(high))
        _epochs(axes, epochs, starts)
        _breaks(axes, starts)
        return _named(drawing, axes, "loss, nats per target token")

    caption = f"Loss on target tokens{_smoothing(len(rows))}."
    if held_out:
        caption += " Held out: conversations that are never learnt; rising while training falls means overfitting."
    if _epoch_ends(epochs, starts):
        caption += " Thin lines: ends of epochs, where training loss falls because samples come again."
    return page.themed(draw, (FULL, PHONE), caption)


def throughput(rows: Sequence[Row], starts: Sequence[Start]) -> str:
    """Tokens and target tokens per second."""
    steps, tokens, targets, seconds = _of(rows, "step", "tokens", "targets", "seconds")

    def draw(width: float) -> Any:
        drawing, axes = page.new_figure(width, 3.0)
        for each, colour, label in ((tokens, page.COLOURS[6], "all tokens"), (targets, page.COLOURS[0], "targets")):
            _faint(axes, steps, each / seconds, colour)
            _line(axes, steps, smooth(each / seconds, seconds, window(len(rows))), colour, label)
        axes.set_ylim(0, 1.15 * np.quantile(tokens / seconds, 0.995))
        _thousands(axes.yaxis)
        _breaks(axes, starts)
        return _named(drawing, axes, "tokens per second, all ranks")

    caption = f"Speed of the steps themselves{_smoothing(len(rows))}."
    if len(starts) > 1:
        caption += " Dashed: the run was stopped and went on from a checkpoint."
    return page.themed(draw, (FULL, PHONE), caption)


def learning_rate(rows: Sequence[Row]) -> str:
    """The schedule as it was used."""
    steps, rates = _of(rows, "step", "lr")

    def draw(axes: Any) -> None:
        _line(axes, steps, rates, page.COLOURS[4])
        axes.set_ylim(bottom=0)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)

    return _half(draw, "learning rate", f"Learning rate; the peak was {rates.max():.3g}.")


def gradient(rows: Sequence[Row], max_norm: float | None) -> str:
    """The gradient's norm before it was scaled down."""
    steps, norms = _of(rows, "step", "grad_norm")

    def draw(axes: Any) -> None:
        _faint(axes, steps, norms, page.COLOURS[5])
        _line(axes, steps, smooth(norms, np.ones(len(norms)), window(len(norms))), page.COLOURS[5])
        positive = norms[norms > 0]
        if len(positive):
            _span(axes, float(positive.min()), float(positive.max()))
        if max_norm:
            axes.axhline(max_norm, color=_GREY, linewidth=1, linestyle="--")

    caption = "Norm of the gradient."
    if max_norm:
        clipped = float((norms > max_norm).mean())
        caption += f" Above {max_norm:g} (dashed) it is scaled down: in {clipped:.0%} of the steps."
    return _half(draw, "gradient norm", caption)


def fill(rows: Sequence[Row]) -> str:
    """How full the bins were."""
    steps, tokens, capacity = _of(rows, "step", "tokens", "capacity")
    share = 100 * tokens / capacity

    def draw(axes: Any) -> None:
        _faint(axes, steps, share, page.COLOURS[2])
        _line(axes, steps, smooth(share, capacity, window(len(share))), page.COLOURS[2])
        axes.set_ylim(min(90.0, float(np.quantile(share, 0.01)) - 2), 100.3)

    caption = f"Share of positions that hold a token: {tokens.sum() / capacity.sum():.1%} over the run."
    return _half(draw, "fill, %", caption)


def memory(rows: Sequence[Row], device: str) -> str:
    """The most memory that rank 0 held."""
    steps, held = _of(rows, "step", "memory")
    gpu = find_gpu(device)

    def draw(axes: Any) -> None:
        _line(axes, steps, held / GIB, page.COLOURS[7])
        limit = gpu.memory / GIB if gpu else 0.0
        if gpu:
            axes.axhline(limit, color=_GREY, linewidth=1, linestyle="--")
        axes.set_ylim(0, 1.12 * max(limit, float(held.max()) / GIB))

    where = f"of its GPU; dashed: all that it has, {size(gpu.memory)}" if gpu else "of its process"
    return _half(draw, "memory, GiB", f"Most memory that rank 0 held: {size(float(held.max()))} {where}.")


# ---------------------------------------- parts of drawings
def _of(rows: Sequence[Row], *names: str) -> list[Curve]:
    return [np.array([getattr(row, name) for row in rows], np.float64) for name in names]


def _half(draw: Callable[[Any], None], label: str, caption: str) -> str:
    def whole(width: float) -> Any:
        drawing, axes = page.new_figure(width, 2.6)
        draw(axes)
        return _named(drawing, axes, label)

    return page.themed(whole, (HALF,), caption)


def _named(drawing: Any, axes: Any, label: str) -> Any:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("optimiser step")
    axes.set_ylabel(label)
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True))
    _thousands(axes.xaxis)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4, frameon=False, borderaxespad=0.2)
    return drawing


def _faint(axes: Any, steps: Curve, values: Curve, colour: str) -> None:
    """Every value where there are few, the range of each stretch where there are many."""
    if len(steps) <= _DRAWN:
        axes.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
        return
    stretches = np.array_split(np.arange(len(steps)), _DRAWN // 2)
    middles = [steps[each].mean() for each in stretches]
    lows, highs = [values[each].min() for each in stretches], [values[each].max() for each in stretches]
    axes.fill_between(middles, lows, highs, color=colour, alpha=0.25, linewidth=0)


def _line(axes: Any, steps: Curve, values: Curve, colour: str, label: str | None = None) -> None:
    marker = "o" if len(steps) < 3 else None  # a line needs two points to be seen
    axes.plot(steps, values, color=colour, linewidth=1.8, label=label, marker=marker, markersize=4)


def _span(axes: Any, low: float, high: float) -> None:
    """Limits around the values; logarithmic where they differ so much that the lower ones would look alike."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if low > 0 and high / low > 4:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(low / 1.15, high * 1.15)
    else:
        room = 0.06 * (high - low) or 0.1 * abs(high) or 0.1
        axes.set_ylim(low - room, high + room)


def _breaks(axes: Any, starts: Sequence[Start]) -> None:
    """Where the run was stopped and went on."""
    for number, start in enumerate(starts[1:]):
        axes.axvline(start.done + 0.5, color=_GREY, linewidth=1.1, linestyle=(0, (4, 3)),
                     label=None if number else "stopped, went on")  # fmt: skip


def _epochs(axes: Any, epochs: float, starts: Sequence[Start]) -> None:
    for end in _epoch_ends(epochs, starts):
        axes.axvline(end + 0.5, color=_GREY, linewidth=0.7, alpha=0.6)


def _epoch_ends(epochs: float, starts: Sequence[Start]) -> list[float]:
    """Steps after which an epoch ends, but for the last; the bins of all epochs are the same number, or nearly so."""
    total = starts[-1].total if starts else 0
    return [total * each / epochs for each in range(1, int(np.ceil(epochs)))] if total else []


def _thousands(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _smoothing(count: int) -> str:
    """For captions: what is faint and what is the line; nothing where they are the same."""
    return f"; faint: each step, line: mean of {window(count)} steps" if window(count) > 1 else ""
