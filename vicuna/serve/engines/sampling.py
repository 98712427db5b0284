"""Choosing the next token of each row of a batch.

A row's randomness is a function of its seed and the token's place in the answer alone. So an answer is the same
whatever else is in the batch, and a worker that takes an answer over draws what the first one would have drawn.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad

from vicuna.serve.protocol import Sampling

COLDEST = 1e-4
"""The lowest temperature that is drawn at; below it the likeliest token is all that is left."""
STRETCH = 128
"""Tokens of the vocabulary whose weights are added up together."""


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that belongs to a place in an answer."""
    digest = hashlib.blake2b(f"{seed}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def choose(logits: torch.Tensor, rows: Sequence[Sampling], draws: Sequence[float]) -> list[int]:
    """The next token of each row.

    Args:
        logits: (rows, vocabulary), float32, none of them not a number.
        rows: each row's settings.
        draws: a uniform number for each row; unused where the temperature is 0.

    Returns:
        One token id per row.
    """
    chosen = [0] * len(rows)
    # A row's way of drawing must not depend on the others': whole and truncated distributions are drawn apart.
    for way in (_likeliest, _sample, _sample_truncated):
        group = [index for index, row in enumerate(rows) if _way(row) is way]
        if group:
            some = logits if len(group) == len(rows) else logits[group]
            tokens = way(some, [rows[index] for index in group], [draws[index] for index in group])
            for index, token in zip(group, tokens, strict=True):
                chosen[index] = token
    return chosen


def _way(row: Sampling) -> Callable[[torch.Tensor, Sequence[Sampling], Sequence[float]], list[int]]:
    if row.temperature <= 0:
        return _likeliest
    return _sample_truncated if row.top_p < 1 or row.top_k > 0 or row.min_p > 0 else _sample


def _likeliest(logits: torch.Tensor, rows: Sequence[Sampling], draws: Sequence[float]) -> list[int]:
    chosen: list[int] = (_array(logits) if logits.device.type == "cpu" else logits).argmax(-1).tolist()
    return chosen


def _sample(logits: torch.Tensor, rows: Sequence[Sampling], draws: Sequence[float]) -> list[int]:
    scaled = _scaled(logits, rows)
    weights = scaled.sub_(scaled.amax(-1, keepdim=True)).exp_()
    chosen: list[int] = _draw(weights, draws)[:, 0].tolist()
    return chosen


def _sample_truncated(logits: torch.Tensor, rows: Sequence[Sampling], draws: Sequence[float]) -> list[int]:
    """Draw a place in the order of likelihood, then find the token that has it; equally likely ones stand by id."""
    scaled = _scaled(logits, rows)
    falling = _falling(scaled)
    weights = (falling - falling[:, :1]).exp_()
    weights /= weights.sum(-1, keepdim=True)
    places = _draw(weights.mul_(_kept(weights, rows)), draws)
    drawn = falling.gather(-1, places)
    equals = (scaled == drawn).cumsum(-1)
    which = places - (falling > drawn).sum(-1, keepdim=True)
    chosen: list[int] = torch.searchsorted(equals, which + 1)[:, 0].tolist()
    return chosen


def _scaled(logits: torch.Tensor, rows: Sequence[Sampling]) -> torch.Tensor:
    return logits / _column([max(row.temperature, COLDEST) for row in rows], logits)


def _falling(values: torch.Tensor) -> torch.Tensor:
    """Each row from its highest value to its lowest. On CPUs, NumPy sorts dozens of times as fast as torch."""
    if values.device.type != "cpu":
        return values.sort(dim=-1, descending=True).values
    rising = np.sort(-_array(values), axis=-1)
    return torch.from_numpy(np.negative(rising, out=rising))


def _kept(probabilities: torch.Tensor, rows: Sequence[Sampling]) -> torch.Tensor:
    """(rows, vocabulary) bool, what top-k, top-p and min-p leave; `probabilities` fall along each row."""
    size = probabilities.shape[-1]
    before = probabilities.cumsum(-1).sub_(probabilities)
    keep = before < _column([row.top_p if row.top_p < 1 else 2.0 for row in rows], probabilities)
    keep &= torch.arange(size, device=keep.device) < _column([row.top_k or size for row in rows], probabilities)
    keep &= probabilities >= _column([row.min_p for row in rows], probabilities) * probabilities[:, :1]
    keep[:, 0] = True
    return keep


def _draw(weights: torch.Tensor, draws: Sequence[float]) -> torch.Tensor:
    """Invert the cumulative distribution; (rows, 1) places.

    First a stretch is drawn, then a place in it: sums are of float64, so that no tail is lost, but a table of float64
    as large as the vocabulary would cost more than everything else.
    """
    stretches = pad(weights, (0, -weights.shape[-1] % STRETCH)).unflatten(-1, (-1, STRETCH))
    sums = stretches.sum(-1, dtype=torch.float64)
    uniforms = torch.tensor(draws, dtype=torch.float64, device=weights.device)[:, None]
    stretch, rest = _fall(sums, uniforms * sums.sum(-1, keepdim=True))
    inside = stretches.gather(1, stretch[:, :, None].expand(-1, -1, STRETCH))[:, 0].double()
    return stretch * STRETCH + _fall(inside, rest)[0]


def _fall(weights: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where targets fall among weights laid end to end, and how far into that weight; never on a weight of 0."""
    ends = weights.cumsum(-1)
    last = torch.searchsorted(ends, ends[:, -1:].contiguous())
    place = torch.minimum(torch.searchsorted(ends, targets, right=True), last)
    return place, targets - (ends.gather(-1, place) - weights.gather(-1, place))


def _column(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device)[:, None]


def _array(values: torch.Tensor) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = values.numpy()
    return array


def penalise(logits: torch.Tensor, counts: torch.Tensor, prompt: torch.Tensor, row: Sampling) -> None:
    """Lower the logits of tokens that were used, in place.

    Args:
        logits: (vocabulary,).
        counts: (vocabulary,) how often the answer used each token.
        prompt: (vocabulary,) bool, tokens of the prompt.
        row: presence and frequency penalty after OpenAI's API reference (answer only); repetition penalty after
            Keskar et al. 2019 (prompt and answer).
    """
    used = counts > 0
    if row.repetition_penalty != 1:
        both = used | prompt
        scaled = torch.where(logits > 0, logits / row.repetition_penalty, logits * row.repetition_penalty)
        logits.copy_(torch.where(both, scaled, logits))
    logits -= row.presence_penalty * used + row.frequency_penalty * counts
