"""What a new installation is told."""

from starlette.testclient import TestClient

from api.dashboard import first_run
from api.dashboard.login import same_site
from shared.database.engine import Database
from tests.support.jobs import DEMO, hold
from tests.support.models.library import device


def test_without_devices_models_or_hub(client: TestClient) -> None:
    body = client.get("/api/v1/dashboard/first-run").json()
    assert (body["ready"], body["why_not"]) == (False, "No device accepts jobs.")
    assert body["any_model"] is False
    assert body["hub"]["reachable"] is (body["hub"]["detail"] is None)


def test_a_hub_that_nobody_answers_at_is_named() -> None:
    detail = first_run._ask("http://127.0.0.1:9")
    assert detail is not None
    assert detail.startswith("127.0.0.1:9 cannot be reached")


def test_with_a_device_and_models(client: TestClient, database: Database) -> None:
    device(database, memory_mb=24_000)
    body = client.get("/api/v1/dashboard/first-run").json()
    assert body["why_not"] == "No node has the files of a model."
    assert body["best"] in DEMO.model_ids
    fit = next(one for one in body["models"] if one["model_id"] == "T2V-A14B")
    assert (fit["fits"], fit["quantization"], fit["room"]) == (True, "none", "unknown")
    hold(database, *DEMO.model_ids)
    assert client.get("/api/v1/dashboard/first-run").json()["any_model"] in (True, False)


def test_signing_in_returns_only_to_pages_of_this_site() -> None:
    for path in ("/", "/docs", "/flower/tasks?x=1", "/api/v1/dashboard/html"):
        assert same_site(path) == path
    for path in (None, "//evil.example", "/\\evil", "https://evil.example", "/\t/evil", "/login", "/docs\n", "evil"):
        assert same_site(path) == "/"
