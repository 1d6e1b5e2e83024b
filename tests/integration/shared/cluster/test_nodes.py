"""Nodes: drained they finish and take nothing new, removed they are forgotten; old and new workers side by side."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from scheduler import ticks
from scheduler.alerts.facts import gather
from scheduler.alerts.watch import ground_of
from scheduler.dispatcher import Dispatcher
from scheduler.sender import celery_sender
from shared import clock
from shared.catalogue.job_types import DOWNLOAD, INTEGRITY_CHECK, DownloadParams, IntegrityCheckParams
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Job, Replica
from shared.errors import Conflict, NotFound
from shared.jobs import accepting, attempts, dispatch, records
from shared.jobs.accepting import Accepted, NewJob
from shared.jobs.attempts import Claimant
from shared.messaging import celery
from shared.messaging.progress import connect
from shared.models import replicas
from shared.settings import Settings
from shared.states import JobState, Priority
from shared.stored_names import WAKE_KEY
from tests.conftest import WebProcess, both_databases
from tests.integration.scheduler.test_dispatcher import register
from tests.integration.wanworks.cli.test_cli import refused, wanworks
from tests.support.jobs import CLAIMANT, DEMO, accepted, claimed, hold
from wanworks.errors import ExitCode

M = "/api/v1/nodes/m"
ON_M = Claimant(node="m", worker="gpu-0@m", device="cpu-0", device_key="m/0")


@pytest.fixture
def two(database: Database) -> Database:
    """Nodes n and m with a device each, both holding every model."""
    for node in ("n", "m"):
        register(database, node=node)
        nodes.node_beat(database, node, 1000.0, 500.0)
        hold(database, *DEMO.model_ids, node=node)
    return database


def dispatched(database: Database, job_id: str) -> str | None:
    return records.get(database, job_id).dispatched_to


def for_node(database: Database, node: str, job_type: str = INTEGRITY_CHECK) -> Job:
    params: Any = IntegrityCheckParams(node=node)
    if job_type == DOWNLOAD:
        params = DownloadParams(model_id="T2V-A14B", node=node)
    (outcome,) = accepting.accept(database, [NewJob(job_type, params, Priority.NORMAL)])
    assert isinstance(outcome, Accepted)
    return outcome.job


# --- drain


@both_databases
def test_a_drained_node_claims_nothing_and_finishes_what_it_has(two: Database) -> None:
    running, waiting = accepted(two), accepted(two)
    claimed(two, running.id, ON_M)
    dispatch.mark_dispatched(two, [(waiting.id, "m/0")])
    since = nodes.drain(two, "m").drained_at
    assert since is not None
    assert nodes.drain(two, "m").drained_at == since
    assert attempts.claim(two, waiting.id, ON_M, 60.0) is None
    after = records.get(two, waiting.id)
    assert (after.status, after.attempt, after.failures) == (JobState.QUEUED, 0, 0)
    assert attempts.renew(two, running.id, 1, 60.0).ours
    assert attempts.succeed(two, running.id, 1, {}).status == JobState.SUCCEEDED
    nodes.undrain(two, "m")
    assert attempts.claim(two, waiting.id, ON_M, 60.0) is not None
    with pytest.raises(NotFound):
        nodes.drain(two, "nobody")


@both_databases
def test_no_claim_comes_after_a_drain_has_returned(two: Database) -> None:
    """Claims and a drain at once, again and again: what was claimed, was claimed before the drain's answer."""
    for _ in range(15):
        ids = [accepted(two).id for _ in range(4)]
        dispatch.mark_dispatched(two, [(job_id, "m/0") for job_id in ids])
        together = threading.Barrier(5)

        def claim(job_id: str, together: threading.Barrier = together) -> bool:
            together.wait()
            return attempts.claim(two, job_id, ON_M, 60.0) is not None

        with ThreadPoolExecutor(4) as pool:
            claims = [pool.submit(claim, job_id) for job_id in ids]
            together.wait()
            nodes.drain(two, "m")
            at_drain = {one.job_id for one in dispatch.read_queue(two).busy}
            taken = {job_id for job_id, future in zip(ids, claims, strict=True) if future.result()}
        assert taken <= at_drain
        for job_id in taken:
            attempts.succeed(two, job_id, 1, {})
        nodes.undrain(two, "m")


def test_a_job_dispatched_to_a_drained_node_is_dispatched_elsewhere(two: Database, settings: Settings) -> None:
    job = accepted(two)
    dispatch.mark_dispatched(two, [(job.id, "m/0")])
    nodes.drain(two, "m")
    assert Dispatcher(settings, two, celery_sender(settings)).run_pass() == 1
    assert dispatched(two, job.id) == "n/0"


def test_what_only_a_drained_node_can_run_waits_for_as_long_as_it_is_drained(two: Database, settings: Settings) -> None:
    hold(two, "TI2V-5B", node="n")
    job, check = accepted(two), for_node(two, "m")
    dispatcher = Dispatcher(settings, two, celery_sender(settings))
    assert dispatcher.run_pass() == 2
    assert (dispatched(two, job.id), dispatched(two, check.id)) == ("m/0", "m/io")
    nodes.drain(two, "m")
    assert dispatcher.run_pass() == 0
    assert (dispatched(two, job.id), dispatched(two, check.id)) == (None, None)
    nodes.undrain(two, "m")
    assert dispatcher.run_pass() == 2
    nodes.drain(two, "m")
    impatient = settings.model_copy(update={"unplaced_limit_hours": 1e-9})
    for _ in range(2):
        Dispatcher(impatient, two, celery_sender(settings)).run_pass()
    for waiting in (records.get(two, job.id), records.get(two, check.id)):
        assert (waiting.status, waiting.unplaceable_since) == (JobState.QUEUED, None)


def test_a_child_that_reports_its_models_while_its_worker_stops_claims_nothing_more(two: Database) -> None:
    hold(two, "TI2V-5B", node="m")
    job = accepted(two)
    dispatch.mark_dispatched(two, [(job.id, "m/0")])
    nodes.deregister_device(two, "m/0", 1)
    nodes.report_loaded(two, "m/0", [{"model_id": "TI2V-5B", "quantization": "none"}])
    (device,) = [seen for seen in nodes.devices(two) if seen.device.key == "m/0"]
    assert (device.deregistered, device.device.warm) == (True, [])
    assert attempts.claim(two, job.id, ON_M, 60.0) is None


def test_a_message_for_a_removed_device_takes_no_slot(two: Database, settings: Settings) -> None:
    hold(two, "TI2V-5B", node="n")
    job = accepted(two)
    dispatch.mark_dispatched(two, [(job.id, "m/0")])
    nodes.deregister_device(two, "m/0", 1)
    impatient = settings.model_copy(update={"unplaced_limit_hours": 1e-9})
    for _ in range(2):
        Dispatcher(impatient, two, celery_sender(settings)).run_pass()
    assert records.get(two, job.id).status == JobState.FAILED


def test_a_drained_nodes_own_jobs_run_out_and_scheduled_checks_leave_it_out(two: Database, settings: Settings) -> None:
    running = for_node(two, "m")
    io = Claimant("m", "io@m", None, "m/io")
    dispatch.mark_dispatched(two, [(running.id, "m/io")])
    assert attempts.claim(two, running.id, io, 60.0, at_most=1) is not None
    nodes.drain(two, "m")
    download = for_node(two, "m", DOWNLOAD)
    dispatch.mark_dispatched(two, [(download.id, "m/io")])
    assert attempts.claim(two, download.id, io, 60.0, at_most=2) is None
    assert attempts.succeed(two, running.id, 1, {}).status == JobState.SUCCEEDED
    assert ticks.start_checks(two, settings, full=False) == "1 quick checks queued"


def test_a_node_is_drained_and_back_over_the_api(client: TestClient, two: Database) -> None:
    job = accepted(two)
    claimed(two, job.id, ON_M)
    drained = client.post(f"{M}/drain").json()
    assert (drained["name"], drained["state"], drained["running_jobs"]) == ("m", "draining", 1)
    assert drained["drained_at"].endswith("Z")
    assert [(one["state"], one["job"]) for one in drained["devices"]] == [("draining", job.id)]
    attempts.succeed(two, job.id, 1, {})
    listed = {node["name"]: node for node in client.get("/api/v1/nodes").json()["nodes"]}
    assert (listed["m"]["state"], listed["m"]["devices"][0]["state"]) == ("drained", "drained")
    assert (listed["n"]["state"], listed["n"]["drained_at"], listed["n"]["running_jobs"]) == ("online", None, 0)
    states = {device["node"]: device["state"] for device in client.get("/api/v1/workers").json()["devices"]}
    assert states == {"n": "idle", "m": "drained"}
    assert 'wanworks_node_drained{node="m"} 1.0' in client.get("/metrics").text
    assert "drained" not in client.get("/readyz").json()["reasons"]
    client.post("/api/v1/nodes/n/drain")
    assert "drained" in client.get("/readyz").json()["reasons"]
    nodes.deregister_node(two, "m")
    nodes.deregister_device(two, "m/0", 1)
    gone = client.delete(f"{M}/drain").json()
    assert (gone["state"], gone["drained_at"]) == ("offline", None)
    for method in ("POST", "DELETE"):
        assert client.request(method, "/api/v1/nodes/nobody/drain").status_code == 404


def test_a_check_of_every_node_leaves_drained_ones_out(client: TestClient, two: Database) -> None:
    nodes.drain(two, "m")
    made = client.post("/api/v1/jobs/integrity-check", json={"model_id": "all"})
    assert made.status_code == 202, made.text
    assert made.json()["params"]["node"] == "n"
    named = client.post("/api/v1/jobs/integrity-check", json={"model_id": "all", "node": "m"})
    assert (named.status_code, named.json()["status"]) == (202, "queued")
    nodes.drain(two, "n")
    nowhere = client.post("/api/v1/jobs/integrity-check", json={"model_id": "all"})
    assert (nowhere.status_code, "drained" in nowhere.json()["detail"]) == (409, True)


# --- register and leave


@both_databases
def test_the_processes_of_a_node_that_start_at_once_make_one_row(database: Database) -> None:
    together = threading.Barrier(6)

    def start(place: int) -> None:
        together.wait()
        if place < 3:
            register(database, place, node="new")
        else:
            nodes.node_beat(database, "new", 1.0, 1.0)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(start, range(6)))
    assert [node.name for node, _ in nodes.nodes(database)] == ["new"]
    assert len(nodes.devices(database)) == 3


@both_databases
def test_a_node_that_has_gone_is_forgotten_with_what_waited_for_it(two: Database) -> None:
    with pytest.raises(Conflict, match="stop it first"):
        nodes.remove(two, "m", 30.0)
    job, check, paused = accepted(two), for_node(two, "m"), for_node(two, "m", DOWNLOAD)
    with two.write() as session:
        row = session.get(Job, paused.id)
        assert row is not None
        row.status, row.paused_by = JobState.PAUSED, "owner"
        session.add(row)
    claimed(two, job.id, ON_M)
    nodes.deregister_node(two, "m")
    with pytest.raises(Conflict, match="stop it first"):
        nodes.remove(two, "m", 30.0)
    nodes.deregister_device(two, "m/0", 1)
    with pytest.raises(Conflict, match="leases"):
        nodes.remove(two, "m", 30.0)
    attempts.give_back(two, job.id, 1)
    assert {one.id for one in nodes.remove(two, "m", 30.0)} == {check.id, paused.id}
    for job_id in (check.id, paused.id):
        error = records.get(two, job_id).error
        assert error is not None
        assert (error["code"], error["message"]) == ("node_lost", "Node m was removed")
    assert [node.name for node, _ in nodes.nodes(two)] == ["n"]
    assert [seen.device.node for seen in nodes.devices(two)] == ["n"]
    with two.read() as session:
        assert session.get(Replica, ("m", "T2V-A14B")) is None
    assert replicas.ready(two).keys() == {"n"}
    assert not nodes.device_beat(two, "m/0")
    with pytest.raises(NotFound):
        nodes.remove(two, "m", 30.0)


def test_a_node_is_removed_over_the_api(client: TestClient, two: Database) -> None:
    assert client.delete(M).status_code == 409
    nodes.deregister_node(two, "m")
    nodes.deregister_device(two, "m/0", 1)
    check = for_node(two, "m")
    assert client.delete(M).status_code == 204
    assert client.get(f"/api/v1/jobs/{check.id}").json()["error"]["code"] == "node_lost"
    assert client.delete(M).status_code == 404


# --- dispatch messages of two versions


def test_each_device_gets_the_newest_protocol_that_both_sides_know(
    two: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(celery, "PROTOCOL", 2)
    nodes.reads_protocol(two, "n/0", 2)
    first, second, check = accepted(two), accepted(two), for_node(two, "n")
    said: dict[str, int] = {}
    dispatcher = Dispatcher(
        settings, two, lambda job, device, reads: said.update({device: celery.dispatch_message(job.job_id, reads)[1]})
    )
    assert dispatcher.run_pass() == 3
    assert said == {"n/0": 2, "m/0": 1, "n/io": 1}
    assert {dispatched(two, job.id) for job in (first, second)} == {"n/0", "m/0"}
    assert dispatched(two, check.id) == "n/io"
    dispatch.recall(two, [check.id])
    nodes.node_beat(two, "n", 1000.0, 500.0, 2)
    dispatcher.run_pass()
    assert said["n/io"] == 2
    nodes.reads_protocol(two, "n/io", 1)
    dispatch.recall(two, [check.id])
    dispatcher.run_pass()
    assert said["n/io"] == 1
    monkeypatch.setattr(celery, "PROTOCOL", 1)
    assert celery.dispatch_message("x", 2) == ("x", 1)


def test_a_worker_returns_a_newer_message_and_gets_it_in_its_own_protocol(
    two: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from celery.exceptions import Ignore

    from workers import tasks
    from workers.processes import process

    monkeypatch.setattr(process, "database", lambda: two)
    monkeypatch.setattr(process, "settings", lambda: settings)
    monkeypatch.setattr(process, "claimant", lambda: ON_M)
    tasks._warn_once.cache_clear()
    nodes.reads_protocol(two, "m/0", 9)  # as a newer worker that was rolled back has left it
    nodes.drain(two, "n")
    assert settings.redis is not None
    for _ in range(2):
        job = accepted(two)
        dispatch.mark_dispatched(two, [(job.id, "m/0")])
        with pytest.raises(Ignore):
            tasks.TASKS["generation"](job.id, 9, {"what": "nobody knows yet"}, later=True)
        after = records.get(two, job.id)
        assert (after.status, after.dispatched_to, after.attempt, after.failures) == (JobState.QUEUED, None, 0, 0)
        assert connect(settings.redis, 5).llen(WAKE_KEY) == 1
    assert [record.levelname for record in caplog.records if "protocol 9" in record.message] == ["WARNING"]
    (seen,) = (one for one in nodes.devices(two) if one.device.node == "m")
    assert seen.device.message_protocol == celery.PROTOCOL
    assert Dispatcher(settings, two, celery_sender(settings)).run_pass() == 1


def test_a_drained_node_that_leaves_raises_no_alert(two: Database, settings: Settings) -> None:
    nodes.drain(two, "m")
    nodes.deregister_node(two, "m")
    nodes.deregister_device(two, "m/0", 1)
    facts = gather(ground_of(settings), clock.now() + timedelta(minutes=5))
    assert [node.stopped for node in facts.nodes] == [True, False]


def test_the_claimant_of_other_tests_is_no_node(database: Database) -> None:
    """A device whose node has no row is not drained."""
    job = accepted(database)
    assert claimed(database, job.id, CLAIMANT).attempt == 1


# --- the commands


def test_nodes_are_drained_and_forgotten_from_the_command_line(web: WebProcess, two: Database) -> None:
    at = ("--url", f"http://127.0.0.1:{web.port}")
    job = accepted(two)
    claimed(two, job.id, ON_M)
    refused(wanworks("drain", "m", "--wait", "--timeout", "1", *at), ExitCode.TIMED_OUT, "jobs still running on m: 1")
    waiting = subprocess.Popen(
        [sys.executable, "-m", "wanworks.cli.main", "drain", "m", "--wait", *at], stdout=subprocess.PIPE, text=True
    )
    attempts.succeed(two, job.id, 1, {})
    out, _ = waiting.communicate(timeout=20)
    assert (waiting.returncode, out.split(" since ")[0]) == (ExitCode.OK, "m drained")
    assert "0: drained" in wanworks("nodes", *at).stdout
    assert json.loads(wanworks("undrain", "m", *at, "--json").stdout)["drained_at"] is None
    refused(wanworks("drain", "nobody", *at), ExitCode.REFUSED, "Node not found: nobody")
    refused(wanworks("remove-node", "m", *at), ExitCode.REFUSED, "stop it first")
    nodes.deregister_node(two, "m")
    nodes.deregister_device(two, "m/0", 1)
    assert "m was removed" in wanworks("remove-node", "m", *at).stdout
    assert [node.name for node, _ in nodes.nodes(two)] == ["n"]


@both_databases
def test_what_is_agreed_and_noted_by_many_at_once_is_one_value(database: Database) -> None:
    for turn in range(10):
        together = threading.Barrier(6)

        def ask(place: int, name: str = f"secret-{turn}", together: threading.Barrier = together) -> str:
            together.wait(10)
            nodes.note(database, f"noted-{name}", str(place))
            together.wait(10)
            return nodes.agreed(database, name)

        with ThreadPoolExecutor(6) as pool:
            assert len(set(pool.map(ask, range(6)))) == 1
