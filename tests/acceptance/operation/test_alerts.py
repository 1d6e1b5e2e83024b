"""Alerts on the whole stack: what breaks is told, once, and the alert ends by itself when it is mended."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import lacking
from tests.integration.wanworks.cli.test_cli import wanworks
from tests.support.stack import Stack, wait_for

URL = "/api/v1/dashboard/alerts"
SLOW: dict[str, Any] = {"resolution": "256x256", "frames": 17, "steps": 60}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stack(demo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """On a small disk of its own, with little patience."""
    models = tmp_path_factory.mktemp("small-disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(models)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        lacking("file systems cannot be mounted here")
    shutil.copytree(demo_models, models, dirs_exist_ok=True, symlinks=True)
    stack = Stack(
        tmp_path_factory.mktemp("stack") / "home",
        models,
        devices="cpu:1",
        WANWORKS_ALERT_SECONDS="0.5",
        WANWORKS_ALERT_STUCK_MINUTES="0.05",
        WANWORKS_DEVICE_SILENCE_SECONDS="8",
        WANWORKS_LEASE_SECONDS="12",
    )
    stack.start()
    try:
        yield stack
        stack.stop()
    finally:
        stack.kill()
        subprocess.run(["umount", "-l", str(models)], check=True)


def opened(stack: Stack, rule: str, seconds: float = 40.0) -> dict[str, Any]:
    """The one open alert of that rule."""

    def found() -> list[dict[str, Any]]:
        return [one for one in stack.request("GET", URL).json() if one["rule"] == rule]

    alerts = wait_for(found, seconds, f"for the alert {rule}")
    assert len(alerts) == 1, alerts
    return alerts[0]


def resolved(stack: Stack, alert: dict[str, Any], seconds: float = 60.0) -> None:
    def over() -> bool:
        listed = stack.request("GET", URL, params={"state": "resolved"}).json()
        return any(one["id"] == alert["id"] for one in listed)

    wait_for(over, seconds, f"for the end of the alert {alert['rule']}")


def test_a_worker_that_goes_silent_and_comes_back(stack: Stack) -> None:
    pid = stack.pid("gpu-0")
    wait_for(lambda: stack.request("GET", "/api/v1/workers").json()["devices"], 30, "for the worker to register")
    os.kill(pid, signal.SIGSTOP)
    try:
        alert = opened(stack, "worker_lost")
        assert (alert["subject"], alert["severity"], alert["action_required"]) == ("here/0", "critical", True)
        answer = stack.request("POST", f"{URL}/{alert['id']}/acknowledge", json={"by": "Ada"})
        assert answer.json()["acknowledged_by"] == "Ada"
        later = wait_for(
            lambda: (one := opened(stack, "worker_lost"))["last_seen"] > alert["last_seen"] and one, 20, "for a look"
        )
        assert (later["id"], later["acknowledged"]) == (alert["id"], True)
    finally:
        os.kill(pid, signal.SIGCONT)
    resolved(stack, alert)


def test_a_corrupted_file(stack: Stack) -> None:
    models = Path(stack.environment["WANWORKS_MODELS_PATH"])
    (snapshot,) = models.glob("models--*T2V-A14B*/snapshots/*")
    blob = sorted(snapshot.glob("transformer/*.safetensors"))[0].resolve()
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    check = {"model_id": "T2V-A14B", "full": True}
    # Refused until the io worker, which carries it out, has been heard.
    wait_for(lambda: stack.request("POST", "/api/v1/jobs/integrity-check", json=check).status_code == 202, 30)
    alert = opened(stack, "model_corrupted")
    assert (alert["model_id"], alert["subject"]) == ("T2V-A14B", "T2V-A14B on here")
    assert "transformer/" in alert["message"]
    blob.write_bytes(whole)
    stack.request("POST", "/api/v1/jobs/integrity-check", json=check)
    resolved(stack, alert)


def test_a_disk_that_fills(stack: Stack) -> None:
    home = ["--home", str(stack.home)]
    filler = Path(stack.environment["WANWORKS_MODELS_PATH"]) / "filler"
    filler.write_bytes(b"\0" * 88_000_000)
    try:
        alert = opened(stack, "disk_nearly_full")
        assert (alert["subject"], alert["severity"]) == ("here", "critical")
        listed = wanworks("alerts", *home)
        assert alert["id"] in listed.stdout
        assert "nearly full" in listed.stdout
        taken = wanworks("acknowledge", alert["id"], "--by", "Ada", *home)
        assert "acknowledged by Ada" in taken.stdout
        assert json.loads(wanworks("alerts", *home, "--json").stdout)[0]["acknowledged_by"] == "Ada"
    finally:
        filler.unlink()
    resolved(stack, alert)
    assert alert["id"] in wanworks("alerts", "--all", *home).stdout


def test_a_job_that_stalls(stack: Stack) -> None:
    job_id = stack.submit(**SLOW)
    wait_for(lambda: (stack.job(job_id)["progress"]["step"] or 0) >= 2, 60, "for its second step")
    child = stack.child("gpu-0")
    os.kill(child, signal.SIGSTOP)
    try:
        alert = opened(stack, "job_stuck")
        assert (alert["subject"], alert["model_id"]) == (job_id, "T2V-A14B")
    finally:
        with suppress(ProcessLookupError):  # past its lease it is killed
            os.kill(child, signal.SIGCONT)
    resolved(stack, alert)
    stack.request("POST", f"/api/v1/jobs/{job_id}/cancel")
    stack.wait_status(job_id)


def test_a_process_that_keeps_crashing(stack: Stack) -> None:
    killed: set[int] = set()

    def beat() -> dict[str, Any] | None:
        """Come back, or given up for a minute: a death of its own counts too."""
        (found,) = [item for item in stack.state()["processes"] if item["name"] == "beat"]
        running = found["state"] == "running" and found["pid"] not in killed
        return found if running or found["state"] == "crash_loop" else None

    while (found := wait_for(beat, 30, "for beat to come back"))["state"] == "running":
        killed.add(found["pid"])
        os.kill(found["pid"], signal.SIGKILL)
        assert len(killed) <= 5
    alert = opened(stack, "crash_loop")
    assert alert["subject"] == "beat on here"
    assert "logs/beat.log" in alert["suggested_action"]
