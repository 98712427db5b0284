"""Settings: frozen dataclasses, filled from defaults, then `--config FILE`s, then dotted flags.

The way of a setting: `words` and `given` find it with the place that it stands in, `build` checks it, so that every
mistake is one line that names the setting and its source. The groups that two or more stages read are here too.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from vicuna.settings import yamltree
from vicuna.settings.build import build
from vicuna.settings.given import Place, flatten
from vicuna.settings.tree import help_text, settings_of
from vicuna.settings.words import asks_help, sort_words

T = TypeVar("T")


# ---------------------------------------- shared groups
@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model: its weights, its prompt template and its context."""

    path: str = ""
    """Folder of a Hugging Face checkpoint (or only of a tokenizer, where no weights are needed); training also takes a
    name on the Hugging Face hub, such as Qwen/Qwen3-8B-Base or org/name@revision."""
    template: str = ""
    """Prompt template; empty takes the one that is stored with the weights."""
    max_length: int = 2048
    """Context: the most tokens that prompt and answer may have together."""

    def __post_init__(self) -> None:
        if self.max_length < 8:
            raise ValueError(f"max_length is a context in tokens, at least 8; got {self.max_length}")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the next token is chosen."""

    temperature: float = 0.7
    """Flattens (above 1) or sharpens (below 1) the distribution; 0 always takes the likeliest token."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens whose probabilities add up to this, in (0, 1]."""
    top_k: int = 0
    """Sample from the k likeliest tokens; 0 is no limit."""
    min_p: float = 0.0
    """Leave out tokens less likely than this share of the likeliest one, in [0, 1)."""
    max_tokens: int = 512
    """The most tokens an answer may have."""
    seed: int | None = None
    """The same seed gives the same answer; null draws a new one each time."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 10:
            raise ValueError(f"temperature is 0 to 10; got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is a probability above 0 and at most 1; got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k is 0 (no limit) or a positive count; got {self.top_k}")
        if not 0 <= self.min_p < 1:
            raise ValueError(f"min_p is a share from 0 to below 1; got {self.min_p}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is at least 1; got {self.max_tokens}")


# ---------------------------------------- public interface
class HelpShown(Exception):
    """Not an error: `--help` or `--print_config` was asked for and has been printed, so the command ends."""


def load(cls: type[T], argv: Sequence[str] | None = None, *, prog: str = "") -> T:
    """Make a `cls` from its defaults, the `--config` files in order, and the dotted flags, later ones winning.

    Args:
        cls: a frozen dataclass. Fields that are dataclasses are groups; the docstring under a field is its help; a
            field with metadata {"positional": "NAME"} takes the words of the command line that are no flags.
        argv: the command line without the program's name; default: this process's own.
        prog: how the user called us, for the help.

    Raises:
        ConfigError: unknown key, wrong type, missing or malformed file, broken invariant, flag without a value.
        HelpShown: `--help` or `--print_config` was given; the answer is on standard output.
    """
    settings = settings_of(cls)
    words = list(sys.argv[1:] if argv is None else argv)
    if asks_help(words):
        print(help_text(cls, prog))
        raise HelpShown
    found = sort_words(words, settings)
    config = build(cls, found.given(settings))
    if found.print_config:
        print(dump(config), end="")
        raise HelpShown
    return config


def from_dict(cls: type[T], tree: Mapping[str, Any], source: str) -> T:
    """Make a `cls` from a nested mapping; `source` names it in errors."""
    entries = flatten(tree, settings_of(cls), Place("", source))
    return build(cls, {entry.key: entry for entry in entries})


def to_dict(config: Any) -> dict[str, Any]:
    """The settings as plain dicts, lists and scalars."""
    tree: dict[str, Any] = yamltree.plain(dataclasses.asdict(config))
    return tree


def dump(config: Any) -> str:
    """The settings as YAML that `load` reads back to an equal object."""
    return yamltree.dump(to_dict(config))


__all__ = ["HelpShown", "ModelConfig", "SamplingConfig", "dump", "from_dict", "load", "to_dict"]
