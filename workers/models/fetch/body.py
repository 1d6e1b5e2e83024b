"""Read the body of a hub's response so that its reader can be stopped at any moment.

The library's HTTP client sends the request (redirects, proxies, certificates, the token that must not follow a
redirect to another host). A plain body of known length is then received from its socket directly into a buffer, which
takes a third of the processor time of reading through the client.
"""

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2

from workers.models.fetch.client import bytes_client

_SLICE_SECONDS = 0.25  # how long a read may block before the reader checks whether to stop
_CONNECT_SECONDS = 10.0
# A receive buffer of this size (the kernel adds as much for itself, up to net.core.rmem_max) is set if it holds twice
# the product of bandwidth and round-trip time. A stop or a kill loses the bytes in the buffer and in flight. For longer
# round trips the kernel chooses the size.
BUFFER_BYTES = 512 << 10
_UNLIMITED_MBPS = 10_000.0
_ROUND_TRIP_AT = 68  # in Linux's struct tcp_info: microseconds, 32 bits


class Stopped(Exception):
    """Raised to stop the download; never leaves this package."""


class Broken(Exception):
    """The connection delivered nothing, or no more. The message gives the reason without an address."""


class Wire:
    """The connections of one download, which closes them all when it stops."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._fitted: dict[socket.socket, float] = {}  # those with a small buffer, and the Mbps that it allows
        self._mbps = _UNLIMITED_MBPS

    def expect(self, mbps: float | None) -> None:
        """Set the bandwidth in use. Connections whose buffer allows less are opened again."""
        with self._lock:
            self._mbps = min(mbps or _UNLIMITED_MBPS, _UNLIMITED_MBPS)
            for connection, carried in self._fitted.items():
                if self._mbps > carried:
                    _cut(connection)

    def stop(self) -> None:
        """Stop. Blocked readers raise Stopped or Broken at once."""
        with self._lock:
            self.stopped.set()
            for connection in self._sockets:
                _cut(connection)

    def check(self) -> None:
        if self.stopped.is_set():
            raise Stopped

    def rest(self, seconds: float) -> None:
        if self.stopped.wait(seconds):
            raise Stopped

    @contextlib.contextmanager
    def get(self, url: str, headers: dict[str, str], quiet_seconds: float) -> Iterator["Body"]:
        """Send a GET and follow redirects. Return the response. Raises httpx2.HTTPError, and Stopped."""
        mine: list[socket.socket] = []

        def trace(event: str, info: dict[str, Any]) -> None:
            if event.endswith(("connect_tcp.complete", "start_tls.complete")):
                connection = info["return_value"].get_extra_info("socket")
                with self._lock:
                    self.check()
                    mine.append(connection)
                    self._sockets.add(connection)
                    self._fit(connection)

        self.check()
        timeout = httpx2.Timeout(_CONNECT_SECONDS, read=quiet_seconds)
        try:
            with bytes_client().stream(
                "GET", url, headers=headers, timeout=timeout, extensions={"trace": trace}
            ) as response:
                yield Body(response, self, quiet_seconds)
        finally:
            with self._lock:
                self._sockets.difference_update(mine)
                for connection in mine:
                    self._fitted.pop(connection, None)

    def _fit(self, connection: socket.socket) -> None:
        try:
            state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ROUND_TRIP_AT + 4)
            round_trip = struct.unpack_from("I", state, _ROUND_TRIP_AT)[0] / 1e6
            carried = BUFFER_BYTES / max(2 * round_trip, 1e-6) / 125_000
            if carried >= self._mbps:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
                self._fitted[connection] = carried
        except OSError:  # the connection is already closed; its reader will notice
            return


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed already, or not connected any more
        connection.shutdown(socket.SHUT_RDWR)


class Body:
    """A response: status, headers, and the body in pieces."""

    def __init__(self, response: httpx2.Response, wire: Wire, quiet_seconds: float) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self.redirected = bool(response.history)
        self.encoded = response.headers.get("Content-Encoding", "identity") != "identity"
        self._wire = wire
        self._quiet_seconds = quiet_seconds
        self._pieces = response.iter_raw()
        self._left_over = memoryview(b"")
        self._length = _length(response)
        self._connection = _connection(response) if self._length is not None else None
        self._begun = False

    def read_into(self, buffer: memoryview) -> int:
        """Fill a part of `buffer` and return its size; 0 at the end. Raises Stopped, and Broken if no data arrives."""
        if not self._left_over and self._begun and self._connection is not None:
            count = self._received(buffer[: self._length])
        else:
            count = self._iterated(buffer)
        if self._length is not None:
            self._length -= count
        return count

    def _received(self, buffer: memoryview) -> int:
        assert self._connection is not None
        if not buffer:
            return 0
        until = time.monotonic() + self._quiet_seconds
        while True:
            try:
                count = self._connection.recv_into(buffer)
            except TimeoutError:
                self._wire.check()
                if time.monotonic() > until:
                    raise Broken("sends nothing") from None
                continue
            except OSError:
                self._wire.check()
                raise Broken("breaks the connection") from None
            if count == 0:
                self._wire.check()
                raise Broken("ends a file too early")
            return count

    def _iterated(self, buffer: memoryview) -> int:
        """Read through the client: the first piece, which its parser already holds, and bodies of unknown length."""
        self._begun = True
        if not self._left_over:
            try:
                self._left_over = memoryview(next(self._pieces, b""))
            except httpx2.HTTPError as error:
                self._wire.check()
                raise Broken(
                    "sends nothing" if isinstance(error, httpx2.TimeoutException) else "breaks the connection"
                ) from None
        count = min(len(buffer), len(self._left_over))
        buffer[:count] = self._left_over[:count]
        self._left_over = self._left_over[count:]
        return count


def _length(response: httpx2.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() and "Transfer-Encoding" not in response.headers else None


def _connection(response: httpx2.Response) -> socket.socket | None:
    """Return the socket to receive from; None if it is not available (TLS inside a TLS proxy)."""
    stream = response.extensions["network_stream"]
    connection: socket.socket = stream.get_extra_info("socket")
    if stream.get_extra_info("ssl_object") is not None and not isinstance(connection, ssl.SSLSocket):
        return None
    connection.settimeout(_SLICE_SECONDS)
    return connection
