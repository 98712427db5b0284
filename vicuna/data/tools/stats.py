"""`python -m vicuna.data stats`: what is in conversation files, as tables and as a page with charts."""

from dataclasses import dataclass, field

from vicuna.command import run
from vicuna.config import ModelConfig
from vicuna.conversation import Conversation
from vicuna.data.tools import outputs
from vicuna.data.tools.inputs import Inputs, parsed, watched
from vicuna.data.tools.languages import teller
from vicuna.data.tools.tally import Tally, Tokens
from vicuna.errors import InputError
from vicuna.files import write_json, write_text
from vicuna.template import TemplateError


@dataclass(frozen=True, kw_only=True)
class StatsConfig:
    """Count rounds, lengths, languages, models and sources of conversations."""

    inputs: tuple[str, ...] = field(metadata={"positional": "IN"})
    """Folders that `clean` wrote, or conversation files of any kind that it reads."""
    out: str = ""
    """Write the numbers to this file, too: .html is a page with charts, .json is for programs."""
    languages: bool = True
    """Tell the language of each conversation."""
    model: ModelConfig = field(default_factory=ModelConfig)

    def __post_init__(self) -> None:
        outputs.need_inputs(self.inputs)
        if self.out and not self.out.endswith((".html", ".json")):
            raise ValueError(f"out ends in .html or .json; got {self.out}")


def command(argv: list[str]) -> int:
    """The command line."""
    return run(StatsConfig, main, argv, prog="python -m vicuna.data stats")


def main(config: StatsConfig) -> None:
    """Read everything once, print the tables and write the file.

    Raises:
        InputError: an input is missing, or broke off; in the second case what came before is counted and shown.
    """
    from vicuna.data.tools import tables

    if config.out:
        outputs.check_outside(config.out)
    tally, damaged = counted(Inputs.find(config.inputs), config)
    tables.show(tally)
    if config.out.endswith(".html"):
        from vicuna.data.tools.stats_page import stats_page

        write_text(config.out, stats_page(tally))
    elif config.out:
        write_json(config.out, tables.as_tree(tally))
    if config.out:
        print(f"written to {config.out}")
    if damaged:
        raise InputError("; ".join(damaged) + ". What came before is counted")


def counted(inputs: Inputs, config: StatsConfig) -> tuple[Tally, list[str]]:
    """The counts, and the places where inputs broke off."""
    count_tokens = _TokenCounter(config.model) if config.model.path else None
    language = teller() if config.languages else None
    tally, damaged = Tally(tokens=count_tokens.tokens if count_tokens else None), list[str]()
    for record in watched(inputs.records(), "counted"):
        if record.damaged:
            damaged.append(f"{record.file}{record.position}: {record.problem}")
        try:
            conversation = parsed(record)
        except InputError:
            tally.unreadable += 1
            continue
        tally.add(conversation, language)
        if count_tokens:
            count_tokens(conversation)
    return tally, damaged


class _TokenCounter:
    """Adds each conversation's length in tokens to the counts."""

    def __init__(self, model: ModelConfig) -> None:
        from vicuna.models.load import load_template, load_tokenizer

        self._tokenizer = load_tokenizer(model.path)
        self._template = load_template(model.path, model.template, self._tokenizer)
        self.tokens = Tokens(self._template.name, model.max_length)

    def __call__(self, conversation: Conversation) -> None:
        from vicuna.prompt import encode

        try:
            encoded = encode(conversation, self._tokenizer, self._template)
        except TemplateError:
            self.tokens.unsayable += 1
            return
        self.tokens.sample.add(len(encoded.ids))
        self.tokens.targets.add(sum(encoded.is_target))
        self.tokens.too_long += len(encoded.ids) > self.tokens.limit
