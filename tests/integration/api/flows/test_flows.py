"""Flows over HTTP: what is refused, and what clients see of one from its start to its end."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlmodel import select
from starlette.testclient import TestClient

from shared.access import keys
from shared.access.keys import Limits
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Flow, Job, WebhookMessage
from shared.jobs import records
from shared.settings import Settings
from shared.states import Priority, Scope
from tests.integration.api.jobs.generation_requests import GOOD, data_url, picture
from tests.support.flows import follow, job_of, run
from tests.support.jobs import claimed

FLOWS = "/api/v1/flows"


def job(name: str, *after: str, **more: Any) -> dict[str, Any]:
    params = {**GOOD, **more.pop("params", {})}
    return {"name": name, "type": "generation", "params": params, "depends_on": list(after), **more}


def chain(*names: str) -> dict[str, Any]:
    return {"jobs": [job(name, *names[max(0, at - 1) : at]) for at, name in enumerate(names)]}


def errors(answer: Any) -> dict[str, str]:
    """Return the messages by the fields' paths."""
    assert answer.status_code == 422, answer.text
    return {".".join(map(str, one["loc"][1:])): one["msg"] for one in answer.json()["errors"]}


def stored(database: Database) -> int:
    with database.read() as session:
        return len(session.exec(select(Job)).all()) + len(session.exec(select(Flow)).all())


def test_a_flow_is_accepted_and_shown(client: TestClient, database: Database) -> None:
    body = {**chain("a", "b"), "name": "two shots", "metadata": {"film": "1"}}
    answer = client.post(FLOWS, json=body)
    assert answer.status_code == 202, answer.text
    flow = answer.json()
    assert answer.headers["location"] == f"{FLOWS}/{flow['id']}"
    assert client.get(f"{FLOWS}/{flow['id']}").json() == flow
    assert (flow["name"], flow["state"], flow["progress_percent"], flow["metadata"]) == (
        "two shots", "queued", 0.0, {"film": "1"}
    )  # fmt: skip
    a, b = flow["jobs"]
    assert (a["state"], a["waits_for"], b["state"], b["waits_for"]) == ("queued", [], "held", ["a"])
    shown = client.get(f"/api/v1/jobs/{b['id']}").json()
    assert shown["flow_id"] == flow["id"]
    assert shown["waiting_for"] == {"reason": "dependency", "detail": "It waits for other jobs of its flow: a."}
    (listed,) = client.get(FLOWS).json()["data"]
    assert listed["counts"] | {"held": 1, "queued": 1} == listed["counts"]
    run(database, flow["id"], "a")
    follow(database)
    flow = client.get(f"{FLOWS}/{flow['id']}").json()
    assert (flow["state"], flow["progress_percent"]) == ("running", 50.0)
    assert client.get(FLOWS, params={"state": "queued"}).json()["data"] == []


@pytest.mark.parametrize(
    ("jobs", "field", "says"),
    [
        ([], "jobs", "must not be empty"),
        ([job(f"j{at}") for at in range(201)], "jobs", "at most 200"),
        ([job("a"), job("a")], "jobs.1.name", "jobs.0"),
        ([job("a", "a")], "jobs.0.depends_on.0", "itself"),
        ([job("a"), job("b", "a", "x")], "jobs.1.depends_on.1", "no job 'x'"),
        ([job("a"), job("b", "a", "a")], "jobs.1.depends_on.1", "twice"),
        ([job("a", "c"), job("b", "a"), job("c", "b")], "jobs.0.depends_on.0", "a -> c -> b -> a"),
        ([job("a"), {**job("b"), "on_failure": "stop"}], "jobs.1.on_failure", "skip"),
        ([{**job("a"), "name": "a b"}], "jobs.0.name", "begin with a letter or digit"),
        ([{**job("a"), "type": "benchmark"}], "jobs.0.type", "generation"),
        ([{**job("a"), "extra": 1}], "jobs.0.extra", "no such field"),
        ([job("a", params={"frames": 8_000})], "jobs.0.params.frames", "not supported"),
        ([job("a", params={"webhook_url": "http://127.0.0.1/x"})], "jobs.0.params.webhook_url", "public"),
        ([job("a", params={"model_id": "none"})], "jobs.0.params.model_id", "available"),
        ([job("a", params={"image": {"from": "x"}})], "jobs.0.params.image.from", "no job 'x'"),
        ([job("a", params={"image": {"from": "a"}})], "jobs.0.params.image.from", "itself"),
        ([job("a", params={"image": {"frame": 1}})], "jobs.0.params.image.from", "missing"),
        ([job("a", params={"image": {"from": "a", "frame": -1}})], "jobs.0.params.image.frame", "number of a frame"),
    ],
)  # fmt: skip
def test_what_is_refused(client: TestClient, database: Database, jobs: Any, field: str, says: str) -> None:
    found = errors(client.post(FLOWS, json={"jobs": jobs}))
    matching = {path: msg for path, msg in found.items() if path.startswith(field)}
    assert matching, found
    assert any(says in msg for msg in matching.values()), found
    assert stored(database) == 0


def test_a_frame_must_be_of_a_video_that_has_it(client: TestClient, database: Database) -> None:
    def taking(**image: Any) -> dict[str, Any]:
        return job("b", params={"model_id": "I2V-A14B", "image": {"from": "a", **image}})

    found = errors(client.post(FLOWS, json={"jobs": [job("a"), taking(frame=9)]}))
    assert "0 to 8" in found["jobs.1.params.image.frame"]
    nodes.node_beat(database, "n", None, None)
    download = {"name": "a", "type": "download", "params": {"model_id": "T2V-A14B"}}
    assert "no video" in errors(client.post(FLOWS, json={"jobs": [download, taking()]}))["jobs.1.params.image.from"]
    taken = client.post(FLOWS, json={"jobs": [job("a"), taking(frame=3), {**taking(), "name": "c"}]})
    assert taken.status_code == 202, taken.text
    flow = taken.json()
    assert flow["jobs"][1]["depends_on"] == ["a"], "a frame implies the dependency"
    assert flow["jobs"][1]["frame_of"] == {"job": "a", "frame": 3}
    assert job_of(database, flow["id"], "a").params["keep_frames"] == [3, "last"]
    assert client.get(f"/api/v1/jobs/{flow['jobs'][1]['id']}").json()["params"]["image"] is True


def test_a_circle_through_a_frame_is_refused(client: TestClient) -> None:
    image = {"model_id": "I2V-A14B", "image": {"from": "b"}}
    found = errors(client.post(FLOWS, json={"jobs": [job("a", params=image), job("b", "a")]}))
    assert "circle" in found["jobs.0.params.image.from"]


def test_every_bad_field_of_every_job_is_in_one_answer(client: TestClient) -> None:
    jobs = [
        job("a", params={"steps": 0, "resolution": "1x1"}),
        job("b", "x", params={"priority": "soon"}),
        {"name": "c", "params": {"model_id": "I2V-A14B", "prompt": "x", "resolution": "64x64"}},
        job("d", params={"image": data_url(b"no picture"), "model_id": "I2V-A14B"}),
    ]
    found = errors(client.post(FLOWS, json={"jobs": jobs, "name": "", "webhook_url": "ftp://x"}))
    expected = {
        "jobs.0.params.steps", "jobs.0.params.resolution", "jobs.1.depends_on.0", "jobs.1.params.priority",
        "jobs.2.params.image", "jobs.3.params.image", "name", "webhook_url",
    }  # fmt: skip
    assert expected <= found.keys(), found


def test_pictures_are_stored_only_if_the_whole_is_accepted(client: TestClient, settings: Settings) -> None:
    good = job("a", params={"model_id": "I2V-A14B", "image": data_url(picture())})
    assert client.post(FLOWS, json={"jobs": [good, job("b", params={"steps": 0})]}).status_code == 422
    inputs = settings.store_dir / "inputs"
    assert not inputs.exists() or list(inputs.iterdir()) == []
    assert client.post(FLOWS, json={"jobs": [good]}).status_code == 202
    assert len(list(inputs.iterdir())) == 1


def test_the_same_key_gives_the_same_flow(client: TestClient, database: Database) -> None:
    headers = {"Idempotency-Key": "once"}
    first, again = (client.post(FLOWS, json=chain("a", "b"), headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json()["id"] == first.json()["id"]
    assert errors(client.post(FLOWS, json=chain("a"), headers=headers)).keys() == {"Idempotency-Key"}
    assert stored(database) == 3


def test_node_jobs_need_the_scope_and_one_node(
    make_client: Callable[[Settings], TestClient], settings: Settings, database: Database
) -> None:
    secrets = {
        name: keys.make(database, name, scopes, limits)[1]
        for name, scopes, limits in (
            ("submit", (Scope.READ, Scope.SUBMIT), Limits(queued_jobs=2, priority_ceiling=Priority.NORMAL)),
            ("models", (Scope.READ, Scope.SUBMIT), Limits(models=("TI2V-5B",), max_frames=9)),
            ("admin", (Scope.ADMIN,), Limits()),
        )
    }
    client = make_client(settings)

    def send(who: str, body: dict[str, Any]) -> Any:
        return client.post(FLOWS, json=body, headers={"Authorization": f"Bearer {secrets[who]}"})

    for name in ("n", "m"):
        nodes.node_beat(database, name, None, None)
    check = {"name": "check", "type": "integrity-check", "params": {"node": "n"}}
    fetch = {"name": "get", "type": "download", "params": {"model_id": "T2V-A14B", "node": "n"}}
    refused = send("submit", {"jobs": [job("a"), check]})
    assert (refused.status_code, "jobs.1 (check)" in refused.json()["detail"]) == (403, True)
    assert "name one" in errors(send("admin", {"jobs": [{**check, "params": {}}]}))["jobs.0.params.node"]
    assert "jobs.0" in errors(send("admin", {"jobs": [fetch, {**fetch, "name": "2"}]}))["jobs.1.params.model_id"]
    assert "no node" in errors(send("admin", {"jobs": [{**check, "params": {"node": "x"}}]}))["jobs.0.params.node"]
    assert "priority" in str(errors(send("submit", {"jobs": [job("a", params={"priority": "high"})]})))
    too_many = send("submit", chain("a", "b", "c"))
    assert (too_many.status_code, "3 more" in too_many.json()["detail"]) == (429, True)
    assert send("models", {"jobs": [job("a")]}).status_code == 403
    assert "9 frames" in str(errors(send("models", {"jobs": [job("a", params={"model_id": "TI2V-5B", "frames": 13})]})))
    assert stored(database) == 0
    mine = send("submit", chain("a", "b"))
    assert mine.status_code == 202
    accepted = send("admin", {"jobs": [fetch, {**check, "depends_on": ["get"]}]})
    assert accepted.status_code == 202, accepted.text
    seen = client.get(FLOWS, headers={"Authorization": f"Bearer {secrets['submit']}"}).json()["data"]
    assert [one["id"] for one in seen] == [mine.json()["id"]]


def test_cancel(client: TestClient, database: Database) -> None:
    flow = client.post(FLOWS, json=chain("a", "b", "c")).json()
    running = claimed(database, flow["jobs"][0]["id"])
    answer = client.post(f"{FLOWS}/{flow['id']}/cancel")
    assert answer.status_code == 202
    assert answer.json()["counts"] | {"running": 1, "cancelled": 2} == answer.json()["counts"]
    assert records.get(database, running.id).cancel_at is not None
    run_end(database, running)
    assert client.get(f"{FLOWS}/{flow['id']}").json()["state"] == "cancelled"
    assert client.post(f"{FLOWS}/{flow['id']}/cancel").status_code == 202
    assert client.post(f"{FLOWS}/{'0' * 8}-0000-0000-0000-{'0' * 12}/cancel").status_code == 404


def test_retry_and_one_message_for_each_end(client: TestClient, database: Database) -> None:
    body = {**chain("a", "b", "c"), "webhook_url": "https://receiver.example/hook"}
    flow = client.post(FLOWS, json=body).json()
    assert client.post(f"{FLOWS}/{flow['id']}/retry").status_code == 409
    run(database, flow["id"], "a")
    follow(database)
    run(database, flow["id"], "b", fails=True)
    follow(database)
    shown = client.get(f"{FLOWS}/{flow['id']}").json()
    assert (shown["state"], shown["jobs"][2]["state"], shown["jobs"][2]["error"]["code"]) == (
        "failed", "skipped", "skipped"
    )  # fmt: skip
    again = client.post(f"{FLOWS}/{flow['id']}/retry")
    assert again.status_code == 202, again.text
    assert [one["state"] for one in again.json()["jobs"]] == ["succeeded", "queued", "held"]
    assert again.json()["jobs"][1]["earlier_ids"] == [flow["jobs"][1]["id"]]
    for name in ("b", "c"):
        run(database, flow["id"], name)
        follow(database)
    assert client.get(f"{FLOWS}/{flow['id']}").json()["state"] == "succeeded"
    assert client.post(f"{FLOWS}/{flow['id']}/retry").status_code == 409
    with database.read() as session:
        sent = [one.type for one in session.exec(select(WebhookMessage).order_by(WebhookMessage.id))]
    assert sent == ["flow.failed", "flow.succeeded"]
    listed = client.get("/api/v1/webhooks/messages", params={"job_id": flow["id"]})
    assert len(listed.json()["data"]) == 2


def test_single_jobs_of_a_flow(client: TestClient, database: Database) -> None:
    flow = client.post(FLOWS, json=chain("a", "b", "c")).json()
    a, b, c = (f"/api/v1/jobs/{one['id']}" for one in flow["jobs"])
    assert client.delete(a).status_code == 409
    changed = client.patch(c, json={"priority": "low"})
    assert (changed.status_code, changed.json()["priority"]) == (200, "low")
    assert job_of(database, flow["id"], "c").line == "held", "it is not released by that"
    assert client.post(f"{c}/move-to-front").status_code == 200
    assert job_of(database, flow["id"], "c").line == "held"
    assert client.post(f"{b}/cancel").status_code == 202
    follow(database)
    shown = client.get(f"{FLOWS}/{flow['id']}").json()
    assert [one["state"] for one in shown["jobs"]] == ["queued", "cancelled", "skipped"]
    alone = client.post(f"{b}/retry").json()
    assert (alone["flow_id"], alone["status"]) == (None, "queued"), "a job's own retry belongs to no flow"
    assert client.post(f"{a}/cancel").status_code == 202
    follow(database)
    assert client.delete(a).status_code == 204
    gone = client.get(f"{FLOWS}/{flow['id']}").json()["jobs"][0]
    assert (gone["state"], gone["type"]) == ("cancelled", None)
    assert client.post(f"{FLOWS}/{flow['id']}/retry").status_code == 409


def run_end(database: Database, running: Job) -> None:
    from shared.jobs import attempts

    attempts.cancelled(database, running.id, running.attempt)
    follow(database)
