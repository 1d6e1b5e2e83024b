"""The list of jobs over HTTP: orders, search, counts, and the picture that a job starts from."""

import base64
from io import BytesIO

from PIL import Image
from starlette.testclient import TestClient

from shared.database.engine import Database
from shared.jobs import attempts, checkpoints
from tests.conftest import both_databases
from tests.integration.api.jobs.submitted_jobs import JOBS, get, submit
from tests.support.jobs import accepted, claimed


@both_databases
def test_orders_cursors_and_counts(client: TestClient, database: Database) -> None:
    done, running, waiting, last = (accepted(database, prompt=f"number {place}").id for place in range(4))
    attempts.succeed(database, done, claimed(database, done).attempt, {"artifacts": []})
    claimed(database, running)
    assert [job["id"] for job in client.get(f"{JOBS}?order=queue").json()["data"]] == [running, waiting, last, done]
    assert [job["id"] for job in client.get(f"{JOBS}?order=oldest&limit=2").json()["data"]] == [done, running]
    first = client.get(f"{JOBS}?order=queue&limit=2").json()
    rest = client.get(JOBS, params={"order": "queue", "limit": 2, "after": first["next"]}).json()
    assert ([job["id"] for job in rest["data"]], rest["has_more"]) == ([last, done], False)
    found = client.get(f"{JOBS}?search=number 2").json()
    assert ([job["id"] for job in found["data"]], found["looked_at"]) == ([waiting], 4)
    counts = client.get(f"{JOBS}/count").json()
    assert (counts["count"], counts["is_exact"]) == (4, True)
    assert (counts["by_status"]["queued"], counts["by_status"]["running"]) == (2, 1)
    assert client.get(f"{JOBS}/count?status=queued").json()["count"] == 2
    assert client.get(f"{JOBS}/count?created_after=2020-01-01T00:00:00Z").json()["by_status"] is None
    for wrong in (
        f"order=newest&after={first['next']}",
        f"order=queue&after={done}",
        "order=queue&search=x",
        "after=x",
    ):
        assert client.get(f"{JOBS}?{wrong}").status_code == 422, wrong


@both_databases
def test_every_attempt_is_kept_and_the_first_start_counts(client: TestClient, database: Database) -> None:
    job = accepted(database).id
    begun = claimed(database, job)
    attempts.crashed(database, job, begun.attempt, "The worker was lost", 0.0)
    again = claimed(database, job)
    checkpoints.note(database, job, again.attempt, "n", 3)
    attempts.give_back(database, job, again.attempt)
    third = claimed(database, job)
    checkpoints.note_resumed(database, job, third.attempt, 3)
    attempts.succeed(database, job, third.attempt, {"artifacts": []})
    shown = get(client, job)
    assert [(one["attempt"], one["outcome"], one["reason"]) for one in shown["attempt_history"]] == [
        (1, "lost", "The worker was lost"),
        (2, "returned", None),
        (3, "succeeded", None),
    ]
    steps = [(one["checkpoint_step"], one["resumed_from_step"]) for one in shown["attempt_history"]]
    assert steps == [(None, None), (3, None), (3, 3)]
    assert shown["first_started_at"] == shown["attempt_history"][0]["started_at"] <= shown["started_at"]


def test_the_picture_of_a_job_is_served_to_its_owner(client: TestClient) -> None:
    picture = BytesIO()
    Image.new("RGB", (8, 6), "grey").save(picture, "PNG")
    data = f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"
    job = submit(client, model_id="I2V-A14B", image=data)["id"]
    answer = client.get(f"{JOBS}/{job}/image")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert Image.open(BytesIO(answer.content)).size == (8, 6)
    assert client.get(f"{JOBS}/{job}/image", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    assert client.get(f"{JOBS}/{submit(client)['id']}/image").status_code == 404
