"""`python -m vicuna.serve key`: make, list, disable and remove API keys."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from vicuna.command import Command, dispatch, run
from vicuna.errors import InputError
from vicuna.serve.access import keyfile
from vicuna.serve.access.keyfile import Key, Scope
from vicuna.serve.config import LONGEST_NAME

PROG = "python -m vicuna.serve key"
COMMANDS = {
    "add": Command("vicuna.serve.access.keys:add", "Make a key; it is shown this once."),
    "list": Command("vicuna.serve.access.keys:show", "List the keys without their secrets."),
    "disable": Command("vicuna.serve.access.keys:disable", "Stop a key for now."),
    "enable": Command("vicuna.serve.access.keys:enable", "Let a disabled key in again."),
    "remove": Command("vicuna.serve.access.keys:remove", "Stop a key for ever."),
}


@dataclass(frozen=True, kw_only=True)
class FileConfig:
    """List the API keys without their secrets."""

    file: str = "keys.jsonl"
    """The key file, the same as the controllers' `access.keys`; they notice within two seconds that it changed."""

    def __post_init__(self) -> None:
        if not Path(self.file).name:
            raise ValueError(f"file is the name of a file; got {self.file!r}")


@dataclass(frozen=True, kw_only=True)
class KeyConfig(FileConfig):
    """Change one API key. Answers that run already go on."""

    id: str = field(metadata={"positional": "ID"})
    """The key's id, as `list` shows it and as it stands in the key: vk-ID-..."""


@dataclass(frozen=True, kw_only=True)
class AddConfig(FileConfig):
    """Make an API key. It is printed this once; the file keeps only its hash."""

    name: str = field(metadata={"positional": "NAME"})
    """Whose key it is, for people to read."""
    scopes: tuple[Scope, ...] = ("chat", "embeddings")
    """What it opens. chat: answers and tokens; embeddings; metrics: GET /metrics; fleet: GET /fleet; admin: draining
    workers."""
    models: tuple[str, ...] = ()
    """Models that it may use, as names or patterns such as 'vicuna-*'; none is all."""
    requests_per_minute: int | None = None
    """Most requests a minute at each controller, a minute's worth of them at once."""
    tokens_per_minute: int | None = None
    """Most tokens a minute at each controller, of prompts and answers together."""
    priority: int = 0
    """The most urgent priority that its requests may ask for; the lower, the sooner."""
    expires: str = ""
    """When it ends: a day (2027-01-31, at its beginning in UTC) or a time (2027-01-31T18:00+01:00); empty is never."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.name) <= LONGEST_NAME or not self.name.isprintable():
            raise ValueError(f"name is 1 to {LONGEST_NAME} printable characters; got {self.name!r}")
        if not self.scopes:
            raise ValueError(f"scopes are what the key opens, of {', '.join(keyfile.SCOPES)}; got none")
        for limit in ("requests_per_minute", "tokens_per_minute"):
            value = getattr(self, limit)
            if value is not None and value < 1:
                raise ValueError(f"{limit} is at least 1, or null for no limit; got {value}")
        if self.expires and self.end() is None:
            raise ValueError(f"expires is a day or time such as 2027-01-31; got {self.expires!r}")

    def end(self) -> datetime | None:
        """When the key ends; None is never (or not a time)."""
        try:
            found = datetime.fromisoformat(self.expires)
        except ValueError:
            return None
        return found if found.tzinfo else found.replace(tzinfo=UTC)


def command(argv: list[str]) -> int:
    """The command line."""
    return dispatch(PROG, "Make and manage the API keys of controllers.", COMMANDS, argv)


def add(argv: list[str]) -> int:
    """Make a key."""
    return run(AddConfig, _add, argv, f"{PROG} add")


def show(argv: list[str]) -> int:
    """List the keys."""
    return run(FileConfig, _show, argv, f"{PROG} list")


def disable(argv: list[str]) -> int:
    """Stop a key for now."""
    return run(KeyConfig, lambda config: _switch(config, disabled=True), argv, f"{PROG} disable")


def enable(argv: list[str]) -> int:
    """Let a disabled key in again."""
    return run(KeyConfig, lambda config: _switch(config, disabled=False), argv, f"{PROG} enable")


def remove(argv: list[str]) -> int:
    """Stop a key for ever."""
    return run(KeyConfig, _remove, argv, f"{PROG} remove")


def _add(config: AddConfig) -> None:
    with keyfile.changing(Path(config.file)) as keys:
        key_id, text = keyfile.make(set(keys))
        keys[key_id] = Key(
            id=key_id,
            name=config.name,
            sha256=keyfile.fingerprint(text),
            scopes=config.scopes,
            models=config.models,
            requests_per_minute=config.requests_per_minute,
            tokens_per_minute=config.tokens_per_minute,
            priority=config.priority,
            created=keyfile.now(),
            expires=config.end(),
        )
    print(text)  # alone on standard output, so that a script can keep it
    print(f"The key of {config.name!r} is shown this once; {config.file} has only its hash.", file=sys.stderr)


def _show(config: FileConfig) -> None:
    keys = keyfile.read(Path(config.file))
    head = ("id", "name", "scopes", "models", "requests/min", "tokens/min", "priority", "created", "expires", "state")
    _print_table([head, *(_row(key) for key in keys.values())])


def _row(key: Key) -> tuple[str, ...]:
    return (
        key.id,
        key.name,
        ",".join(key.scopes),
        ",".join(key.models) or "all",
        str(key.requests_per_minute or "no limit"),
        str(key.tokens_per_minute or "no limit"),
        str(key.priority),
        f"{key.created:%Y-%m-%d}",
        "never" if key.expires is None else key.expires.isoformat(timespec="minutes"),
        "disabled" if key.disabled else "expired" if key.expires and key.expires <= keyfile.now() else "valid",
    )


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _switch(config: KeyConfig, disabled: bool) -> None:
    with keyfile.changing(Path(config.file)) as keys:
        key = _found(config, keys)
        keys[key.id] = key.model_copy(update={"disabled": disabled})


def _remove(config: KeyConfig) -> None:
    with keyfile.changing(Path(config.file)) as keys:
        del keys[_found(config, keys).id]


def _found(config: KeyConfig, keys: dict[str, Key]) -> Key:
    if config.id not in keys:
        raise InputError(f"{config.file} has no key with the id {config.id}; `{PROG} list` shows them")
    return keys[config.id]
