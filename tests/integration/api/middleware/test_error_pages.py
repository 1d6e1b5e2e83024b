"""Errors for people: a browser that opens an address gets a page, every program the problem document."""

import re
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from shared.settings import Settings

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
NONE = "/api/v1/jobs/01a22ce8-c102-7a64-835f-1beb9a94d33e"


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        ("/nothing", 404, "There is no route /nothing; /docs lists them"),
        ("/api/v1/jobs/", 404, "There is no route /api/v1/jobs/; did you mean /api/v1/jobs?"),
        (f"/api/v1//jobs/{NONE[-36:]}", 404, f"did you mean {NONE}?"),
        ("/api/v1/job", 404, "did you mean /api/v1/jobs?"),
        (NONE, 404, "01a22ce8-c102-7a64-835f-1beb9a94d33e"),
        ("/api/v1/jobs?limit=1000", 422, "limit: must be at most 100, not 1000"),
        ("/api/v1/jobs/generation", 405, "GET is not allowed here."),
        ("/flower/", 503, "Flower does not respond. Jobs do not need it."),
    ],
)
def test_a_browser_gets_a_page_and_a_program_the_problem(
    client: TestClient, path: str, status: int, detail: str
) -> None:
    shown = client.get(path, headers=BROWSER)
    assert (shown.status_code, shown.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert detail in shown.text
    assert shown.headers["x-request-id"] in shown.text
    assert (shown.headers["vary"], shown.headers["cache-control"]) == ("Accept", "no-store")
    assert shown.headers["content-security-policy"].startswith("default-src 'none'; ")
    assert re.findall(r'href="([^"]+)"', shown.text) == ["data:,", "/"]
    for accept in ("*/*", "application/json", "video/*,*/*;q=0.5"):
        told = client.get(path, headers={"Accept": accept})
        assert (told.status_code, told.headers["content-type"]) == (status, "application/problem+json")
        assert detail in told.json()["detail"]


def test_what_the_address_contains_is_escaped(client: TestClient) -> None:
    shown = client.get("/api/v1/jobs", params={"limit": "<script>"}, headers=BROWSER)
    assert "must be a whole number, not &lt;script&gt;" in shown.text
    assert "<script>" not in shown.text


def test_the_openai_client_and_every_change_get_no_page(client: TestClient) -> None:
    assert "message" in client.get("/v1/videos/none", headers=BROWSER).json()["error"]
    refused = client.post("/api/v1/jobs/generation", json={}, headers=BROWSER)
    assert refused.headers["content-type"] == "application/problem+json"


def test_under_a_path_of_a_proxy_the_page_leads_to_that_path(
    settings: Settings, make_client: Callable[[Settings], TestClient]
) -> None:
    client = make_client(settings.model_copy(update={"public_path": "/wan"}))
    for path in ("/wan/nothing", "/nothing"):
        assert 'href="/wan/"' in client.get(path, headers=BROWSER).text
