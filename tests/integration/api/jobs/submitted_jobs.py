"""Jobs, submitted and read over HTTP."""

from typing import Any

from starlette.testclient import TestClient

from tests.integration.api.jobs.generation_requests import GOOD, URL

JOBS = "/api/v1/jobs"
NO_JOB = "01a200a8-9d61-7b73-9518-0828900b8a51"


def submit(client: TestClient, **more: Any) -> dict[str, Any]:
    answer = client.post(URL, json={**GOOD, **more})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def get(client: TestClient, job_id: str) -> dict[str, Any]:
    answer = client.get(f"{JOBS}/{job_id}")
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    return job
