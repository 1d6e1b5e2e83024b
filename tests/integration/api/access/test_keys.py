"""Keys: where none is needed, how long one is valid, how it is stored, and from which pages it is taken."""

import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from starlette.testclient import TestClient
from websockets.exceptions import ConnectionClosed

from shared import clock
from shared.access import audit, keys
from shared.access.keys import Limits
from shared.database.engine import Database
from shared.jobs.ids import new_id
from shared.settings import Settings
from tests.conftest import both_databases
from tests.integration.api.access.scopes import ADMIN, READ, SUBMIT
from tests.integration.api.dashboard.test_feed import Dashboard
from tests.integration.api.jobs.generation_requests import URL
from tests.support.jobs import accepted, claimed
from tests.support.models.library import device

# --- without keys -----------------------------------------------------------------------------------------------------


def test_without_keys_the_local_host_needs_none_until_one_is_created(client: TestClient, database: Database) -> None:
    assert client.get("/api/v1/jobs").status_code == 200
    assert client.get("/api/v1/jobs", headers={"Authorization": "Bearer anything"}).status_code == 200
    assert client.get("/api/v1/jobs", headers={"Host": "rebound.example:8000"}).status_code == 403
    assert client.get("/", headers={"Host": "rebound.example"}).status_code == 403
    for name in ("127.0.0.1:8000", "[::1]:8000", "localhost", "wan.localhost:1"):
        assert client.get("/api/v1/jobs", headers={"Host": name}).status_code == 200, name
    _, secret = keys.make(database, "first", (ADMIN,), Limits())
    deadline = time.monotonic() + 10
    while (answer := client.get("/api/v1/jobs")).status_code == 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert answer.status_code == 401
    header = {"Authorization": f"Bearer {secret}", "Host": "elsewhere.example"}
    assert client.get("/api/v1/jobs", headers=header).status_code == 200
    keys.revoke(database, "first")
    deadline = time.monotonic() + 10
    while (answer := client.get("/api/v1/jobs", headers=header)).status_code == 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (answer.status_code, answer.json()["detail"]) == (401, "The API key was revoked")
    assert client.get("/api/v1/jobs").status_code == 401, "keys stay required"


def test_on_a_network_a_key_is_always_required(
    settings: Settings, database: Database, make_client: Callable[[Settings], TestClient]
) -> None:
    client = make_client(settings.model_copy(update={"host": "0.0.0.0"}))
    assert client.get("/api/v1/jobs").status_code == 401
    assert client.get("/healthz").status_code == 200


# --- watching ---------------------------------------------------------------------------------------------------------


def test_a_watcher_receives_only_its_own_jobs_while_its_key_is_valid(
    watch: Callable[[str | None], Dashboard], database: Database
) -> None:
    (mine, mine_secret), (_, admin_secret) = (
        keys.make(database, name, (scope,), Limits()) for name, scope in (("mine", READ), ("all", ADMIN))
    )
    device(database, on="n")
    foreign = claimed(database, accepted(database, owner=new_id()).id)
    own, nobodys = accepted(database, owner=mine.id), accepted(database)
    admin, owner = watch(admin_secret), watch(mine_secret)
    for job in (own, foreign, nobodys):
        admin.of("job_update", id=job.id)
    assert admin.of("worker_update", job=foreign.id)
    assert owner.of("worker_update", state="busy")["data"]["job"] is None
    owner.of("job_update", id=own.id)
    later = accepted(database, owner=new_id())
    last = accepted(database, owner=mine.id)
    owner.of("job_update", id=last.id)
    admin.of("job_update", id=later.id)
    ids = {message["data"]["id"] for message in owner.received if message["type"] == "job_update"}
    assert ids == {own.id, last.id}
    assert not any(foreign.id in str(message) for message in owner.received)
    keys.revoke(database, "mine")
    with pytest.raises(ConnectionClosed):
        owner.until(lambda _: False, seconds=20)


# --- headers and origins ----------------------------------------------------------------------------------------------


def test_every_response_has_the_security_headers(client: TestClient) -> None:
    for path in ("/api/v1/jobs", "/nothing", "/healthz", "/"):
        answer = client.get(path)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers


def test_only_pages_of_allowed_origins_may_send_requests(
    settings: Settings, database: Database, make_client: Callable[[Settings], TestClient]
) -> None:
    client = make_client(settings.model_copy(update={"allowed_origins": "https://app.example"}))
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,idempotency-key"}
    good = client.options(URL, headers={"Origin": "https://app.example", **asked})
    assert good.status_code == 200
    assert good.headers["access-control-allow-origin"] == "https://app.example"
    assert "idempotency-key" in good.headers["access-control-allow-headers"].lower()
    assert "access-control-allow-credentials" not in good.headers
    assert client.options(URL, headers={"Origin": "https://evil.example", **asked}).status_code == 400
    read = client.get("/api/v1/jobs", headers={"Origin": "https://app.example"})
    assert read.headers["access-control-allow-origin"] == "https://app.example"
    assert "Retry-After" in read.headers["access-control-expose-headers"]


# --- the table of keys ------------------------------------------------------------------------------------------------


@both_databases
def test_keys_are_stored_as_hashes_and_names_are_unique(database: Database) -> None:
    row, secret = keys.make(database, "ci", (SUBMIT,), Limits(queued_jobs=3), clock.now() + timedelta(days=1))
    assert secret.startswith("wan_")
    assert len(secret) >= 40
    assert secret not in str(row.model_dump())
    found = keys.find(database, secret)
    assert found is not None
    assert keys.limits(found) == Limits(queued_jobs=3)
    assert keys.find(database, secret + "x") is None
    with pytest.raises(keys.Conflict):
        keys.make(database, "ci", (SUBMIT,), Limits())
    keys.revoke(database, "ci")
    with pytest.raises(keys.NotFound):
        keys.revoke(database, "ci")
    keys.make(database, "ci", (SUBMIT,), Limits())
    assert [one.name for one in keys.every(database)] == ["ci", "ci"]


@both_databases
def test_the_audit_is_paged(database: Database) -> None:
    acts = [audit.record(database, audit.Act("pinModel", f"/{place}", 200)) for place in range(5)]
    first = audit.page(database, limit=3)
    assert [one.id for one in first.entries] == [one.id for one in reversed(acts)][:3]
    rest = audit.page(database, limit=3, after=first.entries[-1].id)
    assert ([one.subject for one in rest.entries], rest.has_more) == (["/1", "/0"], False)
