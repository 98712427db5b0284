"""Who may use the API: keys, what each key opens, and how much it may ask for.

Whoever asks for /health is answered; /v1/models takes any valid key; everything else needs a key with its scope. Limits
are counted by each controller for itself.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from vicuna.errors import ConfigError, InputError
from vicuna.serve.access import keyfile
from vicuna.serve.access.keyfile import Key, Scope
from vicuna.serve.access.rates import Admission, Meter
from vicuna.serve.config import AccessConfig, is_loopback
from vicuna.serve.faults import Fault

log = logging.getLogger(__name__)
LOOK = 1.0
"""Seconds between two looks at whether the key file has changed."""
_Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Caller:
    """Who sent a request."""

    name: str
    """The key's id; without keys the client's address."""
    key: Key | None = None

    def may_use(self, model: str) -> bool:
        """Whether its key is for this model; a pattern for a name also admits its versions (`name@label`)."""
        if self.key is None or not self.key.models:
            return True
        names = (model, model.partition("@")[0])
        return any(fnmatchcase(name, pattern) for name in names for pattern in self.key.models)

    def priority(self, asked: int) -> int:
        """The priority that was asked for, but none more urgent than the caller may have."""
        return max(asked, 0 if self.key is None else self.key.priority)


class Access:
    """The door of one controller."""

    def __init__(
        self, config: AccessConfig, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        """
        Args:
            config: where the keys are.
            clock: seconds, for limits.
            wall: seconds since 1970, for the keys' ends.

        Raises:
            ConfigError: the key file is missing or broken.
        """
        self._path = Path(config.keys) if config.keys else None
        self._pages = config.cors
        self._clock = clock
        self._wall = wall
        self._keys: Mapping[str, Key] = {}
        self._meters: dict[tuple[str, int | None, int | None], Meter] = {}
        self._stamp: _Stamp | None = None
        if self._path is not None:
            self._stamp = _stamp(self._path)  # before the file is read: what is written meanwhile is seen later
            self._keys = _read_first(self._path)

    @classmethod
    def from_config(cls, config: AccessConfig, host: str) -> "Access":
        """The door of a controller that listens on `host`.

        Raises:
            ConfigError: everybody on the network would be let in, and nobody said so; or the key file is broken.
        """
        if not config.keys and not config.open and not is_loopback(host):
            raise ConfigError(
                f"host {host} lets other machines in, and there are no API keys; make some with `python -m vicuna."
                "serve key add NAME` and start with --access.keys keys.jsonl, or answer everybody with --access.open"
            )
        return cls(config)

    # --------------------------------------------------------------------------------------- who asks
    def caller(self, headers: Mapping[str, str], client: str, scope: Scope | None) -> Caller:
        """Find out who sent a request.

        Args:
            headers: the request's, by names in lower case.
            client: the client's address.
            scope: what the request opens; None is open to every key.

        Raises:
            Fault: 401 no key, or not a valid one; 403 the key does not open this, or it is a web page that asks.
        """
        if self._path is None:
            self._check_page(headers.get("origin"))
            if scope == "admin" and not is_loopback(client):
                raise _forbidden("without API keys, this is for people on the controller's own machine")
            return Caller(client)
        key = self._key(_bearer(headers.get("authorization", "")))
        if scope is not None and scope not in key.scopes:
            raise _forbidden(f"this API key lacks the scope {scope!r}; it has: {', '.join(key.scopes) or 'none'}")
        return Caller(key.id, key)

    def _check_page(self, origin: str | None) -> None:
        """Without keys whoever reaches us is let in, and a page of any web site reaches us from its reader's browser.

        Browsers name the page in requests that change something; whether it may read the reply is not asked before.
        """
        if origin is not None and origin not in self._pages and "*" not in self._pages:
            message = f"without API keys, web pages of {origin[:100]} may not ask; access.cors names those that may"
            raise Fault(message, status=403, code="origin_not_allowed")

    def _key(self, text: str) -> Key:
        key = self._keys.get(keyfile.id_of(text))
        if key is None or not key.fits(text):
            raise _unauthorized("this API key is not known here")
        if key.disabled:
            raise _unauthorized(f"the API key {key.id} is disabled")
        if key.expires is not None and key.expires.timestamp() <= self._wall():
            raise _unauthorized(f"the API key {key.id} expired at {key.expires.isoformat()}")
        return key

    def admit(self, caller: Caller, tokens: int) -> Admission:
        """Let a request in that may use so many tokens, prompt included; it has to be settled when it ends.

        Raises:
            Fault: 429 its key has used its limits; 400 it is larger than a whole minute's tokens.
        """
        key = caller.key
        if key is None:
            return Admission({}, tokens)
        limits = (key.id, key.requests_per_minute, key.tokens_per_minute)
        meter = self._meters.get(limits)
        if meter is None:
            meter = self._meters[limits] = Meter(key.requests_per_minute, key.tokens_per_minute, self._clock)
        return meter.admit(tokens)

    # --------------------------------------------------------------------------------------- the file
    async def watch(self) -> None:
        """Follow the key file as long as the process lives."""
        while self._path is not None:
            await asyncio.sleep(LOOK)
            await asyncio.to_thread(self.reload)

    def reload(self) -> None:
        """Read the keys again if the file has changed; one that cannot be read leaves the keys of before."""
        if self._path is None or (stamp := _stamp(self._path)) == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = keyfile.read(self._path)
        except InputError as error:
            log.error("the API keys stay those of before, because their file is broken: %s", error)
        else:
            log.info("read %d API keys from %s", len(self._keys), self._path)


def model_forbidden(model: str) -> Fault:
    """The caller's key is not for this model."""
    message = f"this API key is not for the model {model!r}; GET /v1/models lists those that it is for"
    return Fault(message, status=403, code="model_not_allowed", param="model")


def _read_first(path: Path) -> Mapping[str, Key]:
    try:
        return keyfile.read(path)
    except InputError as error:
        make = f"python -m vicuna.serve key add NAME --file {path}"
        raise ConfigError(f"access.keys: {error}; keys are made by: {make}") from error


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _bearer(header: str) -> str:
    scheme, _, text = header.partition(" ")
    if scheme.lower() != "bearer" or not text.strip():
        raise _unauthorized("this service needs an API key; send it as the header `Authorization: Bearer KEY`")
    return text.strip()


def _unauthorized(message: str) -> Fault:
    return Fault(message, status=401, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def _forbidden(message: str) -> Fault:
    return Fault(message, status=403, code="insufficient_scope")
