"""YAML as settings need it: numbers are decimal, every value knows its line, no name twice, nothing endless.

PyYAML reads YAML 1.1, where `010` is 8, `1:30` is 90, `no` is false, `2024-01-01` a date and `2e-5` text. Here plain
words follow YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#103-core-schema) without octal and hexadecimal
numbers. YAML 1.1's merge key `<<` is an ordinary name; anchors and aliases work.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

_TAG = "tag:yaml.org,2002:"
_PLAIN = {
    "null": re.compile(r"~|null|Null|NULL|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?[0-9]+"),
    "float": re.compile(
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
    ),
}
"""Kind of scalar → what a plain word of that kind looks like, the more special kinds first."""
_DEPTH = 40
"""Deepest nesting that is read; settings need about six."""
_VALUES = 100_000
"""Most values that are read: aliases of aliases could stand for billions."""


class TreeError(ValueError):
    """The text is no tree of settings; `line` counts from 1."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


class NotYaml(TreeError):
    """The text is not YAML at all."""


@dataclass(frozen=True)
class Tree:
    """What a text says."""

    value: Any
    """dicts with text keys, lists, text, int, float, bool or None."""
    lines: Mapping[str, int]
    """Dotted key (`optim.lr`, `workers[0].port`) → its line, from 1."""


def read(text: str, key: str = "") -> Tree:
    """Read one YAML document.

    Args:
        text: the YAML.
        key: dotted key of the whole text, for `lines` and messages; empty for a file of settings.

    Raises:
        NotYaml: malformed text.
        TreeError: a name given twice, a value inside itself, nesting or numbers beyond any use, foreign tags.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.reader.ReaderError as error:
        raise NotYaml(1 + text.count("\n", 0, error.position), f"character #x{error.character:04x}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(each for each in (error.context, error.problem) if each)
        raise NotYaml(mark.line + 1 if mark else 1, said) from error
    except (ValueError, OverflowError) as error:  # PyYAML lets an escape like "\\UFFFFFFFF" through to chr()
        raise NotYaml(1, str(error)) from error
    except RecursionError as error:
        raise TreeError(1, f"nested more than {_DEPTH} levels deep") from error
    walk = _Walk()
    value = None if node is None else walk.value(node, key)
    return Tree(value, walk.lines)


def scalar(text: str) -> Any:
    """What a plain word means: None, a bool, an int, a float, or the text itself. ValueError: too large a number."""
    return _meaning(_kind(text), text)


def dump(value: Any) -> str:
    """A tree as YAML that readers of YAML 1.1 and 1.2 and `read` understand alike."""
    return yaml.dump(plain(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def dump_line(value: Any) -> str:
    """A value as it would stand in a YAML file, on one line."""
    text = yaml.dump(plain(value), Dumper=_Dumper, default_flow_style=True, width=math.inf, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def plain(value: Any) -> Any:
    """Tuples as lists, paths and keys as text, all the way down."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


class _Loader(yaml.SafeLoader):
    """PyYAML's reader with our plain words."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is yaml.ScalarNode and implicit[0]:
            return _TAG + _kind(value)
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]


class _Dumper(yaml.SafeDumper):
    """PyYAML's writer, with quotes where it forgets them.

    These are text that is a number only in YAML 1.2, such as `2e5`, and Unicode's own line breaks, which it would write
    as they are and read back as blanks or `\\n`.
    """

    def represent_scalar(self, tag: Any, value: Any, style: Any = None) -> Any:
        quoted = '"' if re.search("[\x85\u2028\u2029]", value) else style
        return super().represent_scalar(tag, value, quoted)

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]
        if kind is yaml.ScalarNode and implicit[0] and tag == _TAG + "str":
            return _TAG + _kind(value)
        return tag


class _Walk:
    """One walk over PyYAML's nodes; `lines` fills on the way."""

    def __init__(self) -> None:
        self.lines: dict[str, int] = {}
        self._open: list[yaml.Node] = []
        self._count = 0

    def value(self, node: yaml.Node, key: str) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(key, line)
        self._count += 1
        if node in self._open:
            raise TreeError(line, f"{key} contains itself")
        if len(self._open) >= _DEPTH:
            raise TreeError(line, f"nested more than {_DEPTH} levels deep")
        if self._count > _VALUES:
            raise TreeError(line, f"more than {_VALUES} values")
        self._open.append(node)
        try:
            return self._inside(node, key, line)
        finally:
            self._open.pop()

    def _inside(self, node: yaml.Node, key: str, line: int) -> Any:
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return dict(self._entry(name, value, key) for name, value in node.value)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.value(each, f"{key}[{i}]") for i, each in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and (kind == "str" or kind in _PLAIN):
            return _tagged(kind, node.value, line)
        raise TreeError(line, f"{key or 'the file'} has the tag {node.tag}, which settings do not know")

    def _entry(self, name: yaml.Node, value: yaml.Node, prefix: str) -> tuple[str, Any]:
        line = name.start_mark.line + 1
        if not isinstance(name, yaml.ScalarNode):
            raise TreeError(line, "expected settings as NAME: VALUE, but the name is a list or a map")
        key = f"{prefix}.{name.value}" if prefix else str(name.value)
        if key in self.lines:
            raise TreeError(line, f"{key} was given already in line {self.lines[key]}")
        self.lines[key] = line
        return name.value, self.value(value, key)


def _kind(text: str) -> str:
    return next((kind for kind, pattern in _PLAIN.items() if pattern.fullmatch(text)), "str")


def _tagged(kind: str, text: str, line: int) -> Any:
    if kind != "str" and not _PLAIN[kind].fullmatch(text):
        raise TreeError(line, f"{text[:40]!r} is not {kind}")
    try:
        return _meaning(kind, text)
    except ValueError as error:
        raise TreeError(line, str(error)) from error


def _meaning(kind: str, text: str) -> Any:
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return _int(text)
    return _float(text) if kind == "float" else text


def _int(text: str) -> int:
    try:
        return int(text)
    except ValueError:  # Python reads at most 4,300 digits unless it is told otherwise
        _too_large(text)


def _float(text: str) -> float:
    word = text.lower()
    if word.endswith((".inf", ".nan")):
        return float(word.replace(".", ""))
    number = float(text)
    if math.isinf(number):
        _too_large(text)
    return number


def _too_large(text: str) -> NoReturn:
    shown = text if len(text) <= 12 else f"{text[:8]}... ({len(text)} characters)"
    raise ValueError(f"{shown} is too large a number")
