"""Required scopes: the table below must have a row for every route, so a new route without a row fails a test."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient
from websockets.exceptions import ConnectionClosed, InvalidStatus

from api.app import create_app
from api.dashboard.websocket import DASHBOARD_WS
from api.routes import OPERATIONS
from shared import clock
from shared.access import audit, keys
from shared.access.keys import Limits
from shared.database.engine import Database
from shared.jobs import gpu_time, records, webhooks
from shared.jobs.records import new_id
from shared.settings import Settings
from shared.states import Priority, Scope
from shared.storage.directory import DirectoryStore
from tests.conftest import WebProcess, both_databases
from tests.integration.api.dashboard.test_feed import Dashboard
from tests.integration.api.jobs.test_generation import GOOD, URL
from tests.integration.scheduler.alerts.test_alerts import open_one
from tests.support import working
from tests.support.jobs import accepted, claimed, new_job
from tests.support.library import device

ALL, READ, SUBMIT, ADMIN = None, Scope.READ, Scope.SUBMIT, Scope.ADMIN


@dataclass(frozen=True)
class Row:
    """`scope`: what a key needs; None: no key. `own`: a route of a job, which only its owner and admins find."""

    scope: Scope | None
    own: bool = False
    body: Any = field(default=None, hash=False)


VIDEO = {"model": "T2V-A14B", "prompt": "a cat", "size": "64x64"}
DOWNLOAD = {"model_id": "T2V-A14B"}

ROWS = {
    "POST /api/v1/jobs/generation": Row(SUBMIT, body=GOOD),
    "POST /api/v1/jobs/download": Row(ADMIN, body=DOWNLOAD),
    "POST /api/v1/jobs/integrity-check": Row(ADMIN, body={"model_id": "T2V-A14B"}),
    "POST /api/v1/jobs/cleanup": Row(ADMIN, body={}),
    "GET /api/v1/jobs": Row(READ),
    "GET /api/v1/jobs/{id}": Row(READ, own=True),
    "DELETE /api/v1/jobs/{id}": Row(SUBMIT, own=True),
    "POST /api/v1/jobs/{id}/cancel": Row(SUBMIT, own=True),
    "POST /api/v1/jobs/{id}/retry": Row(SUBMIT, own=True),
    "GET /api/v1/jobs/{id}/events": Row(READ, own=True),
    "GET /api/v1/jobs/{id}/artifacts/{name}": Row(READ, own=True),
    "POST /api/v1/jobs/{id}/artifacts/{name}/link": Row(READ, own=True),
    "POST /v1/videos": Row(SUBMIT, body=VIDEO),
    "GET /flower": Row(ALL),
    "GET /v1/models": Row(READ),
    "GET /v1/models/{model:path}": Row(READ),
    "GET /v1/videos": Row(READ),
    "GET /v1/videos/{id}": Row(READ, own=True),
    "DELETE /v1/videos/{id}": Row(SUBMIT, own=True),
    "GET /v1/videos/{id}/content": Row(READ, own=True),
    "POST /v1/videos/{id}/remix": Row(SUBMIT, own=True, body={"prompt": "a dog"}),
    "GET /api/v1/models/status/detailed": Row(READ),
    "GET /api/v1/models/health": Row(READ),
    "GET /api/v1/models/analytics": Row(READ),
    "POST /api/v1/models/download/manage": Row(ADMIN, body={**DOWNLOAD, "action": "pause"}),
    "POST /api/v1/models/cleanup": Row(ADMIN, body={}),
    "POST /api/v1/models/fallback/suggest": Row(
        READ, body={"requested_model": "T2V-A14B", "quality_preference": "high"}
    ),
    "POST /api/v1/models/{model_id}/pin": Row(ADMIN),
    "DELETE /api/v1/models/{model_id}/pin": Row(ADMIN),
    "GET /api/v1/dashboard/alerts": Row(READ),
    "POST /api/v1/dashboard/alerts/{id}/acknowledge": Row(ADMIN),
    "GET /api/v1/wan-models/capabilities/{model_type}": Row(READ),
    "GET /api/v1/wan-models/health/{model_type}": Row(READ),
    "GET /api/v1/wan-models/performance/{model_type}": Row(READ),
    "GET /api/v1/wan-models/compare/{model_a}/{model_b}": Row(READ),
    "GET /api/v1/wan-models/recommend": Row(READ),
    "GET /api/v1/wan-models/dashboard": Row(READ),
    "GET /api/v1/wan-models/status": Row(READ),
    "GET /api/v1/dashboard/overview": Row(READ),
    "GET /api/v1/dashboard/metrics": Row(READ),
    "GET /api/v1/dashboard/metrics/history": Row(READ),
    "GET /api/v1/dashboard/models": Row(READ),
    "GET /api/v1/dashboard/estimate": Row(READ),
    "GET /api/v1/dashboard/flower": Row(READ),
    "GET /api/v1/dashboard/html": Row(ALL),  # redirects unknown callers to /login
    "GET /": Row(ALL),
    "GET /api/v1/webhooks/messages": Row(READ),
    "POST /api/v1/webhooks/messages/{message_id}/replay": Row(SUBMIT, own=True),
    "GET /api/v1/audit": Row(ADMIN),
    "GET /api/v1/workers": Row(READ),
    "GET /api/v1/queues": Row(READ),
    "GET /api/v1/nodes": Row(READ),
    "POST /api/v1/nodes/{node}/drain": Row(ADMIN),
    "DELETE /api/v1/nodes/{node}/drain": Row(ADMIN),
    "DELETE /api/v1/nodes/{node}": Row(ADMIN),
    "GET /flower/tasks/datatable": Row(ADMIN),
    "POST /flower/tasks/datatable": Row(ADMIN),
    "GET /flower/{path:path}": Row(ADMIN),
    "POST /flower/{path:path}": Row(ADMIN),
    "GET /metrics": Row(READ),
    "GET /login": Row(ALL),
    "POST /login": Row(ALL),
    "POST /logout": Row(ALL),
    "GET /static/{version}/{file}": Row(ALL),
    "GET /healthz": Row(ALL),
    "GET /readyz": Row(ALL),
    "GET /openapi.json": Row(ALL),
    "GET /docs": Row(ALL),
    "GET /docs/{file}": Row(ALL),
    f"WS {DASHBOARD_WS}": Row(READ),
}

OVER_HTTP = [route for route in ROWS if not route.startswith("WS ")]


@dataclass(frozen=True)
class Installation:
    """An API with keys of every kind, and a job of `owner` with a video and a webhook message."""

    client: TestClient
    database: Database
    settings: Settings
    secrets: dict[str, str]
    job: str
    message: str
    alert: str

    def send(self, route: str, who: str | None, **options: Any) -> Any:
        method, path = route.split(" ", 1)
        row = ROWS[route]
        body = {"json": row.body} if row.body is not None else {}
        return self.client.request(
            method, self._real(method, path), headers=self.header(who), follow_redirects=False, **body, **options
        )

    def header(self, who: str | None) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secrets.get(who, who)}"} if who is not None else {}

    def _real(self, method: str, path: str) -> str:
        job = self.job
        if method == "DELETE" and "{id}" in path:  # one that can be done without
            job = accepted(self.database, owner=self._owner()).id
        if path.startswith("/api/v1/dashboard/alerts/"):
            job = self.alert
        given = {
            "id": job, "name": "video.mp4", "message_id": self.message, "node": "nowhere", "version": "x",
            "file": "main.js", "path:path": "tasks",
        }  # fmt: skip
        return re.sub(r"\{([\w:]+)\}", lambda match: given.get(match[1], "T2V-A14B"), path)

    def _owner(self) -> str | None:
        return records.get(self.database, self.job).owner


@pytest.fixture(scope="module")
def installation(
    _migrated_sqlite: Any, _redis_of_the_session: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    home = tmp_path_factory.mktemp("access")
    (home / "wanworks.db").write_bytes(_migrated_sqlite.read_bytes())
    settings = Settings(
        home=home, database_url=f"sqlite:///{home / 'wanworks.db'}", redis_url=_redis_of_the_session.url,
        catalogue="demo", node="here", min_free_disk_mb=0,
    )  # fmt: skip
    database = Database(settings.database)
    client = TestClient(create_app(settings), "http://localhost", raise_server_exceptions=False)
    with client:
        kinds = {
            "read": (READ,), "submit": (SUBMIT,), "admin": (ADMIN,), "owner": (READ, SUBMIT),
            "other": (READ, SUBMIT), "revoked": (ADMIN,), "expired": (ADMIN,),
        }  # fmt: skip
        made = {
            name: keys.make(database, name, scopes, Limits()) for name, scopes in kinds.items() if name != "expired"
        }
        made["expired"] = keys.make(database, "expired", (ADMIN,), Limits(), clock.now() - timedelta(seconds=1))
        keys.revoke(database, "revoked")
        owner = made["owner"][0].id
        job = accepted(database, owner=owner, webhook_url="https://receiver.example/hook")
        store = DirectoryStore(settings.store_dir)
        running = working.claim(database, job.id)
        working.finish(database, running, working.make(store, running, {"video.mp4": b"frames"}))
        (message,) = webhooks.page(database, limit=2, after=None).messages
        (alert,) = open_one(database)
        yield Installation(
            client,
            database,
            settings,
            {name: secret for name, (_, secret) in made.items()},
            job.id,
            message.id,
            alert.id,
        )
    database.close()


def test_the_table_names_every_route() -> None:
    there = {f"{operation.method} {operation.path}" for operation in OPERATIONS} | {f"WS {DASHBOARD_WS}"}
    assert set(ROWS) == there
    documented = {f"{operation.method} {operation.path}": operation.scope for operation in OPERATIONS}
    assert {route: ROWS[route].scope for route in documented} == documented


@pytest.mark.parametrize("route", OVER_HTTP)
def test_required_scopes(installation: Installation, route: str) -> None:
    row = ROWS[route]
    if row.scope is None:
        for who in (None, "wan_nobodys", "revoked"):
            assert installation.send(route, who).status_code not in (401, 403, 500), who
        return
    for who in (None, "wan_nobodys", "revoked", "expired"):
        answer = installation.send(route, who)
        assert answer.status_code == 401, who
        assert answer.headers["www-authenticate"].startswith("Bearer")
    for scope in (READ, SUBMIT):
        answer = installation.send(route, scope.value)
        if scope is not row.scope:
            assert answer.status_code == 403, f"{scope} should not do"
        elif row.own:
            assert answer.status_code == 404, "the job belongs to another key"
        else:
            assert answer.status_code not in (401, 403, 500), answer.text
    if row.own:
        assert installation.send(route, "other").status_code == 404
        assert installation.send(route, "owner").status_code not in (401, 403, 404, 500)
    admin = installation.send(route, "admin")
    assert admin.status_code not in (401, 403, 500), admin.text
    if row.own:
        assert admin.status_code != 404, "admins see the jobs of all keys"


def test_lists_show_only_the_callers_jobs(installation: Installation) -> None:
    job = accepted(installation.database)
    for path in ("/api/v1/jobs", "/v1/videos"):
        seen = {
            who: {
                one["id"]
                for one in installation.client.get(
                    path, params={"limit": 100}, headers=installation.header(who)
                ).json()["data"]
            }
            for who in ("owner", "other", "admin")
        }
        assert installation.job in seen["owner"]
        assert job.id not in seen["owner"]
        assert installation.job not in seen["other"]
        assert {installation.job, job.id} <= seen["admin"]
    messages = "/api/v1/webhooks/messages"
    assert installation.client.get(messages, headers=installation.header("other")).json()["data"] == []
    assert len(installation.client.get(messages, headers=installation.header("owner")).json()["data"]) == 1


def test_idempotency_keys_are_separate_for_each_caller(installation: Installation) -> None:
    headers = {"Idempotency-Key": "the same words"}
    mine = installation.client.post(URL, json=GOOD, headers=headers | installation.header("owner"))
    again = installation.client.post(URL, json=GOOD, headers=headers | installation.header("owner"))
    theirs = installation.client.post(URL, json=GOOD, headers=headers | installation.header("other"))
    assert (mine.status_code, again.status_code, theirs.status_code) == (202, 200, 202)
    assert again.json()["id"] == mine.json()["id"] != theirs.json()["id"]


def test_the_workers_hide_jobs_of_other_callers(installation: Installation) -> None:
    device(installation.database, on="n")
    owner = records.get(installation.database, installation.job).owner
    job = claimed(installation.database, accepted(installation.database, owner=owner).id)

    def shown(who: str) -> set[str | None]:
        devices = installation.client.get("/api/v1/workers", headers=installation.header(who)).json()["devices"]
        return {device["job"] for device in devices if device["state"] == "busy"}

    assert shown("owner") == shown("admin") == {job.id}
    assert shown("other") == {None}
    records.request_cancel(installation.database, job.id)


def test_a_signed_link_is_valid_for_one_file_until_it_expires(installation: Installation) -> None:
    path = f"/api/v1/jobs/{installation.job}/artifacts/video.mp4"
    made = installation.client.post(
        f"{path}/link", json={"expires_in_seconds": 60}, headers=installation.header("owner")
    ).json()
    assert installation.client.get(made["url"]).content == b"frames"
    assert installation.client.get(made["url"], headers={"Range": "bytes=0-1"}).content == b"fr"
    for wrong in (
        made["url"].replace("video.mp4", "manifest.json"),
        made["url"].replace("signature=", "signature=0"),
        re.sub(r"expires=(\d+)", lambda match: f"expires={int(match[1]) + 1}", made["url"]),
    ):
        assert installation.client.get(wrong).status_code == 403, wrong
    assert installation.client.get(path).status_code == 401
    assert installation.client.get(f"{path}?signature=x").status_code == 401
    short = installation.client.post(
        f"{path}/link", json={"expires_in_seconds": 1}, headers=installation.header("owner")
    ).json()
    deadline = time.monotonic() + 10
    while (answer := installation.client.get(short["url"])).status_code == 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert answer.status_code == 403
    assert "expired" in answer.json()["detail"]
    for wrong_time in (0, 604_801, "60", 1.5):
        refused = installation.client.post(
            f"{path}/link", json={"expires_in_seconds": wrong_time}, headers=installation.header("owner")
        )
        assert refused.json()["errors"][0]["loc"] == ["body", "expires_in_seconds"]


def test_the_page_requires_a_key_and_keeps_a_session(installation: Installation) -> None:
    client = installation.client
    client.follow_redirects = False
    assert client.get("/").headers["location"] == "/login"
    assert "API key" in client.get("/login").text
    wrong = client.post("/login", data={"key": "wan_nobodys"})
    assert wrong.status_code == 403
    assert "The API key is unknown" in wrong.text
    assert (
        "no such field" in client.post("/login", data={"other": "x"}).text or client.post("/login").status_code == 400
    )
    right = client.post("/login", data={"key": installation.secrets["read"]})
    assert (right.status_code, right.headers["location"]) == (303, "/")
    cookie = right.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and installation.secrets["read"] not in cookie  # noqa: PT018
    assert client.get("/").status_code == 200
    assert client.get("/api/v1/jobs").status_code == 200
    assert client.post("/api/v1/jobs/generation", json=GOOD).status_code == 403, "a session has the scopes of its key"
    session = client.cookies["wanworks_session"]
    client.cookies.clear()
    for wrong in (session.replace(session[:8], "0" * 8), session[:-1], session.rsplit(".", 1)[0], "...", "x"):
        assert client.get("/api/v1/jobs", headers={"Cookie": f"wanworks_session={wrong}"}).status_code == 401, wrong
    client.cookies.set("wanworks_session", session)
    out = client.post("/logout")
    assert out.headers["location"] == "/login"
    client.cookies.clear()
    assert client.get("/api/v1/jobs").status_code == 401
    client.follow_redirects = True


def test_administrative_acts_are_in_the_audit(installation: Installation) -> None:
    installation.send("POST /api/v1/models/{model_id}/pin", "admin")
    installation.send("GET /api/v1/audit", "admin")
    entries = installation.client.get("/api/v1/audit", headers=installation.header("admin")).json()["data"]
    newest = entries[0]
    assert (newest["actor"], newest["act"], newest["outcome"]) == ("admin", "pinModel", 200)
    assert newest["subject"] == "/api/v1/models/T2V-A14B/pin"
    assert newest["address"] and newest["request_id"] and newest["key_id"]  # noqa: PT018
    assert "listAudit" not in {entry["act"] for entry in entries}, "reading changes nothing"


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


@pytest.fixture
def watch(web: WebProcess) -> Iterator[Callable[[str | None], Dashboard]]:
    opened: list[Dashboard] = []

    def start(secret: str | None) -> Dashboard:
        header = {"Authorization": f"Bearer {secret}"} if secret is not None else {}
        opened.append(Dashboard(web, additional_headers=header))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_scopes_of_the_websocket(watch: Callable[[str | None], Dashboard], database: Database) -> None:
    """Check the WebSocket's scope, which is not in the table."""
    assert ROWS[f"WS {DASHBOARD_WS}"] == Row(READ)
    secrets = {scope: keys.make(database, scope.value, (scope,), Limits())[1] for scope in Scope}
    _, over = keys.make(database, "over", (ADMIN,), Limits(), clock.now())
    for refused in (None, "wan_nobodys", over, secrets[SUBMIT]):
        with pytest.raises(InvalidStatus) as answer:
            watch(refused)
        assert answer.value.response.status_code == 403
    for scope in (READ, ADMIN):
        assert watch(secrets[scope]).of("metrics_update")


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


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_limits(client: TestClient, database: Database) -> Callable[..., dict[str, str]]:
    """Return the header with a new key that has these limits."""

    def make(**limits: Any) -> dict[str, str]:
        _, secret = keys.make(database, f"k{new_id()}", (READ, SUBMIT), Limits(**limits))
        return {"Authorization": f"Bearer {secret}"}

    return make


def test_requests_per_minute(client: TestClient, with_limits: Callable[..., dict[str, str]]) -> None:
    header, other = with_limits(requests_per_minute=3), with_limits(requests_per_minute=3)
    answers = [client.get("/api/v1/jobs", headers=header) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[3].json()["code"] == "limit_reached"
    assert 1 <= int(answers[3].headers["retry-after"]) <= 60
    assert client.get("/api/v1/jobs", headers=other).status_code == 200, "limits are separate for each key"


def test_requests_per_minute_without_redis(
    settings: Settings, database: Database, make_client: Callable[[Settings], TestClient]
) -> None:
    client = make_client(settings.model_copy(update={"redis_url": None}))
    _, secret = keys.make(database, "k", (READ,), Limits(requests_per_minute=2))
    header = {"Authorization": f"Bearer {secret}"}
    assert [client.get("/api/v1/jobs", headers=header).status_code for _ in range(3)] == [200, 200, 429]


@both_databases
def test_queued_jobs(client: TestClient, with_limits: Callable[..., dict[str, str]], database: Database) -> None:
    header = with_limits(queued_jobs=2)
    first, second, third = (client.post(URL, json=GOOD, headers=header) for _ in range(3))
    assert [one.status_code for one in (first, second, third)] == [202, 202, 429]
    assert "2 jobs queued" in third.json()["detail"]
    assert int(third.headers["retry-after"]) > 0
    video_error = client.post("/v1/videos", json=VIDEO, headers=header)
    assert (video_error.status_code, video_error.json()["error"]["type"]) == (429, "rate_limit_error")
    headers = {**header, "Idempotency-Key": "k"}
    assert client.post(URL, json=GOOD, headers=headers).status_code == 429
    client.delete(f"/api/v1/jobs/{first.json()['id']}", headers=header)
    assert client.post(URL, json=GOOD, headers=headers).status_code == 202
    assert client.post(URL, json=GOOD, headers=headers).status_code == 200, (
        "a repeated request for an accepted job is not refused"
    )


@both_databases
def test_many_at_once_do_not_pass_the_limit(database: Database) -> None:
    row, _ = keys.make(database, "k", (SUBMIT,), Limits(queued_jobs=5))
    outcome = records.accept(database, [new_job(owner=row.id, owner_may_queue=5) for _ in range(9)])
    assert sum(isinstance(one, records.Accepted) for one in outcome) == 5


def test_gpu_seconds_per_day(
    client: TestClient, with_limits: Callable[..., dict[str, str]], database: Database, settings: Settings
) -> None:
    header = with_limits(gpu_seconds_per_day=10.0)
    job_id = client.post(URL, json=GOOD, headers=header).json()["id"]
    job = working.claim(database, job_id)
    store = DirectoryStore(settings.store_dir)
    with database.write() as session:
        job.started_at = clock.now() - timedelta(seconds=30)
        session.merge(job)
    owner = job.owner
    assert owner is not None
    now = clock.now()
    assert 29 < gpu_time.gpu_seconds(database, owner, now - timedelta(hours=1), now) < 40, "running jobs count too"
    assert client.post(URL, json=GOOD, headers=header).status_code == 429
    working.finish(database, job, working.make(store, job, {"video.mp4": b"x"}))
    answer = client.post(URL, json=GOOD, headers=header)
    assert answer.status_code == 429
    assert "GPU-seconds" in answer.json()["detail"]
    assert 0 < int(answer.headers["retry-after"]) <= 86_400


def test_a_maximum_priority(client: TestClient, with_limits: Callable[..., dict[str, str]], database: Database) -> None:
    header = with_limits(priority_ceiling=Priority.LOW)
    refused = client.post(URL, json={**GOOD, "priority": "high"}, headers=header)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["loc"] == ["body", "priority"]
    made = client.post(URL, json=GOOD, headers=header)
    assert made.json()["priority"] == "low", "a default priority is lowered to the maximum of the key"


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
