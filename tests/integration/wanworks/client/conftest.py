"""What the tests of the client share: a real web process, and faults on the way to it."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from shared.settings import Settings
from shared.storage.directory import DirectoryStore
from shared.storage.store import Store
from tests.conftest import WebProcess
from tests.integration.wanworks.client.meddling import Meddler, opened


@pytest.fixture
def meddler(web: WebProcess) -> Iterator[Meddler]:
    meddler = Meddler(web.port)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):  # one of the two has gone, which is what this is for
                meddler.meddle(self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        meddler.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield meddler
        server.shutdown()


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, meddler: Meddler) -> Iterator[Any]:
    """A Client, then an AsyncClient."""
    with opened(request.param, meddler.url) as client:
        yield client


@pytest.fixture
def store(settings: Settings) -> Store:
    return DirectoryStore(settings.store_dir)
