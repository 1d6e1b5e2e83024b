"""The span of a request: its name, its parent, the jobs that continue it, and data that it must not contain."""

from collections.abc import Callable, Iterator

import pytest
from starlette.testclient import TestClient

from shared.database.engine import Database
from shared.jobs import records
from shared.jobs.reading import lists
from shared.settings import Settings
from shared.telemetry import tracing
from tests.integration.api.jobs.generation_requests import GOOD, URL
from tests.support.servers.collector import Collector

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture
def traced(
    settings: Settings, make_client: Callable[[Settings], TestClient], collector: Collector
) -> Iterator[TestClient]:
    settings = settings.model_copy(update={"otlp_endpoint": collector.url})
    tracing.set_up(settings, "web")
    yield make_client(settings)
    tracing.close()


def test_a_job_continues_the_trace_of_its_request(traced: TestClient, collector: Collector, database: Database) -> None:
    answer = traced.post(URL, json=GOOD, headers={"traceparent": PARENT, "X-Request-ID": "mine"})
    (span,) = collector.named(f"POST {URL}")
    assert (span.kind, span.service, span.trace, span.parent) == (
        "server",
        "wanworks-web",
        *PARENT.split("-")[1:3],
    )
    attributes = {
        "http.request.method": "POST",
        "http.route": URL,
        "http.response.status_code": 202,
        "url.path": URL,
        "url.scheme": "http",
        "wanworks.request.id": "mine",
    }
    assert span.about == attributes
    assert records.get(database, answer.json()["id"]).traceparent == f"00-{span.trace}-{span.id}-01"


def test_each_request_without_a_parent_starts_a_trace(traced: TestClient, collector: Collector) -> None:
    for place in range(2):
        assert traced.get(f"/api/v1/jobs/00000000-0000-7000-8000-00000000000{place}").status_code == 404
    assert traced.get("/api/v1/jobs?secret=shown").status_code == 422
    traced.get("/nothing/there")
    one, other = collector.named("GET /api/v1/jobs/{id}", 2)
    assert one.trace != other.trace
    assert (one.parent, one.error, one.about["http.response.status_code"]) == ("", None, 404)
    assert "secret" not in str(collector.named("GET /api/v1/jobs"))
    (nowhere,) = collector.named("GET")
    assert "http.route" not in nowhere.about


def test_a_server_error_marks_the_span(
    traced: TestClient, collector: Collector, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "page", lambda *_, **__: 1 / 0)
    assert traced.get("/api/v1/jobs").status_code == 500
    (span,) = collector.named("GET /api/v1/jobs")
    assert (span.error, span.about["error.type"]) == ("500", "500")
    assert "division" not in str(span)


def test_probes_and_scrapes_are_left_out(traced: TestClient, collector: Collector) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/api/v1/models/status/detailed"):
        traced.get(path)
    tracing.close()
    spans = collector.wait(lambda spans: bool(spans))
    assert [span.about["url.path"] for span in spans] == ["/api/v1/models/status/detailed"]


def test_without_a_collector_a_job_has_no_trace(client: TestClient, database: Database) -> None:
    answer = client.post(URL, json=GOOD, headers={"traceparent": PARENT})
    assert records.get(database, answer.json()["id"]).traceparent is None
