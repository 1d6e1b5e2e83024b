"""The live page as the server renders it: complete without scripts, safe, small, and available during outages."""

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.testclient import TestClient

from api.ops.flower import _Reachability
from scheduler.alerts.facts import gather
from scheduler.alerts.watch import ground_of
from shared import clock
from shared.cluster import alerts, nodes
from shared.cluster.alerts import Cause, Changes
from shared.database.engine import Database
from shared.database.tables import Process
from shared.messaging import flower as flower_process
from shared.settings import Settings
from tests.conftest import free_port
from tests.support.jobs import accepted
from tests.support.stack import wait_for
from tests.support.uses import used

ADDRESSES = ("/", "/api/v1/dashboard/html")


@pytest.mark.parametrize("address", ADDRESSES)
def test_the_page_allows_only_its_own_content(client: TestClient, address: str) -> None:
    response = client.get(address)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "unsafe" not in policy
    page = response.text
    assert "style=" not in page
    assert not re.search(r"\son\w+=", page), "no inline handler"
    for script in re.findall(r"<script[^>]*>", page):
        assert 'src="/static/' in script or 'type="application/json"' in script
    assert not re.search(r'(?:src|href)="(?:https?:)?//(?!127\.0\.0\.1)', page), "nothing from another host"


def test_its_files_are_immutable(client: TestClient) -> None:
    page = client.get("/").text
    files = set(re.findall(r'"(/static/[^"]+)"', page))
    assert len(files) > 10
    for path in files:
        response = client.get(path)
        assert response.status_code == 200, path
        assert "immutable" in response.headers["cache-control"]
        assert response.headers["content-encoding"] == "gzip"
        assert response.headers["vary"] == "Accept-Encoding"
        assert client.get(path, headers={"If-None-Match": response.headers["etag"]}).status_code == 304
        plain = client.get(path, headers={"Accept-Encoding": "gzip;q=0, identity"})
        assert "content-encoding" not in plain.headers
        assert plain.content == response.content


def test_an_older_page_gets_the_current_file_without_caching(client: TestClient) -> None:
    response = client.get("/static/0000000000000000/main.js")
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-cache"
    for name in ("none.js", "page.html", "..%2Fpage.html"):
        assert client.get(f"/static/0/{name}").status_code == 404


def test_the_demo_is_marked_as_such(
    client: TestClient, settings: Settings, make_client: Callable[[Settings], TestClient]
) -> None:
    assert 'class="badge demo"' in client.get("/").text
    assert 'class="badge demo"' not in make_client(settings.model_copy(update={"catalogue": "default"})).get("/").text


def test_first_load_is_under_150_kb(client: TestClient) -> None:
    page = client.get("/")
    files = [client.get(path) for path in set(re.findall(r'"(/static/[^"]+)"', page.text))]
    assert sum(int(response.headers["content-length"]) for response in (page, *files)) < 150_000


def test_it_shows_current_data_and_escapes_hostile_text(client: TestClient, database: Database) -> None:
    hostile = "</script><script>alert(1)</script>"
    accepted(database, prompt=hostile)
    cause = Cause("test", "here", "critical", hostile, hostile, hostile, True)
    alerts.apply(database, Changes(opened=(cause,)), clock.now(), deliver=False)
    page = client.get("/").text
    assert hostile not in page
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in page
    queued = re.search(r'Queued</span><span class="tile-figure">([^<]*)<', page)
    assert queued is not None
    assert queued[1] == "1"
    assert 'data-state="critical"' in page


def test_it_works_without_the_database(settings: Settings, make_client: Callable[[Settings], TestClient]) -> None:
    client = make_client(settings.model_copy(update={"database_url": None, "home": settings.home / "nowhere"}))
    response = client.get("/")
    assert response.status_code == 200
    assert "Not reachable: the database" in response.text
    assert "T2V-A14B" in response.text, "the form still knows the catalogue"


def test_an_estimate_without_measured_jobs_is_null(client: TestClient) -> None:
    body = client.get("/api/v1/dashboard/estimate?model_id=T2V-A14B&frames=9&steps=2").json()
    assert body["generation_seconds"] is None
    assert body["basis"]["generation_seconds"] == "none"
    assert body["samples"] == 0
    assert client.get("/api/v1/dashboard/estimate?model_id=none").status_code == 404
    assert client.get("/api/v1/dashboard/estimate?model_id=T2V-A14B&frames=x").status_code == 422


def test_an_estimate_scales_what_was_measured(client: TestClient, database: Database) -> None:
    for seconds in (9.0, 10.0, 31.0):
        used(database, seconds=seconds)  # a second of each is loading; 64x64, 9 frames, 2 steps
    path = "/api/v1/dashboard/estimate?model_id=T2V-A14B&resolution=128x128&frames=18&steps=4"
    body = client.get(path).json()
    assert body["generation_seconds"] == 9.0 * 16  # the median, for four times the pixels, twice the frames and steps
    assert body["samples"] == 3
    assert body["basis"]["generation_seconds"] == "measured"
    assert body["warm"] is False


def test_flower_is_where_the_settings_say(client: TestClient, settings: Settings) -> None:
    body = client.get("/api/v1/dashboard/flower").json()
    assert body == {"url": "/flower/", "user": "wanworks", "reachable": False}


@pytest.fixture
def frozen_flower(settings: Settings) -> Iterator[tuple[Settings, "subprocess.Popen[bytes]"]]:
    """A server on Flower's port, stopped by SIGSTOP: it accepts connections but answers no request."""
    port = free_port()
    argv = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    known = settings.model_copy(update={"flower_port": port})
    try:
        wait_for(lambda: flower_process.answers(known), 20, "for the server")
        process.send_signal(signal.SIGSTOP)
        yield known, process
    finally:
        process.kill()
        process.wait()


def test_a_frozen_flower_is_not_reachable_and_delays_no_request(
    frozen_flower: tuple[Settings, "subprocess.Popen[bytes]"], make_client: Callable[[Settings], TestClient]
) -> None:
    known, process = frozen_flower
    client = make_client(known)
    began = time.monotonic()
    assert client.get("/api/v1/dashboard/flower").json()["reachable"] is False
    assert time.monotonic() - began < 4
    began = time.monotonic()
    assert client.get("/api/v1/dashboard/flower").json()["reachable"] is False
    assert time.monotonic() - began < 1, "the result is cached for some seconds"
    began = time.monotonic()
    answer = client.get("/flower/")
    assert time.monotonic() - began < 7
    assert (answer.status_code, answer.json()["code"]) == (503, "flower_unavailable")
    assert "within 5 s" in answer.json()["detail"]
    process.send_signal(signal.SIGCONT)
    wait_for(lambda: client.get("/api/v1/dashboard/flower").json()["reachable"], 10, "for Flower to respond again")


def test_flower_is_not_reported_down_during_the_first_check(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several clients open the page at once: the first check is running, and there is no earlier result."""
    asking, answer = threading.Event(), threading.Event()
    asked: list[object] = []

    def answers(known: Settings) -> bool:
        asked.append(known)
        asking.set()
        return answer.wait(10)

    monkeypatch.setattr(flower_process, "answers", answers)
    known = settings.model_copy(update={"flower_port": free_port()})
    reachable = _Reachability()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(reachable, known)
        assert asking.wait(10)
        others = [pool.submit(reachable, known) for _ in range(2)]
        with pytest.raises(TimeoutError):
            others[0].result(0.1)
        answer.set()
        assert [one.result(10) for one in (first, *others)] == [True] * 3
    assert len(asked) == 1


def test_a_frozen_flower_is_reported_to_the_alerts(
    frozen_flower: tuple[Settings, "subprocess.Popen[bytes]"], database: Database
) -> None:
    known, process = frozen_flower
    assert gather(ground_of(known), clock.now()).flower_answers is None, "no Flower is known to run here"
    running = Process(node="here", name="flower", state="running", restarts=0, since=clock.now(), seen_at=0.0)
    nodes.report_processes(database, "here", ["flower"], [running])
    assert gather(ground_of(known), clock.now()).flower_answers is False
    process.send_signal(signal.SIGCONT)
    assert gather(ground_of(known), clock.now()).flower_answers is True
