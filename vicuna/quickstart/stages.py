"""The commands of the quickstart, as a user would type them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vicuna.config import dump, from_dict, load
from vicuna.errors import ConfigError
from vicuna.quickstart.config import QuickstartConfig
from vicuna.train.config import TrainConfig

CONFIGS = Path(__file__).parents[2] / "configs"
BASE, TUNED = "vicuna-tiny-base", "vicuna-tiny"
EXAMPLES = (
    "What is the capital of France?",
    "What is the opposite of hot?",
    "How many minutes are in 3 hours?",
    "Who are you?",
)
"""Questions that the demo's empty page offers; the sample corpus teaches their kinds."""


@dataclass(frozen=True)
class Stage:
    """One command of the pipeline and the folder that it fills."""

    name: str
    argv: Sequence[str]
    out: Path


def build_stages(config: QuickstartConfig) -> list[Stage]:
    """The commands from nothing to two checkpoints, in order."""
    if not CONFIGS.is_dir():
        raise ConfigError(
            f"the recipes ({CONFIGS}) are not there; run the quickstart from a checkout of the repository"
        )
    out, size, seed = Path(config.out), config.size, str(config.seed)
    raw, clean, tokenizer, data = out / "raw", out / "clean", out / "tokenizer", out / "data"
    context = str(_context())
    base, tuned = out / "base", out / "tuned"
    tiny = ["--config", str(CONFIGS / "train" / "tiny.yaml"), "--seed", seed, "--model.max_length", context]
    return [
        Stage("sample corpus", ["data", "corpus", "--out", str(raw), "--seed", seed,
                                "--conversations", str(size.conversations)], raw),
        Stage("clean", ["data", "clean", str(raw / "raw.json"), "--config", str(CONFIGS / "data" / "quickstart.yaml"),
                        "--out", str(clean)], clean),
        Stage("tokenizer", ["train", "tokenizer", str(clean), "--out", str(tokenizer),
                            "--size", str(size.vocabulary)], tokenizer),
        Stage("split", ["data", "split", str(clean), "--out", str(data), "--model.path", str(tokenizer),
                        "--model.template", "vicuna_v1.1", "--model.max_length", context], data),
        Stage("random weights", ["train", "init", str(tokenizer), "--out", str(out / "init"), "--seed", seed,
                                 "--hidden", str(size.hidden), "--layers", str(size.layers),
                                 "--max_length", context], out / "init"),
        Stage("base model", ["train", *tiny, "--model.path", str(out / "init"), "--data.path", str(data),
                             "--data.format", "text", "--batch.epochs", str(size.base_epochs),
                             "--out", str(base)], base / "model"),
        Stage("fine-tuning", ["train", *tiny, "--model.path", str(base / "model"), "--data.path", str(data),
                              "--batch.epochs", str(size.epochs), "--out", str(tuned)], tuned / "model"),
    ]  # fmt: skip


def _context() -> int:
    """The context that the tiny recipe names."""
    recipe = load(TrainConfig, ["--config", str(CONFIGS / "train" / "tiny.yaml")])
    return recipe.model.max_length


def eval_stage(config: QuickstartConfig, api: str) -> Stage:
    """The command that asks and judges: by a language model if there is one, else by the reference judge."""
    out = Path(config.out)
    argv = ["eval", "--questions", str(out / "raw" / "questions.jsonl"), "--models", TUNED, BASE, "--baseline", BASE,
            "--endpoint.base_url", f"{api}/v1", "--out", str(out / "eval"),
            "--sampling.temperature", "0", "--sampling.max_tokens", "48"]  # fmt: skip
    if config.judge.base_url:
        argv += ["--judge.kind", "llm", "--judge.base_url", config.judge.base_url]
    elif os.environ.get("OPENAI_API_KEY"):
        argv += ["--judge.kind", "llm"]
    else:
        argv += ["--judge.kind", "reference"]
    argv += ["--judge.model", config.judge.model] if config.judge.model else []
    return Stage("judging", argv, out / "eval")


def stack(config: QuickstartConfig) -> dict[str, Any]:
    """The settings of the local stack: one controller, a worker for each model, the demo."""
    out = Path(config.out)

    def worker(name: str, folder: Path, template: str = "") -> dict[str, Any]:
        return {"names": [name], "model": {"path": str(folder), "max_length": _context(), "template": template}}

    return {
        "controllers": [{"port": config.port}],
        "workers": [
            worker(TUNED, out / "tuned" / "model"),
            # A base model has no template of its own; it is asked in the same words as the tuned one.
            worker(BASE, out / "base" / "model", "vicuna_v1.1"),
        ],
        "web": {
            "port": config.web_port,
            "title": "Vicuna tiny",
            "about": "Trained on this very machine. Ask short questions like those below.",
            "examples": list(EXAMPLES),
            "sampling": {"temperature": 0.0, "max_tokens": 64},
        },
    }


def dump_stack(tree: Mapping[str, Any]) -> str:
    """The stack's settings as YAML, complete with every default."""
    from vicuna.serve.config import StackConfig

    return dump(from_dict(StackConfig, tree, "the quickstart"))
