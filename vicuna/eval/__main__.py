"""`python -m vicuna.eval`: compare chatbots; `rescore` and `report` are its offline companions."""

import sys
from collections.abc import Sequence

from vicuna.command import Command, dispatch, run
from vicuna.eval.config import EvalConfig, ReportConfig, RescoreConfig

PROG = "python -m vicuna.eval"
COMMANDS = {
    "run": Command("vicuna.eval.__main__:evaluate", "ask, judge and report (what happens without a command too)"),
    "rescore": Command("vicuna.eval.__main__:rescore", "read judgement files of other projects again"),
    "report": Command("vicuna.eval.__main__:report", "score a run folder again and write its report, offline"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the evaluation, or the command that the first word names."""
    words = sys.argv[1:] if argv is None else argv
    return dispatch(PROG, "Compare chatbots.", COMMANDS, words, usual="run")


def evaluate(argv: list[str]) -> int:
    """The `run` command."""
    return run(EvalConfig, _evaluate, argv, PROG)


def rescore(argv: list[str]) -> int:
    """The `rescore` command."""
    return run(RescoreConfig, _rescore, argv, f"{PROG} rescore")


def report(argv: list[str]) -> int:
    """The `report` command."""
    return run(ReportConfig, _report, argv, f"{PROG} report")


# The work is imported only after the settings are known to be right: help and mistakes answer at once.
def _evaluate(config: EvalConfig) -> int:
    from vicuna.eval.run import evaluate

    return evaluate(config)


def _rescore(config: RescoreConfig) -> int:
    from vicuna.eval.rescore import rescore_files

    return rescore_files(config)


def _report(config: ReportConfig) -> int:
    from vicuna.eval.run import report_again

    return report_again(config)


if __name__ == "__main__":
    sys.exit(main())
