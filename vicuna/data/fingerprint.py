"""`python -m vicuna.data fingerprint`: keep evaluation questions out of training data without handing them round."""

from dataclasses import dataclass, field

from vicuna.command import run
from vicuna.data.config import DecontaminateConfig


@dataclass(frozen=True, kw_only=True)
class FingerprintConfig:
    """Write hashes by which `clean --decontaminate.questions` recognises questions; they do not give the texts away."""

    inputs: tuple[str, ...] = field(metadata={"positional": "QUESTIONS"})
    """Question files or patterns; see `clean --decontaminate.questions`."""
    out: str
    """File to write; it takes the place of the questions."""
    ngram: int = DecontaminateConfig.ngram
    """Words in a run; see `clean --decontaminate.ngram`."""

    def __post_init__(self) -> None:
        if self.ngram < 6:
            raise ValueError(f"ngram is a number of words, at least 6; got {self.ngram}")


def command(argv: list[str]) -> int:
    """The command line."""
    return run(FingerprintConfig, main, argv, prog="python -m vicuna.data fingerprint")


def main(config: FingerprintConfig) -> None:
    """Read the questions and write their fingerprints."""
    from vicuna.data.questions import question_paths, read_prints, write_prints
    from vicuna.files import write_text

    paths = question_paths(config.inputs)
    prints = [each for path in paths.values() for each in read_prints("", path, config.ngram)]
    write_text(config.out, write_prints(prints))
    print(
        f"{config.out}: fingerprints of {len(prints)} questions, {sum(len(each.runs) for each in prints)} runs of words"
    )
