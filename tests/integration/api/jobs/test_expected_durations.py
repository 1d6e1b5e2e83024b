"""Everything that shows or uses an expected duration: decoding is not scaled by the steps, denoising is.

Generations of two steps were measured; those that are asked for have eight.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import product
from typing import Any

import pytest
from starlette.testclient import TestClient

from api.flows.eta import eta_seconds
from scheduler.alerts.facts import gather
from scheduler.alerts.rules import RULES
from scheduler.alerts.watch import ground_of
from shared import clock
from shared.catalogue.job_types import GenerationParams
from shared.database.engine import Database
from shared.forecast import forecasts
from shared.forecast.durations import MeasuredDurations
from shared.jobs import dispatch
from shared.jobs.attempts import Claimant
from shared.jobs.flows import accepting as flows
from shared.jobs.flows import reading
from shared.jobs.usage import durations, gpu_time, latest_uses
from shared.messaging.progress import Progress, RestingRedis
from shared.settings import Settings
from tests.conftest import both_databases
from tests.integration.api.jobs.generation_requests import GOOD, URL
from tests.support.flows import Node, new_flow
from tests.support.jobs import DEMO, accepted, claimed, hold, new_job
from tests.support.models import library
from tests.support.stack import wait_for
from tests.support.uses import used

KEY = "T2V-A14B:none"
MEASURED = {"encoding": 2.0, "denoising": 2.0, "decoding": 6.0, "muxing": 3.0}
ASKED = {**GOOD, "steps": 8}
HELD = 2.0 + 4 * 2.0 + 6.0
"""Seconds for which a generation of eight steps holds its device."""
WHOLE = HELD + 3.0
"""Until it has ended: its file is encoded while the device runs the next job."""
BY_WORK = 4 * sum(MEASURED.values())
ESTIMATE = "/api/v1/dashboard/estimate?model_id=T2V-A14B&resolution=64x64&frames=9&steps=8"


def ended(database: Database, times: dict[str, float] = MEASURED, held: float | None = None, **more: Any) -> None:
    """A generation of one device, which it left before it was finished."""
    whole = sum(times.values())
    held = whole - times.get("muxing", 0.0) if held is None else held
    used(database, **{"seconds": whole, "device_seconds": held, "timings": times, "warm": True, **more})


@pytest.fixture(autouse=True)
def _measured(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_KEEP_SECONDS", "_KEEP_FOR_NEW_SECONDS", "_KEEP_TIMES_COST"):
        monkeypatch.setattr(forecasts, name, 0.0)
    monkeypatch.setattr(forecasts, "_QUICK_SECONDS", float("inf"))
    library.device(database, on="n", index=0, kind="cpu")
    hold(database, *DEMO.model_ids)
    params = new_job().params
    assert isinstance(params, GenerationParams)
    for _ in range(3):
        ended(database, {**MEASURED, "loading": 1.0}, sum(MEASURED.values()) - 2.0, warm=False, work=params.work)


def submit(client: TestClient, **more: Any) -> str:
    answer = client.post(URL, json={**ASKED, **more})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def since(later: str, sooner: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(sooner)).total_seconds()


def test_the_page_and_the_dry_run(client: TestClient) -> None:
    assert client.get(ESTIMATE).json()["generation_seconds"] == WHOLE
    cost = client.post(URL, json=ASKED, params={"dry_run": "true"}).json()["cost"]
    assert (cost["generation_seconds"], cost["gpu_seconds"], cost["samples"]) == (WHOLE, HELD + 1.0, 3)
    assert cost["how"] == "Estimated from the last 3 similar videos, plus loading the model."
    several = client.post(URL, json={**ASKED, "count": 3}, params={"dry_run": "true"}).json()["cost"]
    assert several["gpu_seconds"] == 3 * HELD + 1.0
    assert several["how"] == "Estimated from the last 3 similar videos, times 3 videos, plus loading the model once."


def test_queued_jobs(client: TestClient) -> None:
    first, second = (client.get(f"/api/v1/jobs/{submit(client)}").json() for _ in range(2))
    assert since(first["estimated_end"], first["estimated_start"]) == pytest.approx(WHOLE + 1.0, abs=0.1)
    assert since(second["estimated_start"], first["estimated_start"]) == pytest.approx(HELD + 1.0, abs=3.0)
    assert since(second["estimated_end"], second["estimated_start"]) == pytest.approx(WHOLE, abs=0.1)
    assert first["estimate"]["samples"] == 3


def test_the_next_start_follows_the_running_jobs_own_steps(
    client: TestClient, database: Database, settings: Settings
) -> None:
    first = submit(client)
    attempt = claimed(database, first, Claimant("n", "gpu-0@n", "cpu-0", "n/0", pid=100)).attempt
    begun = datetime.now().timestamp()
    second = client.get(f"/api/v1/jobs/{submit(client)}").json()
    left = datetime.fromisoformat(second["estimated_start"]).timestamp() - begun
    assert left == pytest.approx(HELD + 1.0, abs=3.0)
    event = {"kind": "progress", "attempt": attempt, "phase": "denoising", "step": 4, "steps": 8, "percent": 50.0}
    progress = Progress(RestingRedis(settings.redis))
    progress.report(first, {**event, "eta_seconds": 503.0})
    again = client.get(f"/api/v1/jobs/{second['id']}").json()
    left = datetime.fromisoformat(again["estimated_start"]).timestamp() - datetime.now().timestamp()
    assert left == pytest.approx(500.0, abs=5.0), "without the file, which is encoded while the next job runs"
    progress.report(first, {**event, "attempt": attempt + 1, "eta_seconds": 900.0})
    again = client.get(f"/api/v1/jobs/{second['id']}").json()
    left = datetime.fromisoformat(again["estimated_start"]).timestamp() - begun
    assert left == pytest.approx(HELD + 1.0, abs=5.0), "a report of another attempt says nothing"


def test_expected_starts_follow_a_move_at_once(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasts, "_KEEP_SECONDS", 1000.0)
    first, second, third = (submit(client) for _ in range(3))

    def starts() -> list[str]:
        listed = {job["id"]: job["estimated_start"] or "" for job in client.get("/api/v1/jobs").json()["data"]}
        return sorted(listed, key=lambda job_id: listed[job_id])

    wait_for(lambda: starts() == [first, second, third], 10, "the expected starts")
    client.post(f"/api/v1/jobs/{third}/move-to-front")
    wait_for(lambda: starts() == [third, first, second], 10, "the expected starts after the move")
    client.patch(f"/api/v1/jobs/{second}", json={"priority": "critical"})
    wait_for(lambda: starts() == [third, second, first], 10, "the expected starts after the change of the priority")


def test_the_openai_client(client: TestClient) -> None:
    answer = client.get(f"/v1/videos/{submit(client)}")
    assert answer.headers["openai-poll-after-ms"] == str(round(100 * WHOLE))


def test_a_flow(database: Database) -> None:
    flow = new_flow(a=Node(), b=Node(after=("a",)))
    nodes = tuple(replace(node, job=_of_eight_steps(node.job)) for node in flow.nodes)
    made = flows.accept(database, replace(flow, nodes=nodes)).flow
    assert eta_seconds(database, reading.get(database, made.id), 1) == pytest.approx(2 * WHOLE)


def _of_eight_steps(job: Any) -> Any:
    return replace(job, params=job.params.model_copy(update={"steps": 8}))


@both_databases
def test_the_limits_of_a_key(database: Database) -> None:
    for _ in range(2):
        accepted(database, owner="k", request={"steps": 8})
    accepted(database, owner="k")
    assert gpu_time.awaited_gpu_seconds(database, "k") == pytest.approx(2 * HELD + 10.0)


@both_databases
def test_placement(database: Database) -> None:
    job = accepted(database, request={"steps": 8})
    (waiting,) = dispatch.read_queue(database).waiting
    run = MeasuredDurations(database).estimates().run
    assert waiting.volume == pytest.approx(64 * 64 * 9 / 1e6)
    assert run(waiting.timing_key, waiting.work, waiting.volume) == pytest.approx(HELD)
    claimed(database, job.id)
    (busy,) = dispatch.read_queue(database).busy
    assert run(busy.timing_key, busy.work, busy.volume) == pytest.approx(HELD)


def test_a_job_that_an_earlier_version_has_accepted(client: TestClient, database: Database) -> None:
    job_id = submit(client)
    with database.write() as session:
        session.connection().exec_driver_sql("UPDATE jobs SET volume = 0")
    shown = client.get(f"/api/v1/jobs/{job_id}").json()
    assert since(shown["estimated_end"], shown["estimated_start"]) == pytest.approx(BY_WORK + 1.0, abs=0.1)
    poll = client.get(f"/v1/videos/{job_id}").headers["openai-poll-after-ms"]
    assert poll == str(round(100 * WHOLE)), "its parameters say it"


def test_a_preset_that_has_not_run_is_expected_from_its_base(database: Database) -> None:
    preset = new_job("T2V-A14B-Lightning", request={"steps": 4}).params
    assert isinstance(preset, GenerationParams)
    base = new_job(request={"steps": 8}).params
    assert isinstance(base, GenerationParams)
    found = durations.measured(database, KEY, "T2V-A14B-Lightning")
    denoising = 2.0 * preset.work / (base.work / 4)
    assert found.derived
    assert found.seconds(preset.work, preset.volume) == pytest.approx(2.0 + denoising + 6.0 + 3.0)


@both_databases
def test_a_mixed_trace_is_expected_within_a_tenth(database: Database) -> None:
    """Times are a x work + b x volume + c; one hundred small jobs in a row do not change what large ones take."""
    a, b, c = 0.05, 0.3, 2.0
    trace = [*product(((832, 480, 81), (1280, 720, 81), (832, 480, 33)), (2, 4, 20, 40)), *[((256, 256, 17), 4)] * 100]
    begun = clock.now() - timedelta(days=1)
    for place, ((width, height, frames), steps) in enumerate(trace):
        volume = width * height * frames / 1e6
        times = {"encoding": c, "denoising": a * volume * steps, "decoding": b * volume}
        size = {"width": width, "height": height, "frames": frames, "steps": steps, "work": volume * steps}
        ended(database, times, finished_at=begun + timedelta(seconds=place), model_cache_key="x:none", **size)
    found = durations.measured(database, "x:none", "T2V-A14B")
    for (width, height, frames), steps in trace:
        volume = width * height * frames / 1e6
        truth = a * volume * steps + b * volume + c
        assert found.seconds(volume * steps, volume) == pytest.approx(truth, rel=0.1)


def forget(database: Database) -> None:
    """Remove what was measured for the other tests."""
    with database.write() as session:
        session.connection().exec_driver_sql("DELETE FROM uses")


def slower(database: Database, settings: Settings) -> list[str]:
    """What the alert rule finds of T2V-A14B."""
    rule = next(rule for rule in RULES if rule.name == "slower_than_usual")
    return [found.subject for found in rule.find(gather(ground_of(settings), clock.now()), settings, ())]


def ended_at(database: Database, place: int, size: tuple[int, int, int, int], factor: float = 1.0) -> None:
    """A generation whose times follow from its size, made slower by the factor."""
    width, height, frames, steps = size
    volume = width * height * frames / 1e6
    times = {"encoding": 2.0, "denoising": 0.05 * volume * steps, "decoding": 0.3 * volume}
    ended(
        database,
        {phase: factor * seconds for phase, seconds in times.items()},
        finished_at=clock.now() - timedelta(minutes=30) + timedelta(seconds=place),
        **{"width": width, "height": height, "frames": frames, "steps": steps, "work": volume * steps},
    )


def test_mixed_sizes_are_no_slowdown_and_lower_no_score(
    client: TestClient, database: Database, settings: Settings
) -> None:
    forget(database)
    for place in range(15):
        ended_at(database, place, (832, 480, 81, 40))
    for place in range(15, 20):
        ended_at(database, place, (256, 256, 17, 4))
    (latest,) = latest_uses.latest(database, ["T2V-A14B"]).values()
    assert latest.relative_seconds == pytest.approx((1.0,) * 20)
    assert latest.seconds_per_work == pytest.approx((0.05,) * 20)
    assert slower(database, settings) == []
    found = client.get("/api/v1/wan-models/performance/T2V-A14B").json()
    assert (found["performance_score"], found["stability_score"]) == (1.0, 1.0)
    ended(database, {"denoising": 900.0}, finished_at=clock.now(), speed="balanced", work=1.0)
    (latest,) = latest_uses.latest(database, ["T2V-A14B"]).values()
    assert latest.relative_seconds[0] == 1.0, "another tier is compared with itself"


def test_a_slowdown_shows_among_mixed_sizes(database: Database, settings: Settings) -> None:
    forget(database)
    sizes = [(832, 480, 81, 40), (256, 256, 17, 4), (832, 480, 81, 4)]
    for place in range(20):
        ended_at(database, place, sizes[place % 3], factor=2.0 if place >= 15 else 1.0)
    (latest,) = latest_uses.latest(database, ["T2V-A14B"]).values()
    assert latest.relative_seconds[:5] == pytest.approx((2.0,) * 5)
    assert slower(database, settings) == ["T2V-A14B"]
