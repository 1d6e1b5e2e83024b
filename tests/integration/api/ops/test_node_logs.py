"""The logs of nodes: this host's from its files, and what is said where no worker answers."""

import json

import pytest
from starlette.testclient import TestClient

from shared.cluster import nodes
from shared.database.engine import Database
from shared.settings import Settings
from shared.telemetry import log_files
from tests.support.jobs import accepted, claimed

LOG = "/api/v1/nodes/{}/log"


@pytest.fixture
def logs(settings: Settings, database: Database) -> Settings:
    folder = settings.home / log_files.FOLDER
    folder.mkdir(parents=True)
    nodes.node_beat(database, settings.node, 1000.0, 500.0)
    nodes.node_beat(database, "silent", 1000.0, 500.0)
    lines = [{"time": f"2026-01-01T00:00:0{at}.000Z", "level": "INFO", "message": f"line {at}"} for at in range(5)]
    (folder / "gpu-0.log").write_text("\n".join(json.dumps(line) for line in lines[::2]) + "\nTraceback: no JSON\n")
    (folder / "io.log").write_text("\n".join(json.dumps(line) for line in lines[1::2]) + "\n[1, 2]\n")
    return settings


def test_the_last_lines_of_all_processes_are_in_order(client: TestClient, logs: Settings) -> None:
    found = client.get(LOG.format(logs.node)).json()
    assert found["processes"] == ["gpu-0", "io"]
    assert [(line["process"], line["message"]) for line in found["lines"]] == [
        ("gpu-0", "line 0"), ("io", "line 1"), ("gpu-0", "line 2"), ("io", "line 3"), ("io", "[1, 2]"),
        ("gpu-0", "line 4"), ("gpu-0", "Traceback: no JSON"),
    ]  # fmt: skip
    of_one = client.get(LOG.format(logs.node), params={"process": "gpu-0", "lines": 2}).json()
    assert [line["message"] for line in of_one["lines"]] == ["line 4", "Traceback: no JSON"]


@pytest.mark.parametrize("lines", ["0", "501", "1.5", "x", "-1"])
def test_a_number_of_lines_that_cannot_be_is_refused(client: TestClient, logs: Settings, lines: str) -> None:
    answer = client.get(LOG.format(logs.node), params={"lines": lines})
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, ["query", "lines"])


def test_what_is_not_there_is_named(client: TestClient, logs: Settings) -> None:
    assert client.get(LOG.format("nobody")).status_code == 404
    for wrong in ("gpu-9", "../secret", "gpu-0.log"):
        answer = client.get(LOG.format(logs.node), params={"process": wrong})
        assert (answer.status_code, "has: gpu-0, io" in answer.json()["detail"]) == (404, True), wrong
    answer = client.get(LOG.format("silent"))
    assert (answer.status_code, answer.json()["code"]) == (504, "node_unreachable")


def test_the_log_of_a_job_names_nodes_that_do_not_answer(
    client: TestClient, database: Database, logs: Settings
) -> None:
    job = claimed(database, accepted(database).id)
    with (logs.home / log_files.FOLDER / "io.log").open("a") as file:
        file.write(json.dumps({"time": "2026-01-01T00:01:00.000Z", "message": f"job {job.id} began"}) + "\n")
    found = client.get(f"/api/v1/jobs/{job.id}/log").json()
    assert (found["host"], found["unanswered"]) == (logs.node, [job.node])
    assert [line["message"] for line in found["lines"]] == [f"job {job.id} began"]
