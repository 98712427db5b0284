"""`python -m vicuna.eval`: compare chatbots; `rescore` and `report` are its offline companions."""

import sys
from collections.abc import Sequence

from vicuna.command import Command, dispatch, run
from vicuna.eval.config import EvalConfig, ReportConfig, RescoreConfig

PROG = "python -m vicuna.eval"
COMMANDS = {
    "rescore": Command("vicuna.eval.__main__:rescore", "read judgement files of other projects again"),
    "report": Command("vicuna.eval.__main__:report", "score a run folder again and write its report, offline"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the evaluation, or the command that the first word names."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-"):
        return dispatch(PROG, "Compare chatbots. Without a command: run an evaluation.", COMMANDS, words)
    return run(EvalConfig, _evaluate, words, PROG)


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
