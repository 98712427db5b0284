"""Settings: frozen dataclasses, filled from defaults, then `--config FILE`s, then dotted flags.

jsonargparse converts and checks the values; this module keeps track of where each one came from, so that every mistake
is one line that names the setting and its source. It also holds the groups that two or more stages read.
"""

import dataclasses
import difflib
import functools
import re
import sys
import types
import typing
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import yaml

from vicuna.errors import ConfigError

T = TypeVar("T")


# ---------------------------------------- shared groups
@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model: its weights, its prompt template and its context."""

    path: str = ""
    """Folder of a Hugging Face checkpoint (or only of a tokenizer, where no weights are needed)."""
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
class HelpShown(Exception):  # noqa: N818 (not an error: the command has said what was asked for and ends)
    """`--help` or `--print_config` was asked for and has been printed."""


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
    settings = _settings(cast(Hashable, cls))
    words = list(sys.argv[1:] if argv is None else argv)
    if "--help" in words or "-h" in words:
        print(_help(cls, settings, prog))
        raise HelpShown
    given: dict[str, _Given] = {}
    for entry in _read_words(words, settings):
        given[entry.key] = entry
    config: T = _build(cls, "", settings, given)
    if "--print_config" in words or "--print-config" in words:
        print(dump(config), end="")
        raise HelpShown
    return config


def from_dict(cls: type[T], tree: Mapping[str, Any], source: str) -> T:
    """Make a `cls` from a nested mapping; `source` names it in errors."""
    settings = _settings(cast(Hashable, cls))
    given = {entry.key: entry for entry in _flatten(tree, "", settings, lambda _: source)}
    config: T = _build(cls, "", settings, given)
    return config


def to_dict(config: Any) -> dict[str, Any]:
    """The settings as plain dicts, lists and scalars."""
    tree: dict[str, Any] = _plain(dataclasses.asdict(config))
    return tree


def dump(config: Any) -> str:
    """The settings as YAML that `load` reads back to an equal object."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True, width=110)


# ---------------------------------------- the tree of settings
@dataclass(frozen=True)
class _Setting:
    key: str  # dotted
    kind: Any
    default: Any  # dataclasses.MISSING: must be given
    positional: str


@dataclass(frozen=True)
class _Given:
    key: str
    value: Any
    source: str  # for errors: "--optim.lr" or "configs/x.yaml:3"


@functools.cache
def _settings(cls: Any, prefix: str = "") -> dict[str, _Setting]:
    hints = typing.get_type_hints(cls)
    found: dict[str, _Setting] = {}
    for each in dataclasses.fields(cls):
        key, kind = prefix + each.name, hints[each.name]
        if dataclasses.is_dataclass(kind):
            found |= _settings(cast(type, kind), key + ".")
        else:
            default = each.default_factory() if each.default_factory is not dataclasses.MISSING else each.default
            found[key] = _Setting(key, kind, default, each.metadata.get("positional", ""))
    return found


def _groups(settings: Mapping[str, _Setting]) -> set[str]:
    return {key[: dot.start()] for key in settings for dot in re.finditer(r"\.", key)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


# ---------------------------------------- reading
def _read_words(words: list[str], settings: Mapping[str, _Setting]) -> Iterator[_Given]:
    """The settings on a command line: config files first (so that flags win), then flags and bare words."""
    files, flags, bare = _split_words(words, settings)
    for path in files:
        yield from _read_file(path, settings)
    yield from flags
    takers = [setting for setting in settings.values() if setting.positional]
    if not bare:
        return
    if not takers:
        raise ConfigError(f"unexpected {bare[0]!r}; settings are given as --NAME VALUE (see --help)")
    many = typing.get_origin(takers[0].kind) is tuple
    if len(bare) > 1 and not many:
        raise ConfigError(f"unexpected {bare[1]!r} after {takers[0].positional}")
    yield _Given(takers[0].key, bare if many else bare[0], takers[0].positional)


def _split_words(words: list[str], settings: Mapping[str, _Setting]) -> tuple[list[str], list[_Given], list[str]]:
    files: list[str] = []
    flags: list[_Given] = []
    bare: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not _is_flag(word):
            bare.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if name in ("print_config", "print-config"):
            continue
        if name == "config":
            files += _values(word, equals, value, rest, many=False)
        else:
            flags.append(_read_flag(name, word, equals, value, rest, settings))
    return files, flags, bare


def _read_flag(
    name: str, word: str, equals: str, value: str, rest: list[str], settings: Mapping[str, _Setting]
) -> _Given:
    flag, key = f"--{name}", name.replace("-", "_")
    if key not in settings and key.startswith("no_") and key[3:] in settings:
        if settings[key[3:]].kind is not bool:
            raise ConfigError(f"{flag} switches something off, but {key[3:]} is {_type_name(settings[key[3:]].kind)}")
        return _Given(key[3:], False, flag)
    if key not in settings:
        raise _unknown(flag, key, settings)
    setting = settings[key]
    if setting.kind is bool and not equals and not (rest and rest[0].lower() in ("true", "false")):
        return _Given(key, True, flag)
    many = typing.get_origin(setting.kind) is tuple
    values = _values(word, equals, value, rest, many, _type_name(setting.kind))
    return _Given(key, _from_text(setting.kind, values), flag)


def _values(word: str, equals: str, value: str, rest: list[str], many: bool, wanted: str = "a file") -> list[str]:
    """What follows a flag: one value, or for a list everything up to the next flag."""
    if equals:
        return [value]
    values: list[str] = []
    while rest and not _is_flag(rest[0]) and (many or not values):
        values.append(rest.pop(0))
    if not values:
        raise ConfigError(f"{word} needs a value ({wanted})")
    return values


def _is_flag(word: str) -> bool:
    return word.startswith("--") and len(word) > 2


def _from_text(kind: Any, values: list[str]) -> Any:
    """Flag text → what YAML would have given: text stays text for str, other kinds are read as YAML scalars."""
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        if len(values) == 1 and values[0].lstrip().startswith("["):
            return _scalar(values[0])
        return [_from_text(item, [value]) for value in values]
    text = values[0]
    if kind is str or typing.get_origin(kind) is Literal:
        return text
    if _optional(kind) is str:
        return None if text == "null" else text
    return _scalar(text)


def _scalar(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text  # not YAML, so text: the type check that follows says what was wanted


def _optional(kind: Any) -> Any:
    """`X` for `X | None`, else None."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        rest = [each for each in typing.get_args(kind) if each is not type(None)]
        return rest[0] if len(rest) == 1 else None
    return None


def _read_file(path: str, settings: Mapping[str, _Setting]) -> Iterator[_Given]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config {path}: not UTF-8 text") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{path}:{mark.line + 1 if mark else 1}: not YAML: {problem}") from error
    if tree is None:
        return
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}:1: expected settings as NAME: VALUE, got {type(tree).__name__}")
    lines: dict[str, int] = {}
    _mark_lines(node, "", lines, path)
    yield from _flatten(tree, "", settings, lambda key: f"{path}:{lines.get(key, 1)}")


def _mark_lines(node: Any, prefix: str, lines: dict[str, int], path: str) -> None:
    for key, value in node.value:
        dotted, line = f"{prefix}{key.value}", key.start_mark.line + 1
        if dotted in lines:
            raise ConfigError(f"{path}:{line}: {dotted} was given already in line {lines[dotted]}")
        lines[dotted] = line
        if isinstance(value, yaml.MappingNode):
            _mark_lines(value, dotted + ".", lines, path)


def _flatten(
    tree: Mapping[Any, Any],
    prefix: str,
    settings: Mapping[str, _Setting],
    source: "typing.Callable[[str], str]",
) -> Iterator[_Given]:
    groups = _groups(settings)
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if key in settings:
            yield _Given(key, value, source(key))
        elif key not in groups:
            raise _unknown(source(key), key, settings)
        elif isinstance(value, Mapping):
            yield from _flatten(value, key + ".", settings, source)
        elif value is not None:
            inside = ", ".join(each for each in settings if each.startswith(key + "."))
            raise ConfigError(f"{source(key)}: {key} is a group of settings ({inside}); got {value!r}")


def _unknown(source: str, key: str, settings: Mapping[str, _Setting]) -> ConfigError:
    close = difflib.get_close_matches(key, settings, n=1, cutoff=0.6)
    if not close:  # the right name in the wrong group, or without its group
        close = [each for each in settings if each.rpartition(".")[2] == key.rpartition(".")[2]][:1]
    hint = f"; did you mean {'--' if source.startswith('--') else ''}{close[0]}?" if close else " (see --help)"
    return ConfigError(f"{source}: there is no setting {key}{hint}")


# ---------------------------------------- building
def _build(cls: type, prefix: str, settings: Mapping[str, _Setting], given: Mapping[str, _Given]) -> Any:
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for each in dataclasses.fields(cls):
        key = prefix + each.name
        if dataclasses.is_dataclass(hints[each.name]):
            values[each.name] = _build(hints[each.name], key + ".", settings, given)
        elif key in given:
            values[each.name] = _convert(settings[key], given[key])
        elif settings[key].default is dataclasses.MISSING:
            how = settings[key].positional or f"--{key} {_type_name(settings[key].kind).upper()}"
            raise ConfigError(f"{key} is missing; give it as {how}")
    try:
        return cls(**values)
    except ValueError as error:
        raise _broken(str(error), prefix, hints, given) from error


def _broken(message: str, prefix: str, hints: Mapping[str, Any], given: Mapping[str, _Given]) -> ConfigError:
    """An invariant's message begins with the field's own name; add its group and who set it."""
    name = re.split(r"[^\w]", message, maxsplit=1)[0]
    if name not in hints:
        return ConfigError(message)
    entry = given.get(prefix + name)
    return ConfigError(f"{prefix}{message} ({f'set by {entry.source}' if entry else 'the default'})")


def _convert(setting: _Setting, entry: _Given) -> Any:
    from jsonargparse import ArgumentError

    try:
        parser = _parser(setting.kind)
        return parser.instantiate(parser.parse_object({"value": entry.value})).value
    except ArgumentError as error:
        raise ConfigError(
            f"{setting.key} is {_type_name(setting.kind)}; got {entry.value!r}{_detail(setting.kind, error)}"
            f" (set by {entry.source})"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{setting.key}: {error} (set by {entry.source})") from error


def _detail(kind: Any, error: Exception) -> str:
    """For lists of dataclasses the library's own last line says which part is wrong."""
    if any(dataclasses.is_dataclass(each) for each in typing.get_args(kind)):
        return ": " + str(error).strip().splitlines()[-1].strip()
    return ""


@functools.cache
def _parser(kind: Any) -> Any:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    return parser


# ---------------------------------------- help
def _type_name(kind: Any) -> str:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return " or ".join(map(str, args))
    if origin is tuple:
        return f"list of {_type_name(args[0])}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join("null" if each is type(None) else _type_name(each) for each in args)
    if origin is dict:
        return f"map of {_type_name(args[0])} to {_type_name(args[1])}"
    return {"str": "text"}.get(kind.__name__, kind.__name__) if isinstance(kind, type) else str(kind)


def _help(cls: type, settings: Mapping[str, _Setting], prog: str) -> str:
    bare = [f"{each.positional} ..." for each in settings.values() if each.positional]
    lines = [f"usage: {' '.join([prog or 'command', *bare, '[--config FILE ...] [--NAME VALUE ...]'])}", ""]
    lines += [(cls.__doc__ or "").strip(), ""]
    lines += ["  --config  file, may repeat; a later file wins, and flags win over files",
              "  --print_config  print the resolved settings as YAML and end"]  # fmt: skip
    return "\n".join(lines + _help_group(cls, ""))


def _help_group(cls: type, prefix: str) -> list[str]:
    hints, texts, lines = typing.get_type_hints(cls), _field_texts(cls), []
    groups: list[str] = []
    for each in dataclasses.fields(cls):
        key, kind = prefix + each.name, hints[each.name]
        if dataclasses.is_dataclass(kind):
            groups += ["", f"{key}: {(kind.__doc__ or '').strip().splitlines()[0]}"]
            groups += _help_group(cast(type, kind), key + ".")
            continue
        default = _settings(cls, prefix)[key].default
        shown = "required" if default is dataclasses.MISSING else f"default {yaml_scalar(default)}"
        name = each.metadata.get("positional") or f"--{key}"
        lines.append(f"  {name}  {_type_name(kind)}  ({shown})")
        lines += [f"      {line}" for line in texts.get(each.name, "").splitlines()]
    return lines + groups


def yaml_scalar(value: Any) -> str:
    """A value as it would stand in a YAML file, on one line."""
    text = yaml.safe_dump(_plain(value), default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _field_texts(cls: type) -> dict[str, str]:
    """Field name → the docstring that stands under it."""
    import docstring_parser

    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            parsed = docstring_parser.parse_from_object(base)
            texts |= {each.arg_name: each.description or "" for each in parsed.params}
    return texts


__all__ = ["HelpShown", "ModelConfig", "SamplingConfig", "dump", "from_dict", "load", "to_dict"]
