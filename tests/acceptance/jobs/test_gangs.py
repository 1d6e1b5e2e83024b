"""Jobs on several devices of a running installation: what kills and cancels do to them."""

import os
import signal
from typing import Any

import pytest

from tests.support.stack import Stack, command_line, wait_for

pytestmark = pytest.mark.slow

TEAM = {"devices_per_job": 2, "resolution": "128x128", "frames": 17, "steps": 60}


def members(stack: Stack) -> list[int]:
    return [pid for pid in stack.processes() if "workers.generation.gang.member" in command_line(pid)]


def denoising(stack: Stack, job_id: str, attempt: int = 1) -> dict[str, Any]:
    def begun() -> dict[str, Any] | None:
        job = stack.job(job_id)
        assert job["status"] in ("queued", "running"), job
        moving = job["progress"]["phase"] == "denoising" and (job["progress"]["step"] or 0) >= 1
        return job if job["attempt"] == attempt and moving else None

    return wait_for(begun, 120, f"for attempt {attempt}")


def test_two_devices_run_one_job_whatever_is_killed(own_stack: Stack) -> None:
    stack = own_stack
    stack.start()
    refused = stack.request("POST", "/api/v1/jobs/generation", json={
        "model_id": "T2V-A14B", "prompt": "a cat", "resolution": "64x64", "frames": 9, "steps": 2, "devices_per_job": 4,
    })  # fmt: skip
    assert refused.status_code == 422
    assert "no node has more than 2 devices of one kind; allowed: 1, 2" in refused.text
    alone = [stack.submit(seed=3, **{**TEAM, "devices_per_job": 1, "steps": 4}) for _ in range(2)]
    team = stack.submit(seed=3, **{**TEAM, "steps": 4})
    ended = stack.wait_all([*alone, team], 200)
    stack.assert_ended_once(ended)
    assert ended[-1]["gang"] in (["here/0", "here/1"], ["here/1", "here/0"])
    ((devices, held, seconds),) = stack.sql("select devices, device_seconds, seconds from uses where job_id = ?", team)
    assert devices == 2
    assert held > seconds

    for victim in ("leader's child", "member", "leader's main process", "member's main process"):
        job_id = stack.submit(**TEAM)
        job = denoising(stack, job_id)
        leader, other = (f"gpu-{key.rpartition('/')[2]}" for key in job["gang"])
        (member,) = members(stack)
        states = {one["index"]: one for one in stack.request("GET", "/api/v1/workers").json()["devices"]}
        assert {(one["state"], one["job"]) for one in states.values()} == {("busy", job_id)}
        if victim == "member":
            os.kill(member, signal.SIGKILL)
        elif victim == "leader's child":
            stack.kill_process(f"{leader}-child")
        else:
            stack.kill_process(leader if victim.startswith("leader") else other)
        if not victim.startswith("member's"):
            wait_for(lambda member=member: member not in stack.processes(), 40, f"for the end after {victim}")
        job = stack.wait_status(job_id, seconds=200)
        stack.assert_ended_once([job])
        assert job["attempt"] == (1 if victim.startswith("member's") else 2), victim
        assert members(stack) == []

    job_id = stack.submit(**{**TEAM, "steps": 100})
    denoising(stack, job_id)
    stack.request("POST", f"/api/v1/jobs/{job_id}/cancel")
    assert stack.wait_status(job_id, seconds=20)["status"] == "cancelled"
    wait_for(lambda: not members(stack), 20, "for the end of the members")
    stack.assert_ended_once(stack.wait_all([stack.submit() for _ in range(4)]))
