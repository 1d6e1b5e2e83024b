"""`wanworks dead`, `priority`, `usage` and `generate --dry-run`, against a real API."""

import json

import pytest
from typer.testing import CliRunner

from shared.database.engine import Database
from shared.jobs import attempts
from shared.jobs.attempts import Failure
from tests.conftest import WebProcess
from tests.support.jobs import accepted, claimed
from tests.support.uses import used
from wanworks.cli.main import app


def test_the_commands_that_operate_a_queue(
    web: WebProcess, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANWORKS_URL", f"http://127.0.0.1:{web.port}")

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        return result.output

    used(database, seconds=11.0, warm=False)
    size = ("--resolution", "64x64", "--frames", "9", "--steps", "2")
    told = json.loads(run("generate", "a boat", *size, "--max-attempts", "3", "--dry-run", "--json"))
    assert (told["cost"]["gpu_seconds"], told["max_attempts"]) == (11.0, 3)
    assert "64x64, 9 frames, 2 steps" in run("generate", "a boat", *size, "--dry-run")
    dead = claimed(database, accepted(database).id)
    attempts.fail(database, dead.id, dead.attempt, Failure("worker_lost", "It died", retryable=True))
    assert dead.id in run("dead", "list")
    assert run("dead", "redrive", "--error", "worker_lost", "--dry-run") == "1 dead jobs match\n"
    assert [one["id"] for one in json.loads(run("dead", "redrive", "--json"))["redriven"]] == [dead.id]
    waiting = accepted(database)
    assert run("priority", waiting.id, "high") == f"{waiting.id} high\n"
    assert json.loads(run("usage", "--by", "model", "--json"))["data"][0]["model_id"] == "T2V-A14B"
    assert run("usage", "--csv").startswith("key,key_id,day,model_id,jobs")
    assert "GPU seconds" in run("usage")
