"""The words of a command line: flags with their values, config files, and bare words."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vicuna.errors import ConfigError
from vicuna.settings.given import Given, Place, read_file, unknown
from vicuna.settings.tree import Setting, groups_of, is_text, item_kind, kind_name, printable, without_null
from vicuna.settings.yamltree import NotYaml, TreeError, read

SWITCH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
"""What a switch may be set to, in any case."""
_NUMBER = re.compile(r"-(?:[0-9]|\.[0-9]|\.inf)", re.IGNORECASE)


@dataclass
class Words:
    """A command line, sorted."""

    files: list[str] = field(default_factory=list)
    flags: list[Given] = field(default_factory=list)
    bare: list[str] = field(default_factory=list)
    print_config: bool = False

    def given(self, settings: Mapping[str, Setting]) -> dict[str, Given]:
        """Dotted key → what was given last: files first, so that flags win, then flags and bare words."""
        entries = [entry for path in self.files for entry in read_file(path, settings)]
        return {entry.key: entry for entry in [*entries, *self.flags, *self._positional(settings)]}

    def _positional(self, settings: Mapping[str, Setting]) -> list[Given]:
        if not self.bare:
            return []
        taker = next((each for each in settings.values() if each.positional), None)
        if taker is None:
            raise ConfigError(f"unexpected {self.bare[0]!r}; settings are given as --NAME VALUE (see --help)")
        item = item_kind(taker.kind)
        if len(self.bare) > 1 and not item:
            raise ConfigError(f"unexpected {self.bare[1]!r} after {taker.positional}")
        if any(flag.key == taker.key for flag in self.flags):
            raise ConfigError(f"{taker.key} is given twice: as --{taker.key} and as {taker.positional}")
        place = Place(taker.key, taker.positional)
        values = [_value(item or taker.kind, word, place) for word in self.bare]
        return [Given(taker.key, values if item else values[0], place)]


def asks_help(words: Sequence[str]) -> bool:
    """Whether help is wanted, whatever else is on the line."""
    flags = words[: words.index("--")] if "--" in words else words
    return "--help" in flags or "-h" in flags


def sort_words(words: Sequence[str], settings: Mapping[str, Setting]) -> Words:
    """Tell flags, files and bare words apart. Words after a lone `--` are bare."""
    found, rest = Words(), list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            found.bare += rest
            break
        if not _is_flag(word):
            found.bare.append(word)
        elif _is_short(word):
            raise _one_dash(word, settings)
        else:
            _take_flag(word, rest, settings, found)
    return found


def _is_flag(word: str) -> bool:
    return word.startswith("-") and len(word) > 1 and not _NUMBER.match(word)


def _is_short(word: str) -> bool:
    return _is_flag(word) and not word.startswith("--")


def _one_dash(word: str, settings: Mapping[str, Setting]) -> ConfigError:
    name = word[1:].partition("=")[0]
    known = name.replace("-", "_") in settings or name == "config"
    hint = f"; did you mean --{name}?" if known else ""
    if any(each.positional for each in settings.values()):
        hint += f"{';' if hint else ', and'} words that are no flags stand after a lone --"
    return ConfigError(f"unexpected {word!r}: settings begin with two dashes{hint}")


def _take_flag(word: str, rest: list[str], settings: Mapping[str, Setting], found: Words) -> None:
    name, equals, value = word[2:].partition("=")
    if name in ("print_config", "print-config"):
        if equals:
            raise ConfigError(f"--{name} takes no value; got {value!r}")
        found.print_config = True
    elif name == "config":
        found.files += _values(word, rest, "a file")
    else:
        found.flags.append(_read_flag(word, rest, settings))


def _read_flag(word: str, rest: list[str], settings: Mapping[str, Setting]) -> Given:
    name, equals, _ = word[2:].partition("=")
    flag, key = f"--{name}", name.replace("-", "_")
    if key not in settings and key.startswith("no_") and key[3:] in settings:
        return _read_off(word, key[3:], rest, settings)
    if key in groups_of(settings):
        inside = ", ".join(f"--{each}" for each in settings if each.startswith(key + "."))
        raise ConfigError(f"{flag} is a group of settings: {inside}")
    if key not in settings:
        raise unknown(key, settings, Place("", flag))
    kind, place = settings[key].kind, Place(key, flag)
    if kind is bool and not equals and not (rest and rest[0].lower() in SWITCH):
        return Given(key, True, place)
    item = item_kind(kind)
    values = _values(word, rest, kind_name(kind), many=item is not None, empty=is_text(kind))
    return Given(key, _items(item, values, place) if item else _value(kind, values[0], place), place)


def _read_off(word: str, key: str, rest: list[str], settings: Mapping[str, Setting]) -> Given:
    """`--no-NAME`."""
    flag, equals, _ = word.partition("=")
    if settings[key].kind is not bool:
        raise ConfigError(f"{flag} switches something off, but {key} is {kind_name(settings[key].kind)}")
    if equals or (rest and rest[0].lower() in SWITCH):
        raise ConfigError(f"{flag} takes no value; to set it either way write --{key}=false or --{key}=true")
    return Given(key, False, Place(key, flag))


def _values(word: str, rest: list[str], wanted: str, *, many: bool = False, empty: bool = False) -> list[str]:
    """What follows a flag: one value (which may be `empty`), or for a list everything up to the next flag."""
    flag, equals, value = word.partition("=")
    values = [value] if equals else []
    while not equals and rest and not _is_flag(rest[0]) and (many or not values):
        values.append(rest.pop(0))
    if values and (empty or values != [""]):
        return values
    hint = f"; {rest[0]!r} as a value is written {flag}={rest[0]}" if rest and _is_short(rest[0]) else ""
    raise ConfigError(f"{flag} needs a value ({wanted}){hint}")


def _items(kind: Any, values: list[str], place: Place) -> Any:
    """A list's values: words, or one word that is a YAML list of the item's kind."""
    if len(values) == 1 and values[0].lstrip().startswith("["):
        tree = _tree(values[0], place)
        if isinstance(tree, list) and (not is_text(kind) or all(isinstance(each, str) for each in tree)):
            return tree
    return [_value(kind, value, place) for value in values]


def _value(kind: Any, word: str, place: Place) -> Any:
    """A word as YAML would have given it: text stays text where text is wanted."""
    if is_text(kind):
        return None if word == "null" and without_null(kind) is not kind else word
    if without_null(kind) is bool and word.lower() in SWITCH:
        return SWITCH[word.lower()]
    return _tree(word, place)


def _tree(word: str, place: Place) -> Any:
    try:
        return read(word, place.key).value
    except NotYaml:
        return word  # so it is text: the check that follows says what was wanted
    except TreeError as error:
        raise ConfigError(f"{place}: {printable(str(error))}") from error
