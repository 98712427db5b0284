"""Which addresses a controller connects to, so that registering a worker is no way to make it call anything else.

An address is looked at when a worker registers, to say in words what is wrong with it, and each connection again when
it is made: by then a name may lead elsewhere.
"""

import asyncio
import errno
import ipaddress
import re
import socket
from collections.abc import Sequence
from typing import Final

from aiohttp import AddrInfoType

from vicuna.serve.faults import Fault, invalid

LOOKUP = 2.0
"""Seconds that finding the address of a name may take."""
# One pattern instead of a parser of URLs: nothing to be understood differently by the HTTP client.
_ADDRESS: Final = re.compile(
    r"https?://(?:\[([0-9a-fA-F.]*:[0-9a-fA-F:.]*)\]|([a-zA-Z0-9_.-]+))(?::([0-9]{1,5}))?", re.ASCII
)
_LABEL: Final = r"[a-zA-Z0-9_](?:[a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?"
_NUMBER: Final = r"(?:[0-9]+|0[xX][0-9a-fA-F]*)"
_NAME: Final = re.compile(rf"(?!(?:.*\.)?{_NUMBER}$)(?:{_LABEL}\.)*{_LABEL}")
"""A host's name. One that ends in a number is an IP address in an unusual form to some programs (127.1, 0x7f000001)."""
IP = ipaddress.IPv4Address | ipaddress.IPv6Address


class AllowList:
    """The networks in which workers may be."""

    def __init__(self, networks: Sequence[str]) -> None:
        """`networks` such as 10.0.0.0/8."""
        self._networks = [ipaddress.ip_network(each) for each in networks]

    def __contains__(self, ip: IP) -> bool:
        plain = getattr(ip, "ipv4_mapped", None) or ip
        return any(plain in network for network in self._networks)

    async def check(self, address: str) -> None:
        """Make sure that an address is one, and lies in an allowed network.

        Args:
            address: scheme, host, and port, as a worker gives it.

        Raises:
            Fault: status 400 where it leads nowhere, 403 where it leads elsewhere.
        """
        host, port = _split(address)
        found = await _lookup(address, host, port)
        if all(ip.is_unspecified or (getattr(ip, "ipv4_mapped", None) or ip).is_unspecified for ip in found):
            raise _unreachable(
                f"{address} means 'every address of this machine', so nobody can connect to it; start the worker with "
                "--advertise http://ADDRESS:PORT as this controller would reach it"
            )
        if not any(ip in self for ip in found):
            where = "" if str(found[0]) == host else f" (which is {', '.join(map(str, found))})"
            raise Fault(
                f"{address}{where} is in no network where this controller's workers may be "
                f"({', '.join(map(str, self._networks))}); its --fleet.allow sets them",
                status=403,
                code="address_not_allowed",
                param="address",
            )

    def socket(self, info: AddrInfoType) -> socket.socket:
        """A socket for a connection that is about to be made; for `aiohttp.TCPConnector(socket_factory=...)`.

        Raises:
            OSError: it would lead outside.
        """
        family, kind, protocol, _, target = info
        host = str(target[0]).partition("%")[0]
        if ipaddress.ip_address(host) not in self:
            raise OSError(errno.EACCES, f"{host} is in no network where this controller's workers may be")
        return socket.socket(family=family, type=kind, proto=protocol)


def _split(address: str) -> tuple[str, int]:
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise _unreachable("a worker's address is http:// or https://, a host, and perhaps a port; nothing else")
    literal, name, digits = match.groups()
    port = int(digits) if digits else 80
    if not 0 < port <= 65535:
        raise _unreachable(f"{address}: a port is 1 to 65535")
    return literal or name, port


async def _lookup(address: str, host: str, port: int) -> list[IP]:
    try:
        return [ipaddress.ip_address(host)]
    except ValueError:
        if not _NAME.fullmatch(host) or len(host) > 253:
            message = f"{address}: the host is a name, or an IP address in its usual form (192.168.1.7, [fd00::7])"
            raise _unreachable(message) from None
    try:
        async with asyncio.timeout(LOOKUP):
            rows = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # a TimeoutError is an OSError
        reason = getattr(error, "strerror", None) or "no answer from the name server"
        message = f"{address}: this controller finds no address for {host} ({reason}); check --advertise of the worker"
        raise _unreachable(message) from error
    return list(dict.fromkeys(ipaddress.ip_address(str(row[4][0]).partition("%")[0]) for row in rows))


def _unreachable(message: str) -> Fault:
    return invalid(message, param="address", code="address_unreachable")
