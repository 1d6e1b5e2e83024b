"""Jobs on several devices of a running installation: what kills and cancels do to them."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.stack import Stack, command_line, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TEAM: dict[str, Any] = {"devices_per_job": 2, "steps": 100}


def members(stack: Stack) -> list[int]:
    return [pid for pid in stack.processes() if "workers.processes.gang_member" in command_line(pid)]


def denoising(stack: Stack, job_id: str, attempt: int = 1) -> dict[str, Any]:
    def begun() -> dict[str, Any] | None:
        job = stack.job(job_id)
        assert job["status"] in ("queued", "running"), job
        moving = job["progress"]["phase"] == "denoising" and (job["progress"]["step"] or 0) >= 1
        return job if job["attempt"] == attempt and moving else None

    return wait_for(begun, 120, f"for attempt {attempt}")


@pytest.fixture(scope="module")
def pair(demo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An installation with two devices, on which nothing else runs."""
    folder = tmp_path_factory.mktemp("gangs")
    stack = Stack(folder / "home", shutil.copytree(demo_models, folder / "models", symlinks=True), devices="cpu:2")
    stack.start()
    wait_for(lambda: len(stack.request("GET", "/api/v1/workers").json()["devices"]) == 2, 30, "for both devices")
    yield stack
    stack.stop()


def test_a_gang_runs_beside_single_jobs_and_its_device_time_counts_each_device(pair: Stack) -> None:
    refused = pair.request("POST", "/api/v1/jobs/generation", json={
        "model_id": "T2V-A14B", "prompt": "a cat", "resolution": "64x64", "frames": 9, "steps": 2, "devices_per_job": 4,
    })  # fmt: skip
    assert refused.status_code == 422
    assert "no node has more than 2 devices of one kind; allowed: 1, 2" in refused.text
    alone = [pair.submit(steps=4) for _ in range(2)]
    team = pair.submit(**{**TEAM, "steps": 4})
    ended = pair.wait_all([*alone, team], 250)
    pair.assert_ended_once(ended)
    assert ended[-1]["gang"] in (["here/0", "here/1"], ["here/1", "here/0"])
    ((devices, held, seconds),) = pair.sql("select devices, device_seconds, seconds from uses where job_id = ?", team)
    assert devices == 2
    assert held > seconds


@pytest.mark.parametrize("victim", ["leader's child", "member", "leader's main process", "member's main process"])
def test_whatever_is_killed_the_job_ends_once_and_all_is_freed(pair: Stack, victim: str) -> None:
    job_id = pair.submit(**TEAM)
    job = denoising(pair, job_id)
    leader, other = (f"gpu-{key.rpartition('/')[2]}" for key in job["gang"])
    (member,) = members(pair)
    shown = pair.request("GET", "/api/v1/workers").json()["devices"]
    assert {(one["state"], one["job"]) for one in shown} == {("busy", job_id)}
    if victim == "member":
        os.kill(member, signal.SIGKILL)
    elif victim == "leader's child":
        pair.kill_process(f"{leader}-child")
    else:
        pair.kill_process(leader if victim.startswith("leader") else other)
    if not victim.startswith("member's"):
        wait_for(lambda: member not in pair.processes(), 40, f"for the end after {victim}")
    job = pair.wait_status(job_id, seconds=250)
    pair.assert_ended_once([job])
    assert job["attempt"] == (1 if victim.startswith("member's") else 2)
    assert members(pair) == []


def test_a_cancel_frees_both_devices(pair: Stack) -> None:
    job_id = pair.submit(**TEAM)
    denoising(pair, job_id)
    pair.request("POST", f"/api/v1/jobs/{job_id}/cancel")
    assert pair.wait_status(job_id, seconds=30)["status"] == "cancelled"
    wait_for(lambda: not members(pair), 20, "for the end of the members")
    pair.assert_ended_once(pair.wait_all([pair.submit() for _ in range(4)]))
