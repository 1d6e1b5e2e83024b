"""Fixtures for tests with a real browser and a real stack, which serves its own hub for downloads."""

import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from shared import clock
from shared.database.engine import Database
from shared.database.tables import Snapshot
from shared.insight import snapshots
from tests.conftest import lacking
from tests.support.stack import Stack

Open = Callable[..., Page]
_HERE = Path(__file__).parent
FETCHED = "TI2V-5B"  # the model that the stack has not downloaded at the start
_WAIT_MS = 60_000
_LOAD_MS = 60_000
# The browser's console messages while the server is unreachable, which the page cannot prevent.
_AWAY = (
    "net::ERR_CONNECTION_REFUSED",
    "net::ERR_CONNECTION_RESET",
    "net::ERR_EMPTY_RESPONSE",
    "net::ERR_INTERNET_DISCONNECTED",
    "WebSocket connection to",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        lacking("no Chromium on PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def stack(demo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with two CPU devices, slow downloads, and an alert that stays open, because any disk exceeds 0.1 %."""
    folder = tmp_path_factory.mktemp("browser")
    hub = folder / "home" / "hub"
    shutil.copytree(demo_models, hub, symlinks=True)
    shutil.copytree(hub, folder / "models", symlinks=True, ignore=shutil.ignore_patterns(f"*{FETCHED}"))
    stack = Stack(
        folder / "home",
        folder / "models",
        devices="cpu:2",
        WANWORKS_HUB_URL="",
        WANWORKS_DOWNLOAD_LIMIT_MBPS="2",
        WANWORKS_PRESENCE_SECONDS="2",
        WANWORKS_ALERT_SECONDS="1",
        WANWORKS_ALERT_DISK_PERCENT="0.1",
    )
    stack.start()
    _store_snapshots(stack)
    yield stack
    stack.stop()


def _store_snapshots(stack: Stack) -> None:
    """Store two short series of snapshots, 40 and 20 minutes ago, with a gap in between."""
    database = Database(f"sqlite:///{stack.home / 'wanworks.db'}")
    for minutes_ago in (40, 39, 38, 20, 19, 18):
        snapshots.record(
            database,
            Snapshot(
                at=clock.now() - timedelta(minutes=minutes_ago), system_load_percent=float(minutes_ago),
                total_models=3, healthy_models=3, active_models=0, total_generations_24h=0, alerts_count=0,
                recommendations_count=0, queued_jobs=0, running_jobs=0, succeeded_1h=0, failed_1h=0,
            ),
        )  # fmt: skip
    database.close()


class Watched:
    """Records the requests of pages and everything they must not do."""

    def __init__(self, stack: Stack) -> None:
        self.host = urlsplit(stack.url).netloc
        self.away = False  # whether the test has stopped the server
        self.complaints: list[str] = []
        self.requests: list[Request] = []

    def watch(self, page: Page) -> Page:
        page.set_default_timeout(_WAIT_MS)
        page.set_default_navigation_timeout(_LOAD_MS)
        expect.set_options(timeout=_WAIT_MS)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        page.on("request", self._on_request)
        return page

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type != "error" or (self.away and any(words in message.text for words in _AWAY)):
            return
        self.complaints.append(f"console: {message.text} {message.location.get('url', '')}")

    def _on_request(self, request: Request) -> None:
        self.requests.append(request)
        where = urlsplit(request.url)
        if where.scheme not in ("blob", "data") and where.netloc != self.host:
            self.complaints.append(f"request to another host: {request.url}")


@pytest.fixture
def watched(stack: Stack) -> Iterator[Watched]:
    """Fail the test for an error on the console, an uncaught error, or a request to another host."""
    watched = Watched(stack)
    yield watched
    assert not watched.complaints


@pytest.fixture
def open_page(browser: Browser, stack: Stack, watched: Watched) -> Iterator[Callable[..., Page]]:
    """Open the live page at an address within it, in a new browser context."""
    contexts = []

    def open_page(address: str = "#overview", **options: object) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})  # type: ignore[arg-type]
        contexts.append(context)
        page = watched.watch(context.new_page())
        page.goto(f"{stack.url}/{address}")
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def paused(stack: Stack) -> Iterator[None]:
    """Nothing starts meanwhile."""
    stack.request("POST", "/api/v1/queues/pause", json={"reason": "a test"})
    yield
    stack.request("POST", "/api/v1/jobs/bulk", json={"action": "cancel", "filter": {"status": "queued"}})
    stack.request("POST", "/api/v1/queues/resume", json={})
