"""What a pass holds in memory, seen by running it on torch's meta device: tensors there have shapes but no memory.

The same operations save the same tensors there as anywhere, so what is alive is counted, not guessed from formulas, for
any architecture.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Trace:
    """Bytes that one pass holds beyond the model, as seen on the meta device."""

    layers: tuple[int, ...]
    """Kept by each decoder layer for its backward pass, without recomputation."""
    outside: int
    """Kept outside the layers."""
    hidden: int
    """The states between two layers: all that a recomputed layer keeps."""
    backward: int
    """Most that the backward pass of the layers adds to what is kept."""
    loss: int
    """Most that the loss adds: logits, their gradients, and those of the output matrix."""

    def times(self, factor: int) -> "Trace":
        """All of it in numbers of so many times the bytes."""
        return Trace(
            tuple(factor * each for each in self.layers), factor * self.outside, factor * self.hidden,
            factor * self.backward, factor * self.loss,
        )  # fmt: skip


class _Alive(TorchDispatchMode):
    """Bytes of the tensors that were made since and are still there, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: dict[int, Any] = {}

    def leave_out(self, tensors: Iterator[torch.Tensor]) -> None:
        """Do not count these."""
        for tensor in tensors:
            self._seen[tensor.untyped_storage()._cdata] = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, torch.Tensor):
                self._note(each.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return

        def gone(_: Any) -> None:
            self.now -= size
            del self._seen[key]

        self._seen[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


class _Attend(torch.autograd.Function):
    """Attention that keeps what FlashAttention keeps (Dao 2023, FlashAttention-2, section 3.1) and computes nothing."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        out, logsumexp = torch.empty_like(query), query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, logsumexp)
        return out

    @staticmethod
    def backward(ctx: Any, _: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.empty_like(each) for each in ctx.saved_tensors[:3])


def _attend(module: Any, query: Any, key: Any, value: Any, mask: Any, **_: Any) -> tuple[torch.Tensor, None]:
    return _Attend.apply(query, key, value).transpose(1, 2), None


def trace(model: Any, layers: Sequence[nn.Module], tokens: int, loss: Callable[..., torch.Tensor]) -> Trace:
    """Run one pass on the meta device and see what it holds.

    Args:
        model: on the meta device, in the dtype of the computation; its attention and its hooks are changed.
        layers: its decoder layers.
        tokens: positions of the pass, each of them before a target.
        loss: (hidden states (tokens, D), targets (tokens,), output module) → scalar.
    """
    from transformers import AttentionInterface

    AttentionInterface.register("vicuna_estimate", _attend)
    model.set_attn_implementation("vicuna_estimate")
    for each in model.parameters():  # a whole gradient is reduced and given back as soon as it is there
        each.requires_grad and each.register_post_accumulate_grad_hook(_drop)
    alive, starts = _Alive(), list[tuple[nn.Module, int]]()
    alive.leave_out(model.parameters())
    alive.leave_out(model.buffers())
    for module in (*model.base_model.children(), *layers):
        module.register_forward_pre_hook(lambda module, _: starts.append((module, alive.now)))
    rows = torch.zeros((1, tokens), dtype=torch.long, device="meta")
    with alive:
        hidden = model.train().base_model(input_ids=rows, position_ids=rows, use_cache=False).last_hidden_state
        kept = alive.peak = alive.now
        hidden.backward(torch.empty_like(hidden))
        backward = alive.peak - kept
    # What a layer keeps is known when the next module starts: only then is nothing but that left of it.
    ends = [*(now for _, now in starts[1:]), kept]
    of_layers = tuple(end - now for (module, now), end in zip(starts, ends, strict=True) if module in layers)
    return Trace(of_layers, kept - sum(of_layers), hidden.nbytes, backward, _trace_loss(model, hidden, rows[0], loss))


def _drop(parameter: torch.Tensor) -> None:
    parameter.grad = None


def _trace_loss(model: Any, hidden: torch.Tensor, targets: torch.Tensor, loss: Callable[..., torch.Tensor]) -> int:
    states = hidden.detach()[0].requires_grad_()
    alive = _Alive()
    alive.leave_out(model.parameters())
    alive.leave_out(iter((states, targets)))
    with alive:
        loss(states, targets, model.get_output_embeddings()).backward()
    return alive.peak + hidden.nbytes  # the rows before targets are a copy of the hidden states
