"""Which addresses a controller connects to."""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Iterator

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from vicuna.serve.config import FleetConfig
from vicuna.serve.faults import Fault
from vicuna.serve.net.addresses import AllowList

HERE = AllowList(("127.0.0.0/8", "::1/128"))
PRIVATE = AllowList(FleetConfig().allow)


def verdict(allow: AllowList, address: str) -> str | None:
    """The code of the refusal; "" where the address may be used."""
    try:
        asyncio.run(allow.check(address))
    except Fault as fault:
        return fault.code
    return ""


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:8001", "https://10.1.2.3", "http://192.168.0.9:1", "http://[::1]:8001", "http://localhost:8001"],
)
def test_this_machine_and_private_networks_are_allowed(address):
    assert verdict(PRIVATE, address) == ""


@pytest.mark.parametrize(
    "address",
    [
        "http://8.8.8.8:80",
        "http://169.254.169.254",  # where clouds tell a machine its credentials
        "http://[2001:db8::1]:80",
        "http://[::ffff:8.8.8.8]:80",
        "http://172.32.0.1",
        "http://255.255.255.255",
        "http://224.0.0.1",
    ],
)
def test_other_networks_are_refused_in_words(address):
    assert verdict(PRIVATE, address) == "address_not_allowed"
    with pytest.raises(Fault, match=r"10\.0\.0\.0/8.*--fleet\.allow") as caught:
        asyncio.run(PRIVATE.check(address))
    assert (caught.value.status, caught.value.param) == (403, "address")


def test_an_ipv4_address_written_as_ipv6_is_the_same_address():
    assert verdict(PRIVATE, "http://[::ffff:10.0.0.1]:80") == ""
    assert verdict(AllowList(("::/0",)), "http://[::ffff:10.0.0.1]:80") == "address_not_allowed"


@pytest.mark.parametrize("address", ["http://0.0.0.0:8001", "http://[::]:8001", "http://[::ffff:0.0.0.0]:8001"])
def test_every_address_of_a_machine_is_no_address_to_connect_to(address):
    with pytest.raises(Fault, match=r"every address of this machine.*--advertise"):
        asyncio.run(AllowList(("0.0.0.0/0", "::/0")).check(address))


@pytest.mark.parametrize(
    "address",
    [
        "http://user:password@127.0.0.1:80",
        "http://127.0.0.1@8.8.8.8",
        "ftp://127.0.0.1",
        "file:///etc/passwd",
        "http://127.0.0.1/path",
        "http://127.0.0.1?x",
        "http://127.0.0.1#x",
        "http://127.0.0.1:0",
        "http://127.0.0.1:65536",
        "http://127.0.0.1:x",
        "http://2130706433",
        "http://127.1",
        "http://0177.0.0.1",
        "http://0x7f.0.0.1",
        "http://0x7f000001",
        "http://host.0x1",
        "http://localhost.",
        "http://127.0.0.1.",
        "http://[fe80::1%25eth0]:80",
        "http://[127.0.0.1]:80",
        "http://1::2:80",
        "http://１２７.0.0.1",  # digits that some parsers take for 127
        "http://127.0.0.1\\@8.8.8.8",
        "http://127.0.0.1\r\nx: y",
        "http://",
        "",
        "http://-.x",
        "http://%31%32%37.0.0.1",
        "http://" + ".".join(["a" * 60] * 5),
        "http://this-name-is-nowhere.invalid:80",
    ],
)
def test_what_is_no_address_is_refused(address):
    assert verdict(PRIVATE, address) == "address_unreachable"


def test_credentials_in_an_address_are_not_repeated():
    with pytest.raises(Fault) as caught:
        asyncio.run(HERE.check("http://user:password@127.0.0.1:80"))
    assert "password" not in str(caught.value)


@given(st.text("0123456789.:[]@/?#x%\\ \t\n", max_size=20), st.text("0123456789.:[]@/?#x%\\ \t\n", max_size=20))
def test_whatever_is_let_through_is_within_for_the_http_client_too(before, after):
    address = f"http://{before}127.0.0.1{after}"
    if verdict(HERE, address) == "":
        assert URL(address).host is not None
        assert ipaddress.ip_address(URL(address).host) in HERE


# ------------------------------------------------------------------------------------------- connections
class Trap:
    """A server outside the list that notes who comes."""

    def __init__(self) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.sock.settimeout(0.3)
        self.port = self.sock.getsockname()[1]

    def visited(self) -> bool:
        """Whether anybody has connected."""
        with contextlib.suppress(TimeoutError):
            self.sock.accept()[0].close()
            return True
        return False


@pytest.fixture
def trap() -> Iterator[Trap]:
    made = Trap()
    yield made
    made.sock.close()


class Rebound(AbstractResolver):
    """A name server that says something else the second time."""

    def __init__(self, *hosts: str) -> None:
        self._hosts = list(hosts)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = self._hosts.pop(0)
        return [ResolveResult(hostname=host, host=found, port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        pass


async def fetch(allow: AllowList, address: str, resolver: AbstractResolver | None = None) -> str:
    """What a controller's connection comes to."""
    connector = aiohttp.TCPConnector(socket_factory=allow.socket, resolver=resolver, use_dns_cache=False)
    timeout = aiohttp.ClientTimeout(total=0.5)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        try:
            await session.get(address)
        except (aiohttp.ClientError, TimeoutError) as error:
            return str(error)
    return "answered"


OUTSIDE = AllowList(("10.0.0.0/8", "::1/128"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
def test_nothing_outside_the_list_gets_one_byte(trap, host):
    said = asyncio.run(fetch(OUTSIDE, f"http://{host}:{trap.port}"))
    assert "is in no network where this controller's workers may be" in said or "Connect call failed" in said
    assert not trap.visited()


def test_what_is_inside_is_reached(trap):
    assert "no network" not in asyncio.run(fetch(HERE, f"http://127.0.0.1:{trap.port}"))
    assert trap.visited()


def test_a_name_that_leads_elsewhere_the_second_time_is_refused_then(trap):
    async def body() -> None:
        resolver = Rebound("127.0.0.2", "127.0.0.1")
        allow = AllowList(("127.0.0.2/32",))
        assert "no network" not in await fetch(allow, f"http://worker.example:{trap.port}", resolver)
        assert "no network" in await fetch(allow, f"http://worker.example:{trap.port}", resolver)

    asyncio.run(body())
    assert not trap.visited()
