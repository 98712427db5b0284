"""The file with the API keys: one JSON object per line, and of each key only its hash.

A key's secret has 256 random bits, so nobody can try them all and a plain SHA-256 hides it as well as a slow hash
would; slow hashes are for passwords, which people choose.
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from vicuna.errors import InputError
from vicuna.files import read_jsonl, replacing
from vicuna.serve.config import LONGEST_NAME
from vicuna.serve.faults import first_problem

Scope = Literal["chat", "embeddings", "metrics", "fleet", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""chat: answers and tokens; embeddings; metrics: GET /metrics; fleet: GET /fleet; admin: draining workers."""
PREFIX = "vk"
ID_BYTES = 4
SECRET_BYTES = 32
MODE = 0o600


class Key(BaseModel):
    """What is kept of an API key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[a-z0-9]{1,32}$")]
    name: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", repr=False)]
    scopes: tuple[Scope, ...]
    models: tuple[str, ...] = ()
    """Patterns such as `vicuna-*` of the models that it may use; empty: all."""
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    priority: int = 0
    """The most urgent priority that its requests may have; the lower, the sooner."""
    created: AwareDatetime
    expires: AwareDatetime | None = None
    disabled: bool = False

    def fits(self, text: str) -> bool:
        """Whether this is the key; takes the same time wherever it differs."""
        return secrets.compare_digest(self.sha256, fingerprint(text))


def fingerprint(text: str) -> str:
    """The hash of a whole key."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def id_of(text: str) -> str:
    """The id in a key `vk-ID-SECRET`; "" where it is none."""
    parts = text.split("-", 2)
    return parts[1] if len(parts) == 3 and parts[0] == PREFIX else ""


def make(taken: set[str]) -> tuple[str, str]:
    """A new key's id and the key itself, which exists nowhere else."""
    key_id = secrets.token_hex(ID_BYTES)
    while key_id in taken:
        key_id = secrets.token_hex(ID_BYTES)
    return key_id, f"{PREFIX}-{key_id}-{secrets.token_hex(SECRET_BYTES)}"


def now() -> datetime:
    """The time to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def read(path: Path) -> dict[str, Key]:
    """The keys by id, in the file's order.

    Raises:
        InputError: it cannot be read, or a line is no key; file and line are named.
    """
    keys: dict[str, Key] = {}
    for number, row in read_jsonl(path):
        try:
            key = Key.model_validate(row)
        except ValidationError as error:
            problem = first_problem(error.errors(include_url=False, include_input=False))
            raise InputError(f"{path}:{number}: {problem}") from None  # the cause would show the row
        if key.id in keys:
            raise InputError(f"{path}:{number}: there is a key {key.id} above already")
        keys[key.id] = key
    return keys


@contextlib.contextmanager
def changing(path: Path) -> Iterator[dict[str, Key]]:
    """The keys, to be changed in place; the file is replaced by them when the block ends without an error.

    One process at a time: others wait. A missing file is an empty one.

    Raises:
        InputError: the file or its folder cannot be read or written.
    """
    with _locked(path.parent):
        keys = read(path) if path.exists() else {}
        yield keys
        with replacing(path) as file:
            os.fchmod(file.fileno(), MODE)
            file.writelines(key.model_dump_json(exclude_defaults=True) + "\n" for key in keys.values())


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # The folder is locked and not the file, which is another one after each change.
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"cannot use the folder {folder}: {error.strerror or error}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
