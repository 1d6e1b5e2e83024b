"""Devices are sampled while the running system works: each sample says what ran."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stack import Stack, wait_for


@pytest.fixture(scope="module")
def sampled(demo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(
        tmp_path_factory.mktemp("stack") / "home", demo_models, devices="cpu:1", WANWORKS_SAMPLE_SECONDS="0.1"
    )
    stack.start()
    yield stack
    stack.stop()


@pytest.mark.slow
def test_samples_follow_a_job_and_its_video_is_judged(sampled: Stack) -> None:
    job_id = sampled.submit(resolution="256x256", frames=17, steps=4)
    job = sampled.wait_status(job_id)
    assert job["status"] == "succeeded"
    found = sampled.sql(
        "select model_id, phase, utilization_percent, memory_used_mb, memory_total_mb, kind from samples "
        "where job_id = ? order by at",
        job_id,
    )
    assert {row[0] for row in found} == {"T2V-A14B"}
    assert "decoding" in {row[1] for row in found}, "by far the longest phase of this job"
    assert max(float(str(row[2])) for row in found) > 40, "of a core"
    assert all(0 < float(str(row[3])) < float(str(row[4])) for row in found)
    assert {row[5] for row in found} == {"cpu"}
    idle = "select count(*) from samples where job_id is null and at > (select max(at) from samples where job_id = ?)"
    wait_for(lambda: sampled.sql(idle, job_id)[0][0], 20, "for a sample of the idle device")

    quality = job["result"]["quality"]
    assert all(quality["checks"].values())
    assert 0.0 < quality["score"] < 1.0
    assert sampled.sql("select quality from uses where job_id = ?", job_id) == [(quality["score"],)]
