"""Choosing the next token of each row of a batch.

A row's randomness is a function of its seed and the token's place in the answer alone. So an answer is the same
whatever else is in the batch, and a worker that takes an answer over draws what the first one would have drawn.
"""

import hashlib
from collections.abc import Callable, Sequence

import torch

from vicuna.serve.protocol import Sampling


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that belongs to a place in an answer."""
    digest = hashlib.blake2b(f"{seed}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def choose(logits: torch.Tensor, rows: Sequence[Sampling], draws: Sequence[float]) -> list[int]:
    """The next token of each row.

    Args:
        logits: (rows, vocabulary), float32.
        rows: each row's settings.
        draws: a uniform number for each row; unused where the temperature is 0.

    Returns:
        One token id per row.
    """
    chosen: list[int] = logits.argmax(-1).tolist()
    warm = [i for i, row in enumerate(rows) if row.temperature > 0]
    # A row's way of drawing must not depend on the others': whole and truncated distributions are drawn apart.
    for group in ([i for i in warm if not _truncates(rows[i])], [i for i in warm if _truncates(rows[i])]):
        if group:
            tokens = _sample(logits[group], [rows[i] for i in group], [draws[i] for i in group])
            for i, token in zip(group, tokens.tolist(), strict=True):
                chosen[i] = token
    return chosen


def _truncates(row: Sampling) -> bool:
    return row.top_p < 1 or row.top_k > 0 or row.min_p > 0


def _sample(logits: torch.Tensor, rows: Sequence[Sampling], draws: Sequence[float]) -> torch.Tensor:
    """(rows,) token ids for rows that all truncate, or all do not."""

    def column(values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=logits.device)[:, None]

    scaled = logits / column([max(row.temperature, 1e-4) for row in rows])
    uniforms = torch.tensor(draws, dtype=torch.float64, device=logits.device)[:, None]
    if not _truncates(rows[0]):
        return _draw(torch.softmax(scaled, -1), uniforms)[:, 0]
    ordered, order = scaled.sort(dim=-1, descending=True, stable=True)
    place = _draw(_truncate(torch.softmax(ordered, -1), rows, column), uniforms)
    return order.gather(-1, place)[:, 0]


def _truncate(
    probabilities: torch.Tensor, rows: Sequence[Sampling], column: Callable[[Sequence[float]], torch.Tensor]
) -> torch.Tensor:
    """Set to 0 what top-k, top-p and min-p leave out; `probabilities` fall along each row."""
    size = probabilities.shape[-1]
    rank = torch.arange(size, device=probabilities.device)
    before = probabilities.cumsum(-1) - probabilities
    keep = rank < column([row.top_k or size for row in rows])
    keep &= before < column([row.top_p if row.top_p < 1 else 2.0 for row in rows])
    keep &= probabilities >= column([row.min_p for row in rows]) * probabilities[:, :1]
    keep[:, 0] = True
    return probabilities * keep


def _draw(probabilities: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Invert the cumulative distribution (in float64, so that no tail is lost); (rows, 1)."""
    cumulative = probabilities.double().cumsum(-1)
    targets = draws * cumulative[:, -1:]
    found = torch.searchsorted(cumulative, targets, right=True)
    return found.clamp(max=probabilities.shape[-1] - 1)


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
