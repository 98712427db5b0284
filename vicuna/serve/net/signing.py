"""The fleet's secret: how controllers and workers prove to each other that they have it.

What it protects from: somebody who can reach our ports, or who gets hold of an address that a worker had, but does not
sit between two of our machines. Such a person cannot register a worker, send one a job, repeat, alter or redirect a
call that he has seen, or answer in a worker's place:

- A call is signed: method, path, addressee, time, a number used once, and the hash of the body. (Controllers have no
  ids: what a worker tells one of them passes within `WINDOW` at another of the same fleet, too.)
- A worker that joins, or comes back, answers a challenge at the address that it gave, before it gets any work.
- A reply is sealed: its header shows that whoever got the call has the secret and is the addressee.

What it does not protect from: somebody between two machines reads everything that plain HTTP carries, prompts and
answers, and can alter the text of an answer behind its sealed header. On networks where that may happen, use TLS.
"""

import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable, Mapping

from vicuna.serve.faults import Fault, invalid
from vicuna.serve.protocol import ADDRESSEE

log = logging.getLogger(__name__)
SIGNATURE = "x-vicuna-signature"
"""Header of a call: time in milliseconds since 1970, a number used once, SHA-256 of the body, and the signature."""
SEAL = "x-vicuna-seal"
"""Header of the reply to a signed call."""
WINDOW = 30.0
"""Seconds by which the clocks of two machines may differ, a call's way included."""
LONGEST_NONCE = 64
_SPAN = 10.0
_MOST_NONCES = 500_000
"""About 50 MB; more than 8,000 calls per second for the whole window."""
VARIABLE = "VICUNA_FLEET_SECRET"
"""Environment variable with the secret."""
_GIVE = f"give both the same file or {VARIABLE}"


class _Nonces:
    """The numbers used by calls that are young enough to be repeated.

    They are kept by the time that their calls bear. Where there are too many, the oldest span of time is forgotten and
    calls that bear it are refused, so that memory ends and no call is taken twice.
    """

    def __init__(self) -> None:
        self._spans: dict[int, set[str]] = {}
        self._forgotten = -1
        self._count = 0

    def is_new(self, nonce: str, sent: float, now: float) -> bool:
        """Whether a call has not been here before; take note of it."""
        span = int(sent // _SPAN)
        if span not in self._spans:
            self._forget_before(now - WINDOW)
        if span <= self._forgotten or nonce in self._spans.get(span, ()):
            return False
        self._spans.setdefault(span, set()).add(nonce)
        self._count += 1
        if self._count > _MOST_NONCES:
            self._forget(min(self._spans))
        return True

    def _forget_before(self, when: float) -> None:
        for span in [each for each in self._spans if (each + 1) * _SPAN < when]:
            self._forget(span)

    def _forget(self, span: int) -> None:
        self._count -= len(self._spans.pop(span))
        self._forgotten = max(self._forgotten, span)


class Signer:
    """Signs calls and checks them.

    Without a secret it signs nothing and accepts every call that is not signed, but from web pages: any site could
    make its reader's browser send one.
    """

    def __init__(self, secret: bytes = b"", clock: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self._clock = clock
        self._nonces = _Nonces()

    # ------------------------------------------------------------------------------------------- calls
    def headers(self, method: str, path: str, body: bytes, to: str = "") -> dict[str, str]:
        """Headers that prove who calls.

        Args:
            method: GET, POST, ...
            path: as the called process sees it, without a query.
            body: all of it.
            to: id of the worker that the call is for, as in the header `x-vicuna-worker`; "" for a controller.
        """
        if not self._secret:
            return {}
        stamp, nonce = str(int(1000 * self._clock())), secrets.token_hex(8)
        digest = hashlib.sha256(body).hexdigest()
        return {SIGNATURE: f"{stamp}:{nonce}:{digest}:{self._mac('call', method, path, to, stamp, nonce, digest)}"}

    def check(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Make sure that a call comes from a member of the fleet, now, for the first time, and unaltered.

        Raises:
            Fault: it does not (status 401).
        """
        self.check_body(self.check_head(method, path, headers), hashlib.sha256(body).hexdigest())

    def check_head(self, method: str, path: str, headers: Mapping[str, str]) -> str:
        """The part of `check` for which the body need not have been read.

        Returns:
            The SHA-256 that the body must have, for `check_body`; "" where nothing is signed.

        Raises:
            Fault: as `check`.
        """
        given = headers.get(SIGNATURE)
        if not self._secret:
            if headers.get("origin") is not None:
                raise _refused("a web page is no member of a fleet", "unsigned_call")
            if given is None:
                return ""
            raise _refused(f"the call is signed, but this process has no fleet secret; {_GIVE}", "no_secret")
        if given is None:
            raise _refused(f"the call is not signed, but this fleet has a secret; {_GIVE}", "unsigned_call")
        stamp, nonce, digest, mac = _parts(given)
        expected = self._mac("call", method, path, headers.get(ADDRESSEE, ""), stamp, nonce, digest)
        if not hmac.compare_digest(mac, expected):
            raise _refused("the call is signed with another secret, or was altered on its way", "wrong_secret")
        self._check_time(int(stamp) / 1000, nonce)
        return digest

    def check_body(self, expected: str, digest: str) -> None:
        """Compare a body's SHA-256 with what `check_head` said.

        Raises:
            Fault: they differ (status 401).
        """
        if expected and expected != digest:
            raise _refused("the call's body was altered on its way", "wrong_secret")

    def _check_time(self, sent: float, nonce: str) -> None:
        now = self._clock()
        if abs(now - sent) > WINDOW:
            message = (
                f"the call was signed at {_shown(sent)} by the caller's clock and came at {_shown(now)} by this "
                f"machine's; they may differ by {WINDOW:g} seconds, so set both by a time server"
            )
            raise _refused(message, "wrong_clock")
        if not self._nonces.is_new(nonce, sent, now):
            raise _refused("this very call has been here before", "replayed_call")

    # ------------------------------------------------------------------------------------------- replies
    def seal(self, headers: Mapping[str, str], me: str = "") -> dict[str, str]:
        """Headers for the reply to a call with such headers; `me` is the answering worker's id, "" a controller."""
        given = headers.get(SIGNATURE)
        return {SEAL: self._mac("reply", given, me)} if self._secret and given else {}

    def sealed(self, sent: Mapping[str, str], reply: Mapping[str, str], to: str = "") -> bool:
        """Whether a reply comes from whom the call was for.

        Args:
            sent: what `headers` returned for the call.
            reply: the reply's headers.
            to: as for `headers`.
        """
        if not self._secret:
            return True
        return _same(reply.get(SEAL, ""), self._mac("reply", sent[SIGNATURE], to))

    # ------------------------------------------------------------------------------------------- challenges
    def nonce(self) -> str:
        """A challenge that nobody can have answered before."""
        return secrets.token_hex(16)

    def proof(self, nonce: str, worker_id: str) -> str:
        """The answer to a challenge: the worker of this id has the secret. Without one it is empty.

        Raises:
            Fault: nobody who means well asks that (status 400).
        """
        if not (nonce.isalnum() and nonce.isascii() and len(nonce) <= LONGEST_NONCE):
            raise invalid(f"a challenge is 1 to {LONGEST_NONCE} letters and digits", param="nonce")
        return self._mac("proof", nonce, worker_id) if self._secret else ""

    def proves(self, nonce: str, worker_id: str, proof: str) -> bool:
        """Whether `proof` is the answer; without a secret everybody is believed."""
        return not self._secret or _same(proof, self._mac("proof", nonce, worker_id))

    def _mac(self, purpose: str, *parts: str) -> str:
        """No member signs a part with a line break in it; the purpose keeps a proof, say, from passing for a call."""
        message = "\n".join((purpose, *parts)).encode("utf-8", "surrogateescape")
        return hmac.digest(self._secret, message, "sha256").hex()


def _parts(given: str) -> list[str]:
    parts = given.split(":")
    if len(parts) != 4 or not given.isascii() or not (parts[0].isdigit() and len(parts[0]) < 16):
        raise _refused(f"{SIGNATURE} is not of the form that this version of the fleet speaks", "wrong_secret")
    return parts


def _same(given: str, expected: str) -> bool:
    return given.isascii() and hmac.compare_digest(given, expected)


def _refused(message: str, code: str) -> Fault:
    return Fault(message, status=401, code=code)


def _shown(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(when))


# ----------------------------------------------------------------------------------------------- where it comes from
