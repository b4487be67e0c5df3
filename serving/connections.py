"""Connections of clients that are slow, or too many: uvicorn itself waits for them without end."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 400  # each may need a file descriptor, of which a process has 1,024
LOOK_SECONDS = 1.0
HEADER_SECONDS = 15.0  # for a whole header, from the connection or the last answer on
EXCHANGE_SECONDS = 300.0  # for a request and its answer; more than all limits of a body and of its answer
BODY = b'{"code": "too_many_connections", "message": "the server has too many connections; try again"}'
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY)
)


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection that sends no request, or takes no answer, in time."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.write(FULL)
            transport.close()
            return
        self._present: object | None = None
        self._since = self.loop.time()
        self._look()

    def _look(self) -> None:
        """Once a second: abort what has been in the same state for too long."""
        if self.transport.is_closing():
            return
        present = None if self.cycle is None or self.cycle.response_complete else self.cycle
        if present is not self._present:
            self._present, self._since = present, self.loop.time()
        if self.loop.time() - self._since > (HEADER_SECONDS if present is None else EXCHANGE_SECONDS):
            self.transport.abort()
        else:
            self.loop.call_later(LOOK_SECONDS, self._look)
