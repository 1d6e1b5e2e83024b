"""Downloads on the real stack from a real hub: paused, resumed, killed, overtaken; then the waiting jobs start."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import free_port, lacking
from tests.support.stack import Stack, children, command_line, wait_for

MANAGE = "/api/v1/models/download/manage"


@contextmanager
def hub(root: Path, port: int | None = None) -> Iterator[str]:
    """The hub as a site would run it."""
    argv = [sys.executable, "-m", "api.hub", "--root", str(root), "--port", str(port or free_port())]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[1]
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def fetching(demo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose node holds nothing yet, with one slot for downloads."""
    folder = tmp_path_factory.mktemp("fetching")
    with hub(demo_models) as url:
        stack = Stack(
            folder / "home",
            folder / "models",
            devices="cpu:1",
            WANWORKS_HUB_URL=url,
            WANWORKS_DOWNLOAD_SLOTS="1",
            WANWORKS_PRESENCE_SECONDS="2",
        )
        stack.start()
        yield stack
        stack.stop()


@pytest.fixture
def empty(fetching: Stack) -> Stack:
    """The same, with no download under way and no model on the node."""
    for job in fetching.request("GET", "/api/v1/jobs?type=download&limit=100").json()["data"]:
        if job["finished_at"] is None:
            fetching.request("POST", f"/api/v1/jobs/{job['id']}/cancel")
            fetching.wait_status(job["id"])
    models = Path(fetching.environment["WANWORKS_MODELS_PATH"])
    subprocess.run(["rm", "-rf", *map(str, models.glob("models--*"))], check=True)
    wait_for(lambda: not fetching.sql("select 1 from replicas where state = 'available'"), 20, "for the scan")
    return fetching


def download(stack: Stack, model_id: str = "T2V-A14B", **fields: Any) -> str:
    response = stack.request("POST", "/api/v1/jobs/download", json={"model_id": model_id, **fields})
    assert response.status_code == 202, response.text
    job_id: str = response.json()["id"]
    return job_id


def manage(stack: Stack, action: str, model_id: str = "T2V-A14B", **fields: Any) -> Any:
    return stack.request("POST", MANAGE, json={"model_id": model_id, "action": action, **fields})


def under_way(stack: Stack, job_id: str, done: int = 300_000) -> dict[str, Any]:
    """Fetching, with that many bytes here."""
    return wait_for(
        lambda: (
            (job := stack.job(job_id))["status"] == "running" and (job["progress"]["bytes_done"] or 0) > done and job
        ),
        30,
        "for bytes",
    )


def fetched(job: dict[str, Any]) -> int:
    count: int = job["result"]["bytes_fetched"]
    return count


def test_a_model_arrives_and_the_jobs_that_waited_for_it_start_by_themselves(empty: Stack) -> None:
    waiting = empty.submit(model_id="TI2V-5B")
    # the demo's catalogue fetches on demand what jobs wait for
    (found,) = wait_for(lambda: empty.request("GET", "/api/v1/jobs?type=download&model_id=TI2V-5B").json()["data"], 20)
    job = empty.wait_status(found["id"])
    assert job["status"] == "succeeded"
    assert fetched(job) == job["result"]["bytes_total"] > 1_000_000
    assert re.fullmatch("[0-9a-f]{40}", job["result"]["revision"])
    assert empty.wait_status(waiting)["status"] == "succeeded"


def test_pause_stops_within_a_second_frees_the_slot_and_resume_fetches_nothing_twice(empty: Stack) -> None:
    first = download(empty, bandwidth_limit_mbps=4)
    under_way(empty, first)
    second = download(empty, "TI2V-5B", bandwidth_limit_mbps=4)
    asked = time.monotonic()
    answer = manage(empty, "pause").json()
    assert (answer["success"], answer["current_status"]) == (True, "paused")
    assert time.monotonic() - asked < 2.5  # a second, and what two busy cores add
    paused = empty.job(first)
    assert paused["status"] == "paused"
    assert 0 < paused["progress"]["bytes_done"] < paused["progress"]["bytes_total"]
    under_way(empty, second, 0)
    manage(empty, "bandwidth", "TI2V-5B", bandwidth_limit_mbps=1000)
    manage(empty, "bandwidth", bandwidth_limit_mbps=1000)
    assert manage(empty, "resume").json()["success"] is True
    job, other = empty.wait_status(first), empty.wait_status(second)
    assert (job["status"], other["status"]) == ("succeeded", "succeeded")
    # the last attempt counts its own bytes: with those of the first they make the whole, but for what was in flight
    assert fetched(job) <= job["result"]["bytes_total"] - paused["progress"]["bytes_done"] + 65_536
    assert job["failures"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["child", "worker"])
def test_a_download_resumes_after_kill_9(empty: Stack, victim: str) -> None:
    job_id = download(empty, bandwidth_limit_mbps=4)
    before = under_way(empty, job_id)["progress"]["bytes_done"]
    main = empty.pid("io")
    if victim == "worker":
        os.kill(main, signal.SIGKILL)
    else:
        for child in children(main):
            if "billiard-fork" in command_line(child):
                os.kill(child, signal.SIGKILL)
    wait_for(lambda: empty.job(job_id)["attempt"] == 2, 40, "for the second attempt")
    manage(empty, "bandwidth", bandwidth_limit_mbps=1000)
    job = empty.wait_status(job_id)
    assert (job["status"], job["failures"]) == ("succeeded", 1)
    assert fetched(job) <= job["result"]["bytes_total"] - before + 65_536


def test_a_more_urgent_download_takes_the_slot_and_gives_it_back(empty: Stack) -> None:
    slow = download(empty, bandwidth_limit_mbps=4, priority="low")
    under_way(empty, slow)
    urgent = download(empty, "TI2V-5B", priority="critical")
    assert empty.wait_status(urgent)["status"] == "succeeded"
    manage(empty, "bandwidth", bandwidth_limit_mbps=1000)
    job = empty.wait_status(slow)
    assert (job["status"], job["failures"]) == ("succeeded", 0)
    assert job["attempt"] >= 2
    assert job["finished_at"] > empty.job(urgent)["finished_at"]


def test_cancel_takes_the_partial_files_away(empty: Stack) -> None:
    job_id = download(empty, bandwidth_limit_mbps=4)
    under_way(empty, job_id)
    models = Path(empty.environment["WANWORKS_MODELS_PATH"])
    assert list(models.rglob("*.incomplete"))
    answer = manage(empty, "cancel").json()
    assert answer["success"] is True
    assert empty.wait_status(job_id)["status"] == "cancelled"
    wait_for(lambda: not list(models.rglob("*.incomplete")), 10, "for the partial files to go")


def test_what_the_hub_does_not_have_fails_with_a_clear_reason(empty: Stack) -> None:
    job = empty.wait_status(download(empty, revision="no-such-branch"))
    assert (job["status"], job["error"]["code"]) == ("failed", "revision_not_found")
    assert job["error"]["retryable"] is False


@pytest.mark.slow
def test_a_full_disk_pauses_the_download_and_room_lets_it_go_on(demo_models: Path, tmp_path: Path) -> None:
    models = tmp_path / "small-disk"
    models.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(models)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        lacking("file systems cannot be mounted here")
    try:
        with hub(demo_models) as url:
            stack = Stack(tmp_path / "home", models, devices="cpu:1", WANWORKS_HUB_URL=url)
            stack.start()
            try:
                job_id = download(stack)
                job = stack.wait_status(job_id, ["paused"])
                assert (job["error"]["code"], job["paused_by"]) == ("disk_full", "disk_full")
                assert "MB" in job["error"]["message"]
                subprocess.run(["mount", "-o", "remount,size=64m", str(models)], check=True)
                after = stack.wait_status(job_id, seconds=40)
                assert (after["status"], after["failures"]) == ("succeeded", 0)
            finally:
                stack.stop()
    finally:
        subprocess.run(["umount", "-l", str(models)], check=True)
