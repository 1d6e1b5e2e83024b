"""The commands for one job, and lists of jobs, against a real API."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from shared.access import keys
from shared.access.keys import Limits
from shared.database.engine import Database
from shared.jobs import attempts
from shared.jobs.attempts import Failure
from shared.states import Scope
from tests.conftest import WebProcess
from tests.support.jobs import accepted, claimed
from wanworks.cli.main import app
from wanworks.errors import WanworksError

FAILED = Failure("worker_lost", "It died", retryable=True)


@pytest.fixture
def run(web: WebProcess, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("WANWORKS_URL", f"http://127.0.0.1:{web.port}")

    def command(*words: str, code: int = 0, **options: Any) -> Result:
        result = CliRunner().invoke(app, words, **options)
        if isinstance(result.exception, WanworksError):
            assert int(result.exception.exit_code) == code, result.exception
        else:
            assert result.exit_code == code, result.output
        return result

    return command


def test_a_job_is_named_by_the_beginning_of_its_id(run: Any, database: Database) -> None:
    job = accepted(database, prompt="a boat\non a lake")
    beginning = job.id[:18]
    assert job.id in run("job", beginning).output
    assert "a boat on a lake" in run("job", beginning).output
    assert "a boat on a lake" in run("jobs").output
    assert run("priority", beginning, "high").output == f"{job.id} high\n"
    assert run("queue", "front", beginning).output == f"{job.id} is before all others\n"
    assert run("queue", "front", "--undo", beginning).output == f"{job.id} is at the place of its priority and age\n"
    assert run("cancel", beginning).output == f"{job.id} cancelled\n"
    (again,) = run("retry", beginning).output.split()
    assert again != job.id
    assert "begins with" in str(run("job", "0000", code=2).exception)


def test_watch_ends_with_the_job(run: Any, database: Database) -> None:
    good, bad = accepted(database), accepted(database)
    seen = claimed(database, good.id)
    ends = threading.Timer(1.0, attempts.succeed, (database, good.id, seen.attempt, {"timings": {}}))
    ends.start()
    result = run("watch", good.id)
    ends.join()
    assert f"{good.id} succeeded" in result.output
    lost = claimed(database, bad.id)
    attempts.fail(database, bad.id, lost.attempt, FAILED)
    assert "It died" in str(run("watch", bad.id, code=1).exception)
    slow = str(run("watch", accepted(database).id, "--timeout", "0.2", code=4).exception)
    assert "is queued after 0.2 s; the job continues" in slow


def test_fetch_says_what_it_cannot_fetch(run: Any, database: Database, tmp_path: Path) -> None:
    job = accepted(database)
    assert f"`wanworks watch {job.id}` waits for its end" in str(run("fetch", job.id, code=1).exception)
    seen = claimed(database, job.id)
    attempts.succeed(database, job.id, seen.attempt, {"timings": {}, "artifacts": []})
    assert "has no such file; it has: none" in str(run("fetch", job.id, "--file", "still.png", code=2).exception)
    assert "does not exist" in str(run("fetch", job.id, "--out", str(tmp_path / "no" / "x.mp4"), code=2).exception)


def test_delete_asks_first(run: Any, database: Database) -> None:
    job = accepted(database, prompt="a boat")
    kept = run("delete", job.id, input="n\n", code=1)
    assert "a boat" in kept.output
    assert run("delete", job.id, "--yes").output == f"{job.id} deleted\n"
    assert run("jobs", "--json").output.count(job.id) == 0


def test_generate_takes_every_field_and_does_not_wait_if_asked(run: Any, database: Database) -> None:
    size = ("--resolution", "64x64", "--frames", "9", "--steps", "2")
    fields = (
        "--negative-prompt", "blur", "--guidance", "3.5", "--flow-shift", "4", "--webhook", "https://hooks.example/x",
        "--metadata", "scene=1", "--metadata", "shot=2=b", "--priority", "low",
    )  # fmt: skip
    made = json.loads(run("generate", "a boat", *size, *fields, "--no-wait", "--json").output)
    params = made["params"]
    assert (params["negative_prompt"], params["guidance_scale"], params["flow_shift"]) == ("blur", 3.5, 4.0)
    assert made["metadata"] == {"scene": "1", "shot": "2=b"}
    assert (made["priority"], made["status"]) == ("low", "queued")
    assert "is not a number" in str(run("generate", "a", "--lora", "x=y", code=2).exception)
    assert "is not NAME=VALUE" in str(run("generate", "a", "--metadata", "x", code=2).exception)
    assert "downloads nothing" in run("generate", "a", "--no-wait", "--out", "x.mp4", code=2).output


def test_an_unknown_key_is_told_what_to_set(web: WebProcess, database: Database) -> None:
    keys.make(database, "team", (Scope.READ,), Limits())
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANWORKS_")}
    words = [sys.executable, "-m", "wanworks.cli.main", "jobs", "--url", f"http://127.0.0.1:{web.port}"]
    result = subprocess.run(words, env={**env, "WANWORKS_API_KEY": "wrong"}, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "set WANWORKS_API_KEY to a valid key" in result.stderr


def test_logs_are_printed_from_their_end_and_followed(run: Any, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "web.log").write_text("".join(f"line {number}\n" for number in range(30_000)))
    home = ("--home", str(tmp_path))
    assert run("logs", "web", "-n", "2", *home).output == "line 29998\nline 29999\n"
    assert run("logs", "web", "-n", "0", *home).output == ""
    assert "web" in run("logs", *home).output
    assert "no log is named 'gpu-0'; there are: web" in str(run("logs", "gpu-0", *home, code=2).exception)
    words = [sys.executable, "-u", "-m", "wanworks.cli.main", "logs", "web", "-f", "-n", "1", *home]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "line 29999\n"
        with (folder / "web.log").open("a") as file:
            file.write("appended\n")
        assert process.stdout.readline() == "appended\n"
        (folder / "web.log").rename(folder / "web.log.1")
        (folder / "web.log").write_text("a new file\n")
        assert process.stdout.readline() == "a new file\n"
        process.terminate()
    assert process.returncode != 0
