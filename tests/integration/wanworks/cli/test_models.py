"""The model library from the command line: a real stack that downloads from `wanworks hub`, verifies and cleans up."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.models import replicas
from tests.integration.wanworks.cli.test_cli import refused, wanworks
from tests.support.jobs import DEMO
from tests.support.models.io_node import WEIGHTS, make_model
from tests.support.stack import Stack, wait_for
from wanworks.errors import ExitCode


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("hub")
    make_model(root, "T2V-A14B", size=20_000_000)
    make_model(root, "TI2V-5B")
    argv = [sys.executable, "-m", "wanworks.cli.main", "hub", "--root", str(root), "--port", "0"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("ready http://127.0.0.1:"), line
    yield line.split()[1]
    process.send_signal(signal.SIGTERM)
    process.wait(10)
    process.stdout.close()


@pytest.fixture(scope="module")
def stack(hub: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Everything except devices, which the library does not need."""
    folder = tmp_path_factory.mktemp("library")
    stack = Stack(
        folder / "home",
        folder / "models",
        WANWORKS_HUB_URL=hub,
        WANWORKS_PRESENCE_SECONDS="1",
        WANWORKS_DOWNLOAD_ON_DEMAND="false",
    )
    stack.start("--only", "web,redis,dispatcher,io")
    wait_for(lambda: stack.sql("select 1 from nodes"), 30, "for the node")
    yield stack
    stack.stop()


def snapshot(stack: Stack, model_id: str = "T2V-A14B") -> Path:
    found = replicas.snapshot_dir(Path(stack.environment["WANWORKS_MODELS_PATH"]), DEMO.get(model_id))
    assert found is not None
    return found


def said(result: Any) -> Any:
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def fetched(stack: Stack) -> Stack:
    """T2V-A14B is on this node and complete."""
    rows = stack.sql("select state from replicas where model_id = 'T2V-A14B'")
    if rows != [("available",)]:
        result = wanworks("download", "T2V-A14B", home=stack.home)
        assert result.returncode == 0, result.stderr
        wanworks("verify", "T2V-A14B", "--repair", home=stack.home)
    return stack


def test_download_shows_its_progress_and_what_came(stack: Stack) -> None:
    result = wanworks("download", "TI2V-5B", "--priority", "high", home=stack.home)
    assert result.returncode == 0, result.stderr
    assert f"TI2V-5B {snapshot(stack, 'TI2V-5B').name[:12]}: 0.1 MB fetched" in result.stdout
    assert "on here" in result.stdout
    assert "succeeded" in result.stderr
    again = said(wanworks("download", "TI2V-5B", "--json", home=stack.home))
    assert (again["status"], again["result"]["bytes_fetched"]) == ("succeeded", 0)
    shown = wanworks("job", again["id"], home=stack.home)
    assert shown.returncode == 0, shown.stderr
    assert "download" in shown.stdout


def test_what_cannot_be_fetched_is_refused(stack: Stack) -> None:
    refused(wanworks("download", "NONE", home=stack.home), ExitCode.REFUSED, "NONE")
    refused(wanworks("download", "T2V-A14B", "--limit", "0", home=stack.home), ExitCode.REFUSED, "bandwidth_limit_mbps")
    refused(wanworks("download", "I2V-A14B", home=stack.home), ExitCode.REFUSED, "repo_not_found")


@pytest.mark.slow
def test_a_download_is_steered_from_another_terminal(stack: Stack) -> None:
    words = ("download", "T2V-A14B", "--limit", "8", "--json")
    environment = {**os.environ, "WANWORKS_HOME": str(stack.home)}
    argv = [sys.executable, "-m", "wanworks.cli.main", *words]
    process = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    running = "select 1 from jobs where type = 'download' and model_id = 'T2V-A14B' and status = 'running'"
    wait_for(lambda: stack.sql(running), 40, "for the download")
    paused = wanworks("pause", "T2V-A14B", home=stack.home)
    assert "paused" in paused.stdout, paused.stderr
    models = said(wanworks("models", "--json", home=stack.home))["models"]
    assert models["T2V-A14B"]["availability_status"] == "paused"
    resumed = said(wanworks("resume", "T2V-A14B", "--json", home=stack.home))
    assert resumed["action"] == "resume"
    limited = said(wanworks("limit", "T2V-A14B", "4000", "--node", "here", "--json", home=stack.home))
    assert limited["downloads"][0]["bandwidth_limit_mbps"] == 4000
    out, err = process.communicate(timeout=60)
    assert json.loads(out)["status"] == "succeeded", err
    refused(wanworks("pause", "T2V-A14B", home=stack.home), ExitCode.REFUSED, "T2V-A14B")


@pytest.mark.slow
def test_cancel_download(stack: Stack) -> None:
    wanworks("cleanup", "--execute", "--keep-days", "0", home=stack.home)
    environment = {**os.environ, "WANWORKS_HOME": str(stack.home)}
    argv = [sys.executable, "-m", "wanworks.cli.main", "download", "T2V-A14B", "--limit", "1"]
    process = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    running = "select 1 from jobs where type = 'download' and model_id = 'T2V-A14B' and status = 'running'"
    wait_for(lambda: stack.sql(running), 40, "for the download")
    result = wanworks("cancel-download", "T2V-A14B", home=stack.home)
    assert result.returncode == 0, result.stderr
    _, err = process.communicate(timeout=30)
    assert process.returncode == ExitCode.REFUSED
    assert "cancelled" in err


def test_models_shows_what_is_here(fetched: Stack) -> None:
    table = wanworks("models", home=fetched.home).stdout
    line = next(line for line in table.splitlines() if line.startswith("T2V-A14B"))
    assert "available" in line
    assert "here" in line
    assert snapshot(fetched).name[:12] in line


@pytest.mark.slow
def test_verify_finds_and_repairs_a_flipped_byte(fetched: Stack) -> None:
    whole = said(wanworks("verify", "T2V-A14B", "--full", "--json", home=fetched.home))
    assert whole["data"][0]["result"]["models"]["T2V-A14B"]["integrity_score"] == 1.0
    blob = (snapshot(fetched) / WEIGHTS).resolve()
    with blob.open("r+b") as file:
        file.seek(5_000_000)
        byte = file.read(1)
        file.seek(5_000_000)
        file.write(bytes([byte[0] ^ 1]))
    found = wanworks("verify", "T2V-A14B", home=fetched.home)
    assert found.returncode == ExitCode.REFUSED
    assert "checksum_mismatch" in found.stdout
    assert WEIGHTS in found.stdout
    models = said(wanworks("models", "--json", home=fetched.home))["models"]
    assert models["T2V-A14B"]["availability_status"] == "corrupted"
    assert models["T2V-A14B"]["corruption_detected"] is True
    repaired = wanworks("verify", "--repair", home=fetched.home)
    assert repaired.returncode == 0, repaired.stderr
    assert "yes" in repaired.stdout
    assert wanworks("verify", "--full", home=fetched.home).returncode == 0


@pytest.mark.slow
def test_prepare_says_what_it_wrote(fetched: Stack) -> None:
    done = wanworks("prepare", "T2V-A14B", home=fetched.home)
    assert done.returncode == 0, done.stderr
    assert "complete" in done.stdout, "the model of this test has no weights that a copy would convert"
    (job,) = said(wanworks("prepare", "T2V-A14B", "--int8", "--node", "here", "--json", home=fetched.home))["data"]
    assert job["params"] == {"model_id": "T2V-A14B", "node": "here", "quantization": "int8"}


def test_cleanup_shows_first_and_removes_with_execute(fetched: Stack) -> None:
    assert "is pinned" in wanworks("pin", "T2V-A14B", home=fetched.home).stdout
    shown = wanworks("cleanup", "--keep-days", "0", home=fetched.home)
    assert "T2V-A14B on here is kept: It is pinned" in shown.stderr
    assert "remove_model" not in "".join(line for line in shown.stdout.splitlines() if "T2V-A14B" in line)
    assert "is not pinned" in wanworks("unpin", "T2V-A14B", home=fetched.home).stdout
    dry = said(wanworks("cleanup", "--keep-days", "0", "--json", home=fetched.home))
    assert "T2V-A14B" in [action["model_id"] for action in dry["recommendations"]["cleanup_actions"]]
    assert dry["executed_actions"] == []
    assert (snapshot(fetched) / WEIGHTS).exists()
    done = wanworks("cleanup", "--execute", "--keep-days", "0", home=fetched.home)
    assert done.returncode == 0, done.stderr
    assert "remove_model" in done.stdout
    assert fetched.sql("select state from replicas where model_id = 'T2V-A14B'") == [("missing",)]


def test_analytics_and_fallback(stack: Stack) -> None:
    assert "T2V-A14B" in wanworks("analytics", "--days", "7", home=stack.home).stdout
    assert said(wanworks("analytics", "--json", home=stack.home))["time_period"]["days"] == 30
    answer = said(wanworks("fallback", "I2V-A14B", "--quality", "high", "--json", home=stack.home))
    assert answer["requested_model"] == "I2V-A14B"
    shown = wanworks("fallback", "I2V-A14B", home=stack.home)
    assert answer["fallback_strategy"]["strategy_type"] in shown.stdout
    refused(wanworks("fallback", "NONE", home=stack.home), ExitCode.REFUSED, "NONE")
