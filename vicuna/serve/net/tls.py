"""Encrypted connections: certificates and authorities from files, with their mistakes in words."""

import ssl
from pathlib import Path

from vicuna.errors import ConfigError
from vicuna.serve.config import TlsConfig


def serving(tls: TlsConfig) -> ssl.SSLContext | None:
    """For a server; None where it serves plain HTTP.

    Raises:
        ConfigError: the certificate or its key cannot be used.
    """
    if not tls.cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    for name, path in (("tls.cert", tls.cert), ("tls.key", tls.key)):
        _check_readable(name, path)
    try:
        context.load_cert_chain(tls.cert, tls.key, password=lambda: _no_password(tls.key))
    except ssl.SSLError as error:
        what = (
            "do not belong together" if error.reason == "KEY_VALUES_MISMATCH" else "are not a certificate and its key"
        )
        raise ConfigError(f"tls.cert {tls.cert} and tls.key {tls.key} {what} in PEM form ({_reason(error)})") from error
    return context


def trust(tls: TlsConfig) -> ssl.SSLContext | bool:
    """For a client, as `aiohttp.TCPConnector(ssl=...)` takes it: whose certificates to believe.

    Raises:
        ConfigError: the file with the authorities cannot be used.
    """
    if not tls.ca:
        return True
    _check_readable("tls.ca", tls.ca)
    try:
        return ssl.create_default_context(cafile=tls.ca)
    except ssl.SSLError as error:
        raise ConfigError(f"tls.ca {tls.ca} has no certificates in PEM form ({_reason(error)})") from error


def _check_readable(name: str, path: str) -> None:
    try:
        Path(path).open("rb").close()
    except OSError as error:
        raise ConfigError(f"{name}: cannot read {path}: {error.strerror}") from error


def _no_password(path: str) -> str:
    raise ConfigError(f"tls.key: {path} needs a password, and nobody is there to type it; store it without one")


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
