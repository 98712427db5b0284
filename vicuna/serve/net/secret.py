"""The fleet's secret as people handle it: made once, kept in a file or in the environment."""

import logging
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from vicuna.command import run as run_command
from vicuna.errors import ConfigError
from vicuna.serve.config import is_loopback
from vicuna.serve.net.signing import VARIABLE, Signer
from vicuna.serve.watch import logs

log = logging.getLogger(__name__)
SHORTEST = 16
"""Bytes of a secret."""


@dataclass(frozen=True, kw_only=True)
class SecretConfig:
    """Make a fleet's secret: a new file that only its owner can read."""

    file: str = field(metadata={"positional": "FILE"})
    """The file to make."""


def load_secret(path: str, host: str, flag: str) -> Signer:
    """The signer of a process that listens on `host`.

    Args:
        path: file with the secret in its one line; "" takes the environment variable VICUNA_FLEET_SECRET.
        host: where other machines reach it, it needs a secret.
        flag: the flag that sets `path`, for errors.

    Raises:
        ConfigError: the file is missing or not fit, or there is no secret where one is needed.
    """
    secret = _from_file(Path(path), flag) if path else os.environ.get(VARIABLE, "").strip().encode()
    source = f"{flag}: {path}" if path else VARIABLE
    if 0 < len(secret) < SHORTEST:
        raise ConfigError(f"{source}: a secret is at least {SHORTEST} bytes long; this one has {len(secret)}")
    if not secret and not is_loopback(host):
        raise ConfigError(
            f"this process listens to other machines ({host}), so the fleet needs a secret; make one "
            f"(python -m vicuna.serve secret FILE), give it to every controller and worker, and name it with {flag} "
            f"or put its text into {VARIABLE}"
        )
    logs.hide(secret.decode(errors="replace"))
    return Signer(secret)


def _from_file(path: Path, flag: str) -> bytes:
    try:
        secret = path.read_bytes().strip()
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{flag}: cannot read {path}: {error.strerror}") from error
    if not secret or b"\n" in secret:
        raise ConfigError(f"{flag}: {path} should hold the secret in one line; it has {len(secret.splitlines())}")
    if mode & stat.S_IROTH:
        log.warning("%s can be read by everybody on this machine; chmod 600 it", path)
    return secret


def make_secret(path: Path) -> None:
    """Write a new secret to a new file.

    Raises:
        ConfigError: the file exists, or cannot be made.
    """
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32) + "\n")
    except FileExistsError as error:
        raise ConfigError(
            f"{path} exists already; a fleet in use would lose its members with another secret"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def main(config: SecretConfig) -> None:
    """Make the file, and say what to do with it."""
    make_secret(Path(config.file))
    print(f"wrote {config.file}; copy it to every machine of the fleet, by a way that nobody else reads")


def command(argv: list[str]) -> int:
    """`python -m vicuna.serve secret FILE`."""
    return run_command(SecretConfig, main, argv, "python -m vicuna.serve secret")
