"""`python -m vicuna.train`: fine-tune; `tokenizer` and `init` make what a base model starts from."""

import os
import sys

from vicuna.command import Command, dispatch, run
from vicuna.hardware import share_cores
from vicuna.train.config import InitConfig, ReportConfig, TokenizerConfig, TrainConfig

PROG = "python -m vicuna.train"
COMMANDS = {
    "run": Command("vicuna.train.__main__:train", "train or fine-tune a model (what happens without a command too)"),
    "tokenizer": Command("vicuna.train.__main__:tokenizer", "train a BPE tokenizer on conversations"),
    "init": Command("vicuna.train.__main__:init", "make a LLaMA with random weights"),
    "report": Command("vicuna.train.__main__:report", "write the page of a run, finished or not"),
    "translate": Command("vicuna.train.translate:main", "a command line of FastChat's trainer → one of ours"),
}


def main(argv: list[str] | None = None) -> int:
    """The stage's command line; settings without a command mean `run`."""
    words = sys.argv[1:] if argv is None else argv
    return dispatch(PROG, "Fine-tune a base model on cleaned conversations.", COMMANDS, words, usual="run")


def train(argv: list[str]) -> int:
    """The `run` command."""
    status = run(TrainConfig, lambda config: _train(config, argv), argv, PROG)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Now and then gloo's threads abort a process that ends while they let go of their last tensors.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def tokenizer(argv: list[str]) -> int:
    """The `tokenizer` command."""
    return run(TokenizerConfig, _tokenizer, argv, f"{PROG} tokenizer")


def init(argv: list[str]) -> int:
    """The `init` command."""
    return run(InitConfig, _init, argv, f"{PROG} init")


def report(argv: list[str]) -> int:
    """The `report` command."""
    return run(ReportConfig, _report, argv, f"{PROG} report")


# The work is imported only after the settings are known to be right: help and mistakes answer at once.
def _train(config: TrainConfig, argv: list[str]) -> int:
    share_cores()
    from vicuna.train.launch import main as work

    return work(config, argv)


def _tokenizer(config: TokenizerConfig) -> None:
    from vicuna.train.tokenizer import main as work

    work(config)


def _init(config: InitConfig) -> None:
    from vicuna.train.init import main as work

    work(config)


def _report(config: ReportConfig) -> None:
    from vicuna.train.report import main as work

    work(config)


if __name__ == "__main__":
    sys.exit(main())
