"""A replica's answer goes out whole or not at all, so that HAProxy can send the request of a killed one once more.

uvicorn writes the head of an answer and then its body, a tenth of a millisecond apart. A replica killed in between has
begun to answer, and what has begun is passed on, not asked again.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class OneWrite:
    """A transport that writes what one turn of the event loop gives it by one system call, behind that turn."""

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        """Take the transport of an accepted connection."""
        self._transport, self._loop = transport, loop
        self._held: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Keep bytes until the turn is over."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        """Write what is kept, then close."""
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        """Be the transport in everything else."""
        return getattr(self._transport, name)

    def _flush(self) -> None:
        data, self._held = b"".join(self._held), []
        if data and not self._transport.is_closing():
            self._transport.write(data)


def answer_in_one_write() -> None:
    """Let every connection that uvicorn accepts in this process from now on write so."""
    made = HttpToolsProtocol.connection_made

    def connection_made(self: HttpToolsProtocol, transport: Any) -> None:
        made(self, OneWrite(transport, self.loop))  # type: ignore[arg-type]

    HttpToolsProtocol.connection_made = connection_made  # type: ignore[method-assign]
