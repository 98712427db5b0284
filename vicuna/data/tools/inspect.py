"""`python -m vicuna.data inspect`: one conversation as text, as prompt, and as tokens with the mask of training."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from vicuna.command import run
from vicuna.config import ModelConfig
from vicuna.conversation import Conversation
from vicuna.data.tools import outputs
from vicuna.data.tools.inputs import Inputs
from vicuna.data.tools.keys import piece_id
from vicuna.errors import InputError
from vicuna.files import write_text

_NAMED = 6
"""Ids that an error names."""


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Show one conversation: its text and, with a tokenizer, the prompt, the tokens and which are trained on."""

    inputs: tuple[str, ...] = field(metadata={"positional": "IN"})
    """Folders that `clean` wrote, or conversation files of any kind that it reads."""
    id: str = ""
    """The conversation with this id."""
    index: int | None = None
    """Or the one at this place of all inputs together, from 0; neither shows the first."""
    out: str = ""
    """Write a page to this file (.html); without it, print to the terminal."""
    most: int = 2_000
    """In the terminal, characters shown of a long message (and tokens of a long run); 0 shows all. The page has all."""
    numbers: bool = False
    """In the terminal, print each token's id behind it. The page always has them."""
    model: ModelConfig = field(default_factory=ModelConfig)

    def __post_init__(self) -> None:
        outputs.need_inputs(self.inputs)
        if self.id and self.index is not None:
            raise ValueError("id and index: give one of them")
        if self.index is not None and self.index < 0:
            raise ValueError(f"index is a place counted from 0; got {self.index}")
        if self.out and not self.out.endswith(".html"):
            raise ValueError(f"out ends in .html; got {self.out}")
        if self.most < 0:
            raise ValueError(f"most is 0 (no limit) or more; got {self.most}")


def command(argv: list[str]) -> int:
    """The command line."""
    return run(InspectConfig, main, argv, prog="python -m vicuna.data inspect")


def main(config: InspectConfig) -> None:
    """Show it in the terminal or write the page.

    Raises:
        InputError: there is no such conversation.
        TemplateError: the prompt template cannot say it.
    """
    from vicuna.data.tools import inspect_page, inspect_terminal
    from vicuna.data.tools.tokens import View, view

    if config.out:
        outputs.check_outside(config.out)
    conversations = Inputs.find(config.inputs).conversations("passed")
    found = by_id(conversations, config.id) if config.id else by_index(conversations, config.index or 0)
    if config.model.path:
        from vicuna.models.load import load_template, load_tokenizer

        tokenizer = load_tokenizer(config.model.path)
        template = load_template(config.model.path, config.model.template, tokenizer)
        seen = view(found, tokenizer, template, config.model.max_length)
    else:
        seen = View(found, "")
    if config.out:
        write_text(config.out, inspect_page.inspect_page(seen))
        print(f"{found.id}: written to {config.out}")
    else:
        inspect_terminal.show(seen, config.most, config.numbers)


def by_index(conversations: Iterable[Conversation], index: int) -> Conversation:
    """The conversation at a place, from 0.

    Raises:
        InputError: there are not so many.
    """
    count = 0
    for count, conversation in enumerate(conversations, 1):
        if count == index + 1:
            return conversation
    raise InputError(f"there is no conversation {index}: the inputs hold {count}, counted from 0")


def by_id(conversations: Iterable[Conversation], name: str) -> Conversation:
    """The first conversation with this id.

    Raises:
        InputError: there is none; pieces of it, or else the first ids, are named.
    """
    pieces: list[str] = []
    others: list[str] = []
    for conversation in conversations:
        if conversation.id == name:
            return conversation
        near = pieces if piece_id(conversation.id).stem == name else others
        if len(near) < _NAMED:
            near.append(conversation.id)
    if pieces:
        raise InputError(f"there is no conversation {name!r}, but pieces of it: {', '.join(pieces)}")
    known = f"; ids look like {', '.join(others[:3])}" if others else ": the inputs hold none"
    raise InputError(f"there is no conversation {name!r}{known}")
