"""How likely the model itself found each token of an answer.

The numbers are the log-softmax of the model's logits, before temperature, penalties and biases, as in OpenAI's API and
vLLM's default: they say what the model thinks, not how its tokens were drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vicuna.serve.engines.spelling import Spelling

LOWEST = -9999.0
"""What stands for a token that cannot come; JSON has no infinity, and OpenAI's API has this."""


@dataclass(frozen=True)
class Wish:
    """What one answer wants to know about its tokens."""

    alternatives: int
    """How many of the likeliest tokens are named beside each token."""
    spelling: Spelling


def rows(logits: torch.Tensor, tokens: Sequence[int], wishes: Sequence[Wish]) -> list[dict[str, Any]]:
    """OpenAI's row (token, logprob, bytes, top_logprobs) about the next token of each answer.

    Args:
        logits: (answers, vocabulary), float32, as the model gave them.
        tokens: the token that each answer got.
        wishes: what each wants to know.
    """
    logprobs = torch.log_softmax(logits, -1).clamp(min=LOWEST)
    chosen = logprobs.gather(-1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
    most = min(logits.shape[-1], max(wish.alternatives for wish in wishes))
    values, ids = (each.tolist() for each in logprobs.topk(most))
    made = []
    for place, (token, wish) in enumerate(zip(tokens, wishes, strict=True)):
        likeliest = list(zip(ids[place], values[place], strict=True))[: wish.alternatives]
        top = [row(wish.spelling, index, value) for index, value in likeliest]
        made.append({**row(wish.spelling, token, chosen[place]), "top_logprobs": top})
    return made


def row(spelling: Spelling, token: int, logprob: float) -> dict[str, Any]:
    """OpenAI's row about one token, without what could have come in its place."""
    content = spelling[token]
    return {"token": content.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(content)}
