"""A key of a test, and its use on the page."""

from collections.abc import Callable

from starlette.testclient import TestClient

PIN = "/api/v1/models/T2V-A14B/pin"
Key = Callable[..., tuple[str, dict[str, str]]]


def sign_in(client: TestClient, header: dict[str, str]) -> None:
    secret = header["Authorization"].removeprefix("Bearer ")
    assert client.post("/login", data={"key": secret}, follow_redirects=False).status_code == 303
