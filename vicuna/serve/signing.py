"""The fleet's secret: how controllers and workers prove to each other that they have it."""

from collections.abc import Mapping


class Signer:
    """Signs calls; without a secret it signs nothing and accepts everything."""

    def __init__(self, secret: bytes = b"") -> None:
        self._secret = secret

    def headers(self, method: str, path: str, body: bytes) -> dict[str, str]:
        """Headers that prove who calls."""
        return {}

    def check(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Raises a Fault (401) where they do not."""

    def nonce(self) -> str:
        """A challenge."""
        return ""

    def proof(self, nonce: str) -> str:
        """The answer to a challenge."""
        return ""

    def proves(self, nonce: str, proof: str) -> bool:
        """Whether it is."""
        return True
