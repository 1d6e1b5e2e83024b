"""Required scopes: the table below must have a row for every route, so a new route without a row fails a test."""

import html
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient
from websockets.exceptions import InvalidStatus

from api.app import create_app
from api.dashboard.websocket import DASHBOARD_WS
from api.routes import OPERATIONS
from shared import clock
from shared.access import keys
from shared.access.keys import Limits
from shared.database.engine import Database
from shared.database.tables import Job
from shared.jobs import records
from shared.jobs.ending import webhooks
from shared.jobs.flows import accepting
from shared.messaging.previews import Preview, Previews
from shared.messaging.progress import RestingRedis
from shared.models.loras import library
from shared.models.loras.header import Described
from shared.models.loras.library import NewFile
from shared.settings import Settings
from shared.states import Scope
from shared.storage.directory import DirectoryStore
from tests.integration.api.access.scopes import ADMIN, ALL, READ, SUBMIT, VIDEO
from tests.integration.api.dashboard.test_feed import Dashboard
from tests.integration.api.jobs.generation_requests import GOOD, URL
from tests.integration.scheduler.alerts.test_alerts import open_one
from tests.support import working
from tests.support.batches import stored
from tests.support.flows import Node, new_flow
from tests.support.jobs import accepted, claimed
from tests.support.models.library import device


@dataclass(frozen=True)
class Row:
    """`scope`: what a key needs; None: no key. `own`: a route of a job, which only its owner and admins find."""

    scope: Scope | None
    own: bool = False
    body: Any = field(default=None, hash=False)


DOWNLOAD = {"model_id": "T2V-A14B"}

ROWS = {
    "POST /api/v1/jobs/generation": Row(SUBMIT, body=GOOD),
    "POST /api/v1/jobs/download": Row(ADMIN, body=DOWNLOAD),
    "POST /api/v1/jobs/integrity-check": Row(ADMIN, body={"model_id": "T2V-A14B"}),
    "POST /api/v1/jobs/cleanup": Row(ADMIN, body={}),
    "POST /api/v1/jobs/prepare": Row(ADMIN, body={"model_id": "T2V-A14B"}),
    "POST /api/v1/jobs/benchmark": Row(ADMIN, body={"model_id": "T2V-A14B"}),
    "POST /api/v1/jobs/bulk": Row(SUBMIT, body={"action": "cancel", "filter": {"status": "paused"}}),
    "GET /api/v1/gallery": Row(READ),
    "GET /api/v1/gallery/choices": Row(READ),
    "GET /api/v1/gallery/archive.zip": Row(READ),
    "PUT /api/v1/jobs/{id}/favourite": Row(SUBMIT, own=True),
    "DELETE /api/v1/jobs/{id}/favourite": Row(SUBMIT, own=True),
    "GET /api/v1/collections": Row(READ),
    "POST /api/v1/collections": Row(SUBMIT, body={"name": "boats"}),
    "GET /api/v1/collections/{id}": Row(READ),
    "PATCH /api/v1/collections/{id}": Row(SUBMIT, body={"name": "ships"}),
    "DELETE /api/v1/collections/{id}": Row(SUBMIT),
    "PUT /api/v1/collections/{id}/jobs/{job_id}": Row(SUBMIT),
    "DELETE /api/v1/collections/{id}/jobs/{job_id}": Row(SUBMIT),
    "POST /api/v1/batches": Row(SUBMIT, body={"jobs": [{"params": GOOD}]}),
    "GET /api/v1/loras": Row(READ),
    "POST /api/v1/loras": Row(SUBMIT),
    "POST /api/v1/loras/fetch": Row(SUBMIT, body={"name": "grain", "url": "https://example.com/grain.safetensors"}),
    "GET /api/v1/loras/{id}": Row(READ, own=True),
    "PATCH /api/v1/loras/{id}": Row(SUBMIT, own=True, body={"shared": True}),
    "DELETE /api/v1/loras/{id}": Row(SUBMIT, own=True),
    "GET /api/v1/batches": Row(READ),
    "GET /api/v1/batches/{id}": Row(READ, own=True),
    "POST /api/v1/batches/{id}/cancel": Row(SUBMIT, own=True),
    "GET /api/v1/batches/{id}/artifacts.zip": Row(READ, own=True),
    "GET /api/v1/jobs/count": Row(READ),
    "GET /api/v1/jobs": Row(READ),
    "GET /api/v1/jobs/{id}": Row(READ, own=True),
    "DELETE /api/v1/jobs/{id}": Row(SUBMIT, own=True),
    "PATCH /api/v1/jobs/{id}": Row(SUBMIT, own=True, body={"priority": "low"}),
    "GET /api/v1/jobs/dead": Row(READ),
    "POST /api/v1/jobs/dead/redrive": Row(SUBMIT, body={}),
    "POST /api/v1/jobs/{id}/cancel": Row(SUBMIT, own=True),
    "POST /api/v1/jobs/{id}/retry": Row(SUBMIT, own=True),
    "GET /api/v1/jobs/{id}/events": Row(READ, own=True),
    "GET /api/v1/jobs/{id}/preview": Row(READ, own=True),
    "GET /api/v1/jobs/{id}/image": Row(READ, own=True),
    "GET /api/v1/jobs/{id}/log": Row(ADMIN),
    "GET /api/v1/jobs/{id}/artifacts/{name}": Row(READ, own=True),
    "POST /api/v1/jobs/{id}/artifacts/{name}/link": Row(READ, own=True),
    "POST /api/v1/flows": Row(SUBMIT, body={"jobs": [{"name": "a", "params": GOOD}]}),
    "GET /api/v1/flows": Row(READ),
    "GET /api/v1/flows/{id}": Row(READ, own=True),
    "POST /api/v1/flows/{id}/cancel": Row(SUBMIT, own=True),
    "POST /api/v1/flows/{id}/retry": Row(SUBMIT, own=True),
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
    "GET /api/v1/wan-models/tiers/{model_type}": Row(READ),
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
    "GET /api/v1/dashboard/first-run": Row(READ),
    "GET /api/v1/dashboard/flower": Row(READ),
    "GET /api/v1/dashboard/html": Row(ALL),  # redirects unknown callers to /login
    "GET /": Row(ALL),
    "GET /api/v1/webhooks/messages": Row(READ),
    "POST /api/v1/webhooks/messages/{message_id}/replay": Row(SUBMIT, own=True),
    "GET /api/v1/audit": Row(ADMIN),
    "GET /api/v1/workers": Row(READ),
    "GET /api/v1/queues": Row(READ),
    "POST /api/v1/queues/pause": Row(SUBMIT, body={"key": "submit"}),
    "POST /api/v1/queues/resume": Row(SUBMIT, body={"key": "submit"}),
    "POST /api/v1/jobs/{id}/move-to-front": Row(ADMIN),
    "DELETE /api/v1/jobs/{id}/move-to-front": Row(ADMIN),
    "GET /api/v1/usage": Row(READ),
    "GET /api/v1/nodes": Row(READ),
    "GET /api/v1/nodes/{node}/log": Row(ADMIN),
    "POST /api/v1/nodes/{node}/drain": Row(ADMIN),
    "DELETE /api/v1/nodes/{node}/drain": Row(ADMIN),
    "DELETE /api/v1/nodes/{node}/devices/{index}/quarantine": Row(ADMIN),
    "DELETE /api/v1/nodes/{node}": Row(ADMIN),
    "GET /flower/tasks/datatable": Row(ADMIN),
    "POST /flower/tasks/datatable": Row(ADMIN),
    "GET /flower/{path:path}": Row(ADMIN),
    "POST /flower/{path:path}": Row(ADMIN),
    "GET /metrics": Row(READ),
    "GET /login": Row(ALL),
    "POST /login": Row(ALL),
    "POST /logout": Row(ALL),
    "GET /static/{version}/{file:path}": Row(ALL),
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
    flow: str
    batch: str

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
        if path.endswith(("/image", "/preview")):
            job = self._pictured()
        if path.startswith("/api/v1/loras/"):
            job = self._lora()
        if path.startswith("/api/v1/flows/"):
            job = self.flow
        if path.startswith("/api/v1/batches/"):
            job = self.batch
        given = {
            "id": job, "name": "video.mp4", "message_id": self.message, "node": "nowhere", "version": "x",
            "file": "main.js", "path:path": "tasks",
        }  # fmt: skip
        return re.sub(r"\{([\w:]+)\}", lambda match: given.get(match[1], "T2V-A14B"), path)

    def _pictured(self) -> str:
        """A running job of the owner, with an input picture and a preview."""
        job = working.claim(self.database, accepted(self.database, owner=self._owner()).id)
        reference = DirectoryStore(self.settings.store_dir).put_input(job.id, "image.png", b"picture")
        with self.database.write() as session:
            row = session.get(Job, job.id)
            assert row is not None
            row.params = {**row.params, "image": reference}
            session.add(row)
        Previews(RestingRedis(self.settings.redis)).put(job.id, Preview(job.attempt, 1, 2, b"preview"))
        return job.id

    def _lora(self) -> str:
        file = NewFile("both", "0" * 64, 1, Described(1, 4, None, ()), "upload", "")
        return library.add(self.database, f"lora-{clock.now().timestamp()}", file, owner=self._owner()).id

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
        flow = accepting.accept(database, new_flow(owner=owner, a=Node(), b=Node(("a",)))).flow
        batch, _ = stored(database, 1, owner=owner)
        yield Installation(
            client,
            database,
            settings,
            {name: secret for name, (_, secret) in made.items()},
            job.id,
            message.id,
            alert.id,
            flow.id,
            batch.id,
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


def test_a_key_pauses_only_its_own_jobs(installation: Installation) -> None:
    def pause(who: str, body: dict[str, str], act: str = "pause") -> Any:
        return installation.client.post(f"/api/v1/queues/{act}", json=body, headers=installation.header(who))

    for body in ({}, {"key": "other"}, {"model_id": "T2V-A14B"}, {"key": "nobodys"}):
        assert pause("owner", body).status_code == 403, body
        assert pause("owner", body, "resume").status_code == 403, body
    assert [row["value"] for row in pause("owner", {"key": "owner"}).json()["pauses"]] == ["owner"]
    shown = installation.client.get("/api/v1/queues", headers=installation.header("other")).json()["pauses"]
    assert "owner" not in [row["value"] for row in shown], "another key's pause"
    assert pause("admin", {"key": "owner"}, "resume").status_code == 200
    entries = installation.client.get("/api/v1/audit", headers=installation.header("admin")).json()["data"]
    assert entries[0]["act"] == "resumeQueue"


def test_a_browser_that_opens_a_signed_link_gets_a_page_with_the_file_alone(installation: Installation) -> None:
    path = f"/api/v1/jobs/{installation.job}/artifacts/video.mp4"
    url = installation.client.post(f"{path}/link", headers=installation.header("owner")).json()["url"]
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    shown = installation.client.get(url, headers=browser)
    assert shown.headers["content-type"] == "text/html; charset=utf-8"
    assert (shown.headers["vary"], shown.headers["cache-control"]) == ("Accept", "no-store")
    assert shown.headers["referrer-policy"] == "no-referrer"
    policy = shown.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "script-src" not in policy
    assert "<script" not in shown.text
    assert "<h1>video.mp4</h1><p>6 B · this link is valid until " in shown.text
    prompt = installation.client.get(f"/api/v1/jobs/{installation.job}", headers=installation.header("owner"))
    assert prompt.json()["params"]["prompt"] not in shown.text
    source, download = (html.unescape(one) for one in re.findall(r'(?:src|href)="(/[^"]+)"', shown.text))
    assert source == url
    assert installation.client.get(source, headers={"Accept": "*/*"}).content == b"frames"
    saved = installation.client.get(download, headers=browser)
    assert saved.content == b"frames"
    assert saved.headers["content-disposition"] == f'attachment; filename="{installation.job}-video.mp4"'
    for plain in (installation.client.get(url), installation.client.get(url, headers={"Accept": "video/*"})):
        assert plain.content == b"frames"
        assert plain.headers["vary"] == "Accept", "a cache keeps it apart from the page"
        assert plain.headers["content-disposition"] == 'inline; filename="video.mp4"'
    # A browser has the file's ETag; the page is no version of the file.
    again = installation.client.get(url, headers={**browser, "If-None-Match": plain.headers["etag"]})
    assert again.status_code == 200
    assert installation.client.get(f"{url}0", headers=browser).status_code == 403
    # With a key, the same address is the file.
    keyed = installation.client.get(path, headers={**browser, **installation.header("owner")})
    assert keyed.content == b"frames"


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


# --- watching ---------------------------------------------------------------------------------------------------------


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
