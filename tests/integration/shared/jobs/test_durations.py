"""How long jobs take is measured by model and speed tier."""

from typing import Any

import pytest
from sqlalchemy import event
from starlette.testclient import TestClient

from shared import clock
from shared.catalogue.job_types import GenerationParams
from shared.database.engine import Database
from shared.database.tables import TierMeasurement
from shared.forecast.durations import MeasuredDurations
from shared.insight import tier_measurements
from shared.jobs import attempts, dispatch
from shared.jobs.usage import durations, gpu_time, latest_uses
from tests.conftest import both_databases
from tests.support.jobs import accepted, claimed, new_job
from tests.support.uses import used

VOLUME = 64 * 64 * 9 / 1e6
WORK = VOLUME * 2
KEY, PRESET = "T2V-A14B:none", "T2V-A14B-Lightning"


def measured(database: Database, **values: Any) -> None:
    facts: dict[str, Any] = {
        "job_id": "b", "model_id": "T2V-A14B", "speed": "fast", "device_kind": "cpu", "device_name": "a CPU",
        "quantization": "none", "width": 64, "height": 64, "frames": 9, "steps": 2, "settings": {}, "libraries": {},
        "runs": 1, "seconds": 1.0, "exact_seconds": 4.0, "ssim_mean": 0.97, "ssim_min": 0.93,
        "measured_at": clock.now(), **values,
    }  # fmt: skip
    tier_measurements.record(database, "b", [TierMeasurement(**facts)])


def seconds(database: Database, model_id: str | None = None, speed: str = "exact", key: str = KEY) -> float | None:
    found = durations.measured(database, key, model_id, speed).seconds(WORK, VOLUME)
    return None if found is None else round(found, 6)


@both_databases
def test_tiers_are_not_mixed(database: Database) -> None:
    used(database, seconds=11.0, work=WORK, warm=False)
    used(database, seconds=3.0, work=WORK, speed="fast")
    assert (seconds(database), seconds(database, speed="fast")) == (10.0, 2.0)
    estimates = MeasuredDurations(database).estimates()
    waiting = (new_job(), new_job(request={"speed": "fast"}))
    exact, fast = (durations.timing_key(one.params.model_cache_key, one.params.speed) for one in waiting)  # type: ignore[attr-defined]
    found = [round(estimates.run(key, WORK, VOLUME), 6) for key in (exact, fast)]
    assert found == [10.0, 2.0]
    assert estimates.load(KEY) == 1.0


def test_a_job_that_continued_from_a_checkpoint_is_left_out(database: Database) -> None:
    used(database, seconds=11.0, work=WORK)
    for _ in range(3):
        used(database, seconds=3.0, work=WORK, resumed_from_step=1)
    assert seconds(database) == 10.0
    assert durations.measured(database, KEY).samples(VOLUME) == 1
    (latest,) = latest_uses.latest(database, ["T2V-A14B"]).values()
    assert (latest.successes, len(latest.seconds_per_work)) == (4, 1)


def test_a_tier_that_has_not_run_is_estimated_by_the_measured_ratio_or_as_exact(database: Database) -> None:
    used(database, seconds=11.0, work=WORK)
    assert seconds(database, speed="fast") == 10.0
    measured(database, speed="balanced")
    assert seconds(database, speed="fast") == 10.0, "the ratio is another tier's"
    measured(database)
    assert seconds(database, speed="fast") == 2.5
    assert seconds(database) == 10.0


def test_a_model_is_estimated_from_others_with_its_weights_by_the_work(database: Database) -> None:
    # Half the work: without guidance a step has one pass.
    used(database, PRESET, model_cache_key=KEY, seconds=6.0, work=WORK / 2, warm=False)
    assert seconds(database, "T2V-A14B") == 10.0
    assert durations.measured(database, KEY).load_seconds == 1.0
    used(database, seconds=9.0, work=WORK)
    assert (seconds(database, "T2V-A14B"), seconds(database, PRESET)) == (8.0, 10.0), "each its own"
    assert seconds(database, key="T2V-A14B:int8") is None


def test_phases_are_scaled_by_the_work(database: Database) -> None:
    params = new_job().params
    assert isinstance(params, GenerationParams)
    used(database, PRESET, model_cache_key=KEY, work=params.work / 4, device_name="CPU")
    found = durations.phase_times(database, KEY, params, "CPU")
    assert found.phases == {"loading": 1.0, "denoising": 36.0}
    assert found.step == 18.0
    measured(database)
    fast = durations.phase_times(database, KEY, params.model_copy(update={"speed": "fast"}), "CPU")
    assert fast.phases == {"loading": 1.0, "denoising": 9.0}
    assert durations.phase_times(database, KEY, params, "another").phases == {}


def test_phases_of_a_size_that_has_not_run_are_scaled_by_its_work_and_volume(database: Database) -> None:
    times = {"loading": 1.0, "encoding": 2.0, "denoising": 3.0, "decoding": 4.0, "muxing": 5.0}
    used(database, work=WORK, device_name="CPU", timings=times)
    larger = new_job(request={"resolution": "128x128", "frames": 17, "steps": 6}).params
    assert isinstance(larger, GenerationParams)
    factor = 4 * 17 / 9
    found = durations.phase_times(database, KEY, larger, "CPU")
    wanted = {
        "loading": 1.0, "encoding": 2.0, "denoising": 3.0 * larger.work / WORK, "decoding": 4.0 * factor,
        "muxing": 5.0 * factor,
    }  # fmt: skip
    assert found.phases == pytest.approx(wanted)
    assert found.step == pytest.approx(wanted["denoising"] / 6)
    same = {**times, "decoding": 50.0}
    used(database, width=128, height=128, frames=17, steps=6, work=larger.work, device_name="CPU", timings=same)
    assert durations.phase_times(database, KEY, larger, "CPU").phases == same, "of its own size alone"


def test_a_job_records_its_tier_with_its_use_and_for_placement(database: Database) -> None:
    job = accepted(database, request={"speed": "fast"})
    (waiting,) = dispatch.read_queue(database).waiting
    assert waiting.timing_key == f"{KEY}:fast"
    used(database, seconds=3.0, work=WORK, speed="fast")
    used(database, seconds=99.0, work=WORK)
    assert job.owner is None
    claimed(database, job.id)
    (busy,) = dispatch.read_queue(database).busy
    assert busy.timing_key == f"{KEY}:fast"
    attempts.succeed(database, job.id, 1, {"timings": {"denoising": 4.0}, "warm": True})
    assert seconds(database, speed="fast") == pytest.approx((2.0 + 4.0) / 2)
    assert gpu_time.awaited_gpu_seconds(database, "nobody") == 0


def test_the_estimate_of_the_page_is_of_the_tier(client: TestClient, database: Database) -> None:
    used(database, seconds=11.0, work=WORK)
    used(database, seconds=3.0, work=WORK, speed="fast")
    asked = "/api/v1/dashboard/estimate?model_id=T2V-A14B&resolution=64x64&frames=9&steps=2"
    assert client.get(asked).json()["generation_seconds"] == 10.0
    assert client.get(f"{asked}&speed=fast").json()["generation_seconds"] == 2.0
    assert client.get(f"{asked}&speed=turbo").status_code == 422


@both_databases
def test_times_are_read_from_their_index(database: Database) -> None:
    with database.write() as session:
        for place in range(400):
            session.connection().exec_driver_sql(
                "INSERT INTO uses (job_id, model_id, warm_key, outcome, mock, created_at, finished_at, width, height, "
                f"frames, steps, timings) VALUES ('{place}', 'T2V-A14B', '{KEY}', 'succeeded', "
                f"{'1' if database.is_sqlite else 'true'}, '2026-01-01 00:00:00', '2026-01-01 00:00:00', 64, 64, 9, 2, "
                "'{}')"
            )
        if not database.is_sqlite:
            session.connection().exec_driver_sql("ANALYZE uses")
            session.connection().exec_driver_sql("SET LOCAL enable_seqscan = off")
    statements: list[tuple[str, Any]] = []
    event.listen(database.engine, "before_cursor_execute", lambda *given: statements.append((given[2], given[3])))
    durations.measured(database, KEY)
    asked = [one for one in statements if "FROM uses" in one[0]]
    for (statement, values), index in zip(asked, ("ix_uses_times", "ix_uses_cold"), strict=True):
        with database.read() as session:
            explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
            rows = session.connection().exec_driver_sql(explain + statement, values).all()
        plan = "\n".join(str(row[-1]) for row in rows)
        assert index in plan
        assert "TEMP B-TREE" not in plan
        assert "Sort" not in plan


@both_databases
def test_the_time_of_loading_is_remembered_however_many_jobs_have_found_the_model_loaded(database: Database) -> None:
    used(database, seconds=14.0, timings={"loading": 4.0, "denoising": 10.0}, work=WORK, warm=False, days_ago=2)
    for place in range(130):
        used(database, seconds=10.0, timings={"denoising": 10.0}, work=WORK, warm=True, days_ago=1 - place / 200)
    assert durations.measured(database, KEY).load_seconds == 4.0
    assert durations.measured(database, KEY, devices=2).load_seconds == 4.0
