"""Requests in the forms that browsers, generated clients and clients of other servers send."""

from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel, ValidationError
from starlette.testclient import TestClient

from api.routes import OPERATIONS, document
from shared.catalogue import models
from shared.catalogue.job_types import JOB_TYPES
from shared.catalogue.models import DEFAULT
from shared.settings import Settings
from tests.integration.api.jobs.generation_requests import GOOD, URL, picture

VIDEOS = "/v1/videos"
I2V = {**GOOD, "model_id": "I2V-A14B"}
Part = tuple[str, bytes]  # the Content-Disposition's parameters, and the content


def form(client: TestClient, url: str, *parts: Part, **fields: object) -> Any:
    """Send a form written by hand, because no client library produces all variants."""
    all_parts = [*((f'name="{name}"', str(value).encode()) for name, value in fields.items()), *parts]
    body = b"".join(
        b"--x\r\nContent-Disposition: form-data; " + disposition.encode("latin-1") + b"\r\n\r\n" + content + b"\r\n"
        for disposition, content in all_parts
    )
    return client.post(url, content=body + b"--x--\r\n", headers={"Content-Type": "multipart/form-data; boundary=x"})


def named(answer: Any) -> list[str]:
    return [error["loc"][1] for error in answer.json()["errors"]]


# --- forms


@pytest.mark.parametrize(
    "disposition",
    [
        "name=\"image\"; filename*=utf-8''b%C3%A4r.png",
        "filename*=UTF-8''b%C3%A4r.png; name=image",
        "name=\"image\"; filename*0*=utf-8''b%C3%A4; filename*1=r.png",
        'name="image"; filename="x.png"; filename*=utf-8\'\'b%C3%A4r.png',
        'name="image"; filename=""',
    ],
)
def test_a_file_part_with_any_form_of_name(client: TestClient, disposition: str) -> None:
    answer = form(client, URL, (disposition, picture()), **I2V)
    assert answer.status_code == 202, answer.text
    assert answer.json()["params"]["image"] is True


@pytest.mark.parametrize("disposition", ["filename*=utf-8''x.png", 'filename="x.png"'])
def test_a_file_in_another_part_is_refused(client: TestClient, disposition: str) -> None:
    answer = form(client, URL, (f'name="seed"; {disposition}', picture()), **I2V)
    assert answer.status_code == 422
    assert answer.json()["errors"][0] == {
        "loc": ["body", "seed"],
        "msg": "must not be a file; only `image` and `last_image` may be files, all other parts are values without a "
        "filename",
        "type": "extra_forbidden",
    }


def test_a_field_whose_value_only_looks_like_a_file_name_is_a_field(client: TestClient) -> None:
    answer = form(client, URL, ('name="negative_prompt"; note="filename*=x"', b"blur"), **GOOD)
    assert answer.status_code == 202, answer.text
    assert answer.json()["params"]["negative_prompt"] == "blur"


def test_empty_inputs_count_as_not_given(client: TestClient) -> None:
    empty = [
        (f'name="{name}"', b"") for name in ("seed", "negative_prompt", "fps", "webhook_url", "priority", "loras[]")
    ]
    empty += [('name="image"; filename=""', b""), ('name="mask"; filename=""', b"")]
    answer = form(client, URL, *empty, **GOOD)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (job["params"]["image"], job["priority"]) == (False, "normal")
    assert job["params"]["negative_prompt"] == DEFAULT[0].defaults.negative_prompt
    answer = form(client, VIDEOS, ('name="input_reference"; filename=""', b""), ('name="seconds"', b""), prompt="a cat")
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("url", [URL, VIDEOS])
@pytest.mark.parametrize("field", ["fallback", "loras", "metadata"])
@pytest.mark.parametrize("type", ["application/json", "Application/JSON; charset=utf-8"])
def test_an_empty_json_part_is_refused(client: TestClient, url: str, field: str, type: str) -> None:
    fields = GOOD if url == URL else {"prompt": "a cat"}
    answer = form(client, url, (f'name="{field}"\r\nContent-Type: {type}', b""), **fields)
    assert answer.status_code == (422 if url == URL else 400), answer.text
    assert field in answer.text
    answer = form(client, url, (f'name="{field}"\r\nContent-Type: text/plain', b""), **fields)
    assert answer.status_code == (202 if url == URL else 200), answer.text


@pytest.mark.parametrize(("url", "name"), [(URL, "GenerationForm"), (VIDEOS, "VideoForm")])
def test_the_document_describes_which_parts_may_be_empty(client: TestClient, url: str, name: str) -> None:
    components = document(models.load("default"))["components"]
    fields = GOOD if url == URL else {"prompt": "a cat", "model": "T2V-A14B"}
    json_parts = {"loras", "fallback", "metadata"}
    documented, done = {}, {}
    for field, schema in components["schemas"][name]["properties"].items():
        if schema.get("format") == "binary":
            continue
        type = "\r\nContent-Type: application/json" if field in json_parts else ""
        others = {key: value for key, value in fields.items() if key != field}
        answer = form(client, url, (f'name="{field}"{type}', b""), **others)
        done[field] = answer.status_code < 300
        documented[field] = jsonschema.Draft202012Validator({**schema, "components": components}).is_valid("")
    assert done == documented
    assert not done["prompt"]
    assert done["seed"]


def test_an_empty_required_part_counts_as_missing(client: TestClient) -> None:
    answer = form(client, URL, ('name="prompt"', b""), ('name="steps"', b""), model_id="T2V-A14B")
    assert (answer.status_code, named(answer)) == (422, ["prompt"])


@pytest.mark.parametrize("field", ["steps", "seed", "frames", "guidance_scale", "loras", "metadata", "webhook_url"])
@pytest.mark.parametrize("text", ["null", " null ", "none", "true", "NaN"])
def test_text_is_not_a_number_in_a_form(client: TestClient, field: str, text: str) -> None:
    answer = form(client, URL, **{**GOOD, field: text})
    assert (answer.status_code, named(answer)) == (422, [field])


@pytest.mark.parametrize("url", [URL, VIDEOS])
def test_the_scale_of_a_lora_in_form_parts_is_a_number(client: TestClient, url: str) -> None:
    fields = GOOD if url == URL else {"prompt": "a cat"}
    answer = form(client, url, ('name="loras[][name]"', b"12"), ('name="loras[][scale]"', b"0.5"), **fields)
    assert "there is no LoRA '12'" in answer.text
    assert "number" not in answer.text


# --- all errors together


@pytest.mark.parametrize("as_form", [False, True])
def test_errors_of_the_catalogue_are_reported_with_an_unknown_field(client: TestClient, as_form: bool) -> None:
    wrong = {"colour": "blue", "steps": "two", "fps": 23, "resolution": "1x1", "webhook_url": "http://169.254.169.254/"}
    asked = {**GOOD, **wrong}
    answer = form(client, URL, **asked) if as_form else client.post(URL, json=asked)
    assert answer.status_code == 422
    assert sorted(named(answer)) == sorted(wrong)
    assert all(name in answer.json()["detail"] for name in wrong)


def test_an_invalid_image_is_reported_with_other_errors(client: TestClient) -> None:
    answer = client.post(URL, json={**I2V, "fps": 23, "frames": "x", "image": "data:image/png;base64,!"})
    assert sorted(named(answer)) == ["fps", "frames", "image"]
    answer = form(client, URL, ('name="image"; filename="a.png"', b"no picture"), **{**I2V, "fps": 23})
    assert sorted(named(answer)) == ["fps", "image"]


def test_the_video_routes_report_all_errors(client: TestClient) -> None:
    asked = {
        "prompt": "a cat",
        "model": "T2V-A14B",
        "colour": 1,
        "seconds": "99",
        "width": 64,
        "num_inference_steps": 0,
    }
    answer = client.post(VIDEOS, json={**asked, "fps": 16, "webhook_url": "http://localhost/"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert all(f"{name}: " in error["message"] for name in asked.keys() - {"prompt", "model", "width"})
    assert "height: is required" in error["message"]
    assert "webhook_url: localhost is not a public address" in error["message"]


# --- clients of other servers


def test_a_seed_of_minus_one_is_random_on_all_routes(client: TestClient) -> None:
    made = client.post(URL, json={**GOOD, "seed": -1}).json()
    assert made["params"]["seed"] >= 0
    asked = {"prompt": "a cat", "seed": -1, "num_frames": 9, "seconds": "99", "size": "64x64"}
    video = client.post(VIDEOS, json=asked)
    assert video.status_code == 200, video.text
    params = client.get(f"/api/v1/jobs/{video.json()['id']}").json()["params"]
    assert (params["frames"], params["seed"] >= 0) == (9, True)
    assert form(client, URL, **{**GOOD, "seed": -1}).json()["params"]["seed"] >= 0
    assert named(client.post(URL, json={**GOOD, "seed": -2})) == ["seed"]


def test_models_in_the_openai_format(client: TestClient) -> None:
    found = client.get("/v1/models").json()
    assert found["object"] == "list"
    assert [one["id"] for one in found["data"]] == list(models.load("demo").model_ids)
    assert {(one["object"], one["owned_by"], type(one["created"])) for one in found["data"]} == {
        ("model", "wanworks", int)
    }
    for name in ("TI2V-5B", "wan2.2-ti2v-5b", "Wan-AI/Wan2.2-TI2V-5B", "Wan-AI%2FWan2.2-TI2V-5B-Diffusers"):
        assert client.get(f"/v1/models/{name}").json()["id"] == "TI2V-5B", name
    missing = client.get("/v1/models/nope")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert client.post("/v1/models").status_code == 405


@pytest.mark.parametrize("name", ["Wan-AI/Wan2.2-T2V-A14B", "Wan-AI/Wan2.2-T2V-A14B-Diffusers"])
def test_a_model_by_its_name_on_the_hub(client: TestClient, name: str) -> None:
    answer = client.post(VIDEOS, json={"prompt": "a cat", "model": name})
    assert (answer.status_code, answer.json().get("model")) == (200, "T2V-A14B")


# --- webhook addresses


NEVER = [
    "169.254.169.254", "127.0.0.1:8000", "10.0.0.7", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001",
    "127.1", "0", "0xa9fea9fe", "[::1]", "[::ffff:169.254.169.254]", "[::ffff:7f00:1]", "[64:ff9b::a9fe:a9fe]",
    "[fe80::1]", "[fd00::1]", "[2002:7f00:1::]", "127.0.0.1.", "localhost", "LOCALHOST.", "a.localhost", "224.0.0.1",
    "ip6-localhost", "metadata.google.internal", "100.64.0.1", "255.255.255.255", "localhost.localdomain",
]  # fmt: skip


@pytest.mark.parametrize("host", NEVER)
def test_a_forbidden_webhook_address_is_refused(client: TestClient, host: str) -> None:
    answer = client.post(URL, json={**GOOD, "webhook_url": f"http://{host}/hook"})
    assert answer.status_code == 422, answer.text
    (wrong,) = answer.json()["errors"]
    assert (wrong["loc"], wrong["type"]) == (["body", "webhook_url"], "forbidden_address")
    assert "is not a public address, so no webhook can be sent there" in wrong["msg"]


@pytest.mark.parametrize(
    "host", ["hooks.example", "93.184.216.34", "[2606:2800:220:1::1]", "1.1", "intranet", "a.local"]
)
def test_host_names_are_resolved_only_when_sending(client: TestClient, host: str) -> None:
    url = f"http://{host}/" if host != "1.1" else "http://1.0.0.1/"
    assert client.post(URL, json={**GOOD, "webhook_url": url}).status_code == 202


@pytest.mark.parametrize(
    ("allowed", "host", "status"),
    [
        ("127.0.0.0/8", "localhost", 202),
        ("localhost", "localhost", 202),
        ("127.0.0.1", "0x7f000001", 202),
        ("::1", "[::1]", 202),
        ("10.0.0.0/8", "10.1.2.3", 202),
        ("10.0.0.0/8", "192.168.0.1", 422),
        ("10.0.0.0/8", "localhost", 422),
    ],
)
def test_addresses_that_the_operator_allows_are_accepted(
    make_client: Callable[[Settings], TestClient], settings: Settings, allowed: str, host: str, status: int
) -> None:
    client = make_client(settings.model_copy(update={"outbound_allow": allowed}))
    assert client.post(URL, json={**GOOD, "webhook_url": f"http://{host}/"}).status_code == status


# --- schema and behaviour


def _numbers(schema: dict[str, Any]) -> list[str]:
    """Return the fields of an object that accept numbers but no booleans."""
    found = []
    for name, field in schema.get("properties", {}).items():
        kinds = {one.get("type") for one in (field, *field.get("anyOf", ()))}
        if kinds & {"integer", "number"} and "boolean" not in kinds:
            found.append(name)
    return found


ASKED: list[type[BaseModel]] = [operation.body for operation in OPERATIONS if operation.body is not None]
STORED: list[type[BaseModel]] = [kind.params for kind in JOB_TYPES.values()]


@pytest.mark.parametrize("model", [*dict.fromkeys([*ASKED, *STORED])], ids=lambda model: model.__name__)
def test_a_boolean_is_not_a_number(model: type[BaseModel]) -> None:
    for name in _numbers(model.model_json_schema()):
        for value in (True, False):
            with pytest.raises(ValidationError) as caught:
                model.model_validate({name: value})
            assert (name,) in {error["loc"][:1] for error in caught.value.errors()}, name


def test_a_boolean_scale_and_a_textual_number_are_refused(client: TestClient) -> None:
    wrong = {
        "loras": [{"name": "a", "scale": True}],
        "flow_shift": True,
        "guidance_scale": "4",
        "guidance_scale_2": False,
    }
    assert sorted(named(client.post(URL, json={**GOOD, **wrong}))) == sorted(wrong)


def _field(document: dict[str, Any], schema: str, name: str) -> dict[str, Any]:
    field: dict[str, Any] = document["components"]["schemas"][schema]["properties"][name]
    return next((one for one in field.get("anyOf", ()) if one.get("type") == "string"), field)


def test_the_schema_describes_which_texts_are_refused() -> None:
    described = document(models.load("default"))
    plain = r"^[^\x00]*$"
    for schema, name in (
        ("Acknowledgement", "by"),
        ("GenerationRequest", "negative_prompt"),
        ("DownloadRequest", "node"),
    ):
        assert _field(described, schema, name)["pattern"] == plain, name
    queries = {
        parameter["name"]: parameter["schema"].get("pattern")
        for path in ("/api/v1/webhooks/messages", "/api/v1/wan-models/recommend", "/api/v1/audit")
        for parameter in described["paths"][path]["get"]["parameters"]
    }
    assert queries["job_id"] == queries["actor"] == plain
    assert queries["use_case"] == _field(described, "GenerationRequest", "prompt")["pattern"] != plain


@pytest.mark.parametrize("blank", [" ", "\t\n", "\u00a0", "\u2028", "\x1c", "\x85", "\u3000"])
def test_a_blank_prompt_is_refused_by_schema_and_server(client: TestClient, blank: str) -> None:
    import re

    pattern = _field(document(models.load("default")), "GenerationRequest", "prompt")["pattern"]
    assert re.search(pattern, blank) is None
    assert re.search(pattern, f"{blank}a{blank}") is not None
    assert named(client.post(URL, json={**GOOD, "prompt": blank})) == ["prompt"]
