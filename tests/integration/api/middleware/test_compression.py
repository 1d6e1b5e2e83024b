"""Which responses are compressed: JSON for clients that accept it, nothing else."""

import gzip
import json
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from api.middleware.compression import Compression

LARGE = json.dumps({"text": "a boat " * 1000}).encode()
GZIP = {"Accept-Encoding": "gzip"}


def _of(media_type: str, **headers: str) -> Any:
    def answer(request: Request) -> Response:
        return Response(
            LARGE, media_type=media_type, headers={name.replace("_", "-"): headers[name] for name in headers}
        )

    return answer


def _small(request: Request) -> Response:
    return Response(b"{}", media_type="application/json")


def _events(request: Request) -> Response:
    return StreamingResponse(iter([b"data: 1\n\n", b"data: 2\n\n"]), media_type="text/event-stream")


@pytest.fixture
def client() -> TestClient:
    app = Starlette(
        routes=[
            Route("/json", _of("application/json")),
            Route("/problem", _of("application/problem+json")),
            Route("/small", _small),
            Route("/ranges", _of("application/json", accept_ranges="bytes")),
            Route("/zip", _of("application/zip")),
            Route("/video", _of("video/mp4")),
            Route("/text", lambda request: PlainTextResponse(LARGE)),
            Route("/events", _events),
        ]
    )
    app.add_middleware(Compression)
    return TestClient(app)


@pytest.mark.parametrize("path", ["/json", "/problem"])
def test_json_is_compressed(client: TestClient, path: str) -> None:
    with client.stream("GET", path, headers=GZIP) as response:
        raw = b"".join(response.iter_raw())
    assert response.headers["content-encoding"] == "gzip"
    assert response.headers["vary"] == "Accept-Encoding"
    assert int(response.headers["content-length"]) == len(raw) < len(LARGE) / 10
    assert gzip.decompress(raw) == LARGE


@pytest.mark.parametrize("accepted", ["identity", "gzip;q=0", "br"])
def test_a_client_that_does_not_accept_it_gets_it_plain(client: TestClient, accepted: str) -> None:
    response = client.get("/json", headers={"Accept-Encoding": accepted})
    assert "content-encoding" not in response.headers
    assert response.headers["vary"] == "Accept-Encoding"
    assert response.content == LARGE


@pytest.mark.parametrize("path", ["/small", "/ranges", "/zip", "/video", "/text", "/events"])
def test_nothing_else_is_compressed(client: TestClient, path: str) -> None:
    assert "content-encoding" not in client.get(path, headers=GZIP).headers
