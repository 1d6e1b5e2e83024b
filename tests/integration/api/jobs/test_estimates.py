"""Expected starts and ends of queued jobs, and that the dry run and the page expect the same."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from scheduler.alerts.facts import gather
from scheduler.alerts.watch import ground_of
from shared import clock
from shared.cluster import nodes
from shared.database.engine import Database
from shared.forecast import forecasts
from shared.jobs.claims import pauses
from shared.jobs.claims.pauses import EVERYTHING, Scope
from shared.jobs.lines import windows
from shared.settings import Settings
from shared.stored_names import LOADED_MODEL_KEY
from tests.integration.api.jobs.generation_requests import GOOD, URL
from tests.support.jobs import DEMO, claimed, hold, new_job
from tests.support.models import library
from tests.support.uses import used

RUN, LOAD = 90.0, 10.0


WORK = float(new_job().params.work)  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _measured(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """One device, and generations of this size that took ten seconds to load and ninety to run. Nothing is kept."""
    for name in ("_KEEP_SECONDS", "_KEEP_FOR_NEW_SECONDS", "_KEEP_TIMES_COST"):
        monkeypatch.setattr(forecasts, name, 0.0)
    monkeypatch.setattr(forecasts, "_QUICK_SECONDS", float("inf"))  # a busy machine makes each one anew too
    library.device(database, on="n", index=0, kind="cpu")
    hold(database, *DEMO.model_ids)
    for _ in range(3):
        used(database, seconds=RUN + LOAD, timings={"loading": LOAD, "denoising": RUN}, warm=False, work=WORK)


def submit(client: TestClient, **more: Any) -> str:
    answer = client.post(URL, json={**GOOD, **more})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def shown(client: TestClient, job_id: str) -> dict[str, Any]:
    return dict(client.get(f"/api/v1/jobs/{job_id}").json())


def dry(client: TestClient, **more: Any) -> dict[str, Any]:
    return dict(client.post(URL, json={**GOOD, **more}, params={"dry_run": "true"}).json()["expected"])


def seconds(text: str | None) -> float:
    """From now until then."""
    assert text is not None
    return datetime.fromisoformat(text).timestamp() - clock.now().timestamp()


def about(expected: float) -> Any:
    return pytest.approx(expected, abs=8)


def test_a_queued_job_tells_its_expected_start_and_end(client: TestClient, database: Database) -> None:
    running = claimed(database, submit(client))
    second, third = submit(client), submit(client)
    one, other = shown(client, second), shown(client, third)
    assert seconds(one["estimated_start"]) == about(RUN + LOAD)
    assert seconds(one["estimated_end"]) == about(2 * RUN + LOAD)
    assert seconds(other["estimated_start"]) == about(2 * RUN + LOAD)
    assert (one["estimate"]["basis"], one["estimate"]["samples"]) == ("measured", 3)
    assert shown(client, running.id)["estimate"] is None
    listed = {job["id"]: job for job in client.get("/api/v1/jobs", params={"status": "queued"}).json()["data"]}
    assert listed[third]["estimated_start"] is not None


def test_the_dry_run_and_the_page_expect_what_the_accepted_job_shows(client: TestClient, database: Database) -> None:
    for _ in range(4):
        submit(client)
    claimed(database, submit(client))
    before = dry(client)
    path = "/api/v1/dashboard/estimate?model_id=T2V-A14B&resolution=64x64&frames=9&steps=2"
    page = client.get(path).json()["queue_seconds"]
    accepted = shown(client, submit(client))
    assert seconds(accepted["estimated_start"]) == about(seconds(before["start_at"]))
    assert seconds(accepted["estimated_end"]) == about(seconds(before["end_at"]))
    assert page == about(seconds(before["start_at"]))
    assert seconds(before["start_at"]) == about(5 * RUN + LOAD)


@pytest.mark.parametrize("scope", [EVERYTHING, Scope("model_id", "T2V-A14B"), Scope("device", "n/0")], ids=str)
def test_a_pause_delays_the_start_to_its_end_or_makes_it_unknown(
    client: TestClient, database: Database, scope: Scope
) -> None:
    job_id = submit(client)
    pauses.pause(database, scope, by="admin", until=clock.now().timestamp() + 3600, running="finish")
    assert seconds(shown(client, job_id)["estimated_start"]) == about(3600)
    assert seconds(dry(client)["start_at"]) == about(3600 + RUN + LOAD)
    pauses.pause(database, scope, by="admin", running="finish")
    found = shown(client, job_id)
    assert (found["estimated_start"], found["estimate"]["basis"]) == (None, "none")
    assert "paused" in found["estimate"]["how"] or "accepts jobs" in found["estimate"]["how"]
    assert dry(client)["start_at"] is None


def test_one_measured_job_is_told_in_the_singular(client: TestClient, database: Database) -> None:
    once = {"loading": LOAD, "denoising": RUN}
    used(database, model_id="TI2V-5B", seconds=RUN + LOAD, timings=once, warm=False, work=WORK)
    several = client.post(URL, json=GOOD, params={"dry_run": "true"}).json()
    assert several["cost"]["how"].startswith("Estimated from the last 3 similar videos")
    assert "the median times of the last 3 successes like it" in several["expected"]["how"]
    one = client.post(URL, json={**GOOD, "model_id": "TI2V-5B"}, params={"dry_run": "true"}).json()
    assert one["cost"]["how"].startswith("Estimated from the last similar video")
    assert "the times of the last success like it" in one["expected"]["how"]


def test_start_times_and_windows_count(client: TestClient, database: Database) -> None:
    later = clock.iso(clock.now() + timedelta(hours=2))
    assert shown(client, submit(client, start_after=later))["estimated_start"] == later
    opens = clock.now().replace(second=0, microsecond=0) + timedelta(hours=5)
    windows.set_installation(database, f"{opens:%H:%M}-{opens + timedelta(hours=1):%H:%M} UTC")
    assert shown(client, submit(client, priority="low"))["estimated_start"] == clock.iso(opens)


def test_what_cannot_be_said_is_null_with_the_reason(client: TestClient, database: Database) -> None:
    never = submit(client, model_id="TI2V-5B")
    found = shown(client, never)
    assert found["estimated_start"] is not None
    assert found["estimated_end"] is None
    assert found["estimate"]["how"] == "Its end is unknown: no generation of TI2V-5B has been measured here."
    behind = shown(client, submit(client))
    assert behind["estimated_start"] is None or behind["estimate"]["basis"] == "measured"
    hold(database)
    assert shown(client, never)["estimate"]["how"] == "Unknown: no node has the model."


def warm_use(database: Database, place: int, model_id: str = "TI2V-5B") -> None:
    since = clock.now() - timedelta(minutes=10) + timedelta(seconds=place)
    used(database, model_id, seconds=RUN, timings={"denoising": RUN}, warm=True, work=WORK, finished_at=since)


def test_a_model_that_stays_loaded_keeps_its_estimates(client: TestClient, database: Database) -> None:
    for place in range(130):
        warm_use(database, place, "T2V-A14B")
    found = shown(client, submit(client))
    assert seconds(found["estimated_end"]) == about(RUN + LOAD)
    cost = client.post(URL, json=GOOD, params={"dry_run": "true"}).json()["cost"]
    assert (cost["loading_seconds"], cost["gpu_seconds"]) == (LOAD, RUN + LOAD)


def test_without_a_time_of_loading_only_devices_that_must_load_have_no_estimate(
    client: TestClient, database: Database
) -> None:
    warm_use(database, 0)
    request = {"model_id": "TI2V-5B", "priority": "high"}
    first, behind = submit(client, **request), submit(client)
    found = shown(client, first)
    assert (found["estimated_start"] is None, found["estimated_end"]) == (False, None)
    assert found["estimate"]["how"] == "Its end is unknown: no loading of TI2V-5B has been measured here."
    found = shown(client, behind)
    assert found["estimated_start"] is None
    how = "Unknown: a job before it must load a model whose loading has not been measured."
    assert found["estimate"]["how"] == how
    cost = client.post(URL, json={**GOOD, **request}, params={"dry_run": "true"}).json()["cost"]
    assert (cost["generation_seconds"], cost["gpu_seconds"], cost["loading_seconds"]) == (RUN, None, None)
    assert cost["how"] == (
        "Loading is not known: no device has TI2V-5B loaded, and no loading of it has been measured here."
    )
    loaded = {"model_id": "TI2V-5B", "quantization": "none", LOADED_MODEL_KEY: "TI2V-5B:none"}
    nodes.report_loaded(database, "n/0", [loaded])
    found = shown(client, first)
    assert seconds(found["estimated_end"]) == about(RUN)
    assert seconds(shown(client, behind)["estimated_start"]) == about(RUN)
    cost = client.post(URL, json={**GOOD, **request}, params={"dry_run": "true"}).json()["cost"]
    assert (cost["gpu_seconds"], cost["loading_seconds"]) == (RUN, 0)


def test_a_latest_start_that_is_ruled_out_is_refused(client: TestClient, database: Database) -> None:
    for _ in range(4):
        submit(client)
    claimed(database, submit(client))
    wait = seconds(dry(client)["start_at"])
    soon = clock.iso(clock.now() + timedelta(seconds=wait / 2))
    answer = client.post(URL, json={**GOOD, "start_before": soon})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["loc"], "expected to start at" in error["msg"]) == (["body", "start_before"], True), error
    assert client.post(URL, json={**GOOD, "start_before": soon}, params={"dry_run": "true"}).status_code == 422
    # With room for the estimate's error, and where nothing is known, it is accepted.
    submit(client, start_before=clock.iso(clock.now() + timedelta(seconds=0.9 * wait)))
    submit(client, start_before=soon, priority="critical")
    submit(client, start_before=soon, model_id="TI2V-5B")


def test_a_repeated_request_gets_its_job_though_it_would_be_late_now(client: TestClient, database: Database) -> None:
    body = {**GOOD, "start_before": clock.iso(clock.now() + timedelta(seconds=60))}
    header = {"Idempotency-Key": "k"}
    first = client.post(URL, json=body, headers=header)
    assert first.status_code == 202
    claimed(database, submit(client, priority="critical"))
    for _ in range(3):
        submit(client, priority="critical")
    again = client.post(URL, json=body, headers=header)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])


def test_an_alert_says_that_a_latest_start_will_be_missed_until_it_is_not(
    client: TestClient, database: Database, settings: Settings
) -> None:
    ground = ground_of(settings)
    job_id = submit(client, start_before=clock.iso(clock.now() + timedelta(hours=1)))
    assert gather(ground, clock.now()).late == ()
    pauses.pause(database, EVERYTHING, by="admin", until=clock.now().timestamp() + 7200, running="finish")
    (late,) = gather(ground, clock.now()).late
    assert (late.job_id, late.expected_start > late.start_before) == (job_id, True)
    pauses.resume(database, EVERYTHING)
    assert gather(ground, clock.now()).late == ()
