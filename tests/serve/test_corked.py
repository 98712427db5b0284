"""What is written in one turn of the event loop goes out together, in order, and never behind the client's back."""

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from vicuna.serve.net.corked import MOST, Corked


class Recorder(asyncio.Transport):
    """Takes note of what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.end = ""

    def write(self, data: Any) -> None:
        self.sent.append(bytes(data))

    def close(self) -> None:
        self.end = "closed"

    def abort(self) -> None:
        self.end = "aborted"

    def is_closing(self) -> bool:
        return bool(self.end)

    def get_write_buffer_size(self) -> int:
        return 0


@given(st.lists(st.one_of(st.none(), st.binary(max_size=40), st.integers(1, 2 * MOST).map(bytes)), max_size=20))
def test_everything_arrives_in_order_and_little_is_held_back(steps: list[bytes | None]) -> None:
    async def body() -> None:
        inner = Recorder()
        corked = Corked(inner, asyncio.get_running_loop())
        for step in steps:  # None: the event loop's next turn
            if step is None:
                await asyncio.sleep(0)
                assert not corked.get_write_buffer_size()
            else:
                corked.write(step)
                assert corked.get_write_buffer_size() <= MOST
        corked.close()
        assert b"".join(inner.sent) == b"".join(step for step in steps if step)
        assert inner.end == "closed"

    asyncio.run(body())


def test_what_is_written_in_one_turn_is_one_packet() -> None:
    async def body() -> None:
        inner = Recorder()
        corked = Corked(inner, asyncio.get_running_loop())
        for part in (b"head", b"body", b"end"):
            corked.write(part)
        await asyncio.sleep(0)
        assert inner.sent == [b"headbodyend"]

    asyncio.run(body())


def test_an_aborted_connection_sends_nothing_more() -> None:
    async def body() -> None:
        inner = Recorder()
        corked = Corked(inner, asyncio.get_running_loop())
        corked.write(b"text")
        corked.abort()
        await asyncio.sleep(0)
        assert (inner.sent, inner.end) == ([], "aborted")

    asyncio.run(body())


def test_what_is_left_when_the_other_side_has_gone_is_dropped() -> None:
    async def body() -> None:
        inner = Recorder()
        corked = Corked(inner, asyncio.get_running_loop())
        corked.write(b"text")
        inner.abort()  # the connection was reset before the turn ended
        await asyncio.sleep(0)
        assert inner.sent == []

    asyncio.run(body())
