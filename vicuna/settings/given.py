"""What people gave: settings with the place that each one was given in, from trees and from files."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vicuna.errors import ConfigError
from vicuna.settings.tree import Setting, groups_of, printable
from vicuna.settings.yamltree import NotYaml, TreeError, read


@dataclass(frozen=True)
class Place:
    """Where a value was given; as text `--optim.lr`, `configs/x.yaml:3` or whatever the source is called."""

    key: str
    """Dotted key of the value, with the numbers of list items: `workers[0].port`."""
    source: str
    """The flag, or the file."""
    lines: Mapping[str, int] = field(default_factory=dict)
    """For a file: dotted key → line."""

    def __str__(self) -> str:
        return f"{self.source}:{self.lines.get(self.key, 1)}" if self.lines else self.source

    def child(self, name: str) -> "Place":
        """The place of a named value inside this one."""
        return Place(f"{self.key}.{name}" if self.key else name, self.source, self.lines)

    def item(self, number: int) -> "Place":
        """The place of a list's item, counted from 0."""
        return Place(f"{self.key}[{number}]", self.source, self.lines)


@dataclass(frozen=True)
class Given:
    """A setting that was given."""

    key: str
    """Dotted, from the root of the config class."""
    value: Any
    """As it was written; not yet checked."""
    place: Place


def read_file(path: str, settings: Mapping[str, Setting]) -> Iterator[Given]:
    """The settings of a YAML file."""
    name = printable(path)
    text = _text(path, name)
    try:
        tree = read(text)
    except NotYaml as error:
        raise ConfigError(f"{name}:{error.line}: not YAML: {printable(str(error))}") from error
    except TreeError as error:
        raise ConfigError(f"{name}:{error.line}: {printable(str(error))}") from error
    if tree.value is None:
        return
    if not isinstance(tree.value, dict):
        raise ConfigError(f"{name}:1: expected settings as NAME: VALUE, got {type(tree.value).__name__}")
    yield from flatten(tree.value, settings, Place("", name, tree.lines))


def _text(path: str, name: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--config {name}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config {name}: not UTF-8 text") from error
    except ValueError as error:  # a path that no file can have, such as one with a zero byte
        raise ConfigError(f"--config {name}: {error}") from error


def flatten(tree: Mapping[Any, Any], settings: Mapping[str, Setting], root: Place, prefix: str = "") -> Iterator[Given]:
    """The settings of a nested mapping.

    Args:
        tree: names → values; groups are mappings inside it.
        settings: those that may occur.
        root: where the tree stands.
        prefix: the group that `tree` is, with a dot at its end.
    """
    groups = groups_of(settings)
    for name, value in tree.items():
        key = f"{prefix}{name}"
        place = root.child(key)
        if key in settings:
            yield Given(key, value, place)
        elif key not in groups:
            raise unknown(key, settings, root)
        elif isinstance(value, Mapping):
            yield from flatten(value, settings, root, key + ".")
        elif value is not None:
            raise not_a_group(key, value, settings, root)


def unknown(key: str, settings: Mapping[str, Setting], root: Place) -> ConfigError:
    """There is no such setting; the nearest one is proposed."""
    close = difflib.get_close_matches(key, settings, n=1, cutoff=0.6)
    if not close:  # the right name in the wrong group, or without its group
        close = [each for each in settings if each.rpartition(".")[2] == key.rpartition(".")[2]][:1]
    dashes = "--" if not root.key and root.source.startswith("--") else ""
    hint = f"; did you mean {dashes}{root.child(close[0]).key}?" if close else " (see --help)"
    place = root.child(key)
    return ConfigError(f"{printable(str(place))}: there is no setting {printable(place.key) or repr('')}{hint}")


def not_a_group(key: str, value: Any, settings: Mapping[str, Setting], root: Place) -> ConfigError:
    """A group (or a list's item, with an empty key) was given something else than settings."""
    inside = ", ".join(root.child(each).key for each in settings if not key or each.startswith(key + "."))
    place = root.child(key) if key else root
    return ConfigError(f"{place}: {place.key} is a group of settings ({inside}); got {shown(value)}")


def shown(value: Any) -> str:
    """A value in an error: on one line, short, as YAML calls it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    import reprlib

    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 80
    return printable(short.repr(value))
