"""The routes of the gallery, favourites and collections: what they return, for whom, and what they refuse."""

import io
import json
import zipfile
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from shared.access import keys
from shared.access.keys import Limits
from shared.cluster import nodes
from shared.database.engine import Database
from shared.jobs import ids
from shared.settings import Settings
from shared.states import Scope
from shared.storage.store import open_store
from tests.conftest import both_databases
from tests.support import working
from tests.support.jobs import accepted
from tests.support.videos import finished

GALLERY, COLLECTIONS = "/api/v1/gallery", "/api/v1/collections"


def favourite(job_id: str) -> str:
    return f"/api/v1/jobs/{job_id}/favourite"


@both_databases
def test_a_favourite_and_a_collection_over_http(client: TestClient, database: Database) -> None:
    job = finished(database, "A paper boat")
    assert client.put(favourite(job.id)).status_code == 204
    made = client.post(COLLECTIONS, json={"name": "boats"})
    assert made.status_code == 201
    path = made.headers["location"]
    assert path == f"{COLLECTIONS}/{made.json()['id']}"
    assert client.put(f"{path}/jobs/{job.id}").status_code == 204
    assert client.get(path).json()["videos"] == 1
    found = client.get(GALLERY, params={"q": "BOAT", "favourite": "true", "collection": made.json()["id"]}).json()
    (video,) = found["data"]
    assert (found["total"], found["is_more"], found["next"]) == (1, False, None)
    assert (video["id"], video["prompt"], video["size"]) == (job.id, "A paper boat", "64x64")
    assert video["collections"] == [made.json()["id"]]
    assert video["thumbnail"]["url"] == f"/api/v1/jobs/{job.id}/artifacts/thumbnail.jpg"
    renamed = client.patch(path, json={"name": "ships", "remove": [job.id]}).json()
    assert (renamed["name"], renamed["videos"]) == ("ships", 0)
    assert client.delete(f"{path}/jobs/{job.id}").status_code == 204
    assert client.delete(favourite(job.id)).status_code == 204
    assert client.get(GALLERY, params={"favourite": "true"}).json()["data"] == []
    assert client.delete(path).status_code == 204
    assert client.get(COLLECTIONS).json() == {"data": []}
    assert client.get(GALLERY, params={"collection": made.json()["id"]}).status_code == 404


def test_two_keys_do_not_see_each_others_marks(
    settings: Settings, database: Database, make_client: Callable[[Settings], TestClient]
) -> None:
    client = make_client(settings)
    scopes = {"one": (Scope.READ, Scope.SUBMIT), "two": (Scope.READ, Scope.SUBMIT), "admin": (Scope.ADMIN,)}
    made = {name: keys.make(database, name, given, Limits()) for name, given in scopes.items()}
    headers = {name: {"Authorization": f"Bearer {secret}"} for name, (_, secret) in made.items()}
    job = finished(database, owner=made["one"][0].id)
    assert client.put(favourite(job.id), headers=headers["two"]).status_code == 404, "the job of another key"
    for who in ("one", "admin"):
        assert client.put(favourite(job.id), headers=headers[who]).status_code == 204
    boats = client.post(COLLECTIONS, json={"name": "boats"}, headers=headers["one"]).json()["id"]
    client.patch(f"{COLLECTIONS}/{boats}", json={"add": [job.id]}, headers=headers["one"])
    assert client.delete(favourite(job.id), headers=headers["one"]).status_code == 204
    for who, marked, collected in (("one", False, [boats]), ("admin", True, [])):
        (video,) = client.get(GALLERY, headers=headers[who]).json()["data"]
        assert (video["favourite"], video["collections"]) == (marked, collected), who
    assert client.get(GALLERY, headers=headers["two"]).json()["total"] == 0
    for who in ("two", "admin"):
        assert client.get(COLLECTIONS, headers=headers[who]).json()["data"] == []
        assert client.get(f"{COLLECTIONS}/{boats}", headers=headers[who]).status_code == 404
        assert client.delete(f"{COLLECTIONS}/{boats}", headers=headers[who]).status_code == 404
    page = client.get("/", headers=headers["one"]).text
    assert 'data-first="gallery"' in page
    assert 'data-first="overview"' in client.get("/", headers=headers["admin"]).text


def test_what_is_invalid_is_named(client: TestClient, database: Database) -> None:
    for query, field, words in (
        ({"size": "wide"}, "size", "such as 1280x720"),
        ({"favourite": "yes"}, "favourite", "must be `true` or `false`"),
        ({"q": " ".join("abcdefghijk")}, "q", "at most 10"),
        ({"offset": "10001"}, "offset", "10000"),
        ({"as_of": "x"}, "as_of", "is not a cursor"),
        ({"collection": "boats"}, "collection", "is not the id of a collection"),
        ({"finished_after": "today"}, "finished_after", "must be a time"),
    ):
        refused = client.get(GALLERY, params=query)
        (error,) = refused.json()["errors"]
        assert (refused.status_code, error["loc"]) == (422, ["query", field])
        assert words in error["msg"]
    queued = accepted(database)
    refused = client.put(favourite(queued.id))
    assert refused.status_code == 409
    assert "is queued" in refused.json()["detail"]
    for name in ("", " ", "x" * 101):
        assert client.post(COLLECTIONS, json={"name": name}).status_code == 422, name
    assert client.post(COLLECTIONS, json={"name": "boats"}).status_code == 201
    assert "'boats' already" in client.post(COLLECTIONS, json={"name": "boats"}).json()["detail"]
    far = client.get(
        GALLERY, params={"finished_before": "9999-01-01T00:00:00Z", "finished_after": "0001-01-02T00:00:00Z"}
    )
    assert far.status_code == 200, far.text


def test_an_archive_of_chosen_videos(client: TestClient, database: Database, settings: Settings) -> None:
    store = open_store(settings, lambda: nodes.agreed(database, "store"), create=True)
    made = []
    for content in (b"one", b"two"):
        job = working.claim(database, accepted(database).id)
        working.finish(database, job, working.make(store, job, {"video.mp4": content}))
        made.append(job.id)
    answer = client.get(f"{GALLERY}/archive.zip", params={"jobs": ",".join(made)})
    assert answer.status_code == 200
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.read(f"{made[1]}/video.mp4") == b"two"
        assert [job["id"] for job in json.loads(archive.read("manifest.json"))["jobs"]] == made
    assert client.get(f"{GALLERY}/archive.zip", params={"jobs": ids.new_id()}).status_code == 404
    refused = client.get(f"{GALLERY}/archive.zip", params={"jobs": f"{made[0]},x"})
    assert "'x' is not the id of a job" in refused.json()["detail"]
    many = client.get(f"{GALLERY}/archive.zip", params={"jobs": ",".join([made[0]] * 201)})
    assert many.status_code == 422


@pytest.mark.parametrize("action", ["delete", "retry"])
def test_chosen_jobs_are_deleted_or_retried(client: TestClient, database: Database, action: str) -> None:
    chosen, other = [finished(database).id for _ in range(3)], finished(database).id
    body = {"action": action, "filter": {"ids": chosen, "status": "succeeded"}}
    assert client.post("/api/v1/jobs/bulk", json=body).json()["changed"] == 3
    left = {video["id"] for video in client.get(GALLERY).json()["data"]}
    assert left == ({other} if action == "delete" else {other, *chosen})
