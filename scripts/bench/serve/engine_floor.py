"""transformers in one process, without a server, as a system to compare with. Not run by hand: engine.py does, and
engine_gpu.py takes its ways.

    python engine_floor.py MODEL --way generate

Reads lines `{"prompts": [[ids], ...], "tokens": 64}` and answers each with `{"began": s, "answers": [[ids], ...],
"times": [[s, ...], ...]}`, all greedy and in float32; times are when each token was there, of a clock that all
processes share.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig, StoppingCriteria

Ids = list[list[int]]
Way = Callable[[Ids, int], tuple[Ids, list[list[float]]]]
"""Prompts and number of tokens → answers and the time of each token."""
PATIENCE = 120.0


class Clock(StoppingCriteria):  # type: ignore[misc]
    """Notes when each step of `generate` ends; stops nothing."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        if input_ids.is_cuda:
            torch.cuda.synchronize()  # `generate` would do it next
        self.times.append(time.monotonic())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


@contextmanager
def generate(model: Any) -> Iterator[Way]:
    """All prompts, which are equally long, as one batch that nobody joins or leaves."""

    def way(prompts: Ids, tokens: int) -> tuple[Ids, list[list[float]]]:
        ids, clock = torch.tensor(prompts, device=model.device), Clock()
        mask = torch.ones_like(ids)
        out = model.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=tokens, stopping_criteria=[clock]
        )
        return out[:, ids.shape[1] :].tolist(), [clock.times] * len(prompts)

    with torch.inference_mode():
        yield way


@contextmanager
def continuous(model: Any) -> Iterator[Way]:
    """transformers' own continuous batching; on a CPU with the cache and the steps that its server gets in engine.py,
    on a GPU with what it chooses."""
    settings = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
    limits = {"num_blocks": 128, "max_batch_tokens": 2048} if model.device.type == "cpu" else {}
    batching = ContinuousBatchingConfig(**limits)
    with model.continuous_batching_context_manager(
        generation_config=settings, continuous_batching_config=batching
    ) as manager:

        def way(prompts: Ids, tokens: int) -> tuple[Ids, list[list[float]]]:
            names = [
                manager.add_request(ids, max_new_tokens=tokens, record_timestamps=True, eos_token_id=-1)
                for ids in prompts
            ]
            found: dict[str, Any] = {}
            while len(found) < len(names):
                output = manager.get_result(timeout=PATIENCE)
                if output is None or output.error:
                    sys.exit(f"error: continuous batching gave {'nothing' if output is None else output.error}")
                found[output.request_id] = output
            return [found[name].generated_tokens for name in names], [found[name].timestamps for name in names]

        yield way


WAYS = {"generate": generate, "continuous": continuous}


def main() -> None:
    """Load and answer until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--way", choices=WAYS, required=True)
    options = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    with WAYS[options.way](model) as way:
        for line in sys.stdin:
            asked, began = json.loads(line), time.monotonic()
            answers, times = way(asked["prompts"], asked["tokens"])
            print(json.dumps({"began": began, "answers": answers, "times": times}), flush=True)


if __name__ == "__main__":
    main()
