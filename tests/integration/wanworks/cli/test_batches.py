"""`wanworks batches` and the actions on many jobs, and both clients' calls for them, against a real API."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from shared.cluster import nodes
from shared.database.engine import Database
from shared.settings import Settings
from shared.storage.directory import DirectoryStore
from tests.conftest import WebProcess
from tests.integration.api.jobs.generation_requests import GOOD
from tests.integration.wanworks.client.meddling import opened
from tests.support import working
from tests.support.jobs import accepted
from wanworks.cli.main import app
from wanworks.errors import BadRequest, ConfigurationError, NotThere, TimedOut


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_clients_submit_and_get_batches(
    web: WebProcess, database: Database, settings: Settings, tmp_path: Path, kind: str
) -> None:
    with opened(kind, f"http://127.0.0.1:{web.port}") as client:
        jobs = [{"params": {**GOOD, "prompt": f"boat {place}"}} for place in range(2)]
        batch = client.create_batch(jobs, name="boats", idempotency_key="one")
        assert client.create_batch(jobs, name="boats", idempotency_key="one")["id"] == batch["id"]
        with pytest.raises(BadRequest) as refused:
            client.create_batch([{"params": {**GOOD, "frames": 4000}}])
        assert [one.name for one in refused.value.fields] == ["jobs.0.params.frames"]
        with pytest.raises(TimedOut):
            client.wait_for_batch(batch["id"], timeout=0.1)
        first, _ = (job["id"] for job in batch["jobs"])
        store = DirectoryStore.opened(settings.store_dir, lambda: nodes.agreed(database, "store"), create=True)
        running = working.claim(database, first)
        content = bytes(range(256)) * 4096
        working.finish(database, running, working.make(store, running, {"video.mp4": content}))
        assert client.cancel_batch(batch["id"])["counts"]["succeeded"] == 1
        assert client.wait_for_batch(batch["id"])["status"] == "cancelled"
        assert client.batches_page()["data"][0]["name"] == "boats"
        assert [one["id"] for one in _all(client.batches())] == [batch["id"]]
        target = tmp_path / "boats.zip"
        assert client.download_batch(batch["id"], target) == target.stat().st_size
        with zipfile.ZipFile(target) as archive:
            assert archive.read(f"{first}/video.mp4") == content
        with pytest.raises(NotThere):
            client.download_batch("00000000-0000-0000-0000-000000000000", target)
        counted = client.bulk("retry", batch_id=batch["id"], dry_run=True)
        assert (counted["matched"], len(counted["ids"])) == (2, 2)
        assert client.bulk("retry", batch_id=batch["id"])["skipped"] == {"has_succeeded": 1}
        assert client.bulk("delete", all=True)["changed"] == 3


def _all(found: Any) -> list[Any]:
    return list(found)


def test_the_commands(web: WebProcess, database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANWORKS_URL", f"http://127.0.0.1:{web.port}")

    def run(*words: str, code: int = 0, input: str | None = None) -> str:
        result = CliRunner().invoke(app, words, input=input)
        assert result.exit_code == code, result.output
        return result.output

    with opened("sync", f"http://127.0.0.1:{web.port}") as client:
        batch = client.create_batch([{"params": GOOD}] * 3, name="boats")
    listed = run("batches", "list")
    assert batch["id"] in listed
    assert "boats" in listed
    assert json.loads(run("batches", "list", "--json"))["data"][0]["total"] == 3
    assert "0 % of 3 jobs" in run("batches", "show", batch["id"])
    assert json.loads(run("batches", "show", batch["id"], "--json"))["jobs"][0]["status"] == "queued"
    other = accepted(database).id
    assert "3 jobs match\n3 would be cancelled\n" in run("jobs", "cancel", "--batch", batch["id"], "--dry-run")
    assert "4 jobs match\n" in run("jobs", "delete", "--status", "queued", "--type", "generation", "--dry-run")
    assert "change the priority of 3 jobs?" in run("jobs", "priority", "low", "--batch", batch["id"], code=1, input="n")
    assert "3 of 3 jobs changed" in run("jobs", "priority", "low", "--batch", batch["id"], input="y")
    assert "3 left out: unchanged" in run("jobs", "priority", "low", "--batch", batch["id"], "--yes")
    assert batch["id"] not in run("jobs", "--batch", batch["id"])
    assert other not in run("jobs", "--batch", batch["id"])
    assert "3 of 3 cancelled" in run("batches", "cancel", batch["id"])
    run("batches", "show", batch["id"], code=1)
    assert "3 of 3 jobs retried" in run("jobs", "retry", "--status", "cancelled", "--yes")
    target = tmp_path / "boats.zip"
    assert run("batches", "download", batch["id"], "--out", str(target)).strip() == str(target)
    assert zipfile.ZipFile(target).namelist() == ["manifest.json"]
    assert json.loads(run("jobs", "delete", "--all", "--yes", "--json"))["changed"] == 7
    result = CliRunner().invoke(app, ["jobs", "delete"])
    assert isinstance(result.exception, ConfigurationError)
    assert "--all for every job" in str(result.exception)
    assert "after `cancel`" in run("jobs", "--status", "queued", "cancel", code=2)


def test_many_jobs_are_followed(web: WebProcess, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANWORKS_URL", f"http://127.0.0.1:{web.port}")
    with opened("sync", f"http://127.0.0.1:{web.port}") as client:
        client.create_batch([{"params": GOOD}] * 250)
    result = CliRunner().invoke(app, ["jobs", "cancel", "--status", "queued", "--yes"])
    assert result.exit_code == 0, result.output
    assert "250 of 250 jobs cancelled" in result.output
    assert "carries it out" in result.output
