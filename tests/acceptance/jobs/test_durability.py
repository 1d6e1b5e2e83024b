"""Kill anything in the middle of a batch: every accepted job ends, once, and only the winning attempt counts."""

import os
import shutil
import signal
import time

import httpx
import pytest

from tests.support.stack import Stack, wait_for

BATCH = 16


def submit_batch(stack: Stack, count: int = BATCH) -> list[str]:
    models = ("T2V-A14B", "TI2V-5B")
    return [stack.submit(model_id=models[place % 2], seed=place) for place in range(count)]


def ended(stack: Stack, job_ids: list[str]) -> int:
    marks = ",".join("?" * len(job_ids))
    return int(
        stack.sql(f"select count(*) from jobs where finished_at is not null and id in ({marks})", *job_ids)[0][0]
    )


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["gpu-0-child", "redis", "gpu-1", "dispatcher", "web", "io"])
def test_kill_9_in_the_middle_of_a_batch(stack: Stack, victim: str) -> None:
    job_ids = submit_batch(stack)
    wait_for(lambda: ended(stack, job_ids) >= 3, 60)
    assert ended(stack, job_ids) < BATCH
    stack.kill_process(victim)
    if victim == "redis":
        shutil.rmtree(stack.home / "redis" / "appendonlydir", ignore_errors=True)
    jobs = stack.wait_all(job_ids)
    stack.assert_ended_once(jobs)
    if victim == "gpu-0-child":
        assert sum(job["failures"] for job in jobs) <= 1


@pytest.mark.slow
def test_a_job_killed_midway_runs_again_under_the_same_id(stack: Stack) -> None:
    job_id = stack.submit(resolution="256x256", frames=17, steps=40)
    running = stack.wait_status(job_id, ["running"])
    stack.kill_process(f"{running['worker'].split('@')[0]}-child")
    job = stack.wait_status(job_id)
    assert (job["status"], job["attempt"], job["failures"]) == ("succeeded", 2, 1)
    stack.assert_ended_once([job])


@pytest.mark.slow
def test_a_worker_stopped_past_its_lease_and_continued_changes_nothing(stack: Stack) -> None:
    job_id = stack.submit(resolution="256x256", frames=17, steps=20)
    running = stack.wait_status(job_id, ["running"])
    worker = running["worker"].split("@")[0]
    frozen = [stack.pid(worker), stack.child(worker)]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        job = stack.wait_status(job_id)
        assert (job["status"], job["attempt"]) == ("succeeded", 2)
        assert job["worker"].split("@")[0] != worker
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    losing = stack.home / "store" / "artifacts" / job_id / "1"
    wait_for(lambda: not losing.exists(), 30, "for the losing attempt to be dropped")
    after = stack.job(job_id)
    assert after == job
    stack.assert_ended_once([after])


@pytest.mark.slow
def test_a_job_that_takes_down_two_devices_fails_and_says_so(stack: Stack) -> None:
    job_id = stack.submit(resolution="256x256", frames=17, steps=100)
    for attempt in (1, 2):
        running = wait_for(
            lambda attempt=attempt: (
                (job := stack.job(job_id))["attempt"] == attempt and job["status"] == "running" and job
            ),
            60,
            f"for attempt {attempt}",
        )
        stack.kill_process(f"{running['worker'].split('@')[0]}-child")
    job = stack.wait_status(job_id)
    assert (job["status"], job["failures"]) == ("failed", 2)
    assert job["error"]["code"] == "device_fault"
    assert "took down 2 devices (here/0, here/1)" in job["error"]["message"].replace("here/1, here/0", "here/0, here/1")


def test_cancel_frees_the_device_within_a_step(stack: Stack) -> None:
    job_id = stack.submit(resolution="256x256", frames=17, steps=100)
    wait_for(lambda: (stack.job(job_id)["progress"]["step"] or 0) >= 1, 60)
    step_seconds = 1.0
    asked = time.monotonic()
    assert stack.request("POST", f"/api/v1/jobs/{job_id}/cancel").status_code == 202
    job = stack.wait_status(job_id, seconds=10)
    assert job["status"] == "cancelled"
    assert time.monotonic() - asked < 2.0 + step_seconds
    follower = stack.submit()
    assert stack.wait_status(follower)["status"] == "succeeded"


@pytest.mark.slow
def test_a_second_dispatcher_does_no_harm(stack: Stack) -> None:
    import subprocess
    import sys

    environment = {
        **stack.environment,
        "WANWORKS_HOME": str(stack.home),
        "WANWORKS_REDIS_URL": stack.state()["redis_url"],
    }
    second = subprocess.Popen([sys.executable, "-m", "scheduler.dispatcher"], env=environment)
    try:
        job_ids = submit_batch(stack)
        wait_for(lambda: ended(stack, job_ids) >= 3, 60)
        stack.kill_process("dispatcher")  # the second takes over at once, and then there are two again
        jobs = stack.wait_all(job_ids)
    finally:
        second.terminate()
        second.wait(10)
    stack.assert_ended_once(jobs)
    assert {job["attempt"] for job in jobs} == {1}


@pytest.mark.slow
def test_stop_and_start_again_loses_nothing_and_leaves_nothing(own_stack: Stack) -> None:
    own_stack.start()
    job_ids = [own_stack.submit(resolution="128x128", frames=17, seed=place) for place in range(12)]
    wait_for(lambda: ended(own_stack, job_ids) >= 2, 60)
    began = time.monotonic()
    assert own_stack.stop() == 0
    assert time.monotonic() - began < 15
    assert own_stack.processes() == []
    own_stack.start()
    jobs = own_stack.wait_all(job_ids)
    own_stack.assert_ended_once(jobs)
    assert {job["failures"] for job in jobs} == {0}


@pytest.mark.slow
@pytest.mark.slow
def test_a_redis_file_that_the_server_cannot_read_stops_nothing(own_stack: Stack) -> None:
    """As after a change of the server: an older one cannot read what a newer one wrote."""
    stack = own_stack
    stack.start()
    jobs = [stack.submit() for _ in range(4)]
    stack.kill()
    data = stack.home / "redis" / "appendonlydir"
    [base] = data.glob("*.base.rdb")
    base.write_bytes(b"REDIS0999" + bytes(100))
    stack.start()
    stack.assert_ended_once(stack.wait_all(jobs))
    assert (data.with_name("appendonlydir.unreadable") / base.name).exists()


@pytest.mark.slow
def test_kill_9_of_up_leaves_no_orphan_and_a_double_start_is_refused(own_stack: Stack) -> None:
    own_stack.start()
    double = Stack(own_stack.home, own_stack.home)
    with pytest.raises(AssertionError):
        double.start()
    assert double.process is not None
    assert double.process.wait(10) != 0
    job_id = own_stack.submit(resolution="256x256", frames=17)
    own_stack.wait_status(job_id, ["running"])
    own_stack.kill()
    wait_for(lambda: not own_stack.processes(), 15, "for every process to be gone")
    with pytest.raises(httpx.TransportError):
        httpx.get(own_stack.url)
    own_stack.start()
    assert own_stack.wait_status(job_id)["status"] == "succeeded"
