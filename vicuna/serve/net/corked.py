"""A connection that sends what was written in one go as one packet.

The web server writes head, body and end of a reply one by one; each would be a system call for us, a packet on the
wire, and a piece for the client to wake up for.
"""

import asyncio
from typing import Any

MOST = 16 * 1024
"""Bytes that are gathered; more goes out at once, so that whoever writes much notices that the client is slow."""


class Corked(asyncio.Transport):
    """A transport in front of another: what is written goes out at the end of the event loop's turn."""

    def __init__(self, inner: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._inner = inner
        self._loop = loop
        self._gathered: list[bytes] = []
        self._size = 0
        # What has nothing to do with writing goes straight on.
        self.get_extra_info = inner.get_extra_info  # type: ignore[method-assign]
        self.is_closing = inner.is_closing  # type: ignore[method-assign]
        self.pause_reading = inner.pause_reading  # type: ignore[method-assign]
        self.resume_reading = inner.resume_reading  # type: ignore[method-assign]

    def write(self, data: Any) -> None:
        """Send this, a moment later."""
        if not self._gathered:
            self._loop.call_soon(self._flush)
        self._gathered.append(data)
        self._size += len(data)
        if self._size > MOST:
            self._flush()

    def _flush(self) -> None:
        if self._gathered:
            data = b"".join(self._gathered)
            self._gathered.clear()
            self._size = 0
            if not self._inner.is_closing():  # the other side may have gone meanwhile
                self._inner.write(data)

    def get_write_buffer_size(self) -> int:
        """Bytes that the system has not taken yet."""
        return self._size + self._inner.get_write_buffer_size()

    def can_write_eof(self) -> bool:
        """Whether the other side can be told that nothing more comes."""
        return self._inner.can_write_eof()

    def write_eof(self) -> None:
        """Tell it, behind what was written."""
        self._flush()
        self._inner.write_eof()

    def close(self) -> None:
        """Close, behind what was written."""
        self._flush()
        self._inner.close()

    def abort(self) -> None:
        """Close at once."""
        self._gathered.clear()
        self._size = 0
        self._inner.abort()
