"""What a new installation is told."""

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from api.dashboard import first_run
from api.dashboard.login import same_site
from shared.database.engine import Database
from shared.jobs import download_control, records
from shared.settings import Settings
from shared.states import ReplicaState
from tests.support.jobs import DEMO, hold
from tests.support.models.library import device, download, node, replica


def test_without_devices_models_or_hub(client: TestClient) -> None:
    body = client.get("/api/v1/dashboard/first-run").json()
    assert (body["ready"], body["why_not"]) == (False, "No device accepts jobs.")
    assert body["any_model"] is False
    assert body["hub"]["reachable"] is (body["hub"]["detail"] is None)


def test_a_hub_that_nobody_answers_at_is_named() -> None:
    detail = first_run._ask("http://127.0.0.1:9")
    assert detail is not None
    assert detail.startswith("127.0.0.1:9 cannot be reached")


def test_a_hub_that_starts_later_is_seen_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"now": "No answer."}
    monkeypatch.setattr(first_run, "_ask", lambda url: answers.get("now"))
    monkeypatch.setattr(first_run, "_KEEP_MISSING_SECONDS", 0.0)
    check = first_run._HubCheck()
    assert not check("http://hub").reachable
    answers.clear()
    assert check("http://hub").reachable
    answers["now"] = "No answer."
    assert check("http://hub").reachable, "an answer is kept for some time, so that the hub is not asked by every page"


def test_with_a_device_and_models(client: TestClient, database: Database) -> None:
    device(database, memory_mb=24_000)
    body = client.get("/api/v1/dashboard/first-run").json()
    assert body["why_not"] == "No node has the files of a model."
    assert body["best"] in DEMO.model_ids
    fit = next(one for one in body["models"] if one["model_id"] == "T2V-A14B")
    assert (fit["fits"], fit["quantization"], fit["room"]) == (True, "none", "unknown")
    hold(database, *DEMO.model_ids)
    assert client.get("/api/v1/dashboard/first-run").json()["any_model"] in (True, False)


@pytest.fixture
def first_of(
    settings: Settings, make_client: Callable[[Settings], TestClient], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any] | None]:
    """Return what a new web process says of the first job of T2V-A14B. `hub`: whether the hub answers."""

    def first_of(hub: bool = True, **changes: Any) -> dict[str, Any] | None:
        monkeypatch.setattr(first_run, "_hub", first_run._HubCheck())
        monkeypatch.setattr(first_run, "_ask", lambda url: None if hub else "No answer.")
        client = make_client(settings.model_copy(update=changes))
        found = client.get("/api/v1/dashboard/first-run").json()["first_downloads"]
        return next((one for one in found if one["model_id"] == "T2V-A14B"), None)

    return first_of


def said(first: dict[str, Any] | None) -> tuple[str, str | None]:
    assert first is not None
    assert (first["reason"] is None) is (first["why_not"] is None)
    return first["state"], first["reason"]


def test_the_first_job_of_a_model_downloads_it(first_of: Callable[..., Any], database: Database) -> None:
    node(database)
    device(database)
    assert said(first_of()) == ("starts", None)
    assert first_of()["download_gb"] == DEMO.get("T2V-A14B").total_gb
    job = download(database)
    going = first_of()
    assert said(going) == ("going", None)
    assert going["job_id"] == job.id
    download_control.pause(database, job.id)
    assert said(first_of()) == ("refused", "paused")
    replica(database)
    assert first_of() is None, "it is there"


def test_it_is_told_why_the_first_job_of_a_model_would_wait(first_of: Callable[..., Any], database: Database) -> None:
    assert said(first_of()) == ("refused", "no_node")
    device(database)
    node(database, free_gb=0.001)
    assert said(first_of()) == ("refused", "no_room")
    node(database)
    assert said(first_of(hub=False)) == ("refused", "hub")
    records.request_cancel(database, download(database).id)
    assert said(first_of()) == ("refused", "ended")
    assert said(first_of(catalogue="default")) == ("refused", "setting")
    assert said(first_of(catalogue="default", download_on_demand=True)) == ("refused", "ended")
    replica(database, state=ReplicaState.CORRUPTED)
    assert said(first_of()) == ("refused", "damaged")


def test_a_preset_whose_base_is_there_needs_its_own_files_alone(client: TestClient, database: Database) -> None:
    node(database)
    replica(database)
    found = client.get("/api/v1/dashboard/first-run").json()["first_downloads"]
    sizes = {one["model_id"]: one["download_gb"] for one in found}
    lora = DEMO.get("T2V-A14B-Lightning").lora
    assert lora is not None
    assert sizes["T2V-A14B-Lightning"] == round(lora.gb, 4) < DEMO.get("T2V-A14B-Lightning").total_gb
    assert sizes["I2V-A14B-Lightning"] == DEMO.get("I2V-A14B-Lightning").total_gb


def test_signing_in_returns_only_to_pages_of_this_site() -> None:
    for path in ("/", "/docs", "/flower/tasks?x=1", "/api/v1/dashboard/html"):
        assert same_site(path) == path
    for path in (None, "//evil.example", "/\\evil", "https://evil.example", "/\t/evil", "/login", "/docs\n", "evil"):
        assert same_site(path) == "/"
