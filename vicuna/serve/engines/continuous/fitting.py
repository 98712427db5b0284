"""Make a transformers model ready for ragged batches, and prove that it computes there what it computes by itself.

Some models of transformers take our attention and are still computed wrongly without any error: those that see what
comes later, that keep more than keys and values from one step to the next, that look at attention's mask, ... Nothing
that a model says of itself tells all of them. So each one is tried, once, before it serves.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from vicuna.errors import InputError
from vicuna.serve.engines.continuous.attention import NAME, Pools, attend, block_size
from vicuna.serve.engines.continuous.cache import Cache
from vicuna.serve.engines.continuous.ragged import Ragged, Span

PIECES = (9, 1, 14, 8)
"""How the proof's text is cut."""
APART = 0.01
"""Most that a row of logits may be off, as a share of its own length."""
APART_ROUNDED = 0.2
"""The same where the model computes in 16 bits or with quantised weights."""


def install(model: Any, longest: int) -> None:
    """Let the model's attention be computed by `attention.attend`.

    Args:
        model: a transformers causal language model in evaluation mode; a second time, only its positions are set.
        longest: most tokens of an answer with its prompt.

    Raises:
        InputError: the model cannot be computed in ragged batches, or not rightly.
    """
    if model.config._attn_implementation != NAME:
        _replace(model)
    _settle_positions(model, longest)


def _replace(model: Any) -> None:
    name = type(model).__name__
    if not getattr(model, "_supports_attention_backend", False):
        raise InputError(f"the engine `transformers` cannot batch {name}: its attention is its own")
    AttentionInterface.register(NAME, attend)
    own, ids = model.config._attn_implementation, _text(model)
    try:
        with torch.inference_mode():
            model.set_attn_implementation(NAME)
            found = _in_pieces(model, ids)
            model.set_attn_implementation(own)
            right = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0]
            model.set_attn_implementation(NAME)
            off = _distance(right.double(), found.double())
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a model's code raises when it is called in a way that it does not know
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the engine `transformers` cannot batch {name}: {type(error).__name__}: {reason}") from error
    rounded = torch.finfo(model.dtype).bits < 32 or getattr(model, "quantization_method", None) is not None
    if off > (APART_ROUNDED if rounded else APART):
        raise InputError(
            f"the engine `transformers` cannot batch {name}: in a batch it computes something else than alone (logits "
            f"are off by {off:.0%}); its layers look at more than the keys and values of earlier tokens"
        )


# ------------------------------------------------------------------------------------------- the proof
def _text(model: Any) -> list[int]:
    """Different tokens from all over the vocabulary."""
    vocabulary, count = model.config.get_text_config().vocab_size, sum(PIECES)
    return [(2 * place + 1) * vocabulary // (2 * count) for place in range(count)]


def _in_pieces(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """(tokens, vocabulary) logits of a text that is computed piece by piece, behind the same tokens of another one."""
    size = block_size(model.device, model.dtype)
    cache = Cache(2 * -(-len(ids) // size), size, share=False)
    pools = Pools(cache.blocks * size)
    chain, beside = cache.open(), cache.open()
    logits: list[torch.Tensor] = []
    done = 0
    for count in PIECES:
        end = done + count
        cache.grow(beside, end)
        cache.grow(chain, end)
        spans = [Span(ids[::-1][done:end], done, beside), Span(ids[done:end], done, chain)]
        batch = Ragged(spans, size, pools.tokens, model.device, model.dtype)
        out = model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False, ragged=batch, pools=pools)
        logits.append(out.logits[0, count:])
        done = end
    return torch.cat(logits)


def _distance(right: torch.Tensor, found: torch.Tensor) -> float:
    """How far rows of logits are off, as a share of their length: the median, as experts may be chosen otherwise by a
    hair. What was computed in one piece proves little and does not count, nor do rows that are no numbers anyway."""
    right, found = right[PIECES[0] :], found[PIECES[0] :]
    length = (right - right.mean(-1, keepdim=True)).norm(dim=-1).clamp_min(1e-6)
    off = ((found - right).norm(dim=-1) / length)[right.isfinite().all(-1)]
    return float(off.nan_to_num(torch.inf).median()) if len(off) else 0.0


# ------------------------------------------------------------------------------------------- positions
def _settle_positions(model: Any, longest: int) -> None:
    """Choose between LongRoPE's two sets of frequencies once, by the longest possible answer, as vLLM does.

    transformers chooses in each pass by the longest text at hand, and one long answer would change all others.
    """
    for module in model.modules():
        rope = getattr(getattr(module, "config", None), "rope_parameters", None) or {}
        if rope.get("rope_type") == "longrope" and hasattr(module, "inv_freq"):
            frequencies, _ = ROPE_INIT_FUNCTIONS["longrope"](module.config, module.inv_freq.device, seq_len=longest)
            module.inv_freq.copy_(frequencies)
            module.rope_type = "settled"  # which keeps transformers from choosing again
