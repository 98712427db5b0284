"""The tree of settings that a config class asks for: dotted keys with their kinds, the kinds' names, and the help."""

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from vicuna.settings.yamltree import dump_line


@dataclass(frozen=True)
class Setting:
    """One leaf of the tree."""

    key: str
    """Dotted, such as `optim.lr`."""
    kind: Any
    """The field's type."""
    default: Any
    """dataclasses.MISSING where it must be given."""
    positional: str
    """Name of the command line's bare words if they fill this setting, else empty."""


@functools.cache
def _settings(cls: Any, prefix: str) -> dict[str, Setting]:
    hints = typing.get_type_hints(cls)
    found: dict[str, Setting] = {}
    for each in dataclasses.fields(cls):
        key, kind = prefix + each.name, hints[each.name]
        if dataclasses.is_dataclass(kind):
            found |= _settings(cast(Hashable, kind), key + ".")
        else:
            default = each.default_factory() if each.default_factory is not dataclasses.MISSING else each.default
            found[key] = Setting(key, kind, default, each.metadata.get("positional", ""))
    return found


def settings_of(cls: type) -> Mapping[str, Setting]:
    """Dotted key → setting, in the order of the fields."""
    return _settings(cast(Hashable, cls), "")


def groups_of(settings: Mapping[str, Setting]) -> set[str]:
    """Dotted names of the groups that the settings stand in."""
    return {key[: dot.start()] for key in settings for dot in re.finditer(r"\.", key)}


# ---------------------------------------- kinds
def members(kind: Any) -> tuple[Any, ...]:
    """The kinds that a union offers; a kind of its own is the only one."""
    return typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)


def admits_null(kind: Any) -> bool:
    return kind is Any or type(None) in members(kind)


def without_null(kind: Any) -> Any:
    """`X` for `X | None`; any other kind as it is."""
    rest = [each for each in members(kind) if each is not type(None)]
    return rest[0] if len(rest) == 1 else kind


def item_kind(kind: Any) -> Any:
    """`X` for a list of `X` (written `tuple[X, ...]`), else None."""
    args = typing.get_args(kind)
    return args[0] if typing.get_origin(kind) is tuple and args[1:] == (...,) else None


def is_text(kind: Any) -> bool:
    """Whether words of the command line are its values as they stand."""
    kind = without_null(kind)
    if typing.get_origin(kind) is Literal:
        return all(isinstance(each, str) for each in typing.get_args(kind))
    return kind in (str, Path)


def is_number(kind: Any) -> bool:
    """Whether it admits only numbers and switches (and null), so that text has to be read as one."""
    return all(each in (int, float, bool, type(None)) for each in members(kind))


def kind_name(kind: Any) -> str:
    """A kind in the words of help and errors."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return " or ".join(str(each) or "''" for each in args)
    if origin is tuple:
        return f"list of {kind_name(args[0])}"
    if origin is dict:
        return f"map of {kind_name(args[0])} to {kind_name(args[1])}"
    if len(members(kind)) > 1:
        return " or ".join("null" if each is type(None) else kind_name(each) for each in members(kind))
    return {"str": "text", "Path": "path"}.get(kind.__name__, kind.__name__) if isinstance(kind, type) else str(kind)


def printable(text: str) -> str:
    """Text that stays on one line: line breaks and control characters are escaped."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


# ---------------------------------------- help
def help_text(cls: type, prog: str) -> str:
    """The whole help of a command: usage, what it does, every setting with kind, default and meaning."""
    settings = settings_of(cls)
    bare = [each for each in settings.values() if each.positional]
    words = [f"{each.positional} ..." if item_kind(each.kind) else each.positional for each in bare]
    lines = [f"usage: {' '.join([prog or 'command', *words, '[--config FILE ...] [--NAME VALUE ...]'])}", ""]
    lines += [(cls.__doc__ or "").strip(), ""]
    lines += ["  --config  file, may repeat; a later file wins, and flags win over files",
              "  --print_config  print the resolved settings as YAML and end"]  # fmt: skip
    if bare:
        lines.append(f"  --  the words after it are {bare[0].positional}, whatever they begin with")
    if any(item_kind(each.kind) and not each.positional for each in settings.values()):
        where = f"; {bare[0].positional} stands before it or after --" if bare else ""
        lines.append(f"A list takes every word up to the next flag{where}.")
    return "\n".join(lines + _help_group(cls, "", settings))


def _help_group(cls: type, prefix: str, settings: Mapping[str, Setting]) -> list[str]:
    hints, texts, lines = typing.get_type_hints(cls), _field_texts(cls), []
    groups: list[str] = []
    for each in dataclasses.fields(cls):
        key, kind = prefix + each.name, hints[each.name]
        if dataclasses.is_dataclass(kind):
            groups += ["", f"{key}: {(kind.__doc__ or '').strip().splitlines()[0]}"]
            groups += _help_group(cast(type, kind), key + ".", settings)
            continue
        default = settings[key].default
        shown = "required" if default is dataclasses.MISSING else f"default {dump_line(default)}"
        name = each.metadata.get("positional") or f"--{key}"
        lines.append(f"  {name}  {kind_name(kind)}  ({shown})")
        lines += [f"      {line}" for line in texts.get(each.name, "").splitlines()]
    return lines + groups


def _field_texts(cls: type) -> dict[str, str]:
    """Field name → the docstring that stands under it."""
    import docstring_parser

    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            parsed = docstring_parser.parse_from_object(base)
            texts |= {each.arg_name: each.description or "" for each in parsed.params}
    return texts
