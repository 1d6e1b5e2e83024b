"""A proxy before PostgreSQL that drops the response of a COMMIT, like a failover or a network failure.

The line is cut before the COMMIT reaches the server (nothing is written) or after the server has carried it out (all is
written, and the client cannot know). Everything else passes unchanged.
"""

import contextlib
import socket
import struct
import threading
from typing import Literal, Self

When = Literal["before", "after"]

_STARTUP_PROTOCOL = 3
_ENCRYPTION_REQUESTS = (80877103, 80877104)  # TLS, GSSAPI: both are answered with "no"
_PIECE_BYTES = 64 << 10


class CommitCutter:
    """Listens on a free loopback port and forwards to the server: a Unix socket's path, or (host, port)."""

    def __init__(self, server: str | tuple[str, int]) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._lock = threading.Condition()
        self._to_cut: list[When] = []
        self._cuts = 0
        self._lines: set[_Line] = set()
        self._stopped = False

    def start(self) -> Self:
        threading.Thread(target=self._accept, daemon=True, name="commit-cutter").start()
        return self

    def stop(self) -> None:
        """Closes every connection."""
        with self._lock:
            self._stopped = True
            lines = list(self._lines)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for line in lines:
            line.close()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def url(self, database: str, user: str = "postgres") -> str:
        return f"postgresql+psycopg://{user}@127.0.0.1:{self.port}/{database}?sslmode=disable&gssencmode=disable"

    @property
    def cuts(self) -> int:
        """How many COMMITs were cut so far."""
        with self._lock:
            return self._cuts

    def cut_next(self, count: int = 1, when: When = "after") -> None:
        """Orders that the next `count` COMMITs of any connection are cut, each with its connection."""
        with self._lock:
            self._to_cut += [when] * count

    def forget(self) -> None:
        """Cuts no more, whatever was ordered."""
        with self._lock:
            self._to_cut.clear()

    def wait_for_cuts(self, count: int, seconds: float) -> bool:
        """Whether so many were cut in all within that time."""
        with self._lock:
            return self._lock.wait_for(lambda: self._cuts >= count, seconds)

    def take(self) -> When | None:
        """What to do to the COMMIT that has just come; None: pass it on."""
        with self._lock:
            return self._to_cut.pop(0) if self._to_cut else None

    def note_cut(self) -> None:
        with self._lock:
            self._cuts += 1
            self._lock.notify_all()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = self._connect()
            except OSError:
                client.close()  # the server is away: so is this
                continue
            line = _Line(self, client, server)
            with self._lock:
                if self._stopped:
                    line.close()
                    return
                self._lines.add(line)
            threading.Thread(target=self._carry, args=(line,), daemon=True, name="commit-cutter-line").start()

    def _connect(self) -> socket.socket:
        if isinstance(self._server, tuple):
            return socket.create_connection(self._server, timeout=5)
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            server.connect(self._server)
        except OSError:
            server.close()
            raise
        return server

    def _carry(self, line: "_Line") -> None:
        try:
            line.carry()
        finally:
            with self._lock:
                self._lines.discard(line)


class _Line:
    """One client's connection and the server's."""

    def __init__(self, cutter: CommitCutter, client: socket.socket, server: socket.socket) -> None:
        self._cutter, self._client, self._server = cutter, client, server
        server.settimeout(None)
        self._swallowing = threading.Event()  # the COMMIT is on its way: its answer must not reach the client
        self._statements: dict[bytes, bool] = {}  # prepared statements by name: is it a COMMIT?
        self._portals: dict[bytes, bool] = {}

    def carry(self) -> None:
        """Return when either side has closed or the connection was cut."""
        back = threading.Thread(target=self._answers, daemon=True, name="commit-cutter-answers")
        try:
            if not self._start_up():
                return
            back.start()
            self._questions()
        except (OSError, EOFError):
            pass
        finally:
            if self._swallowing.is_set():
                back.join(30)
            self.close()

    def close(self) -> None:
        for side in (self._client, self._server):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            side.close()

    def _start_up(self) -> bool:
        """Passes the first packet on; False: it was a request to cancel, which is all that comes on such a line."""
        while True:
            (length,) = struct.unpack("!i", _exactly(self._client, 4))
            packet = _exactly(self._client, length - 4)
            (code,) = struct.unpack("!i", packet[:4])
            if code in _ENCRYPTION_REQUESTS:
                self._client.sendall(b"N")
                continue
            self._server.sendall(struct.pack("!i", length) + packet)
            return code >> 16 == _STARTUP_PROTOCOL

    def _questions(self) -> None:
        while True:
            kind = _exactly(self._client, 1)
            length = _exactly(self._client, 4)
            body = _exactly(self._client, struct.unpack("!i", length)[0] - 4)
            when = self._cutter.take() if self._is_commit(kind, body) else None
            if when == "before":
                self._cutter.note_cut()
                return
            if when == "after":
                self._swallowing.set()
                self._server.sendall(kind + length + body)
                if kind != b"Q":
                    self._server.sendall(b"S" + struct.pack("!i", 4))  # the Sync that the client has yet to send
                return
            self._server.sendall(kind + length + body)

    def _is_commit(self, kind: bytes, body: bytes) -> bool:
        match kind:
            case b"Q":
                return _says_commit(body)
            case b"P":  # Parse: the statement's name, its text
                name, _, rest = body.partition(b"\0")
                self._statements[name] = _says_commit(rest.partition(b"\0")[0])
            case b"B":  # Bind: the portal's name, the statement's
                portal, _, rest = body.partition(b"\0")
                self._portals[portal] = self._statements.get(rest.partition(b"\0")[0], False)
            case b"E":  # Execute: the portal's name
                return self._portals.get(body.partition(b"\0")[0], False)
        return False

    def _answers(self) -> None:
        try:
            while not self._swallowing.is_set():
                piece = self._server.recv(_PIECE_BYTES)
                if not piece:
                    break
                if self._swallowing.is_set():
                    self._await_ready(piece)
                    break
                self._client.sendall(piece)
        except (OSError, EOFError):
            pass
        if self._swallowing.is_set():
            self._cutter.note_cut()
        self.close()

    def _await_ready(self, begun: bytes) -> None:
        """Reads the COMMIT's answer to its end (ReadyForQuery), so that the server has carried it out."""
        rest = begun
        while True:
            while len(rest) < 5 or len(rest) < 1 + struct.unpack("!i", rest[1:5])[0]:
                piece = self._server.recv(_PIECE_BYTES)
                if not piece:
                    raise EOFError
                rest += piece
            kind, size = rest[:1], 1 + struct.unpack("!i", rest[1:5])[0]
            if kind == b"Z":
                return
            rest = rest[size:]


def _says_commit(text: bytes) -> bool:
    return text.rstrip(b"\0; \t\r\n").strip().upper() in (b"COMMIT", b"END", b"COMMIT TRANSACTION")


def _exactly(side: socket.socket, count: int) -> bytes:
    """Read. Raises EOFError if the other side has closed."""
    found = b""
    while len(found) < count:
        piece = side.recv(count - len(found))
        if not piece:
            raise EOFError
        found += piece
    return found
