"""`python -m vicuna.data convert`: the same conversations in another layout or format."""

from dataclasses import dataclass, field
from typing import Any

from vicuna.command import run
from vicuna.data.config import OutputConfig
from vicuna.data.tools import outputs
from vicuna.data.tools.inputs import Inputs


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Write conversations in another layout or format; their text stays byte for byte as it is."""

    inputs: tuple[str, ...] = field(metadata={"positional": "IN"})
    """Conversation files of any kind that `clean` reads, or folders that it wrote."""
    out: str
    """A file (.jsonl, .jsonl.zst, .parquet; the ending decides the format), or a new folder."""
    output: OutputConfig = field(default_factory=OutputConfig)

    def __post_init__(self) -> None:
        outputs.need_inputs(self.inputs)
        outputs.check_out(self.out, self.output)


def command(argv: list[str]) -> int:
    """The command line."""
    return run(ConvertConfig, main, argv, prog="python -m vicuna.data convert")


def main(config: ConvertConfig) -> None:
    """Write the converted conversations, or say that they are there already."""
    if facts := outputs.make("convert", config, _convert):
        form = outputs.file_format(config.out) or config.output.format
        print(f"{config.out}: {facts['conversations']:,} conversations as {config.output.layout} in {form}")


def _convert(inputs: Inputs, write: outputs.Write, facts: dict[str, Any]) -> None:
    for conversation in inputs.conversations("converted"):
        write(conversation)
