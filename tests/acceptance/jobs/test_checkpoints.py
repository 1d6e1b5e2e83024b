"""Jobs of a running installation that lose their process or their device, and continue from a checkpoint."""

import hashlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.stack import Stack, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LONG: dict[str, Any] = {"steps": 100, "resolution": "128x128", "seed": 11}


@pytest.fixture(scope="module")
def one(demo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An installation with one device, which writes a checkpoint every half second."""
    folder = tmp_path_factory.mktemp("checkpoints")
    stack = Stack(folder / "home", shutil.copytree(demo_models, folder / "models", symlinks=True), devices="cpu:1")
    stack.environment |= {"WANWORKS_CHECKPOINT_SECONDS": "0.5", "WANWORKS_PREEMPTION_WAIT_SECONDS": "0"}
    stack.start()
    yield stack
    stack.stop()


@pytest.fixture(scope="module")
def undisturbed(one: Stack) -> str:
    return video(one, one.wait_status(one.submit(**LONG), seconds=250))


def video(stack: Stack, job: dict[str, Any]) -> str:
    assert job["status"] == "succeeded", job
    (url,) = [artifact["url"] for artifact in job["result"]["artifacts"] if artifact["kind"] == "video"]
    return hashlib.sha256(stack.request("GET", url).content).hexdigest()


def kept(stack: Stack, job_id: str, attempt: int = 1) -> dict[str, Any]:
    def has() -> dict[str, Any] | None:
        job = stack.job(job_id)
        assert job["status"] in ("queued", "running"), job
        return job if job["attempt"] == attempt and job["checkpoint_step"] else None

    return wait_for(has, 120, "for a checkpoint")


def folders(stack: Stack) -> list[str]:
    return [each.name for each in (stack.home / "checkpoints").glob("*")]


def test_a_kill_loses_only_the_steps_since_the_last_checkpoint(one: Stack, undisturbed: str) -> None:
    job_id = one.submit(**LONG)
    before = kept(one, job_id)["checkpoint_step"]
    one.kill_process("gpu-0-child")
    job = one.wait_status(job_id, seconds=250)
    assert (job["attempt"], job["failures"]) == (2, 1)
    assert job["resumed_from_step"] == job["result"]["resumed_from_step"] >= before
    assert video(one, job) == undisturbed
    assert job_id not in folders(one)
    one.assert_ended_once([job])


def test_a_critical_job_takes_the_device_and_the_low_one_continues(one: Stack, undisturbed: str) -> None:
    low = one.submit(**LONG, priority="low")
    kept(one, low)
    began = time.monotonic()
    critical = one.submit(steps=2, priority="critical")
    wait_for(lambda: one.job(critical)["status"] != "queued", 30, "for the critical job")
    print(f"\nthe critical job began after {time.monotonic() - began:.2f} s")
    assert one.job(low)["status"] == "queued"
    ended = one.wait_all([low, critical], 250)
    assert (ended[0]["preempted"], ended[0]["failures"], ended[0]["attempt"]) == (1, 0, 2)
    assert ended[0]["resumed_from_step"] > 0
    assert video(one, ended[0]) == undisturbed
    one.assert_ended_once(ended)


def test_a_cancel_during_a_preemption_ends_the_job_once(one: Stack) -> None:
    low = one.submit(**LONG, priority="low")
    kept(one, low)
    critical = one.submit(steps=2, priority="critical")
    one.request("POST", f"/api/v1/jobs/{low}/cancel")
    ended = one.wait_all([low, critical], 120)
    assert [job["status"] for job in ended] == ["cancelled", "succeeded"]
    one.assert_ended_once(ended[1:])
    assert one.sql("select outcome from uses where job_id = ?", low) == [("cancelled",)]
    wait_for(lambda: low not in folders(one), 90, "for the sweep")
