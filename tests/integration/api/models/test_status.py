"""Detailed status and health: every field against prepared rows."""

import re
import time
from datetime import timedelta
from typing import Any

from starlette.testclient import TestClient

from shared import clock
from shared.database.engine import Database
from shared.jobs import attempts, dispatch, download_control
from shared.jobs.attempts import Failure, Fetched
from shared.jobs.usage import latest_uses
from shared.models import replicas
from shared.settings import Settings
from tests.conftest import both_databases
from tests.integration.api.jobs.generation_requests import GOOD, URL
from tests.support import working
from tests.support.models import library
from tests.support.uses import used

STATUS = "/api/v1/models/status/detailed"
HEALTH = "/api/v1/models/health"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
FAULT = {"path": "vae/diffusion_pytorch_model.safetensors", "type": "checksum_mismatch"}


def status(client: TestClient) -> dict[str, Any]:
    answer = client.get(STATUS)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def model(client: TestClient, model_id: str = "T2V-A14B") -> dict[str, Any]:
    found: dict[str, Any] = status(client)["models"][model_id]
    return found


def health(client: TestClient) -> dict[str, Any]:
    answer = client.get(HEALTH)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


@both_databases
def test_a_whole_model_in_every_field(client: TestClient, database: Database) -> None:
    library.node(database)
    verified = clock.now()
    library.replica(
        database, verified_at=verified, verified_full=True, verified_bytes=500_000_000, expected_bytes=500_000_000
    )
    library.device(database, "T2V-A14B")
    asked = library.hub_says(database, "T2V-A14B", library.COMMIT)
    for days in (0.1, 5, 29):
        used(database, days_ago=days, seconds=10.0 + days)
    used(database, days_ago=1, outcome="failed")
    used(database, days_ago=1, mock=True)
    used(database, days_ago=40)
    body = status(client)
    found = body["models"]["T2V-A14B"]
    last_used = found.pop("last_used")
    assert TIME.fullmatch(last_used)
    assert last_used == clock.iso(latest_uses.latest(database, ["T2V-A14B"])["T2V-A14B"].last_used)
    assert abs(clock.now().timestamp() - 0.1 * 86400 - _seconds(last_used)) < 60
    performance = found.pop("performance_score")
    rates = sorted([9.1, 14.0, 38.0, 9.0])
    assert abs(performance - 0.8 * rates[0] / ((rates[1] + rates[2]) / 2)) < 0.001
    (replica,) = found.pop("replicas")
    assert found == {
        "model_id": "T2V-A14B",
        "availability_status": "available",
        "is_available": True,
        "is_loaded": True,
        "extends": None,
        "caveat": None,
        "size_mb": 500.0,
        "download_progress": None,
        "missing_files": [],
        "integrity_score": 1.0,
        "last_health_check": found["last_health_check"],
        "corruption_detected": False,
        "usage_frequency": round(4 / 30, 4),
        "average_generation_time": round((10.1 + 15 + 39) / 3, 3),
        "can_pause_download": False,
        "can_resume_download": False,
        "estimated_download_time": None,
        "current_version": library.COMMIT,
        "latest_version": library.COMMIT,
        "latest_version_checked_at": clock.iso(asked),
        "update_available": False,
        "pinned": False,
        "loaded_on": ["here/0"],
        "basis": {
            "size_mb": "measured",
            "integrity_score": "measured",
            "performance_score": "measured",
            "usage_frequency": "measured",
            "average_generation_time": "measured",
            "estimated_download_time": "none",
        },
        "samples": 4,
    }
    assert TIME.fullmatch(found["last_health_check"])
    assert (replica["node"], replica["online"], replica["availability_status"]) == ("here", True, "available")
    assert (replica["revision"], replica["last_verified"]) == (library.COMMIT, clock.iso(verified))
    assert body["system_statistics"] == {
        "total_models": 5,
        "available_models": 1,
        "downloading_models": 0,
        "corrupted_models": 0,
        "total_size_gb": 0.5,
        "last_updated": body["timestamp"],
    }
    assert TIME.fullmatch(body["timestamp"])


def test_nothing_measured_is_null(client: TestClient) -> None:
    found = model(client)
    nulls = [
        "download_progress", "integrity_score", "last_health_check", "performance_score", "last_used",
        "average_generation_time", "estimated_download_time", "current_version", "latest_version",
        "latest_version_checked_at",
    ]  # fmt: skip
    assert {name: found[name] for name in nulls} == dict.fromkeys(nulls)
    assert (found["availability_status"], found["is_available"], found["is_loaded"]) == ("unknown", False, False)
    assert (found["size_mb"], found["basis"]["size_mb"]) == (4.0, "catalogue")
    assert (found["usage_frequency"], found["update_available"], found["replicas"]) == (0.0, False, [])


@both_databases
def test_a_download_from_its_queue_to_its_end(client: TestClient, database: Database, settings: Settings) -> None:
    library.node(database)
    library.replica(database, state="missing", revision=None, bytes=0, missing_files=["model_index.json"])
    assert model(client)["availability_status"] == "missing"
    assert model(client)["missing_files"] == ["model_index.json"]
    job = library.download(database)
    queued = model(client)
    assert (queued["availability_status"], queued["download_progress"]) == ("queued", 0.0)
    assert (queued["can_pause_download"], queued["can_resume_download"]) == (True, False)
    library.start(database, job)
    working.report(
        settings.redis or "", job.id, 1, 40.0, bytes_done=4_000, bytes_total=10_000, bytes_per_second=500.0,
    )  # fmt: skip
    running = model(client)
    assert (running["availability_status"], running["download_progress"]) == ("downloading", 40.0)
    assert running["estimated_download_time"] == 12.0, "6,000 bytes at 500 a second"
    assert running["basis"]["estimated_download_time"] == "measured"
    assert status(client)["system_statistics"]["downloading_models"] == 1
    assert running["replicas"][0]["download_job_id"] == job.id
    download_control.pause(database, job.id)
    attempts.paused(database, job.id, 1, "owner", Fetched(5_000, 10_000, 50.0))
    paused = model(client)
    assert (paused["availability_status"], paused["download_progress"]) == ("paused", 50.0)
    assert (paused["can_pause_download"], paused["can_resume_download"]) == (False, True)
    assert paused["estimated_download_time"] is None, "nothing moves"
    download_control.resume(database, job.id)
    library.start(database, job)
    attempts.fail(database, job.id, 2, Failure("hub_gated", "no access", retryable=False))
    failed = model(client)
    assert (failed["availability_status"], failed["download_progress"]) == ("failed", None)
    assert health(client)["model_health"]["T2V-A14B"]["issues"] == ["Its download to node here failed: no access"]


@both_databases
def test_an_update_keeps_a_model_available(client: TestClient, database: Database) -> None:
    library.node(database)
    library.replica(database)
    library.hub_says(database, "T2V-A14B", library.NEWER)
    assert model(client)["update_available"]
    job = library.download(database)
    assert model(client)["availability_status"] == "available"
    library.start(database, job)
    found = model(client)
    assert (found["availability_status"], found["is_available"]) == ("updating", True)
    assert (found["current_version"], found["latest_version"]) == (library.COMMIT, library.NEWER)
    library.hub_says(database, "T2V-A14B", None)
    assert model(client)["latest_version"] == library.NEWER, "the last known answer is kept"


@both_databases
def test_the_best_replica_determines_the_status(client: TestClient, database: Database, settings: Settings) -> None:
    library.node(database, "here")
    library.node(database, "there")
    library.replica(database, state="corrupted", on="here", faults=[FAULT])
    library.replica(database, state="available", on="there", bytes=700_000_000)
    found = model(client)
    assert (found["availability_status"], found["size_mb"]) == ("available", 700.0)
    assert found["corruption_detected"]
    assert {one["node"]: one["availability_status"] for one in found["replicas"]} == {
        "here": "corrupted", "there": "available",
    }  # fmt: skip
    assert found["replicas"][0]["corruption_types"] == ["checksum_mismatch"]
    assert status(client)["system_statistics"]["total_size_gb"] == 1.2
    assert health(client)["model_health"]["T2V-A14B"]["health_status"] == "degraded"


def test_files_on_a_silent_node_are_unknown(client: TestClient, database: Database) -> None:
    library.replica(database, on="gone")
    found = model(client)
    assert (found["availability_status"], found["is_available"]) == ("unknown", False)
    assert found["replicas"][0]["online"] is False
    assert health(client)["model_health"]["T2V-A14B"]["health_status"] == "unknown"


def test_a_pin_is_shown(client: TestClient, database: Database) -> None:
    pinned = client.post("/api/v1/models/T2V-A14B/pin")
    assert pinned.status_code == 200
    assert (pinned.json()["model_id"], pinned.json()["pinned"]) == ("T2V-A14B", True)
    time.sleep(0.002)
    assert client.post("/api/v1/models/T2V-A14B/pin").json() == pinned.json(), "the first time is kept"
    assert set(replicas.pins(database)) == {"T2V-A14B"}
    assert model(client)["pinned"]
    gone = client.delete("/api/v1/models/T2V-A14B/pin")
    assert gone.json() == {"model_id": "T2V-A14B", "pinned": False, "pinned_at": None}
    assert not model(client)["pinned"]
    for method in ("POST", "DELETE"):
        assert client.request(method, "/api/v1/models/none-such/pin").status_code == 404


@both_databases
def test_health_in_every_field(client: TestClient, database: Database) -> None:
    library.node(database, total_gb=1000, free_gb=50)
    checked = clock.now()
    library.replica(
        database, state="corrupted", verified_at=checked, verified_full=True, verified_bytes=400_000_000,
        expected_bytes=500_000_000, faults=[FAULT], checked_at=checked - timedelta(seconds=5),
    )  # fmt: skip
    library.replica(
        database, "TI2V-5B", verified_at=checked, verified_full=True, verified_bytes=500, expected_bytes=500
    )
    library.replica(database, "I2V-A14B", state="missing", revision=None, bytes=0)
    body = health(client)
    found = body["model_health"]["T2V-A14B"]
    (suggestion,) = found.pop("repair_suggestions")
    assert "/api/v1/jobs/integrity-check" in suggestion
    assert found == {
        "model_id": "T2V-A14B",
        "health_status": "corrupted",
        "is_healthy": False,
        "integrity_score": 0.8,
        "issues": [f"{FAULT['path']} on node here: checksum_mismatch"],
        "corruption_types": ["checksum_mismatch"],
        "last_check": clock.iso(checked),
        "can_auto_repair": True,
        "success_rate": None,
        "basis": {"integrity_score": "measured", "success_rate": "none"},
        "samples": 0,
    }
    assert body["model_health"]["TI2V-5B"]["is_healthy"]
    assert body["model_health"]["I2V-A14B"]["health_status"] == "missing"
    system = body["system_health"]
    assert (system["models_healthy"], system["models_degraded"], system["models_corrupted"]) == (1, 0, 1)
    assert (system["models_missing"], system["models_unknown"]) == (1, 2), "the presets have not been scanned"
    assert system["overall_health_score"] == 0.5
    assert system["storage_usage_percent"] == 95.0
    assert system["last_updated"] == body["timestamp"]
    first, second = body["recommendations"]
    assert first == {
        "type": "repair", "priority": "critical", "message": "Repair the broken files of T2V-A14B", "action": "repair",
        "model_id": "T2V-A14B",
    }  # fmt: skip
    assert (second["type"], second["action"], second["model_id"]) == ("storage", "cleanup", None)
    assert status(client)["models"]["T2V-A14B"]["corruption_detected"]
    assert status(client)["system_statistics"]["corrupted_models"] == 1


def test_health_of_an_empty_installation(client: TestClient) -> None:
    body = health(client)
    system = body["system_health"]
    assert (system["overall_health_score"], system["storage_usage_percent"]) == (None, None)
    assert system["basis"] == {"overall_health_score": "none", "storage_usage_percent": "none"}
    assert body["recommendations"] == []
    assert {each["health_status"] for each in body["model_health"].values()} == {"unknown"}


@both_databases
def test_a_model_that_mostly_fails_is_degraded_and_jobs_that_wait_are_counted(
    client: TestClient, database: Database
) -> None:
    library.node(database)
    library.replica(database, verified_at=clock.now(), verified_bytes=1, expected_bytes=1)
    library.replica(database, "TI2V-5B", state="missing")
    used(database)
    for _ in range(2):
        used(database, outcome="failed")
    client.post(URL, json={**GOOD, "model_id": "TI2V-5B"})
    dispatch.mark_waiting_for_model(database, {"T2V-A14B"})
    body = health(client)
    found = body["model_health"]["T2V-A14B"]
    assert (found["health_status"], found["success_rate"], found["samples"]) == ("degraded", 0.3333, 3)
    assert [(one["action"], one["model_id"]) for one in body["recommendations"]] == [
        ("review_failures", "T2V-A14B"), ("download", "TI2V-5B"),
    ]  # fmt: skip
    assert body["recommendations"][1]["message"] == "Jobs wait for TI2V-5B, which no node holds: 1"


def _seconds(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()
