"""`python -m vicuna.data identity`: conversations in which a model says who it is."""

from dataclasses import dataclass, field
from typing import Any

from vicuna.command import run
from vicuna.data.config import OutputConfig
from vicuna.data.tools import outputs
from vicuna.data.tools.inputs import Inputs
from vicuna.data.tools.persona import Persona, identity_conversations
from vicuna.files import sha256_file


@dataclass(frozen=True, kw_only=True)
class IdentityConfig:
    """Write conversations in which a model says who it is and who made it, from a YAML file of names."""

    names: str = field(metadata={"positional": "NAMES"})
    """YAML file: name, maker, and optionally makers, base, others, companies, languages and topics."""
    out: str
    """A file (.jsonl, .jsonl.zst, .parquet), or a new folder."""
    answers: int = 3
    """How many answers each question gets; 0 gives it all that there are."""
    casual: bool = True
    """Each question also as people type in haste: small letters, no mark at the end."""
    output: OutputConfig = field(default_factory=OutputConfig)

    def __post_init__(self) -> None:
        outputs.check_out(self.out, self.output)
        if self.answers < 0:
            raise ValueError(f"answers is 0 (all) or more; got {self.answers}")


def command(argv: list[str]) -> int:
    """The command line."""
    return run(IdentityConfig, main, argv, prog="python -m vicuna.data identity")


def main(config: IdentityConfig) -> None:
    """Write the conversations, or say that they are there already."""
    persona = Persona.read(config.names)
    parents = {"names": sha256_file(config.names)}
    settings = {key: value for key, value in outputs.identity("identity", config).items() if key != "names"}
    if outputs.is_made(config.out, parents, settings):
        print(f"{config.out} is made already")
        return
    outputs.check_place(config.out, Inputs(()))
    facts: dict[str, Any] = {"name": persona.name}
    questions: set[str] = set()
    with outputs.writing(config.out, config.output, parents, settings, facts) as write:
        for conversation in identity_conversations(persona, config.answers, config.casual):
            questions.add(conversation.messages[0].content)
            write(conversation)
        facts["questions"] = len(questions)
    print(f"{config.out}: {facts['conversations']:,} conversations, {len(questions):,} different questions")
