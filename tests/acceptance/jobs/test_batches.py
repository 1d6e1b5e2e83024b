"""A thousand jobs as one batch, while processes are killed at random: each ends once, and the batch ends once."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.stack import QUICK, Stack, children, wait_for

JOBS = 1000
VICTIMS = ("gpu-0", "gpu-1", "dispatcher", "web", "io")
MISSING = "TI2V-5B"  # so that its jobs make placeholder output


@pytest.fixture
def stack(demo_models: Path, tmp_path: Path) -> Iterator[Stack]:
    models = tmp_path / "models"
    shutil.copytree(demo_models, models, symlinks=True, ignore=shutil.ignore_patterns(f"*{MISSING}"))
    stack = Stack(tmp_path / "home", models, devices="cpu:2")
    stack.start(seconds=300.0)
    yield stack
    stack.kill()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_batch_under_random_kills_ends_once(stack: Stack) -> None:
    chance = random.Random(7)
    params = {**QUICK, "model_id": MISSING, "fallback": ["mock_generation"]}
    body = {"jobs": [{"params": params}] * JOBS, "webhook_url": "https://receiver.example/hook", "name": "thousand"}
    began = time.monotonic()
    answer = stack.request("POST", "/api/v1/batches", json=body, headers={"Idempotency-Key": "thousand"})
    print(f"accepted in {time.monotonic() - began:.1f} s")
    assert answer.status_code in (200, 202), answer.text
    batch_id = answer.json()["id"]
    deadline = time.monotonic() + 1200
    while stack.request("GET", f"/api/v1/batches/{batch_id}").json()["finished_at"] is None:
        assert time.monotonic() < deadline
        # Some wait for their restart: after five deaths in a minute that is a minute.
        running = [one for one in stack.state()["processes"] if one["state"] == "running" and one["name"] in VICTIMS]
        if running:
            victim = chance.choice(running)
            of_victim = [victim["pid"], *children(victim["pid"])]
            with suppress(ProcessLookupError):
                os.kill(chance.choice(of_victim), signal.SIGKILL)
        time.sleep(chance.uniform(3.0, 10.0))
    batch = stack.request("GET", f"/api/v1/batches/{batch_id}").json()
    states = dict(stack.sql("select status, count(*) from jobs where batch_id = ? group by status", batch_id))
    counts = batch["counts"]
    assert sum(states.values()) == JOBS
    assert {name: count for name, count in counts.items() if count} == states, "whatever was killed"
    assert stack.sql("select count(*) from uses") == [(JOBS,)], "one use of each"
    messages = stack.sql("select type, data from webhook_messages where job_id = ?", batch_id)
    assert [type for type, _ in messages] == [f"batch.{batch['status']}"]
    assert json.loads(messages[0][1])["counts"] == {name: counts[name] for name in ("succeeded", "failed", "cancelled")}
    again = stack.request("POST", "/api/v1/batches", json=body, headers={"Idempotency-Key": "thousand"})
    assert (again.status_code, again.json()["id"]) == (200, batch_id)

    # A web process that is killed while it deletes them: another continues, and nothing is counted twice.
    result = stack.request("POST", "/api/v1/jobs/bulk", json={"action": "delete", "filter": {"batch_id": batch_id}})
    assert result.status_code == 202, result.text
    job_id = result.json()["job_id"]
    wait_for(lambda: (stack.job(job_id)["result"] or {}).get("changed"), 60)
    stack.kill_process("web")
    job = stack.wait_status(job_id, seconds=120.0)
    assert (job["status"], job["result"]["matched"], job["result"]["changed"]) == ("succeeded", JOBS, JOBS)
    wait_for(lambda: stack.request("GET", f"/api/v1/batches/{batch_id}").status_code == 404, 180, "for the batch to go")
