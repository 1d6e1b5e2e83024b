"""Attempts to bypass keys and scopes."""

import logging
import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import httpx2
import pytest
from sqlalchemy import update
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from typer.testing import CliRunner

from shared import clock
from shared.access import keys
from shared.access.keys import Limits
from shared.cluster import alerts, nodes
from shared.cluster.alerts import Cause, Changes
from shared.database.engine import Database
from shared.errors import DatabaseUnavailable, StoreFull
from shared.jobs import records
from shared.settings import Settings
from shared.storage.store import open_store
from shared.telemetry import logs
from tests.conftest import WebProcess
from tests.integration.api.access.scopes import ADMIN, READ
from tests.integration.api.access.signing_in import PIN, Key, sign_in
from tests.integration.api.dashboard.test_feed import Dashboard
from tests.support import working
from tests.support.jobs import accepted, claimed
from tests.support.servers.s3_server import S3Server, in_bucket
from wanworks.cli.main import app as command_line

# --- ways in ----------------------------------------------------------------------------------------------------------


def test_the_id_of_a_key_is_not_accepted_as_a_key(client: TestClient, key: Key) -> None:
    key_id, header = key(ADMIN)
    sign_in(client, header)
    assert client.get("/api/v1/audit").status_code == 200
    client.cookies.clear()
    assert client.get("/api/v1/audit", headers={"Authorization": f"Bearer {key_id}"}).status_code == 401
    assert client.post("/login", data={"key": key_id}).status_code == 403


def test_the_session_is_not_accepted_from_pages_of_an_allowed_origin(
    settings: Settings, key: Key, make_client: Callable[[Settings], TestClient]
) -> None:
    """An allowed origin may be same-site: the browser sends the cookie too, and a form needs no preflight request."""
    client = make_client(settings.model_copy(update={"allowed_origins": "http://app.localhost"}))
    _, header = key(ADMIN)
    sign_in(client, header)
    assert client.post(PIN, headers={"Origin": "http://localhost"}).status_code == 200
    assert client.post(PIN, headers={"Origin": "http://app.localhost"}).status_code == 401
    assert client.post(PIN, headers={"Origin": "http://app.localhost", **header}).status_code == 200
    theirs = {"Origin": "http://app.localhost"}
    with (
        pytest.raises(WebSocketDisconnect) as refused,
        client.websocket_connect("/api/v1/dashboard/ws", headers=theirs),
    ):
        pass
    assert refused.value.code == 1008


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
def test_without_keys_requests_through_a_proxy_are_refused(client: TestClient, name: str) -> None:
    refused = client.get("/api/v1/jobs", headers={name: "203.0.113.7"})
    assert refused.status_code == 403
    assert "wanworks keys create" in refused.json()["detail"]
    assert client.get("/api/v1/jobs").status_code == 200


@pytest.mark.parametrize("host", ["[", "localhost:99999999", "localhost:x", ""])
def test_a_malformed_host_is_not_an_internal_error(client: TestClient, host: str) -> None:
    answer = client.post(PIN, headers={"Host": host, "Origin": "http://localhost"})
    assert answer.status_code == 403


def test_a_key_that_cannot_be_encoded_is_refused(client: TestClient, key: Key) -> None:
    key()
    form = b'--x\r\nContent-Disposition: form-data; name="key"\r\n\r\n\\ud800\r\n--x--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x; charset=unicode_escape"}
    assert client.post("/login", content=form, headers=headers).status_code == 403


def test_authentication_works_with_a_full_disk_or_a_busy_database(
    client: TestClient, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator who wants to free the disk needs a key too."""
    for error in (StoreFull, DatabaseUnavailable):
        _, header = key(ADMIN)

        def fail(*_: Any, error: type[Exception] = error) -> None:
            raise error()

        monkeypatch.setattr(keys, "note_use", fail)
        assert client.get("/api/v1/jobs", headers=header).status_code == 200


def test_unusual_paths_are_not_found(client: TestClient, key: Key) -> None:
    key()
    for path in (
        "//api/v1/jobs", "/api//v1/jobs", "/api/v1/jobs/", "/api/v1/jobs%2f", "/API/v1/jobs", "/api/v1/./jobs",
        "/api/v1/jobs;x", "/%61pi/v1/jobs", "/v1//videos", "/static/../api/v1/jobs", "/docs/%2e%2e/api/v1/jobs",
    ):  # fmt: skip
        for method in ("GET", "HEAD", "OPTIONS", "PUT", "TRACE", "PROPFIND", "POST"):
            assert client.request(method, path).status_code in (401, 404, 405), (method, path)


# --- what one key learns of another's ---------------------------------------------------------------------------------


def open_about(database: Database, job_id: str) -> None:
    stuck = Cause("job_stuck", job_id, "warning", "A job makes no progress", f"{job_id} is still", "Wait", False)
    alerts.apply(database, Changes(opened=(stuck,)), clock.now(), deliver=False)


def test_an_alert_about_a_job_is_visible_only_with_access_to_the_job(
    client: TestClient, database: Database, key: Key
) -> None:
    (owner, owners), (_, others), (_, admins) = key(), key(), key(ADMIN)
    job = accepted(database, owner=owner)
    open_about(database, job.id)
    node = Cause("disk_full", "here", "warning", "Full", "Full", "Clean up", True)
    alerts.apply(database, Changes(opened=(node,)), clock.now(), deliver=False)
    for path in ("/api/v1/dashboard/alerts", "/api/v1/wan-models/dashboard", "/api/v1/dashboard/overview"):
        seen = {who["Authorization"]: client.get(path, headers=who).text for who in (owners, others, admins)}
        assert job.id in seen[owners["Authorization"]], path
        assert job.id in seen[admins["Authorization"]], path
        assert job.id not in seen[others["Authorization"]], path
        assert "disk_full" in seen[others["Authorization"]], path
    sign_in(client, others)
    assert job.id not in client.get("/").text


def test_a_watcher_does_not_receive_alerts_about_other_callers_jobs(
    web: WebProcess, database: Database, key: Key
) -> None:
    (owner, owners), (_, others) = key(), key()
    job = claimed(database, accepted(database, owner=owner).id)
    watching, stranger = (Dashboard(web, additional_headers=header) for header in (owners, others))
    try:
        watching.of("job_update", id=job.id)
        open_about(database, job.id)
        alert = watching.of("alert", subject=job.id)["data"]
        records.remove(database, job.id)
        watching.of("job_update", id=job.id, deleted=True)
        alerts.apply(database, Changes(resolved=(("job_stuck", job.id),)), clock.now(), deliver=False)
        watching.until(lambda message: message["type"] == "alert" and message["data"]["resolved_at"] is not None)
        alerts.apply(
            database, Changes(opened=(Cause("x", "here", "info", "t", "m", "", False),)), clock.now(), deliver=False
        )
        stranger.of("alert", subject="here")
        assert alert["id"] not in str(stranger.received)
    finally:
        watching.close()
        stranger.close()


def test_an_event_stream_ends_with_its_key(web: WebProcess, database: Database) -> None:
    row, secret = keys.make(database, "mine", (READ,), Limits())
    job = accepted(database, owner=row.id)
    header = {"Authorization": f"Bearer {secret}"}
    with httpx.stream(
        "GET", f"http://127.0.0.1:{web.port}/api/v1/jobs/{job.id}/events", headers=header, timeout=20
    ) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: snapshot" or "snapshot" in next(lines)
        keys.revoke(database, "mine")
        assert not [line for line in lines if line.startswith("event: end")], "the stream ends before the job"


def test_a_link_does_not_give_access_to_a_longer_one(
    settings: Settings, database: Database, key: Key, s3_server: S3Server,
    make_client: Callable[[Settings], TestClient],
) -> None:  # fmt: skip
    client = make_client(in_bucket(settings, s3_server.url))
    store = open_store(in_bucket(settings, s3_server.url), lambda: nodes.agreed(database, "store"), create=True)
    owner, header = key()
    job = working.claim(database, accepted(database, owner=owner).id)
    working.finish(database, job, working.make(store, job, {"video.mp4": b"frames"}))
    path = f"/api/v1/jobs/{job.id}/artifacts/video.mp4"

    def seconds(url: str, headers: dict[str, str]) -> int:
        answer = client.get(url, headers=headers, follow_redirects=False)
        assert answer.status_code == 307, answer.text
        location = answer.headers["location"]
        found = re.search(r"X-Amz-Expires=(\d+)", location)
        if found is not None:
            return int(found[1])
        ends = re.search(r"Expires=(\d+)", location)
        assert ends is not None, location
        return int(ends[1]) - int(time.time())

    made = client.post(f"{path}/link", json={"expires_in_seconds": 60}, headers=header).json()
    assert seconds(made["url"], {}) <= 60
    assert seconds(path, header) > 3000


def test_requested_urls_are_not_logged(settings: Settings, web: WebProcess, capsys: pytest.CaptureFixture[str]) -> None:
    """A webhook's URL may contain a secret, and httpx logs every URL in full."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        logs.set_up(settings, "test")
        for library in (httpx, httpx2):
            library.get(f"http://127.0.0.1:{web.port}/healthz?token=hidden")  # type: ignore[attr-defined]
        logging.getLogger("x").info("something")
    finally:
        root.handlers[:], _ = before
        root.setLevel(before[1])
    err = capsys.readouterr().err
    assert "something" in err
    assert "hidden" not in err


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("local",), "audit"),
        (("cli",), "audit"),
        (("a b",), "letters"),
        (("k", "--expires", "99999y"), "calendar"),
        (("k", "--expires", "0d"), "is not a time"),
        (("k", "--gpu-seconds-per-day", "nan"), "less than"),
        (("k", "--gpu-seconds-per-day", "inf"), "less than"),
        (("k", "--queued-jobs", "0"), "greater than"),
        (("k", "--queued-jobs", str(10**30)), "less than"),
    ],
)
def test_invalid_keys_are_refused(settings: Settings, words: tuple[str, ...], complaint: str) -> None:
    environment = {"WANWORKS_HOME": str(settings.home), "WANWORKS_DATABASE_URL": settings.database, "COLUMNS": "200"}
    made = CliRunner().invoke(command_line, ["keys", "create", *words], env=environment)
    assert made.exit_code != 0
    assert complaint in made.output + str(made.exception)
    database = Database(settings.database)
    assert not keys.any_made(database)
    database.close()


def test_a_repeated_scope_counts_once(database: Database) -> None:
    assert keys.make(database, "k", (READ, READ), Limits())[0].scopes == ["read"]


def test_the_last_use_of_a_key_is_stored_once_a_minute(database: Database) -> None:
    row, secret = keys.make(database, "k", (READ,), Limits())
    keys.note_use(database, row)
    first = keys.get(database, row.id)
    assert first is not None and first.used_at is not None  # noqa: PT018
    keys.note_use(database, row)  # another process with an outdated row
    assert keys.get(database, row.id) == first
    with database.write() as session:
        session.connection().execute(
            update(type(row)).values(used_at=clock.now() - timedelta(minutes=2))  # type: ignore[arg-type]
        )
    found = keys.find(database, secret)
    assert found is not None
    keys.note_use(database, found)
    again = keys.get(database, row.id)
    assert again is not None and again.used_at is not None and again.used_at >= first.used_at  # noqa: PT018
