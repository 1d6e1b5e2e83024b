"""The client library against a real web process, also while the connection or the server fails."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.database.engine import Database
from shared.settings import Settings
from tests.conftest import free_port
from tests.integration.api.jobs.generation_requests import GOOD, picture
from tests.integration.wanworks.client.meddling import VIDEO, Fault, Meddler, made, opened
from tests.support.jobs import accepted
from wanworks.client import calls
from wanworks.client.client import Client, Retry
from wanworks.client.retries import pause_seconds, retry_after
from wanworks.client.steps import Answer
from wanworks.errors import (
    AccessRefused,
    ApiUnreachable,
    BadRequest,
    NotThere,
    StateForbids,
    TooBusy,
)

UNKNOWN_ID = "00000000-0000-0000-0000-000000000000"


def test_a_video_from_asking_to_file(client: Any, database: Database, settings: Settings, tmp_path: Path) -> None:
    job = made(database, settings, client)
    assert job["status"] == "succeeded"
    assert client.wait(job["id"])["id"] == job["id"]
    video = next(each for each in job["result"]["artifacts"] if each["name"] == "video.mp4")
    target = tmp_path / "boat.mp4"
    assert client.download(video, target) == len(VIDEO)
    assert target.read_bytes() == VIDEO
    assert [path.name for path in tmp_path.glob("boat*")] == ["boat.mp4"]
    again = client.retry(job["id"])
    assert again["retry_of"] == job["id"]
    assert client.cancel(again["id"])["status"] == "cancelled"
    client.delete(again["id"])
    with pytest.raises(NotThere):
        client.job(again["id"])


def test_an_image_goes_as_bytes_or_as_a_file(client: Any, tmp_path: Path) -> None:
    fields = {**GOOD, "model_id": "I2V-A14B"}
    assert client.generate(**fields, image=picture())["params"]["image"] is True
    file = tmp_path / "in.png"
    file.write_bytes(picture())
    assert client.generate(**fields, image=file)["params"]["image"] is True
    with pytest.raises(FileNotFoundError):
        client.generate(**fields, image=tmp_path / "none.png")


def test_all_pages_are_one_iterator(client: Any, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [accepted(database).id for _ in range(5)]
    monkeypatch.setattr(calls, "_PAGE", 2)
    assert [job["id"] for job in client.jobs(type="generation", status=None)] == ids[::-1]
    page = client.jobs_page(limit=2)
    assert (len(page["data"]), page["has_more"], page["next"]) == (2, True, ids[3])


def test_what_else_there_is_to_ask(client: Any) -> None:
    assert client.workers()["devices"] == []
    assert client.queues()["queued"] == 0
    assert "T2V-A14B" in client.models()["models"]
    assert "T2V-A14B" in client.analytics(7)["model_analytics"]
    assert client.alerts() == []
    assert client.fallback("T2V-A14B", quality="low")["fallback_strategy"]["strategy_type"]
    assert client.cleanup()["job_ids"] == []
    assert client.pin("T2V-A14B")["pinned"] is True
    assert client.pin("T2V-A14B", False)["pinned"] is False
    with pytest.raises(NotThere):
        client.acknowledge(UNKNOWN_ID, "me")
    with pytest.raises(NotThere):
        client.fetch_model("NONE")


def test_a_refusal_says_all_that_the_server_said(client: Any) -> None:
    with pytest.raises(BadRequest) as wrong:
        client.generate(**{**GOOD, "fps": 23, "frames": 100_000})
    error = wrong.value
    assert (error.status, error.problem_code) == (422, "validation_error")
    assert {each.name for each in error.fields} == {"fps", "frames"}
    assert "fps: 23 is not supported" in str(error)
    assert error.request_id
    job = client.generate(**GOOD)
    client.cancel(job["id"])
    client.cancel(job["id"])  # idempotent
    with pytest.raises(NotThere) as gone:
        client.job("../workers")
    assert gone.value.status == 404


def test_ended_otherwise_cannot_be_cancelled(client: Any, database: Database, settings: Settings) -> None:
    with pytest.raises(StateForbids):
        client.cancel(made(database, settings, client)["id"])


def test_a_busy_server_is_retried_with_the_same_key(client: Any, meddler: Meddler, database: Database) -> None:
    meddler.faults += [
        Fault("/jobs/generation", status=503, headers="Retry-After: 0\r\n"),
        Fault("/jobs/generation", status=429),
        Fault("/jobs/generation", cut_after=0),  # the job is created, and the answer is lost
    ]
    job = client.generate(**GOOD)
    keys = [headers["idempotency-key"] for headers in meddler.asked("POST /api/v1/jobs/generation")]
    assert len(keys) == 4
    assert len(set(keys)) == 1
    assert [each["id"] for each in client.jobs()] == [job["id"]]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_patience_ends(kind: str, meddler: Meddler) -> None:
    meddler.faults += [Fault("/workers", status=503, headers="Retry-After: 7\r\n")] * 2
    with opened(kind, meddler.url, retry=Retry(seconds=2)) as client:
        with pytest.raises(TooBusy) as busy:
            client.workers()
        assert busy.value.retry_after_seconds == 7
        assert len(meddler.asked("/workers")) == 1, "7 seconds are more than 2"
    unreachable = f"http://127.0.0.1:{free_port()}"
    with (
        opened(kind, unreachable, retry=Retry(seconds=0.5)) as client,
        pytest.raises(ApiUnreachable, match="be reached"),
    ):
        client.workers()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://127.0.0.1:none"])
def test_an_invalid_url_is_reported_at_once(url: str) -> None:
    with pytest.raises(ApiUnreachable), Client(url, retry=Retry(seconds=60)) as client:
        client.workers()


def test_what_may_not_be_done_twice_is_not(client: Any, meddler: Meddler) -> None:
    meddler.faults.append(Fault("/models/cleanup", cut_after=0))
    with pytest.raises(ApiUnreachable):
        client.cleanup(dry_run=False, keep_recent_days=36500)
    assert len(meddler.asked("/models/cleanup")) == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_key_is_sent_as_a_bearer(kind: str, meddler: Meddler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANWORKS_API_KEY", "from-outside")
    with opened(kind, meddler.url) as client:
        client.workers()
    with opened(kind, meddler.url, api_key="given") as client:
        client.workers()
        meddler.faults.append(Fault("/workers", status=401))
        with pytest.raises(AccessRefused):
            client.workers()
    sent = [headers["authorization"] for headers in meddler.asked("/workers")]
    assert sent == ["Bearer from-outside", "Bearer given", "Bearer given"]


def test_retry_after_is_seconds_or_a_date() -> None:
    now = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)

    def asked(said: str) -> float | None:
        return retry_after(Answer(503, httpx.Headers({"Retry-After": said}), ""), now)

    assert asked("7") == 7
    assert asked("Sat, 31 Jan 2026 12:01:30 GMT") == 90
    assert asked("Sat, 31 Jan 2026 11:00:00 GMT") == 0
    assert asked("soon") is None
    assert asked("") is None


def test_pauses_double_with_jitter_and_respect_retry_after() -> None:
    assert [pause_seconds(tries, None, 1.0) for tries in (0, 1, 2, 5, 99)] == [0.25, 0.5, 1.0, 8.0, 8.0]
    assert pause_seconds(2, None, 0.0) == 0.5
    assert 7 < pause_seconds(0, 7.0, 0.0) < 8
