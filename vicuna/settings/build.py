"""Config objects from what was given: every value is checked against its kind, every invariant against its class."""

import dataclasses
import functools
import re
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from vicuna.errors import ConfigError
from vicuna.settings.given import Given, Place, flatten, not_a_group, shown
from vicuna.settings.tree import (
    admits_null,
    groups_of,
    is_number,
    item_kind,
    kind_name,
    members,
    printable,
    settings_of,
    without_null,
)
from vicuna.settings.yamltree import scalar

T = TypeVar("T")
_WHOLE = Place("", "")


def build(cls: type[T], given: Mapping[str, Given], root: Place = _WHOLE, prefix: str = "") -> T:
    """Make a `cls` from its defaults and what was given.

    Args:
        cls: the class of the whole tree, of a group in it, or of a list's item.
        given: dotted key, from `root` → what was given.
        root: where a list's item stands; the whole tree stands nowhere.
        prefix: the group that `cls` is, with a dot at its end.

    Raises:
        ConfigError: a wrong type, a setting that is missing, a broken invariant.
    """
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for each in dataclasses.fields(typing.cast(Any, cls)):
        key, kind = prefix + each.name, hints[each.name]
        if dataclasses.is_dataclass(kind):
            values[each.name] = build(typing.cast(type, kind), given, root, key + ".")
        elif key in given:
            values[each.name] = _convert(kind, given[key].value, given[key].place)
        elif each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
            raise _missing(key, kind, each.metadata.get("positional", ""), root)
    try:
        return cls(**values)
    except ValueError as error:
        raise _broken(printable(str(error)), cls, given, root, prefix) from error


def _missing(key: str, kind: Any, positional: str, root: Place) -> ConfigError:
    if root.key:
        return ConfigError(f"{root}: {root.child(key).key} is missing ({kind_name(kind)})")
    return ConfigError(f"{key} is missing; give it as {positional or f'--{key} {kind_name(kind).upper()}'}")


def _broken(message: str, cls: type, given: Mapping[str, Given], root: Place, prefix: str) -> ConfigError:
    """An invariant's message begins with a setting or group of `cls`; name it in full, and who set it."""
    settings = settings_of(cls)
    known = {*settings, *groups_of(settings)}
    name = re.split(r"[^\w.]", message, maxsplit=1)[0].rstrip(".")
    while name and name not in known:
        name = name.rpartition(".")[0]
    place = root.child(prefix + name)
    if not name:
        where = root.child(prefix.removesuffix(".")).key
        return ConfigError(f"{where}: {message}" if where else message)
    inside = prefix + name + "."
    sources = [str(each.place) for key, each in given.items() if f"{key}.".startswith(inside)]
    who = f"set by {', '.join(dict.fromkeys(sources))}" if sources else "the default"
    return ConfigError(f"{place.key}{message[len(name) :]} ({who})")


def _convert(kind: Any, value: Any, place: Place) -> Any:
    """A value as its kind wants it, checked all the way down."""
    if value is None and admits_null(kind):
        return None
    inner = without_null(kind)
    item = item_kind(inner)
    if dataclasses.is_dataclass(inner):
        return _group(typing.cast(type, inner), value, place)
    if item is not None and isinstance(value, list | tuple):
        return tuple(_convert(item, each, place.item(number)) for number, each in enumerate(value))
    if typing.get_origin(inner) is dict and isinstance(value, Mapping):
        return _map(inner, value, place)
    return _single(kind, value, place)


def _group(cls: type, value: Any, place: Place) -> Any:
    if not isinstance(value, Mapping):
        raise not_a_group("", value, settings_of(cls), place)
    return build(cls, {each.key: each for each in flatten(value, settings_of(cls), place)}, place)


def _map(kind: Any, tree: Mapping[Any, Any], place: Place) -> dict[Any, Any]:
    names, values = typing.get_args(kind)
    found = {}
    for name, value in tree.items():
        inside = place.child(printable(str(name)))
        found[_convert(names, name, inside)] = _convert(values, value, inside)
    return found


def _single(kind: Any, value: Any, place: Place) -> Any:
    """A value that is no list, map or group of settings."""
    from jsonargparse import ArgumentError

    try:
        if isinstance(value, str) and is_number(kind):
            value = scalar(value)  # a number in quotes
        if _is_itself(kind, value):
            return value
        if value is not None and not (isinstance(value, str) and is_number(kind)):
            parser = _parser(kind)
            return parser.instantiate(parser.parse_object({"value": value})).value
    except (ArgumentError, ValueError, OverflowError) as error:
        raise _wrong(kind, value, place) from error
    raise _wrong(kind, value, place)


def _is_itself(kind: Any, value: Any) -> bool:
    """Text where text may stand, or one of the words to choose from: jsonargparse would look for numbers in it."""
    if kind is Any or (isinstance(value, str) and str in members(kind)):
        return True
    choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    return any(type(value) is type(each) and value == each for each in choices)


def _wrong(kind: Any, value: Any, place: Place) -> ConfigError:
    return ConfigError(f"{place.key} is {kind_name(kind)}; got {shown(value)} (set by {place})")


@functools.cache
def _parser(kind: Any) -> Any:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    return parser
