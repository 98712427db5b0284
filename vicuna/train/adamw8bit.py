"""AdamW whose moments take 8 bits, on whole tensors and on tensors that are split over the ranks."""

from collections.abc import Iterable
from typing import Any

import torch

from vicuna.models.quantized import bitsandbytes
from vicuna.train.parallel import local

BLOCK = 256
"""Elements that share one scale in bitsandbytes' kernels."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""States of a parameter: codes of one byte, each with its `_scale`, or plain float32."""


class AdamW8bit(torch.optim.Optimizer):
    """AdamW by bitsandbytes' kernels, which see only this rank's rows.

    A matrix whose rows are whole blocks of 256 has its moments in bytes. No block crosses a row, so rows and their
    scales may go to other ranks when a run is resumed, and the weights do not depend on the number of ranks. All
    other parameters keep moments in float32; they are small but for the input embedding.

    Source: Dettmers et al. 2022, 8-bit Optimizers via Block-wise Quantization, arXiv 2110.02861.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        *,
        eps: float = 1e-8,
        full: Iterable[torch.Tensor] = (),
    ) -> None:
        """Take parameters in groups, as any optimiser of torch.

        Args:
            groups: each with `params` and `weight_decay`.
            lr: learning rate.
            betas: memory of the gradient's mean and of its square.
            eps: added to the root of the second moment.
            full: parameters that keep float32 moments whatever their shape.

        Raises:
            ConfigError: bitsandbytes is not installed.
        """
        self._kernels = bitsandbytes("optim.name adamw8bit").functional
        self._full = {id(each) for each in full}
        self._maps: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nobody here gives a closure
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, self.state[parameter] or self._begin(parameter), group)

    def _begin(self, parameter: torch.Tensor) -> dict[str, Any]:
        """States of zeros, split over the ranks as the parameter is."""
        in_bytes = parameter.ndim == 2 and parameter.shape[1] % BLOCK == 0 and id(parameter) not in self._full
        state: dict[str, Any] = {"step": torch.zeros(())}
        for name in MOMENTS:
            state[name] = torch.zeros_like(parameter, dtype=torch.uint8 if in_bytes else torch.float32)
            if in_bytes:
                state[f"{name}_scale"] = torch.zeros_like(parameter[:, ::BLOCK], dtype=torch.float32)
        self.state[parameter] = state
        return state

    def _move(self, parameter: torch.Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        state["step"] += 1
        weight, gradient = local(parameter), local(parameter.grad)
        first, second = (local(state[name]) for name in MOMENTS)
        if not weight.numel():  # fewer rows than ranks
            return
        (beta1, beta2), eps, decay = group["betas"], group["eps"], group["weight_decay"]
        step, rate = int(state["step"]), group["lr"]
        if first.dtype == torch.float32:
            self._kernels.optimizer_update_32bit(
                "adam", gradient, weight, first, beta1, eps, step, rate, second, beta2, weight_decay=decay
            )
            return
        scales = [local(state[f"{name}_scale"]).view(-1) for name in MOMENTS]
        self._kernels.optimizer_update_8bit_blockwise(
            "adam", gradient, weight, first, second, beta1, beta2, 0.0, 0.0, eps, step, rate,
            *self._values(weight.device), *scales, weight_decay=decay,
        )  # fmt: skip

    def _values(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """What the 256 codes stand for: with a sign for the mean, without one for the square."""
        if device not in self._maps:
            signed, unsigned = (self._kernels.create_dynamic_map(signed=each).to(device) for each in (True, False))
            self._maps[device] = (signed, unsigned)
        return self._maps[device]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, which would turn the codes into floats, so they go around it."""
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        codes = {
            number: {name: state[name] for name in MOMENTS if state[name].dtype == torch.uint8}
            for number, state in state_dict["state"].items()
        }
        rest = {
            number: {name: value for name, value in state.items() if name not in codes[number]}
            for number, state in state_dict["state"].items()
        }
        super().load_state_dict(state_dict | {"state": rest})
        parameters = [each for group in self.param_groups for each in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            for name, value in codes.get(number, {}).items():
                self.state[parameter][name] = value.to(parameter.device)
