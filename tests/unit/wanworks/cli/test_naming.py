"""What jobs are called, why one has no video, and how to share those that have."""

from typing import Any, cast

import pytest

from wanworks.cli.jobs import naming
from wanworks.client.shapes import Job

ID = "01a22cd7-e021-7d37-8dc2-1b3c4d5e6f70"


def job(type: str, model: str | None = None, **more: Any) -> Job:
    found = {"id": ID, "type": type, "model_id": model, "status": "succeeded", "params": {}, "result": None,
             "error": None, **more}  # fmt: skip
    return cast(Job, found)


@pytest.mark.parametrize(
    ("given", "title"),
    [
        (job("generation", "T2V-A14B", params={"prompt": "a\n boat"}), "a boat"),
        (job("download", "T2V-A14B"), "Download of T2V-A14B"),
        (job("integrity_check"), "Integrity check of all models"),
        (job("prepare", "TI2V-5B"), "Preparation of TI2V-5B"),
        (job("benchmark", "TI2V-5B"), "Benchmark of TI2V-5B"),
        (job("cleanup", params={"node": "vm"}), "Cleanup of node vm"),
        (job("lora_fetch", params={"name": "kodak"}), "LoRA fetch of kodak"),
        (job("bulk", params={"action": "set_priority"}), "Set priority: all jobs that match"),
        (job("report"), "Report"),
    ],
)
def test_titles(given: Job, title: str) -> None:
    assert naming.title(given) == title


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (job("download", "T2V-A14B"), "is a download and has no video; `wanworks jobs --type generation` lists"),
        (job("integrity_check"), "is an integrity check and has no video"),
        (job("generation", status="running"), f"is running and has no video yet; `wanworks watch {ID}` waits"),
        (
            job("generation", status="failed", error={"code": "x", "message": "no memory", "retryable": False}),
            f"failed: no memory (x); it has no video, and `wanworks retry {ID}` submits it again",
        ),
    ],
)
def test_why_there_is_no_video(given: Job, words: str) -> None:
    assert f"job {ID} {words}" in naming.no_video(given)


def test_how_to_share() -> None:
    one, other = job("generation"), job("generation", id=f"{ID[:-1]}1")
    assert naming.how_to_share([one], ["--home", "a b"]) == ["share it: wanworks share --home 'a b' 01a22cd7-e021"]
    assert naming.how_to_share([one, other], []) == [
        "share one:", f"  wanworks share {ID}", f"  wanworks share {other['id']}",
    ]  # fmt: skip
