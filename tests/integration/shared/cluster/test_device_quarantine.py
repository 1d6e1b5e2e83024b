"""A quarantined device: what the dispatcher, the API, the commands, the metrics and the alerts do about it."""

from datetime import timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from scheduler.alerts.facts import gather
from scheduler.alerts.rules import RULES
from scheduler.alerts.watch import ground_of
from scheduler.dispatcher import Dispatcher
from scheduler.sender import celery_sender
from shared import clock
from shared.cluster import nodes
from shared.database.engine import Database
from shared.errors import FaultKind
from shared.insight import samples
from shared.insight.samples import Doing, Reading
from shared.jobs import attempts, device_faults, dispatch, records
from shared.jobs.attempts import Claimant
from shared.jobs.device_faults import Fault
from shared.settings import Settings
from shared.states import JobState
from tests.conftest import WebProcess
from tests.integration.scheduler.test_dispatcher import register
from tests.integration.wanworks.cli.test_cli import refused, wanworks
from tests.support.jobs import DEMO, accepted, claimed, hold
from wanworks.errors import ExitCode

CUDA = Fault(FaultKind.CUDA_ERROR, "CUDA error: an illegal memory access was encountered")
RELEASE = "/api/v1/nodes/n/devices/0/quarantine"
HERE = {index: Claimant("n", f"gpu-{index}@n", f"cpu-{index}", f"n/{index}") for index in (0, 1)}


@pytest.fixture
def two(database: Database) -> Database:
    """Node n with two devices; it holds every model."""
    for index in HERE:
        register(database, index)
    nodes.node_beat(database, "n", 1000.0, 500.0)
    hold(database, *DEMO.model_ids)
    return database


def quarantine(database: Database, index: int = 0) -> None:
    assert device_faults.quarantine(database, f"n/{index}", FaultKind.XID, "The driver reports Xid 79")


def dispatcher(settings: Settings, database: Database) -> Dispatcher:
    return Dispatcher(settings, database, celery_sender(settings))


def dispatched(database: Database, job_id: str) -> str | None:
    return records.get(database, job_id).dispatched_to


def shown(client: TestClient, index: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/api/v1/workers").json()["devices"][index]
    return found


def test_a_message_to_a_quarantined_device_is_recalled_and_sent_elsewhere(two: Database, settings: Settings) -> None:
    job = accepted(two)
    dispatch.mark_dispatched(two, [(job.id, "n/0")])
    quarantine(two)
    assert dispatcher(settings, two).run_pass() == 1
    assert dispatched(two, job.id) == "n/1"


def test_jobs_wait_for_a_quarantined_device_and_run_after_its_release(two: Database, settings: Settings) -> None:
    quarantine(two)
    quarantine(two, 1)
    job = accepted(two)
    impatient = settings.model_copy(update={"unplaced_limit_hours": 1e-9})
    for _ in range(2):
        assert dispatcher(impatient, two).run_pass() == 0
    waiting = records.get(two, job.id)
    assert (waiting.status, waiting.unplaceable_since, waiting.dispatched_to) == (JobState.QUEUED, None, None)
    device_faults.release(two, "n/1")
    assert dispatcher(settings, two).run_pass() == 1
    assert dispatched(two, job.id) == "n/1"


def test_a_job_is_dispatched_to_another_device_than_the_one_that_failed_under_it(
    two: Database, settings: Settings
) -> None:
    job = accepted(two)
    attempts.crashed(two, job.id, claimed(two, job.id, HERE[0]).attempt, "It failed", 0.0, fault=CUDA)
    assert dispatcher(settings, two).run_pass() == 1
    assert dispatched(two, job.id) == "n/1"
    dispatch.recall(two)
    nodes.deregister_device(two, "n/1", 1)
    assert dispatcher(settings, two).run_pass() == 1
    assert dispatched(two, job.id) == "n/0", "no other fits"


def test_leases_that_expire_count_as_deaths_of_the_process(two: Database, settings: Settings) -> None:
    for _ in range(3):
        claimed(two, accepted(two).id, HERE[0], lease_seconds=-1.0)
        dispatcher(settings, two).run_pass()
    device = nodes.devices(two)[0].device
    assert device.quarantine_reason == "3 faults in a row, of 3 jobs; the last: The worker died or went silent"


def test_a_quarantined_device_is_shown_and_released_over_the_api(client: TestClient, two: Database) -> None:
    for _ in range(2):
        job = accepted(two)
        attempts.crashed(two, job.id, claimed(two, job.id, HERE[0]).attempt, "It failed", 0.0, fault=CUDA)
    before = shown(client)
    assert (before["state"], before["faults"], before["quarantined_at"]) == ("idle", 2, None)
    job = accepted(two)
    attempts.crashed(two, job.id, claimed(two, job.id, HERE[0]).attempt, "It failed", 0.0, fault=CUDA)
    device = shown(client)
    assert (device["state"], device["faults"]) == ("quarantined", 3)
    assert device["quarantined_at"].endswith("Z")
    assert device["quarantine_reason"].startswith("3 faults in a row, of 3 jobs; the last: CUDA error: an illegal")
    assert shown(client, 1)["state"] == "idle"
    labels = '{device="0",node="n",uuid="cpu-0"}'
    text = client.get("/metrics").text
    assert f"wanworks_device_quarantined{labels} 1.0" in text
    assert f"wanworks_device_faults_in_a_row{labels} 3.0" in text
    assert "quarantined" not in client.get("/readyz").json()["reasons"]
    quarantine(two, 1)
    assert "quarantined" in client.get("/readyz").json()["reasons"]
    released = client.delete(RELEASE).json()
    assert (released["state"], released["faults"], released["quarantine_reason"]) == ("idle", 0, None)
    assert client.delete(RELEASE).status_code == 200, "idempotent"
    assert client.delete("/api/v1/nodes/n/devices/9/quarantine").status_code == 404
    assert client.delete("/api/v1/nodes/nobody/devices/0/quarantine").status_code == 404
    acts = {(one["act"], one["subject"], one["outcome"]) for one in client.get("/api/v1/audit").json()["data"]}
    assert ("releaseDevice", RELEASE, 200) in acts


def test_the_alert_opens_with_the_quarantine_and_closes_with_the_release(two: Database, settings: Settings) -> None:
    (rule,) = (rule for rule in RULES if rule.name == "device_quarantined")

    def found() -> list[str]:
        facts = gather(ground_of(settings), clock.now() + timedelta(minutes=5))
        return [f"{one.subject}: {one.message}" for one in rule.find(facts, settings, ()) or ()]

    assert found() == []
    quarantine(two)
    assert found() == ["n/0: cpu is faulty and accepts no jobs: The driver reports Xid 79."]
    device_faults.release(two, "n/0")
    assert found() == []


def test_memory_errors_and_slowdowns_are_shown(client: TestClient, two: Database, settings: Settings) -> None:
    reading = Reading(70.0, 1.0, 2.0, 60.0, 300.0, ecc_uncorrected=2, throttle_reasons="hw_thermal_slowdown,sync_boost")
    samples.record(two, "n/0", "cuda", reading, Doing(None, None, None), clock.now())
    samples.record(two, "n/1", "cuda", Reading(*[None] * 5, throttle_reasons=""), Doing(None, None, None), clock.now())
    sample = shown(client)["sample"]
    assert (sample["ecc_uncorrected"], sample["throttle_reasons"]) == (2, ["hw_thermal_slowdown", "sync_boost"])
    other = shown(client, 1)["sample"]
    assert (other["ecc_uncorrected"], other["throttle_reasons"]) == (None, [])
    text = client.get("/metrics").text
    assert 'wanworks_device_ecc_uncorrected{device="0",node="n",uuid="cpu-0"} 2.0' in text
    assert 'wanworks_device_throttled{device="0",node="n",uuid="cpu-0"} 1.0' in text
    assert 'wanworks_device_throttled{device="1",node="n",uuid="cpu-1"} 0.0' in text
    facts = gather(ground_of(settings), clock.now())
    found = {rule.name for rule in RULES for _ in rule.find(facts, settings, ()) or ()}
    assert {"device_throttled", "device_memory_errors"} <= found


def test_the_command_releases_a_device(web: WebProcess, two: Database) -> None:
    at = ("--url", f"http://127.0.0.1:{web.port}")
    quarantine(two)
    result = wanworks("release", "n/0", *at)
    assert (result.returncode, result.stdout) == (0, "n/0 idle\n")
    assert nodes.devices(two)[0].device.quarantined_at is None
    refused(wanworks("release", "0", *at), ExitCode.USAGE, "is not NODE/INDEX")
    refused(wanworks("release", "n/7", *at), ExitCode.REFUSED, "Device not found: n/7")
