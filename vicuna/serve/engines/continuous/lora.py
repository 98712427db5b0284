"""Several LoRA adapters in one ragged batch: each token gets the additions of the adapter that its answer is of."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from vicuna.models.adapters import Adapter, Low


class Switch:
    """Says which tokens of a pass are which adapter's; all others are the model's own."""

    def __init__(self) -> None:
        self.spans: Sequence[tuple[int, int, int]] = ()

    @contextlib.contextmanager
    def over(self, spans: Sequence[tuple[int, int, int]]) -> Iterator[None]:
        """In the passes of the block some tokens are an adapter's; in all others none is.

        Args:
            spans: number of the adapter from 0, its first token in the batch, and the token behind its last.
        """
        self.spans = spans
        try:
            yield
        finally:
            self.spans = ()


def install(model: Any, adapters: Sequence[Adapter]) -> Switch:
    """Give the linear layers of a model the additions of adapters.

    Additions go in place into the rows of their own tokens: all others stay bit for bit what the model computes by
    itself.

    Args:
        model: its passes take tokens in one row, (1, tokens).
        adapters: each for this model; their places are the numbers of the spans.
    """
    switch = Switch()
    for name in sorted({name for each in adapters for name in each.layers}):
        lows = [each.layers.get(name) for each in adapters]
        model.get_submodule(name).register_forward_hook(_addition(switch, lows))
    return switch


def _addition(switch: Switch, lows: Sequence[Low | None]) -> Callable[[Any, tuple[torch.Tensor], torch.Tensor], None]:
    """A forward hook that adds to the outputs of a linear layer; `lows` are its additions by adapter."""

    def add(_: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        if not switch.spans:
            return
        before, after = inputs[0].flatten(0, -2), output.view(-1, output.shape[-1])  # (tokens, width)
        for number, first, end in switch.spans:
            if low := lows[number]:
                inner = F.linear(before[first:end], low.down)
                after[first:end].addmm_(inner, low.up.T, alpha=low.scale)

    return add
