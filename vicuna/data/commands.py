"""`python -m vicuna.data clean` and `split`."""

from pathlib import Path

from vicuna.command import run
from vicuna.data.config import CleanConfig, SplitOnlyConfig
from vicuna.errors import InputError

SHOWN = 5
"""Damaged files that the error names."""


def clean(argv: list[str]) -> int:
    """The command `python -m vicuna.data clean`."""
    return run(CleanConfig, _build, argv, prog="python -m vicuna.data clean")


def split(argv: list[str]) -> int:
    """The command `python -m vicuna.data split`."""
    return run(SplitOnlyConfig, lambda config: _build(config.as_clean()), argv, prog="python -m vicuna.data split")


def _build(config: CleanConfig) -> int:
    from vicuna.data.pipeline import build  # with numpy behind it, which --help does not need
    from vicuna.data.report import show

    made = build(config)
    show(made, Path(config.out))
    if damaged := made.facts.get("damaged"):
        more = f", and {len(damaged) - SHOWN} more files" if len(damaged) > SHOWN else ""
        places = "; ".join(damaged[:SHOWN]) + more
        raise InputError(f"{places}. What came before is in {config.out}; the ledger names each place")
    return 0
