"""One trace from the request to the last phase, through a crash and a stop of real processes, as a collector has it."""

import json
import os
import signal
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from tests.acceptance.models.test_downloads import hub
from tests.support.servers.collector import Collector, Seen
from tests.support.stack import Stack, wait_for

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
LONG = {"resolution": "128x128", "frames": 17, "steps": 100}
SECRET = "a prompt that nobody else shall read"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def stack(collector: Collector, demo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("traced") / "home"
    with hub(demo_models) as url:
        stack = Stack(home, demo_models, "cpu:1", WANWORKS_OTLP_ENDPOINT=collector.url, WANWORKS_HUB_URL=url)
        stack.start()
        yield stack
        if stack.process is not None:
            stack.stop()


def within(inner: Seen, outer: Seen) -> bool:
    return outer.began <= inner.began <= inner.ended <= outer.ended


def of_job(
    collector: Collector, job_id: str, attempt: int = 1, phases: Sequence[str] = ()
) -> tuple[Seen, Seen, list[Seen]]:
    """Its wait, its attempt, and the phases in order, once these are among them: several processes send them."""
    (wait,) = collector.named("queue", job_id=job_id, attempt=attempt)
    (run,) = collector.named("attempt", job_id=job_id, attempt=attempt)
    spans = collector.wait(lambda spans: set(phases) <= {span.name for span in spans if span.parent == run.id})
    return wait, run, sorted((span for span in spans if span.parent == run.id), key=lambda span: span.began)


@pytest.mark.slow
def test_one_trace_from_the_request_to_the_last_phase(stack: Stack, collector: Collector) -> None:
    body = {"model_id": "T2V-A14B", "prompt": SECRET, "resolution": "64x64", "frames": 9, "steps": 2}
    answer = stack.request("POST", "/api/v1/jobs/generation", json=body, headers={"traceparent": PARENT})
    job_id = answer.json()["id"]
    job = stack.wait_status(job_id)
    assert job["status"] == "succeeded", job["error"]
    order = ["loading", "encoding", "denoising", "decoding", "finishing"]
    wait, run, phases = of_job(collector, job_id, phases=order)
    (request,) = collector.named("POST /api/v1/jobs/generation")
    assert f"{request.trace}-{request.parent}" == PARENT[3:-3]
    assert {span.trace for span in (wait, run, *phases)} == {request.trace}
    assert (wait.parent, run.parent) == (request.id, request.id)
    assert (request.service, wait.service, run.service) == ("wanworks-web", "wanworks-worker", "wanworks-worker")
    assert [span.name for span in phases] == order
    assert set(job["result"]["timings"]) == {span.name for span in phases} - {"finishing"} | {"muxing"}
    assert all(within(span, run) for span in phases)
    assert all(one.ended <= other.began for one, other in pairwise(phases))
    assert request.began <= wait.began <= wait.ended <= run.began
    (storing,) = [span for span in collector.named("storing") if span.trace == run.trace]
    assert storing.parent == phases[-1].id
    assert within(storing, phases[-1])
    assert [name for name, _, _ in wait.events] == ["dispatched"]
    steps = [about["wanworks.step"] for name, _, about in phases[2].events if name == "step"]
    assert steps == sorted(steps)
    assert steps[-1] == 2
    assert (run.kind, run.error) == ("consumer", None)
    assert run.about == {
        "wanworks.job.id": job_id,
        "wanworks.job.type": "generation",
        "wanworks.model.id": "T2V-A14B",
        "wanworks.mock": False,
        "wanworks.attempt": 1,
        "wanworks.node": "here",
        "wanworks.worker": "gpu-0@here",
        "wanworks.device": "cpu-0",
        "wanworks.warm": False,
        "wanworks.profile": job["result"]["profile"],
        "wanworks.outcome": "succeeded",
    }
    assert SECRET not in str(collector.wait(bool))


@pytest.mark.slow
def test_an_error_has_our_own_message(stack: Stack, collector: Collector) -> None:
    (stack.home / "loras").mkdir(exist_ok=True)
    (stack.home / "loras" / "broken.safetensors").write_bytes(b"not a tensor")
    job_id = stack.submit(loras=[{"name": "broken"}])
    error = stack.wait_status(job_id)["error"]
    _, run, _ = of_job(collector, job_id)
    assert (run.error, run.about["error.type"], run.about["wanworks.outcome"]) == ("bad_input", "bad_input", "failed")
    said = [about for name, _, about in run.events if name == "exception"]
    assert said == [{"exception.type": "bad_input", "exception.message": error["message"]}]
    lines = [
        json.loads(line) for line in (stack.home / "logs" / "gpu-0.log").read_text().splitlines() if job_id in line
    ]
    assert run.trace in {line.get("trace_id") for line in lines if line.get("job_id") == job_id}


@pytest.mark.slow
def test_after_a_crash_there_is_a_second_attempt_in_the_same_trace(stack: Stack, collector: Collector) -> None:
    job_id = stack.submit(**LONG)
    stack.wait_status(job_id, ["running"])
    wait_for(lambda: (stack.job(job_id)["progress"]["step"] or 0) > 1, 30, "for a step")
    (queued,) = collector.named("queue", job_id=job_id)  # what is over is sent within a second
    collector.wait(lambda spans: any((span.name, span.trace) == ("encoding", queued.trace) for span in spans))
    assert stack.job(job_id)["status"] == "running"
    os.kill(stack.child("gpu-0"), signal.SIGKILL)
    assert stack.wait_status(job_id)["status"] == "succeeded"
    _, lost, orphans = of_job(collector, job_id, 1, ["encoding"])
    wait, run, phases = of_job(collector, job_id, 2, ["finishing"])
    assert {span.trace for span in (lost, wait, run)} == {lost.trace}
    assert (lost.error, lost.about["wanworks.outcome"]) == ("worker_lost", "queued")
    assert "encoding" in [
        span.name for span in orphans
    ]  # the dead child's phases have the attempt as parent that it never reported
    assert lost.ended <= run.began
    assert lost.parent == run.parent == wait.parent
    assert [span.name for span in phases][-1] == "finishing"
    assert len(collector.named("attempt", 2, job_id=job_id)) == 2


@pytest.mark.parametrize(
    ("type", "phases"), [("download", ["listing", "fetching"]), ("integrity-check", ["verifying"])]
)
@pytest.mark.slow
def test_a_nodes_jobs_have_their_phases_too(type: str, phases: list[str], stack: Stack, collector: Collector) -> None:
    job_id = stack.request("POST", f"/api/v1/jobs/{type}", json={"model_id": "TI2V-5B"}).json()["id"]
    assert stack.wait_status(job_id)["status"] == "succeeded"
    _, run, seen = of_job(collector, job_id, phases=[*phases, "finishing"])
    assert (run.service, run.about["wanworks.job.type"]) == ("wanworks-io", type.replace("-", "_"))
    assert [span.name for span in seen] == [*phases, "finishing"]


@pytest.mark.slow
def test_a_stop_reports_the_attempt_that_it_ends_and_does_not_wait(stack: Stack, collector: Collector) -> None:
    job_id = stack.submit(**LONG)
    stack.wait_status(job_id, ["running"])
    assert stack.stop() == 0
    (run,) = collector.named("attempt", job_id=job_id)
    assert (run.error, run.about["wanworks.outcome"]) == (None, "queued")
