"""Flows on a whole installation: frames from job to job, and a tree of fifty jobs under kills of the workers."""

import hashlib
import io
import random
import time
from typing import Any

import numpy
import pytest
from PIL import Image

from tests.support.stack import QUICK, Stack, wait_for


def job(name: str, *after: str, **params: Any) -> dict[str, Any]:
    return {"name": name, "params": {**QUICK, "prompt": name, **params}, "depends_on": list(after)}


def submit(stack: Stack, jobs: list[dict[str, Any]]) -> str:
    answer = stack.request("POST", "/api/v1/flows", json={"jobs": jobs})
    assert answer.status_code == 202, answer.text
    flow_id: str = answer.json()["id"]
    return flow_id


def flow_of(stack: Stack, flow_id: str) -> dict[str, Any]:
    content: dict[str, Any] = stack.request("GET", f"/api/v1/flows/{flow_id}").json()
    return content


def ended(stack: Stack, flow_id: str, seconds: float) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        flow = flow_of(stack, flow_id)
        return flow if flow["state"] in ("succeeded", "failed", "cancelled") else None

    return wait_for(found, seconds, "for the flow to end") or {}


def artifact(stack: Stack, job_id: str, name: str) -> bytes:
    return stack.request("GET", f"/api/v1/jobs/{job_id}/artifacts/{name}").content


@pytest.mark.slow
def test_each_shot_begins_with_a_frame_of_the_one_before(stack: Stack) -> None:
    jobs = [
        job("one"),
        job("two", model_id="I2V-A14B", image={"from": "one"}),
        job("three", model_id="I2V-A14B", image={"from": "two", "frame": 1}),
    ]
    flow = ended(stack, submit(stack, jobs), 150)
    assert flow["state"] == "succeeded", flow
    one, two, three = (stack.job(each["id"]) for each in flow["jobs"])
    for maker, taker, name in ((one, two, "frame-last.png"), (two, three, "frame-1.png")):
        (kept,) = [each for each in maker["result"]["artifacts"] if each["kind"] == "frame"]
        content = artifact(stack, maker["id"], name)
        assert (kept["name"], kept["content_type"], kept["bytes"]) == (name, "image/png", len(content))
        assert kept["sha256"] == hashlib.sha256(content).hexdigest()
        picture = Image.open(io.BytesIO(content))
        assert (picture.format, picture.size, picture.mode) == ("PNG", (64, 64), "RGB")
        assert numpy.asarray(picture).std() > 0
        assert taker["result"]["manifest"]["image_sha256"] == kept["sha256"], "it was made from that frame"
        assert taker["started_at"] >= maker["finished_at"]
    assert not any(each["kind"] == "frame" for each in three["result"]["artifacts"])


@pytest.mark.slow
@pytest.mark.timeout(25 * 60)
def test_fifty_jobs_under_kills(own_stack: Stack) -> None:
    """A tree of 50 jobs, of which two fail and are retried, ends as promised while workers are killed."""
    stack = own_stack
    stack.start()
    failing = {"j3", "j5"}
    stack.request("POST", "/api/v1/queues/pause")  # so that these two pass their latest start, and fail
    latest = {"start_before": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 15))}
    jobs = []
    for at in range(50):
        after = [f"j{(at - 1) // 2}"] if at else []
        late = latest if f"j{at}" in failing else {}
        jobs.append(job(f"j{at}", *after, max_attempts=20, retry_backoff_seconds=0.1, **late))
    flow_id = submit(stack, jobs)
    wait_for(lambda: flow_of(stack, flow_id)["counts"]["failed"] == 2, 60, "for two jobs to fail")
    stack.request("POST", "/api/v1/queues/resume")
    _kill_until_ended(stack, flow_id, random.Random(7), 600)
    flow = flow_of(stack, flow_id)
    assert flow["state"] == "failed", flow["counts"]
    states = {each["name"]: each["state"] for each in flow["jobs"]}
    assert {name for name, state in states.items() if state == "failed"} == failing
    assert {name for name, state in states.items() if state == "skipped"} == _below(failing)
    _check_order(stack, flow)
    stack.request("POST", f"/api/v1/flows/{flow_id}/retry")
    _kill_until_ended(stack, flow_id, random.Random(8), 600)
    flow = flow_of(stack, flow_id)
    assert flow["state"] == "succeeded", flow["counts"]
    assert flow["retries"] == 1
    for each in flow["jobs"]:
        again = each["name"] in failing | _below(failing)
        assert len(each["earlier_ids"]) == again, each
    _check_order(stack, flow)
    rows = stack.sql("select job_id, count(*) from uses group by job_id having count(*) > 1")
    assert rows == [], "a job has ended twice"


def _below(names: set[str]) -> set[str]:
    found: set[str] = set()
    for at in range(1, 50):
        parent = f"j{(at - 1) // 2}"
        if parent in names or parent in found:
            found.add(f"j{at}")
    return found - names


def _kill_until_ended(stack: Stack, flow_id: str, chance: random.Random, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    kills = 0
    while flow_of(stack, flow_id)["state"] in ("queued", "running"):
        assert time.monotonic() < deadline, flow_of(stack, flow_id)["counts"]
        if kills < 6:
            stack.kill_process(chance.choice(["gpu-0-child", "gpu-1-child", "gpu-0", "gpu-1", "dispatcher"]))
            kills += 1
        time.sleep(chance.uniform(2.0, 6.0))


def _check_order(stack: Stack, flow: dict[str, Any]) -> None:
    """No job has started before those that it depends on had ended."""
    by_name = {each["name"]: each for each in flow["jobs"]}
    for each in flow["jobs"]:
        for name in each["depends_on"]:
            if each["started_at"] is not None:
                assert by_name[name]["finished_at"] is not None
                assert each["started_at"] >= by_name[name]["finished_at"], (each, by_name[name])
