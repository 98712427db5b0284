"""Attention within samples only: packed neighbours never see each other, whatever the kernel.

transformers hands each layer's queries, keys and values to the function that is registered under the name of the
model's attention. Ours runs a kernel on the segments that come with the call, and nothing else decides who sees whom:
no mask, and no guess from positions.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vicuna.errors import ConfigError, InputError
from vicuna.train.batch import Batch, Segments, make_batch
from vicuna.train.dataset import Sample
from vicuna.train.kernels import KERNELS, Kernel, Scores, sample_by_sample

logger = logging.getLogger(__name__)

NAME = "vicuna_segments"
"""Of our function among transformers' own; parts of their names ("flash", "sdpa") would have a meaning in it."""
LAYERS = frozenset({"attention", "full_attention", "sliding_attention"})
"""What transformers calls the layers in which nothing but attention looks at other tokens."""
HARMLESS = frozenset({"is_causal", "output_attentions", "output_hidden_states", "position_ids", "use_cache"})
"""What layers hand to their attention that is no part of its mathematics, or is here as it always is."""
ROUNDING: Mapping[torch.dtype, float] = {torch.float32: 0.01, torch.float16: 0.05, torch.bfloat16: 0.1}
"""Share by which two ways of computing the same may differ; ways that compute something else differ by much more."""


@dataclass(frozen=True)
class Backend:
    """A kernel that was found to work here."""

    name: str
    """As in the setting `attention`."""
    kernel: Kernel

    @property
    def blocks(self) -> bool:
        """Whether its segments need block masks."""
        return self.name == "flex"

    def __str__(self) -> str:
        return f"{self.name}, {KERNELS[self.name].says}"


def choose(wanted: str, config: Any, device: torch.device, dtype: torch.dtype) -> Backend:
    """The first kernel that is there and works forwards and backwards; each is tried on a few tokens.

    Args:
        wanted: the name of a kernel, or "auto".
        config: transformers' settings of the model, for its heads, window and dropout.
        device, dtype: of the computation.

    Raises:
        ConfigError: the wanted kernel does not work here; says why.
    """
    reasons = {}
    for name in KERNELS if wanted == "auto" else (wanted,):
        try:
            if KERNELS[name].needs_cuda and device.type != "cuda":
                reasons[name] = "it needs a CUDA device"
                continue
            backend = Backend(name, KERNELS[name].load())
            _prove(backend, config.get_text_config(), device, dtype)
        except Exception as error:  # noqa: BLE001 (kernels say in many ways what they cannot do; the reason is passed on)
            reasons[name] = " ".join(str(error).split())[:200]
            logger.info("attention %s is not used: %s", name, reasons[name])
        else:
            return backend
    said = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise ConfigError(f"attention is {wanted}, which does not work here ({said}); leave --attention at auto")


def install(model: Any, backend: Backend) -> None:
    """Make `model` attend within the segments that each call names as `segments=Segments(...)`.

    Args:
        model: a causal language model of transformers, changed in place.
        backend: what computes it.

    Raises:
        InputError: the model's attention cannot be replaced, or other layers of it would mix samples.
    """
    from transformers import AttentionInterface

    kind, config = type(model).__name__, model.config.get_text_config()
    if others := set(getattr(config, "layer_types", None) or ()) - LAYERS:
        said = f"{kind} has layers of {', '.join(sorted(others))}, which would mix packed samples"
        raise InputError(f"{said}; take another base model")
    AttentionInterface.register(NAME, _interface(backend.kernel))
    if model._can_set_attn_implementation():
        model.set_attn_implementation(NAME)
    if config._attn_implementation != NAME:
        said = f"the attention of {kind} cannot be replaced, so it would mix packed samples"
        raise InputError(f"{said}; take another base model")


@torch.no_grad()
def check(model: Any, backend: Backend, run: Callable[[Batch], Any], device: torch.device, dtype: torch.dtype) -> None:
    """Prove on the model itself that a packed sample gets the hidden states that transformers gives it alone.

    Two random samples are packed; then the second is run alone by transformers' own attention. That finds layers which
    look past a sample's border by other ways than attention, positions that do not restart, and attention that is more
    than what the kernels compute. The cost is two passes of at most 40 tokens, in which all ranks take part.

    Args:
        model: one with its weights and `install`'s attention, not compiled yet.
        backend: the attention's.
        run: runs the model on a batch as training does.
        device: of the pass.
        dtype: of the computation, which says how much rounding there may be.

    Raises:
        InputError: the hidden states differ.
    """
    first, second = _random_samples(model.config.get_text_config().vocab_size)
    training = model.training
    seen: list[torch.Tensor] = []
    hook = model.base_model.register_forward_hook(lambda _, __, out: seen.append(out.last_hidden_state[0].float()))
    model.eval()
    try:
        run(make_batch([first, second], device, blocks=backend.blocks))
        model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
        run(make_batch([second], device))
    finally:
        hook.remove()
        model.set_attn_implementation(NAME)
        model.train(training)
    packed, alone = seen[0][len(first.ids) :], seen[1]
    gap = float((packed - alone).norm() / alone.norm())
    if not gap <= ROUNDING[dtype]:
        raise InputError(
            f"{type(model).__name__} gives a packed sample other hidden states than alone ({gap:.0%} apart): it has "
            "layers that look past a sample's border, or attention that is not built here; take another base model"
        )


def _random_samples(vocabulary: int) -> tuple[Sample, Sample]:
    draw = np.random.default_rng(0)

    def sample(name: str, length: int) -> Sample:
        return Sample(name, draw.integers(0, vocabulary, length).astype(np.int32), np.ones(length, np.bool_))

    return sample("first", 23), sample("second", 17)


def _interface(kernel: Kernel) -> Callable[..., tuple[torch.Tensor, None]]:
    """The kernel as transformers calls it."""

    def attend(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        segments: Segments | None = None,
        scaling: float | None = None,
        dropout: float = 0.0,
        sliding_window: int | None = None,
        **more: Any,
    ) -> tuple[torch.Tensor, None]:
        if segments is None:
            raise InputError(f"{type(module).__name__} is not told where samples end; take another base model")
        _refuse(module, attention_mask, more)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        window = sliding_window if sliding_window and sliding_window < segments.longest else None
        # Rotary embeddings under autocast give float32, and kernels want one dtype. On a CPU that is float32: bfloat16
        # takes up to four times as long there where samples are short.
        dtype = torch.promote_types(value.dtype, torch.float32) if value.device.type == "cpu" else value.dtype
        with torch.autocast(value.device.type, enabled=False):
            out = kernel(query.to(dtype), key.to(dtype), value.to(dtype), segments, Scores(scale, dropout, window))
        return out.to(value.dtype), None

    return attend


def _refuse(module: Any, mask: torch.Tensor | None, more: Mapping[str, Any]) -> None:
    """Attention that is more than `Kernel` must not be computed as if it were less."""
    asked = [name for name, value in more.items() if value is not None and name not in HARMLESS]
    if more.get("is_causal") is False:
        asked.append("attention to later tokens")
    if mask is not None and mask.is_floating_point():
        asked.append("a bias of its scores")
    if asked:
        said = f"{type(module).__name__} asks for {', '.join(asked)}, which is not built"
        raise InputError(f"{said}; take another base model")


def _prove(backend: Backend, config: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Run a kernel forwards and backwards on random numbers and compare it with the exact one.

    Raises:
        ArithmeticError: it gives other numbers. Besides, whatever the kernel itself raises.
    """
    heads = config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    dropout = getattr(config, "attention_dropout", None) or 0.0
    scores = Scores(size**-0.5, dropout, window=3 if getattr(config, "sliding_window", None) else None)
    segments = Segments.of((7, 2), device, blocks=backend.blocks)
    draw = torch.Generator().manual_seed(0)
    drawn = [torch.randn(1, each, 9, size, generator=draw).to(device, dtype) for each in (heads, key_heads, key_heads)]

    def computed(kernel: Kernel, dtype: torch.dtype) -> list[torch.Tensor]:
        query, key, value = (each.to(dtype, copy=True).requires_grad_() for each in drawn)
        out = kernel(query, key, value, segments, scores)
        return [out, *torch.autograd.grad(out.square().sum(), (query, key, value))]

    for found, exact in zip(computed(backend.kernel, dtype), computed(sample_by_sample, torch.float32), strict=True):
        if not dropout and not (found.float() - exact).norm() <= ROUNDING[dtype] * exact.norm():
            raise ArithmeticError("it gives wrong numbers")
