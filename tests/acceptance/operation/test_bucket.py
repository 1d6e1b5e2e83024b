"""A whole installation on a bucket: what a killed worker had sent is never served, and its job ends once."""

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.servers.s3_server import BUCKET, KEY_ID, SECRET, Line, S3Server
from tests.support.stack import Stack, children, command_line, wait_for


@pytest.fixture
def line(s3_server: S3Server) -> Iterator[Line]:
    line = Line(s3_server.port)
    yield line
    line.close()


@pytest.fixture
def bucket_stack(demo_models: Path, tmp_path: Path, line: Line) -> Iterator[Stack]:
    settings = {
        "WANWORKS_STORE_URL": f"s3://{BUCKET}/installation",
        "WANWORKS_STORE_ENDPOINT": line.url,
        "WANWORKS_STORE_KEY_ID": KEY_ID,
        "WANWORKS_STORE_SECRET": SECRET,
    }
    stack = Stack(tmp_path / "home", demo_models, "cpu:1", **settings)
    stack.start()
    yield stack
    stack.stop()


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_of_an_upload(bucket_stack: Stack, line: Line, s3_server: S3Server) -> None:
    stack = bucket_stack
    line.when["/1/thumbnail.jpg"] = lambda: setattr(line, "hold", True)
    job_id = stack.submit()
    assert wait_for(lambda: line.hold, 60, "for the upload of the thumbnail")
    first = f"installation/artifacts/{job_id}/1"
    assert f"{first}/video.mp4" in s3_server.objects()
    assert stack.job(job_id)["status"] == "running", "it may not succeed before its files are there"
    stack.kill_process("gpu-0-child")  # it does not upload: the finisher does, and outlives it
    (finisher,) = [pid for pid in children(stack.pid("gpu-0")) if "workers.processes.finisher" in command_line(pid)]
    os.kill(finisher, signal.SIGKILL)
    line.hold = False
    job = stack.wait_status(job_id)
    assert (job["status"], job["attempt"], job["failures"]) == ("succeeded", 1, 0), "the next finisher has taken it up"
    assert stack.sql("select outcome from uses where job_id = ?", job_id) == [("succeeded",)]
    for artifact in job["result"]["artifacts"]:
        served = httpx.get(stack.url + artifact["url"], follow_redirects=True)
        assert f"/{job_id}/1/{artifact['name']}" in str(served.url)
        assert hashlib.sha256(served.content).hexdigest() == artifact["sha256"]
    assert not (stack.home / "store").exists()
    assert wait_for(lambda: [path.name for path in (stack.home / "scratch").iterdir()] == [".lock"], 10)
    assert SECRET not in stack.logs()
    assert all(SECRET not in log.read_text(errors="replace") for log in (stack.home / "logs").glob("*.log"))
