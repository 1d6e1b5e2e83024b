"""Requests with pictures: the last one, and how they fit."""

from typing import Any

from PIL import Image
from sqlalchemy import update
from starlette.testclient import TestClient

from shared.database.engine import Database
from shared.database.tables import Job
from shared.jobs import records
from shared.settings import Settings
from tests.integration.api.jobs.generation_requests import GOOD, URL, data_url, picture
from tests.unit.api.http.test_images import encoded

I2V = {**GOOD, "model_id": "I2V-A14B"}
VIDEOS = "/v1/videos"


def errors(answer: Any) -> dict[str, str]:
    assert answer.status_code == 422, answer.text
    return {".".join(map(str, one["loc"][1:])): one["msg"] for one in answer.json()["errors"]}


def shaped(width: int, height: int, format: str = "PNG", **more: Any) -> bytes:
    return encoded(Image.new("RGB", (width, height), "green"), format, **more)


def stored(settings: Settings, job_id: str) -> list[str]:
    folder = settings.store_dir / "inputs" / job_id
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_last_image_is_stored_copied_and_deleted_as_the_first(
    client: TestClient, database: Database, settings: Settings
) -> None:
    body = {**I2V, "image": data_url(picture()), "last_image": data_url(picture("JPEG"))}
    answer = client.post(URL, json=body)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (job["params"]["image"], job["params"]["last_image"], job["params"]["fit"]) == (True, True, "cover")
    assert stored(settings, job["id"]) == ["image.png", "last-image.png"]
    assert records.get(database, job["id"]).params["last_image"] == f"{job['id']}/last-image.png"
    client.post(f"/api/v1/jobs/{job['id']}/cancel")
    again = client.post(f"/api/v1/jobs/{job['id']}/retry").json()
    assert records.get(database, again["id"]).params["last_image"] == f"{again['id']}/last-image.png"
    assert stored(settings, again["id"]) == ["image.png", "last-image.png"]
    assert client.delete(f"/api/v1/jobs/{job['id']}").status_code == 204
    assert stored(settings, job["id"]) == []
    assert stored(settings, again["id"]) == ["image.png", "last-image.png"]


def test_both_pictures_as_parts_of_a_form(client: TestClient) -> None:
    files = {"image": ("a.png", picture(), "image/png"), "last_image": ("b.png", picture(), "image/png")}
    answer = client.post(URL, data={**I2V, "fit": "contain"}, files=files)
    assert answer.status_code == 202, answer.text
    params = answer.json()["params"]
    assert (params["image"], params["last_image"], params["fit"]) == (True, True, "contain")


def test_the_last_image_is_part_of_what_an_idempotency_key_stands_for(client: TestClient) -> None:
    body = {**I2V, "image": data_url(picture()), "last_image": data_url(picture())}
    key = {"Idempotency-Key": "k"}
    first = client.post(URL, json=body, headers=key)
    assert client.post(URL, json=body, headers=key).json()["id"] == first.json()["id"]
    other = {**body, "last_image": data_url(picture("JPEG"))}
    assert "Idempotency-Key" in client.post(URL, json=other, headers=key).json()["detail"]


def test_what_is_refused(client: TestClient, nothing_stored: None) -> None:
    image = data_url(picture())
    assert "send both" in errors(client.post(URL, json={**I2V, "last_image": image}))["last_image"]
    for model in ("T2V-A14B", "TI2V-5B"):
        body = {**GOOD, "model_id": model, "last_image": image}
        assert "does not take a last image" in errors(client.post(URL, json=body))["last_image"]
    both = {**I2V, "image": image, "last_image": data_url(b"nothing")}
    assert "is not a PNG" in errors(client.post(URL, json=both))["last_image"]
    found = errors(client.post(URL, json={**both, "image": data_url(b"nothing"), "steps": 0}))
    assert found.keys() == {"image", "last_image", "steps"}, "all errors are in one answer"
    assert "data URL" in errors(client.post(URL, json={**both, "last_image": "http://x.example/a.png"}))["last_image"]
    assert "allowed: 9 or 13" in errors(client.post(URL, json={**both, "last_image": image, "frames": 10}))["frames"]
    assert "only possible with an image" in errors(client.post(URL, json={**GOOD, "fit": "cover"}))["fit"]
    assert "cover" in errors(client.post(URL, json={**I2V, "image": image, "fit": "stretch"}))["fit"]


def test_auto_settles_the_size_by_the_upright_picture(client: TestClient, database: Database) -> None:
    wide = {**I2V, "image": data_url(shaped(200, 50)), "fit": "auto"}
    job = client.post(URL, json=wide).json()
    assert job["params"]["resolution"] == "128x32"
    row = records.get(database, job["id"])
    assert (row.params["width"], row.params["height"], row.params["asked_resolution"]) == (128, 32, "64x64")
    assert row.memory_needs
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    turned = {**wide, "image": data_url(shaped(200, 50, "JPEG", exif=exif))}
    assert client.post(URL, json=turned).json()["params"]["resolution"] == "32x128"
    dry = client.post(URL, params={"dry_run": "true"}, json=wide).json()
    assert dry["params"]["resolution"] == "128x32"
    found = errors(client.post(URL, json={**wide, "image": data_url(shaped(3000, 1))}))
    assert "3000x1" in found["fit"]


def test_a_retry_has_the_settled_size(client: TestClient) -> None:
    job = client.post(URL, json={**I2V, "image": data_url(shaped(200, 50)), "fit": "auto"}).json()
    client.post(f"/api/v1/jobs/{job['id']}/cancel")
    again = client.post(f"/api/v1/jobs/{job['id']}/retry").json()
    assert again["params"] == job["params"]


def test_a_job_from_before_the_field_covers(client: TestClient, database: Database) -> None:
    job = client.post(URL, json={**I2V, "image": data_url(picture())}).json()
    params = {
        name: value
        for name, value in records.get(database, job["id"]).params.items()
        if name not in ("fit", "last_image", "asked_resolution")
    }
    with database.write() as session:
        session.connection().execute(update(Job).where(Job.id == job["id"]).values(params=params))  # type: ignore[arg-type]
    shown = client.get(f"/api/v1/jobs/{job['id']}").json()["params"]
    assert (shown["fit"], shown["last_image"]) == ("cover", False)


def test_pictures_of_a_videos_request(client: TestClient, database: Database) -> None:
    asked = {"model": "wan2.2-i2v-a14b", "prompt": "a cat", "size": "64x64", "num_frames": 9}
    urls = {"input_reference": data_url(shaped(200, 50)), "last_image": {"image_url": data_url(picture())}}
    video = client.post(VIDEOS, json={**asked, **urls, "fit": "auto"})
    assert video.status_code == 200, video.text
    assert video.json()["size"] == "128x32"
    assert records.get(database, video.json()["id"]).params["last_image"] is not None
    files = {"input_reference": ("a.png", picture(), "image/png"), "last_image": ("b.png", picture(), "image/png")}
    assert client.post(VIDEOS, data=asked, files=files).status_code == 200
    refused = client.post(VIDEOS, json={**asked, **urls, "last_image": {"file_id": "file-1"}}).json()["error"]
    assert refused["param"] == "last_image.file_id"
    refused = client.post(VIDEOS, json={**asked, "last_image": data_url(picture())}).json()["error"]
    assert refused["param"] in ("model", "last_image", "input_reference")
