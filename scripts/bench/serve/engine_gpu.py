"""The engine `transformers` on one GPU beside `generate` and transformers' own continuous batching, in one run.

    python scripts/bench/serve/engine_gpu.py                        # on an idle GPU; five minutes, no network
    python scripts/bench/serve/engine_gpu.py --device cpu --tiny    # shows that it works

A LLaMA of the shape of Llama 3.2 1B with random weights in bfloat16 is made on the device, for each way afresh. All get
the same token ids at the same moment and answer greedily with 128 tokens, 1, 16 and 64 at once, in one process without
a server and without text; every second repetition goes through the ways in reverse order. Prints the table for
docs/benchmarks.md: medians of the repetitions. Writes $OUT/engine_gpu.json (or --json). Ends with status 2 where
there is no GPU, with 1 where a way failed.
"""

import argparse
import gc
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import torch
import transformers
from engine_floor import Ids, Way, continuous, generate
from transformers import AutoModelForCausalLM, LlamaConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from shapes import SHAPES

from vicuna.serve.engines.continuous.batcher import Batcher
from vicuna.serve.engines.continuous.seats import Seat
from vicuna.serve.engines.text import AnswerText
from vicuna.serve.faults import Fault
from vicuna.serve.protocol import Sampling

CONTEXT = 1024
LENGTHS = (64, 512)
AT_ONCE = (1, 16, 64)


@dataclass(frozen=True)
class Setting:
    """Where and with what is measured."""

    device: torch.device
    shape: str
    tokens: int
    """Of an answer."""

    def model(self) -> Any:
        """The same random weights every time."""
        torch.manual_seed(0)
        config = LlamaConfig(
            **SHAPES[self.shape], max_position_embeddings=CONTEXT, bos_token_id=None, eos_token_id=None, pad_token_id=0
        )
        with self.device:
            return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()

    def prompts(self, length: int, number: int) -> Ids:
        """Ids drawn at random; others for each number and length."""
        draw = random.Random(f"{length} {number}")
        return [draw.choices(range(1, SHAPES[self.shape]["vocab_size"]), k=length) for _ in range(number)]


@dataclass(frozen=True)
class Row:
    """One burst of one way; `failed` says why there is none."""

    way: str
    length: int = 0
    """Tokens of each prompt."""
    at_once: int = 0
    repetition: int = 0
    failed: str = ""
    per_second: float = 0.0
    """Tokens of answers."""
    first_50: float = 0.0
    """Milliseconds until the first token."""
    first_99: float = 0.0
    between_50: float = 0.0
    """Milliseconds between two tokens of an answer."""
    between_99: float = 0.0
    peak_gb: float | None = None
    """Most memory of the GPU so far, in 10^9 bytes; what a way reserves for later answers is in it."""


class Mute:
    """The text of an answer that nobody reads."""

    def push(self, ids: Sequence[int]) -> str:
        """Nothing."""
        return ""

    def flush(self) -> str:
        """Nothing."""
        return ""


@contextmanager
def ours(model: Any) -> Iterator[Way]:
    """The batcher of the engine `transformers`."""
    most = max(AT_ONCE)
    batcher = Batcher(model, slots=most, room=most * CONTEXT, max_length=CONTEXT)

    def way(prompts: Ids, tokens: int) -> tuple[Ids, list[list[float]]]:
        seats = [Seat(ids, (), Sampling(temperature=0), len(ids) + tokens, frozenset(), AnswerText(Mute(), (), ""))
                 for ids in prompts]  # fmt: skip
        times: dict[Seat, list[float]] = {seat: [] for seat in seats}
        for seat in seats:
            batcher.add(seat)
        while batcher.busy:
            events, now = batcher.step(), time.monotonic()
            for seat, item in events:
                if isinstance(item, Fault):
                    raise item
                times[seat] += [now] * len(item.ids)
        return [seat.ids[seat.prompt_tokens :] for seat in seats], list(times.values())

    yield way


WAYS: dict[str, Callable[[Any], AbstractContextManager[Way]]] = {
    "ours": ours, "generate": generate, "continuous": continuous,
}  # fmt: skip
LABELS = {"ours": "**engine `transformers`**", "generate": "one batch of `generate`",
          "continuous": "transformers' continuous batching"}  # fmt: skip


def percentile(values: Sequence[float], share: float) -> float:
    """Of unsorted values."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def measure(name: str, repetition: int, setting: Setting, answers: dict[tuple[int, int], Ids]) -> Iterator[Row]:
    """All bursts of a way; `answers` gets what was answered, by length and number of prompts."""
    with WAYS[name](setting.model()) as way:
        for length in LENGTHS:
            for number in AT_ONCE:
                way(setting.prompts(length - 1, number), 16)  # kernels are chosen, graphs recorded
                prompts, began = setting.prompts(length, number), time.monotonic()
                said, times = way(prompts, setting.tokens)
                seconds = time.monotonic() - began
                if any(len(each) != setting.tokens for each in (*said, *times)):
                    raise RuntimeError(f"answers of {sorted(set(map(len, said)))} tokens")
                answers[length, number] = said
                first = [1e3 * (each[0] - began) for each in times]
                between = [1e3 * (after - before) for each in times for before, after in pairwise(each)]
                peak = torch.cuda.max_memory_allocated() / 1e9 if setting.device.type == "cuda" else None
                yield Row(
                    name, length, number, repetition, "", number * setting.tokens / seconds, percentile(first, 0.5),
                    percentile(first, 0.99), percentile(between, 0.5), percentile(between, 0.99), peak,
                )  # fmt: skip


def attempt(name: str, repetition: int, setting: Setting, answers: dict[tuple[int, int], Ids]) -> Iterator[Row]:
    """The rows of a way, or why there are no more; then its memory is free again."""
    try:
        yield from measure(name, repetition, setting, answers)
    except Exception as error:  # noqa: BLE001 (a way that does not run must not end the others)
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        yield Row(name, repetition=repetition, failed=reason)
    gc.collect()
    if setting.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def show(rows: Sequence[Row]) -> str:
    """A table in markdown."""
    heads = ("prompt", "at once", "way", "tokens/s", "ours is", "first token p50, ms", "p99",
             "between tokens p50, ms", "p99", "memory, GB")  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for length, number, name in product(LENGTHS, AT_ONCE, WAYS):
        found, mine = (
            {row.repetition: row for row in rows if (row.way, row.length, row.at_once) == (each, length, number)}
            for each in (name, "ours")
        )
        if found:
            cells = [str(length), str(number), LABELS[name], *figures(found, {} if name == "ours" else mine)]
            lines.append("| " + " | ".join(cells) + " |")
    lines += [f"\n{row.way}, repetition {row.repetition}, failed: {row.failed}" for row in rows if row.failed]
    return "\n".join(lines)


def figures(found: dict[int, Row], mine: dict[int, Row]) -> list[str]:
    """The cells of one line: medians of the repetitions of a way, and of ours over it in the same repetition."""

    def median(field: str, digits: int) -> str:
        return f"{statistics.median(getattr(row, field) for row in found.values()):,.{digits}f}"

    times = [mine[each].per_second / found[each].per_second for each in mine.keys() & found.keys()]
    peaks = [row.peak_gb for row in found.values() if row.peak_gb is not None]
    return [
        median("per_second", 0), f"{statistics.median(times):.2f} ×" if times else "",
        median("first_50", 1), median("first_99", 1), median("between_50", 2), median("between_99", 2),
        f"{max(peaks):.1f}" if peaks else "",
    ]  # fmt: skip


def agreement(answers: dict[str, dict[tuple[int, int], Ids]]) -> str:
    """How many tokens of an answer are those of `generate`, before the first that is not."""
    said = []
    for name in [each for each in answers if each != "generate" and "generate" in answers]:
        pairs = [pair for key, ids in answers[name].items() if key in answers["generate"]
                 for pair in zip(ids, answers["generate"][key], strict=True)]  # fmt: skip
        alike = [next((i for i, (a, b) in enumerate(zip(*pair, strict=True)) if a != b), len(pair[0]))
                 for pair in pairs]  # fmt: skip
        if alike:
            whole = sum(a == b for a, b in pairs)
            said.append(f"{name}: {whole} of {len(pairs)} answers are those of generate; "
                        f"median of tokens before they part: {statistics.median(alike):g}")  # fmt: skip
    return "\n".join(said)


def main() -> int:
    """Measure every way and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of two small layers and short answers")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=8, help="repetitions that would begin later are left out")
    parser.add_argument("--json", help="write the rows there; $OUT/engine_gpu.json where OUT is set")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: there is no GPU here; --device cpu --tiny shows that the script works", file=sys.stderr)
        return 2
    size = ("tiny", 16) if options.tiny else ("1b", 128)
    setting = Setting(torch.device(options.device), *size)
    rows: list[Row] = []
    answers: dict[str, dict[tuple[int, int], Ids]] = {name: {} for name in options.ways}
    end = time.monotonic() + 60 * options.minutes
    for number in range(options.repeats):
        for name in options.ways if number % 2 == 0 else options.ways[::-1]:
            if number and time.monotonic() > end:
                break
            for row in attempt(name, number, setting, answers[name]):
                rows.append(row)
                print(f"{row.way}, {row.length}, {row.at_once}: {row.failed or f'{row.per_second:,.0f} tokens/s'}",
                      file=sys.stderr)  # fmt: skip
    device = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{device}, {versions}{', tiny shape' if options.tiny else ''}\n\n{show(rows)}\n\n{agreement(answers)}")
    folder = os.environ.get("OUT")
    if target := options.json or (f"{folder}/engine_gpu.json" if folder else None):
        found = {"device": device, "versions": versions, "rows": [asdict(row) for row in rows]}
        Path(target).write_text(json.dumps(found, indent=2) + "\n")
    return int(any(row.failed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
