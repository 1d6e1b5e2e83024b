"""Invalid requests for videos, which report every error and store nothing."""

import json
from typing import Any

import httpx2
import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.integration.api.jobs.generation_requests import GOOD, URL, data_url, picture
from tests.unit.api.http.test_images import encoded, png_claiming

# (the field that must be reported, the fields that replace valid ones)
BAD_FIELDS: list[tuple[str, dict[str, Any]]] = [
    ("model_id", {"model_id": "nonesuch"}),
    ("model_id", {"model_id": None}),
    ("model_id", {"model_id": ""}),
    ("image", {"image": data_url(picture())}),
    ("image", {"model_id": "I2V-A14B"}),
    ("image", {"model_id": "I2V-A14B", "image": "http://example.com/cat.png"}),
    ("image", {"model_id": "I2V-A14B", "image": "/etc/passwd"}),
    ("image", {"model_id": "I2V-A14B", "image": data_url(encoded(Image.new("P", (4, 4)), "GIF"))}),
    ("image", {"model_id": "I2V-A14B", "image": data_url(picture()[:60])}),
    ("image", {"model_id": "I2V-A14B", "image": data_url(png_claiming(60_000, 60_000))}),
    ("resolution", {"resolution": "123x456"}),
    ("resolution", {"resolution": "big"}),
    ("resolution", {"resolution": "\ud800"}),
    ("frames", {"frames": 7}),
    ("frames", {"frames": 500}),
    ("frames", {"frames": "ten"}),
    ("frames", {"frames": 9.5}),
    ("frames", {"frames": True}),
    ("fps", {"fps": 23}),
    ("guidance_scale", {"guidance_scale": -1}),
    ("guidance_scale", {"guidance_scale": float("nan")}),
    ("guidance_scale", {"guidance_scale": float("inf")}),
    ("guidance_scale_2", {"model_id": "TI2V-5B", "guidance_scale_2": 3}),
    ("flow_shift", {"flow_shift": 0}),
    ("steps", {"steps": 0}),
    ("steps", {"steps": 10_000}),
    ("prompt", {"prompt": "x" * 10**6}),
    ("prompt", {"prompt": ""}),
    ("prompt", {"prompt": "  \n"}),
    ("prompt", {"prompt": "a\x00b"}),
    ("negative_prompt", {"negative_prompt": "x" * 5001}),
    ("colour", {"colour": "red"}),
    ("webhook_url", {"webhook_url": "example.com/hook"}),
    ("seed", {"seed": -2}),
    ("seed", {"seed": 2**32}),
    ("output_format", {"output_format": "gif"}),
    ("quantization", {"quantization": "fp4"}),
    ("priority", {"priority": "urgent"}),
    ("fallback", {"fallback": ["anything"]}),
    ("loras", {"loras": [{"name": "nonesuch"}]}),
    ("loras", {"loras": [{"name": "../../etc/passwd"}]}),
    ("loras", {"loras": [{"name": "a/b"}]}),
    ("loras", {"loras": [{"name": "x", "scale": 100}]}),
    ("metadata", {"metadata": {str(place): "x" for place in range(17)}}),
    ("metadata", {"metadata": {"a": 1}}),
    ("metadata", {"metadata": {"a": "x" * 513}}),
]


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize(("field", "wrong"), BAD_FIELDS, ids=lambda value: str(value)[:40])
def test_an_invalid_field_is_reported(client: TestClient, field: str, wrong: dict[str, Any]) -> None:
    body = json.dumps({**GOOD, **wrong})
    answer = client.post(URL, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == "validation_error"
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert field in {error["loc"][1] for error in problem["errors"]}
    assert field in problem["detail"]
    assert len(answer.content) < 10_000, "the response does not repeat the input"


@pytest.mark.usefixtures("nothing_stored")
def test_the_same_fields_are_reported_in_a_form(client: TestClient) -> None:
    fields = {**GOOD, "frames": "ten", "fps": "23.5", "guidance_scale": "nan", "metadata": "{", "loras": "x"}
    answer = client.post(URL, data=fields, files={"image": ("a.png", picture(), "image/png")})
    assert answer.status_code == 422
    named = {error["loc"][1] for error in answer.json()["errors"]}
    assert named == {"frames", "fps", "guidance_scale", "metadata", "loras", "image"}, "T2V accepts no image"


@pytest.mark.usefixtures("nothing_stored")
def test_all_invalid_fields_are_reported_together(client: TestClient) -> None:
    answer = client.post(URL, json={**GOOD, "frames": 500, "fps": 23, "resolution": "1x1"})
    assert {error["loc"][1] for error in answer.json()["errors"]} == {"frames", "fps", "resolution"}
    assert "8, 12, 16, 24" in answer.json()["detail"], "the allowed values are listed"


@pytest.mark.usefixtures("nothing_stored")
def test_a_gif_renamed_png_is_refused(client: TestClient) -> None:
    gif = encoded(Image.new("P", (4, 4)), "GIF")
    answer = client.post(URL, data={**GOOD, "model_id": "I2V-A14B"}, files={"image": ("cat.png", gif, "image/png")})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["body", "image"]


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("text/plain", b"hello", 415),
        ("", b"{}", 415),
        ("application/xml", b"<a/>", 415),
        ("application/x-www-form-urlencoded", b"model_id=T2V-A14B&prompt=x", 415),
        ("application/json; charset=latin-1", b"{}", 415),
        ("application/json", b'{"model_id": "T2V-A14B", "prom', 400),
        ("application/json", b"", 400),
        ("application/json", b"\xff\xfe", 400),
        ("application/json", b"[" * 100_000, 400),
        ("application/json", b'{"frames": ' + b"9" * 10_000 + b"}", 400),
        ("application/json", b'{"prompt": "a", "prompt": "b"}', 400),
        ("application/json", b"[]", 422),
        ("application/json", b"null", 422),
        ("application/json", b'"text"', 422),
        ("multipart/form-data", b"", 400),
        ("multipart/form-data; boundary=x", b"--x\r\nbroken", 400),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\nv\r\n--x--\r\n", 400),
    ],
)
def test_a_malformed_body(client: TestClient, content_type: str, body: bytes, status: int) -> None:
    answer = client.post(URL, content=body, headers={"Content-Type": content_type})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.usefixtures("nothing_stored")
def test_a_field_given_twice_is_named(client: TestClient) -> None:
    body = b'{"model_id": "TI2V-5B", "prompt": "x", "seed": 1, "prompt": "y"}'
    answer = client.post(URL, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["detail"] == "The JSON body has the field 'prompt' twice. Give each field once."


@pytest.mark.usefixtures("nothing_stored")
def test_a_part_given_twice_or_unknown_is_refused(client: TestClient) -> None:
    def submit(*parts: tuple[str, Any]) -> httpx2.Response:
        return client.post(URL, files=[("model_id", (None, "TI2V-5B")), ("prompt", (None, "x")), *parts])

    assert submit(("prompt", (None, "y"))).status_code == 422
    assert submit(("image", (None, data_url(picture()))), ("image", (None, data_url(picture())))).status_code == 422
    assert submit(("video", ("a.mp4", b"x", "video/mp4"))).status_code == 422


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_thirty_megabytes(client: TestClient, declared: bool) -> None:
    big = b" " * 30_000_001
    content: Any = big if declared else (big[start : start + 10**6] for start in range(0, len(big), 10**6))
    answer = client.post(URL, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    form = {"image": ("a.png", big, "image/png")}
    assert client.post(URL, data=GOOD, files=form).status_code == 413


@pytest.mark.usefixtures("nothing_stored")
def test_an_unknown_query_parameter_is_reported(client: TestClient) -> None:
    answer = client.post(f"{URL}?dry_run=1", json=GOOD)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["query", "dry_run"]


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize("key", ["", "x" * 256, "caf\u00e9", "a\tb"])
def test_a_malformed_key_is_reported(client: TestClient, key: str) -> None:
    answer = client.post(URL, json=GOOD, headers={"Idempotency-Key": key.encode("latin-1")})  # type: ignore[dict-item]
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["header", "Idempotency-Key"]
