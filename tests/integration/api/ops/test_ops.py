"""The operators' routes, the documentation, and properties of the web process."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from api import routes
from api.http import errors
from shared import clock
from shared import errors as shared_errors
from shared.catalogue import models
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Device
from shared.errors import WanworksError
from shared.jobs import dispatch
from shared.settings import Settings
from shared.telemetry import loop_reports
from tests.conftest import RedisServer, WebProcess, both_databases
from tests.integration.api.jobs.generation_requests import GOOD, URL
from tests.support import working


def register(database: Database, index: int = 0, **more: Any) -> None:
    device = Device(
        key=f"here/{index}", node="here", index=index, kind="cpu", uuid=f"cpu-{index}", name="CPU", memory_mb=16_000,
        worker=f"gpu-{index}@here", pid=100 + index, started_at=clock.now(), seen_at=0.0, warm=[], **more,
    )  # fmt: skip
    nodes.register_device(database, device)


# --- workers and queues


@both_databases
def test_workers_show_devices_and_what_they_run(client: TestClient, database: Database) -> None:
    register(database, 0)
    register(database, 1, visible="GPU-1")
    register(database, 2)
    (node,) = client.get("/api/v1/workers").json()["nodes"]
    assert (node["state"], node["io_online"], node["last_seen"]) == ("online", False, None), (
        "only its devices are online"
    )
    refused = client.post("/api/v1/jobs/download", json={"model_id": "T2V-A14B"})
    assert (refused.status_code, "no io worker has sent a heartbeat" in refused.json()["detail"]) == (409, True)
    nodes.node_beat(database, "here", 1000.0, 400.0)
    nodes.device_beat(database, "here/1")
    nodes.report_loaded(database, "here/1", [{"model_id": "T2V-A14B", "quantization": "none"}])
    nodes.deregister_device(database, "here/2", 102)
    job_id = client.post(URL, json=GOOD).json()["id"]
    working.claim(database, job_id)
    body = client.get("/api/v1/workers").json()
    busy, idle, gone = body["devices"]
    assert (busy["state"], busy["job"], busy["worker"], busy["pid"]) == ("busy", job_id, "gpu-0@here", 100)
    assert (idle["state"], idle["job"], idle["visible"]) == ("idle", None, "GPU-1")
    assert idle["warm"] == [{"model_id": "T2V-A14B", "quantization": "none"}]
    assert (gone["state"], gone["last_seen"]) == ("offline", None)
    assert idle["last_seen"].endswith("Z")
    (node,) = body["nodes"]
    assert (node["name"], node["state"], node["disk_free_mb"]) == ("here", "online", 400.0)
    assert (node["io_online"], node["last_seen"] is not None) == (True, True)
    client.delete(f"/api/v1/jobs/{job_id}")
    assert client.get("/api/v1/workers").json()["devices"][0]["job"] is None, "a deleted job is not shown"


@both_databases
def test_queues_count_by_priority_and_model(client: TestClient, database: Database) -> None:
    empty = client.get("/api/v1/queues").json()
    assert empty == {
        "queued": 0, "running": 0, "waiting_for_model": 0, "held": 0, "oldest_age_seconds": None, "queues": [],
        "pauses": [],
    }  # fmt: skip
    first = client.post(URL, json=GOOD).json()["id"]
    client.post(URL, json={**GOOD, "priority": "high"})
    client.post(URL, json={**GOOD, "model_id": "TI2V-5B"})
    working.claim(database, first)
    dispatch.mark_waiting_for_model(database, {"T2V-A14B"})
    body = client.get("/api/v1/queues").json()
    assert (body["queued"], body["running"], body["waiting_for_model"]) == (2, 1, 1)
    high, running, waiting = body["queues"]
    assert (high["priority"], high["queued"]) == ("high", 1)
    assert high["oldest_age_seconds"] >= 0
    assert (running["model_id"], running["running"], running["oldest_age_seconds"]) == ("T2V-A14B", 1, None)
    assert (waiting["model_id"], waiting["waiting_for_model"]) == ("TI2V-5B", 1)


# --- readiness


def test_ready_when_all_parts_are_available(client: TestClient, database: Database, settings: Settings) -> None:
    def reasons() -> list[str]:
        answer = client.get("/readyz")
        assert answer.status_code == 200
        assert (answer.json()["status"] == "ok") == (answer.json()["reasons"] == [])
        found: list[str] = answer.json()["reasons"]
        return found

    assert reasons() == ["no_dispatcher", "no_worker", "no_io_worker"]
    register(database)
    assert reasons() == ["no_dispatcher", "no_io_worker"]
    nodes.node_beat(database, "here", 1000, 1000, 1)
    assert reasons() == ["no_dispatcher"]
    loop_reports.record(database, "dispatcher@here", "here", "dispatcher", 2.0)
    assert reasons() == []
    nodes.deregister_device(database, "here/0", 100)
    assert reasons() == ["no_worker"]


def test_degraded_without_redis_and_ready_when_it_is_back(
    settings: Settings, database: Database, redis_server: RedisServer, make_client: Any
) -> None:
    client = make_client(Settings(**{**settings.model_dump(), "redis_url": redis_server.url}))
    assert "redis_unavailable" not in client.get("/readyz").json()["reasons"]
    os.kill(redis_server.process.pid, signal.SIGSTOP)  # type: ignore[union-attr]
    started = time.monotonic()
    assert client.get("/readyz").json()["reasons"][0] == "redis_unavailable", "it hangs"
    assert time.monotonic() - started < 3
    redis_server.kill()
    assert client.get("/readyz").json()["reasons"][0] == "redis_unavailable", "it is gone"
    redis_server.start()
    assert "redis_unavailable" not in client.get("/readyz").json()["reasons"]


def test_a_hanging_database_is_not_waited_for(settings: Settings, make_client: Any) -> None:
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        url = f"postgresql+psycopg://x@127.0.0.1:{silent.getsockname()[1]}/x"
        client = make_client(Settings(**{**settings.model_dump(), "database_url": url}))
        started = time.monotonic()
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert "retry-after" in answer.headers
        assert time.monotonic() - started < 3


# --- documentation


def test_the_document_lists_every_route_and_each_of_its_problems(client: TestClient) -> None:
    answer = client.get("/openapi.json")
    document = answer.json()
    assert document["openapi"] == "3.1.0"
    shown = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert shown == {(row.method, row.path.replace(":path}", "}")) for row in routes.OPERATIONS if row.documented}
    create = document["paths"][URL]["post"]
    assert set(create["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    assert {"200", "202", "400", "413", "415", "422", "503", "507"} <= set(create["responses"])
    request = document["components"]["schemas"]["GenerationRequest"]
    assert request["properties"]["model_id"]["enum"] == list(models.load("demo").model_ids)
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', answer.text))
    assert references <= set(document["components"]["schemas"])
    assert client.get("/openapi.json", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304


def test_the_documentation_loads_nothing_from_another_host(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) >= 4
    for link in loaded:
        assert link.startswith(("/docs/", "data:"))
        if link.startswith("/docs/"):
            assert client.get(link).status_code == 200
    assert client.get("/docs/nothing.js").status_code == 404
    assert client.get("/docs/__init__.py").status_code == 404


def test_every_error_of_the_tree_has_one_answer() -> None:
    def leaves(kind: type[WanworksError]) -> list[type[WanworksError]]:
        below = kind.__subclasses__()
        return [kind] if not below else [leaf for child in below for leaf in leaves(child)]

    for leaf in leaves(shared_errors.RequestError) + leaves(shared_errors.Unavailable):
        assert any(issubclass(leaf, kind) for kind, _ in errors.STATUS), leaf


# --- the process


def test_the_application_loads_no_torch_and_no_celery() -> None:
    check = (
        "import sys, api.app, api.__main__; "
        "loaded = {'torch', 'celery', 'kombu', 'diffusers', 'transformers', 'numpy', 'offapi'} & set(sys.modules); "
        "sys.exit(f'loaded: {loaded}' if loaded else 0)"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_the_process_is_small_and_stops_cleanly(web: WebProcess) -> None:
    for _ in range(50):
        assert web.http.post(URL, json=GOOD).status_code == 202
    status = Path(f"/proc/{web.process.pid}/status").read_text()
    resident_kb = int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]
    assert resident_kb < 150_000
    assert web.stop() == 0


def test_it_starts_without_database_and_redis_and_recovers(
    settings: Settings, tmp_path: Path, redis_server: RedisServer
) -> None:
    from shared.database.engine import migrate

    url = f"sqlite:///{tmp_path}/later/wanworks.db"
    redis_server.kill()
    process = WebProcess(Settings(**{**settings.model_dump(), "database_url": url, "redis_url": redis_server.url}))
    process.start()
    try:
        assert process.http.post(URL, json=GOOD).status_code == 503
        assert process.http.get("/readyz").status_code == 503
        migrate(url)
        answer = process.http.post(URL, json=GOOD)
        assert answer.status_code == 202
        assert process.http.get("/readyz").json()["reasons"][0] == "redis_unavailable"
        redis_server.start()
        assert "redis_unavailable" not in process.http.get("/readyz").json()["reasons"]
        assert json.loads(process.http.get("/api/v1/jobs").text)["data"][0]["id"] == answer.json()["id"]
    finally:
        process.stop()
        process.http.close()


def test_accepted_jobs_survive_kill_9(web: WebProcess, settings: Settings) -> None:
    ids = {web.http.post(URL, json=GOOD).json()["id"] for _ in range(20)}
    web.process.kill()
    web.process.wait()
    again = WebProcess(settings).start()
    try:
        listed = again.http.get("/api/v1/jobs?limit=100").json()["data"]
        assert {job["id"] for job in listed} == ids
    finally:
        again.stop()
        again.http.close()


@pytest.mark.parametrize("size", [31_000_000])
def test_a_real_client_reads_the_413(web: WebProcess, size: int) -> None:
    answer = web.http.post(URL, content=bytes(size), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert web.http.get("/healthz").status_code == 200
