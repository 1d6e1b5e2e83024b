"""A reverse proxy before the API under /wan/, as nginx is one: `proxy_pass` with a slash at its end, or without."""

import contextlib
import socket
import threading
from collections.abc import Iterator

PATH = "/wan"


@contextlib.contextmanager
def reverse_proxy(to: tuple[str, int], *, strips: bool) -> Iterator[str]:
    """Yield its address with the path. `strips`: it removes /wan from forwarded paths."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_serve, args=(server, to, strips), daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}{PATH}"
        server.shutdown(socket.SHUT_RDWR)


def _serve(server: socket.socket, to: tuple[str, int], strips: bool) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = server.accept()
            threading.Thread(target=_answer, args=(client, to, strips), daemon=True).start()


def _answer(client: socket.socket, to: tuple[str, int], strips: bool) -> None:
    """One request for each connection; a WebSocket keeps it."""
    with contextlib.suppress(OSError), client:
        head = b""
        while b"\r\n\r\n" not in head:
            chunk = client.recv(65536)
            if not chunk:
                return
            head += chunk
        lines, _, rest = head.partition(b"\r\n\r\n")
        first, *others = lines.decode("latin-1").split("\r\n")
        method, target, version = first.split(" ")
        if target.partition("?")[0] != PATH and not target.startswith(f"{PATH}/"):
            client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        if strips:
            target = target.removeprefix(PATH) or "/"
        if not any(line.lower().startswith("upgrade:") for line in others):
            others = [line for line in others if not line.lower().startswith("connection:")] + ["Connection: close"]
        with socket.create_connection(to, 10) as server:
            server.settimeout(None)
            server.sendall(
                "\r\n".join([f"{method} {target} {version}", *others]).encode("latin-1") + b"\r\n\r\n" + rest
            )
            threading.Thread(target=_pump, args=(client, server), daemon=True).start()
            _pump(server, client)


def _pump(source: socket.socket, to: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(65536):
            to.sendall(chunk)
