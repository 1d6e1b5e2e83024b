"""A proxy for tests: forwards requests and records them."""

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass
class Proxy:
    """An HTTP proxy on loopback. Whatever host is named, it connects to `leads_to` of it, or else refuses."""

    leads_to: Mapping[str, tuple[str, int]]
    port: int = 0
    asked: list[str] = field(default_factory=list)  # request lines
    logins: list[str] = field(default_factory=list)  # values of Proxy-Authorization

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def proxy(leads_to: Mapping[str, tuple[str, int]]) -> Iterator[Proxy]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        made = Proxy(leads_to, server.getsockname()[1])
        threading.Thread(target=_serve, args=(server, made), daemon=True).start()
        yield made
        server.shutdown(socket.SHUT_RDWR)


def _serve(server: socket.socket, proxy: Proxy) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = server.accept()
            threading.Thread(target=_pass_on, args=(client, proxy), daemon=True).start()


def _pass_on(client: socket.socket, proxy: Proxy) -> None:
    with contextlib.suppress(OSError), client:
        head = b""
        while b"\r\n\r\n" not in head:
            chunk = client.recv(65536)
            if not chunk:
                return
            head += chunk
        lines, _, rest = head.partition(b"\r\n\r\n")
        first, *others = lines.decode("latin-1").split("\r\n")
        proxy.asked.append(first)
        proxy.logins += [line.partition(":")[2].strip() for line in others if line.lower().startswith("proxy-auth")]
        method, target, version = first.split(" ")
        host = target if method == "CONNECT" else target.split("/")[2]
        place = proxy.leads_to.get(host.rpartition(":")[0] or host)
        if place is None:
            client.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        with socket.create_connection(place, 5) as server:
            if method == "CONNECT":
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                path = "/" + target.split("/", 3)[3] if target.count("/") > 2 else "/"
                kept = [line for line in others if not line.lower().startswith(("connection", "proxy-"))]
                sent = "\r\n".join([f"{method} {path} {version}", *kept, "Connection: close"])
                server.sendall(sent.encode("latin-1") + b"\r\n\r\n" + rest)
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            threading.Thread(target=_pump, args=(client, server), daemon=True).start()
            back.join(30)


def _pump(source: socket.socket, to: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(65536):
            to.sendall(chunk)
