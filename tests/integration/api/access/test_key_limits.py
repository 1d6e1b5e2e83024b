"""Limits of a key on models, size, length, running jobs and device time, and what a dry run says of them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from shared import clock
from shared.access import keys
from shared.access.keys import Limits
from shared.database.engine import Database
from shared.jobs import attempts, dispatch, records
from shared.jobs.claims import running_limits
from shared.jobs.ids import new_id
from shared.states import Priority
from tests.conftest import both_databases
from tests.integration.api.access.scopes import SUBMIT
from tests.integration.api.jobs.generation_requests import GOOD, URL, data_url, picture
from tests.support import working
from tests.support.jobs import DEMO, accepted, hold
from tests.support.uses import used

Key = Callable[..., tuple[str, dict[str, str]]]


def test_models_size_and_length(client: TestClient, key: Key) -> None:
    _, header = key(models=("TI2V-5B",))
    refused = client.post(URL, json=GOOD, headers=header)
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert "model_id" in refused.json()["detail"]
    assert "TI2V-5B" in refused.json()["detail"]
    _, header = key(max_resolution="32x128", max_frames=8)
    body = {**GOOD, "resolution": "64x96"}
    refused = client.post(URL, json=body, headers=header)
    assert refused.status_code == 422
    assert [(one["loc"][-1], one["type"]) for one in refused.json()["errors"]] == [
        ("resolution", "over_limit"), ("frames", "over_limit")
    ]  # fmt: skip
    assert "32x128" in refused.json()["errors"][0]["msg"]
    assert client.post(URL, json=GOOD, headers=key(max_resolution="32x128", max_frames=9)[1]).status_code == 202


def test_a_retry_is_under_the_limits_of_the_key(client: TestClient, key: Key, database: Database) -> None:
    owner, header = key(max_frames=8)
    job = accepted(database, owner=owner)
    records.request_cancel(database, job.id)
    refused = client.post(f"/api/v1/jobs/{job.id}/retry", headers=header)
    assert refused.status_code == 403
    assert "frames: 9 is over" in refused.json()["detail"]


@both_databases
def test_limits_of_a_key_are_changed(database: Database) -> None:
    keys.make(database, "k", (SUBMIT,), Limits(queued_jobs=3))
    changed = keys.change_limits(database, "k", {"models": ("TI2V-5B",), "priority_ceiling": Priority.LOW})
    expected = Limits(queued_jobs=3, models=("TI2V-5B",), priority_ceiling=Priority.LOW)
    assert keys.limits(changed) == keys.limits(keys.get(database, changed.id) or changed) == expected
    assert keys.limits(keys.change_limits(database, "k", {"models": None})).models is None
    with pytest.raises(keys.NotFound):
        keys.change_limits(database, "nothing", {"models": None})


def test_gpu_seconds_per_month(client: TestClient, key: Key, database: Database) -> None:
    owner, header = key(gpu_seconds_per_month=15.0)
    used(database, owner=owner, finished_at=clock.now().replace(day=1, hour=0, minute=0, second=1), seconds=10.0)
    assert client.post(URL, json=GOOD, headers=header).status_code == 202
    used(database, owner=owner, finished_at=clock.now(), seconds=10.0)
    refused = client.post(URL, json=GOOD, headers=header)
    assert refused.status_code == 429
    assert "GPU-seconds per month" in refused.json()["detail"]
    assert 0 < int(refused.headers["retry-after"]) <= 31 * 86_400


@both_databases
def test_running_jobs_hold_at_the_claim(database: Database) -> None:
    row, _ = keys.make(database, "two", (SUBMIT,), Limits(running_jobs=2))
    hold(database, *DEMO.model_ids)
    jobs = [accepted(database, owner=row.id) for _ in range(3)]
    claimants = [attempts.Claimant("n", f"gpu-{n}@n", "cpu-0", f"n/{n}", n + 1) for n in range(3)]
    dispatch.mark_dispatched(database, [(job.id, f"n/{n}") for n, job in enumerate(jobs)])
    claimed = [attempts.claim(database, job.id, one, 60.0) for job, one in zip(jobs, claimants, strict=True)]
    assert [one is not None for one in claimed] == [True, True, False]
    assert running_limits.at_limit(database, [row.id, None, "other"]) == {row.id: 2}
    first = claimed[0]
    assert first is not None
    attempts.cancelled(database, first.id, first.attempt)
    assert attempts.claim(database, jobs[2].id, claimants[2], 60.0) is not None
    keys.change_limits(database, "two", {"running_jobs": None})
    assert running_limits.of_owners(database) == {}


def test_a_queued_job_says_that_its_key_is_at_its_limit(client: TestClient, key: Key, database: Database) -> None:
    _, header = key(running_jobs=1)
    first, second = (client.post(URL, json=GOOD, headers=header).json()["id"] for _ in range(2))
    working.claim(database, first)
    waits = client.get(f"/api/v1/jobs/{second}", headers=header).json()["waiting_for"]
    assert waits == {"reason": "limit", "detail": "Its API key runs 1 of the 1 jobs that it may run at once."}


@both_databases
def test_a_dry_run_creates_nothing(client: TestClient, key: Key, database: Database) -> None:
    used(database, seconds=11.0, warm=False)
    _, header = key(queued_jobs=1, gpu_seconds_per_day=100.0, priority_ceiling=Priority.LOW)
    headers = {**header, "Idempotency-Key": "once"}
    answer = client.post(URL, json={**GOOD, "max_attempts": 2}, headers=headers, params={"dry_run": "true"})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["dry_run"], body["priority"], body["max_attempts"], body["queue_position"]) == (True, "low", 2, 0)
    assert (body["params"]["frames"], body["params"]["resolution"]) == (9, "64x64")
    assert body["cost"]["generation_seconds"] == pytest.approx(10.0)
    assert body["cost"]["gpu_seconds"] == pytest.approx(11.0), "no device has loaded the model"
    assert body["cost"]["samples"] == 1
    assert body["memory"]["layouts"]
    assert [one["name"] for one in body["limits"]] == ["gpu_seconds_per_day", "queued_jobs"]
    assert client.get("/api/v1/jobs", headers=header).json()["data"] == []
    assert client.post(URL, json=GOOD, headers=headers).status_code == 202, "the Idempotency-Key was not used"
    again = client.post(URL, json=GOOD, headers=header, params={"dry_run": "true"})
    assert (again.status_code, again.json()["code"]) == (429, "limit_reached")
    wrong = client.post(URL, json={**GOOD, "steps": 0}, headers=header, params={"dry_run": "true"})
    assert wrong.json() == {**client.post(URL, json={**GOOD, "steps": 0}, headers=header).json(), **{
        name: wrong.json()[name] for name in ("instance", "request_id") if name in wrong.json()
    }}  # fmt: skip
    assert client.post(URL, json=GOOD, headers=header, params={"dry_run": "1"}).status_code == 422


def test_a_dry_run_starts_no_download_and_stores_no_picture(client: TestClient, settings: Any) -> None:
    body = {**GOOD, "model_id": "I2V-A14B", "image": data_url(picture()), "fallback": ["download_and_retry"]}
    answer = client.post(URL, json=body, params={"dry_run": "true"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["params"]["image"] is True
    assert client.get("/api/v1/jobs").json()["data"] == []
    assert not list(settings.store_dir.rglob("*.png"))


def test_attempts_and_back_off_by_request(client: TestClient, database: Database) -> None:
    made = client.post(URL, json={**GOOD, "max_attempts": 2, "retry_backoff_seconds": 90}).json()
    assert (made["max_attempts"], made["retry_backoff_seconds"]) == (2, 90)
    job = working.claim(database, made["id"])
    back = attempts.crashed(database, job.id, job.attempt, "It died", 1.0)
    assert back is not None
    assert back.not_before - back.queued_at > 80
    refused = client.post(URL, json={**GOOD, "max_attempts": 99, "retry_backoff_seconds": 86_000})
    assert [one["loc"][-1] for one in refused.json()["errors"]] == ["max_attempts", "retry_backoff_seconds"]
    assert "1 to 20" in refused.json()["errors"][0]["msg"]


@both_databases
def test_usage_by_key_day_and_model(client: TestClient, key: Key, database: Database) -> None:
    (mine, header), (other, _) = key(), key()
    day = datetime(2026, 3, 5, 23, 59, tzinfo=UTC)
    used(database, owner=mine, finished_at=day, seconds=10.0)
    used(database, owner=mine, finished_at=day, seconds=5.0, outcome="failed")
    used(database, owner=mine, finished_at=day + timedelta(minutes=2), seconds=1.0, model_id="=cmd")
    used(database, owner=other, finished_at=day, seconds=7.0)
    used(database, owner=mine, finished_at=day, seconds=99.0, mock=True)
    query = {"from": "2026-03-05", "to": "2026-03-06"}
    body = client.get("/api/v1/usage", params=query, headers=header).json()
    assert (body["jobs"], body["gpu_seconds"]) == (3, 16.0), "its own, without placeholders"
    assert [(one["day"], one["model_id"], one["jobs"], one["failed"], one["gpu_seconds"]) for one in body["data"]] == [
        ("2026-03-05", "T2V-A14B", 2, 1, 15.0), ("2026-03-06", "=cmd", 1, 0, 1.0)
    ]  # fmt: skip
    lines = client.get("/api/v1/usage", params={**query, "format": "csv"}, headers=header)
    assert lines.headers["content-type"].startswith("text/csv")
    assert lines.text.splitlines()[0].startswith("key,key_id,day,model_id,jobs")
    assert ",'=cmd," in lines.text.splitlines()[2], "a spreadsheet takes it for text"
    _, admin = keys.make(database, f"a{new_id()}", (keys.Scope.ADMIN,), Limits())
    everyone = client.get("/api/v1/usage", params={**query, "by": "key"}, headers={"Authorization": f"Bearer {admin}"})
    assert sorted(one["gpu_seconds"] for one in everyone.json()["data"]) == [7.0, 16.0]
    assert client.get("/api/v1/usage", params={"from": "2026-03-07", "to": "2026-03-06"}).status_code in (401, 422)
