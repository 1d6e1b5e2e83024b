"""One flipped byte among 300 MB: found, told, kept away from every job, and repaired by fetching that file alone."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.models import replicas
from tests.support.jobs import DEMO
from tests.support.models.catalogues import tiny_memory
from tests.support.models.io_node import weights
from tests.support.servers.faulty_hub import HubProcess
from tests.support.stack import Stack, wait_for

# The demo's own catalogue starts a download by itself where a job waits for a model.
CATALOGUE = f"""
[models.T2V-A14B]
extends = "T2V-A14B"
repo = "wanworks-demo/T2V-A14B"
resolutions = ["64x64"]
defaults = {{ resolution = "64x64", frames = 9, fps = 8, steps = 2 }}
{tiny_memory()}
"""
LARGE, SIZE = "extra.safetensors", 300_000_000


@pytest.fixture
def hub(demo_models: Path, tmp_path: Path) -> Iterator[HubProcess]:
    """Serves the demo's models; one of them with a file of 300 MB besides."""
    root = tmp_path / "hub"
    shutil.copytree(demo_models, root, symlinks=True)
    content = weights(SIZE)
    name = hashlib.sha256(content).hexdigest()
    snapshot = snapshot_of(root)
    (snapshot.parents[1] / "blobs" / name).write_bytes(content)
    (snapshot / LARGE).symlink_to(f"../../blobs/{name}")
    hub = HubProcess(root).start()
    yield hub
    hub.kill()


@pytest.fixture
def stack(hub: HubProcess, tmp_path: Path) -> Iterator[Stack]:
    """A node that has the same."""
    shutil.copytree(hub.root, tmp_path / "models", symlinks=True)
    stack = Stack(
        tmp_path / "home",
        tmp_path / "models",
        devices="cpu:1",
        WANWORKS_HUB_URL=hub.url,
        WANWORKS_PRESENCE_SECONDS="1",
    )
    (tmp_path / "catalogue.toml").write_text(CATALOGUE)
    stack.start("--catalogue", str(tmp_path / "catalogue.toml"))
    yield stack
    stack.stop()


def snapshot_of(models: Path) -> Path:
    found = replicas.snapshot_dir(models, DEMO.get("T2V-A14B"))
    assert found is not None
    return found


def check(stack: Stack, **fields: Any) -> dict[str, Any]:
    body = {"model_id": "T2V-A14B", **fields}
    response = stack.request("POST", "/api/v1/jobs/integrity-check", json=body)
    assert response.status_code == 202, response.text
    job = stack.wait_status(response.json()["id"])
    assert job["status"] == "succeeded", job["error"]
    model: dict[str, Any] = job["result"]["models"]["T2V-A14B"]
    return model


def status(stack: Stack) -> dict[str, Any]:
    model: dict[str, Any] = stack.request("GET", "/api/v1/models/status/detailed").json()["models"]["T2V-A14B"]
    return model


@pytest.mark.slow
def test_one_flipped_byte_in_300_mb(stack: Stack, hub: HubProcess) -> None:
    models = Path(stack.environment["WANWORKS_MODELS_PATH"])
    before = stack.wait_status(stack.submit())
    assert before["status"] == "succeeded", before["error"]
    assert check(stack)["integrity_score"] == 1.0

    blob = (snapshot_of(models) / LARGE).resolve()
    moment = blob.stat()
    with blob.open("r+b") as file:
        file.seek(123_456_789)
        byte = file.read(1)[0]
        file.seek(123_456_789)
        file.write(bytes([byte ^ 1]))
    os.utime(blob, ns=(moment.st_atime_ns, moment.st_mtime_ns))  # as a disk that rots: without a trace
    assert check(stack, full=False)["faults"] == [], "a quick check trusts what looks untouched"

    found = check(stack, full=True)
    assert found["faults"] == [{"path": LARGE, "type": "checksum_mismatch"}]
    assert found["integrity_score"] == pytest.approx(1 - (SIZE + 74) / found["expected_bytes"], abs=1e-4)
    told = status(stack)
    assert (told["availability_status"], told["is_available"]) == ("corrupted", False)
    assert told["corruption_detected"] is True
    wait_for(lambda: not status(stack)["is_loaded"], 20, "for what was loaded from it to be evicted")
    health = stack.request("GET", "/api/v1/models/health").json()["model_health"]["T2V-A14B"]
    assert health["corruption_types"] == ["checksum_mismatch"]
    assert health["can_auto_repair"] is True

    waiting = stack.submit()
    wait_for(lambda: stack.job(waiting)["progress"]["phase"] == "waiting_for_model", 20, "for the job to say so")
    hub.forget()
    repaired = check(stack, repair=True)
    assert (repaired["repaired"], repaired["integrity_score"]) == ([LARGE], 1.0)
    assert hub.served() == blob.stat().st_size, "that file, once, and no other"
    assert {request["path"].rpartition("/")[2] for request in hub.requests()} == {LARGE}

    job = stack.wait_status(waiting)
    assert job["status"] == "succeeded", job["error"]
    assert job["attempt"] == 1, "no attempt ever began on the broken files"
    assert job["result"]["warm"] is False, "what was loaded before is not trusted"
    assert status(stack)["availability_status"] == "available"
