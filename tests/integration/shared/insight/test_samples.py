"""Samples of devices: the newest of each, and a model's averages, the same before and after hours are rolled up."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlmodel import select

from scheduler import ticks
from scheduler.schedule import SCHEDULES
from shared import clock
from shared.database.engine import Database
from shared.database.tables import Sample, SampleHour
from shared.insight import samples
from shared.insight.samples import Averages, Doing, Reading
from tests.conftest import both_databases

pytestmark = both_databases

NOON = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
T2V = Doing("job-1", "T2V-A14B", "denoising")
IDLE = Doing(None, None, None)


def sampled(database: Database, at: datetime, doing: Doing = T2V, device: str = "here/0", **figures: Any) -> None:
    values = {
        "utilization_percent": 80.0, "memory_used_mb": 30_000.0, "memory_total_mb": 80_000.0,
        "temperature_celsius": 60.0, "power_watts": 500.0, **figures,
    }  # fmt: skip
    kind = values.pop("kind", "cuda")
    samples.record(database, device, kind, Reading(**values), doing, at)


def rows(database: Database, table: type[Sample] | type[SampleHour]) -> list[Any]:
    with database.read() as session:
        return list(session.exec(select(table)))


def test_the_newest_sample_of_each_device_that_is_not_too_old(database: Database) -> None:
    assert samples.latest(database, NOON) == {}
    for seconds in (0, 5, 10):
        sampled(database, NOON + timedelta(seconds=seconds), utilization_percent=float(seconds))
        sampled(database, NOON + timedelta(seconds=seconds - 60), IDLE, "here/1")
    found = samples.latest(database, NOON - timedelta(hours=1))
    assert {key: sample.at for key, sample in found.items()} == {
        "here/0": NOON + timedelta(seconds=10),
        "here/1": NOON - timedelta(seconds=50),
    }
    assert (found["here/0"].utilization_percent, found["here/0"].job_id, found["here/0"].phase) == (
        10.0, "job-1", "denoising",
    )  # fmt: skip
    assert (found["here/1"].model_id, found["here/1"].kind) == (None, "cuda")
    assert set(samples.latest(database, NOON)) == {"here/0"}


def test_the_mean_utilisation_of_each_device_since_a_moment(database: Database) -> None:
    for seconds, figure in ((0, 10.0), (30, None), (45, 20.0), (50, 300.0)):
        sampled(database, NOON + timedelta(seconds=seconds), IDLE, utilization_percent=figure)
    sampled(database, NOON + timedelta(seconds=40), IDLE, "here/1", utilization_percent=None)
    sampled(database, NOON + timedelta(seconds=40), IDLE, "here/2", utilization_percent=0.0)
    found = samples.utilizations(database, NOON + timedelta(seconds=1))
    assert found == {"here/0": 60.0, "here/2": 0.0}, "of one core, so more than 100 % counts as 100 %"


def test_averages_are_of_the_samples_while_a_job_of_the_model_ran(database: Database) -> None:
    assert samples.averages(database, NOON - timedelta(days=30)) == {}
    sampled(database, NOON, utilization_percent=60.0, memory_used_mb=20_000.0, temperature_celsius=None)
    sampled(database, NOON, utilization_percent=90.0, memory_used_mb=50_000.0, power_watts=None)
    sampled(database, NOON, IDLE, utilization_percent=0.0)
    sampled(database, NOON, Doing("job-2", "TI2V-5B", None), **dict.fromkeys(vars(NOTHING_KNOWN)))
    assert samples.averages(database, NOON - timedelta(days=30)) == {
        "T2V-A14B": Averages(2, 75.0, 35_000.0, 50_000.0, 80_000.0, 60.0, 500.0, "cuda"),
        "TI2V-5B": Averages(1, None, None, None, None, None, None, "cuda"),
    }


NOTHING_KNOWN = Reading(None, None, None, None, None)


def some_hours(database: Database) -> None:
    for hours_ago, percent, used in ((30.0, 10.0, 1e3), (3.5, 20.0, 2e3), (3.4, 30.0, 9e3), (1.2, 40.0, 4e3)):
        sampled(database, NOON - timedelta(hours=hours_ago), utilization_percent=percent, memory_used_mb=used)
    sampled(database, NOON - timedelta(hours=3.5), device="here/1", memory_total_mb=24_000.0, power_watts=None)
    sampled(database, NOON - timedelta(hours=3.5), IDLE, utilization_percent=0.0)
    sampled(database, NOON - timedelta(minutes=1), utilization_percent=90.0)
    sampled(database, NOON, Doing("job-3", "TI2V-5B", "loading"))


@pytest.mark.parametrize("since", [timedelta(days=30), timedelta(hours=4), timedelta(hours=3.45), timedelta(hours=1)])
def test_averages_are_the_same_before_and_after_hours_are_rolled_up(database: Database, since: timedelta) -> None:
    some_hours(database)
    before = samples.averages(database, NOON - since)
    assert before["T2V-A14B"].samples == {30 * 24: 6, 4: 5, 3.45: 3, 1: 1}[since.total_seconds() / 3600]
    assert samples.roll_up(database, NOON + timedelta(minutes=4)) == 3
    assert samples.averages(database, NOON - since) == before
    assert samples.roll_up(database, NOON + timedelta(minutes=5)) == 1, "the last hour has settled now"
    assert samples.averages(database, NOON - since) == before
    sampled(database, NOON + timedelta(minutes=6), utilization_percent=0.0)
    assert samples.averages(database, NOON - since)["T2V-A14B"].samples == before["T2V-A14B"].samples + 1


def test_an_hour_is_one_row_for_each_device_and_model(database: Database) -> None:
    some_hours(database)
    samples.roll_up(database, NOON)
    found = {(row.device_key, row.hour.hour, row.model_id): row for row in rows(database, SampleHour)}
    assert set(found) == {
        ("here/0", 6, "T2V-A14B"), ("here/0", 8, "T2V-A14B"), ("here/1", 8, "T2V-A14B"), ("here/0", 8, ""),
        ("here/0", 10, "T2V-A14B"),
    }  # fmt: skip
    hour = found["here/0", 8, "T2V-A14B"]
    assert (hour.samples, hour.utilization_sum, hour.utilization_count) == (2, 50.0, 2)
    assert (hour.memory_sum_mb, hour.memory_max_mb, hour.memory_count, hour.memory_total_mb) == (11e3, 9e3, 2, 80e3)
    assert (hour.temperature_sum, hour.temperature_max, hour.power_sum, hour.power_count) == (120.0, 60.0, 1000.0, 2)
    assert found["here/1", 8, "T2V-A14B"].power_count == 0


def test_rolling_up_again_changes_nothing_and_raw_rows_go_after_a_day(database: Database) -> None:
    some_hours(database)
    assert samples.roll_up(database, NOON) == 3
    assert [row.at for row in rows(database, Sample) if row.at < NOON - timedelta(days=1)] == []
    stored = [row.model_dump() for row in rows(database, SampleHour)]
    assert samples.roll_up(database, NOON) == 0
    assert [row.model_dump() for row in rows(database, SampleHour)] == stored
    assert samples.averages(database, NOON - timedelta(days=30))["T2V-A14B"].samples == 6, (
        "the old one is still counted"
    )
    samples.roll_up(database, NOON + timedelta(days=2))
    assert rows(database, Sample) == []
    month = samples.averages(database, NOON - timedelta(days=30))
    assert {model_id: averages.samples for model_id, averages in month.items()} == {"T2V-A14B": 6, "TI2V-5B": 1}


def test_hours_go_after_90_days(database: Database) -> None:
    for days_ago in (91, 89, 31):
        sampled(database, NOON - timedelta(days=days_ago))
        samples.roll_up(database, NOON - timedelta(days=days_ago - 1))
    assert len(rows(database, SampleHour)) == 3
    month_ago = samples.averages(database, NOON - timedelta(days=32))
    samples.roll_up(database, NOON)
    assert [row.hour for row in rows(database, SampleHour)] == [NOON - timedelta(days=89), NOON - timedelta(days=31)]
    assert samples.averages(database, NOON - timedelta(days=32)) == month_ago
    samples.roll_up(database, NOON + timedelta(days=100))
    assert rows(database, SampleHour) == []
    sampled(database, NOON + timedelta(days=100))
    assert samples.roll_up(database, NOON + timedelta(days=101)) == 1, "also where none is left to go on from"


def test_gpus_alone_count_for_a_model_that_ran_on_cpu_devices_too(database: Database) -> None:
    sampled(database, NOON, kind="cpu", device="there/0", utilization_percent=190.0)
    only_cpu = samples.averages(database, NOON - timedelta(days=1))["T2V-A14B"]
    assert (only_cpu.kind, only_cpu.utilization_percent) == ("cpu", 190.0)
    sampled(database, NOON, utilization_percent=70.0)
    assert samples.averages(database, NOON - timedelta(days=1))["T2V-A14B"].utilization_percent == 70.0
    samples.roll_up(database, NOON + timedelta(hours=2))
    both = samples.averages(database, NOON - timedelta(days=1))["T2V-A14B"]
    assert (both.kind, both.samples, both.utilization_percent) == ("cuda", 1, 70.0)


def test_the_tick_rolls_up_once_in_its_period(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticks, "_ground", lambda: (None, database))
    (schedule,) = [one for one in SCHEDULES if one.name == "samples"]
    assert schedule.task == ticks.samples_tick.name
    sampled(database, clock.now() - timedelta(hours=3))
    assert ticks.samples_tick(schedule.name, schedule.every_seconds) == "1 hours rolled up"
    assert ticks.samples_tick(schedule.name, schedule.every_seconds) in (None, "0 hours rolled up")
    assert len(rows(database, SampleHour)) == 1
