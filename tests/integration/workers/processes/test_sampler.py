"""The sampler of a worker, in this process: its records, and that unavailable services do not stop it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from shared.database.engine import Database, migrate
from shared.database.tables import Sample
from shared.errors import Unavailable
from shared.settings import Settings
from shared.telemetry import loop_reports
from shared.telemetry.loops import LoopReporter
from tests.conftest import RedisServer, both_databases
from tests.support import working
from tests.support.jobs import UNCOUNTED, accepted
from tests.support.stack import wait_for
from workers.devices.discovery import Device
from workers.processes import process
from workers.processes.sampler import Sampler


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Sampler]]:
    """Makes this process the worker of ``here/0``, a CPU device."""
    started: list[Sampler] = []

    def become(settings: Settings, database: Database) -> Sampler:
        device = Device("cpu", 0, "", "a CPU", 16_000)
        for name, value in {
            "settings": settings, "database": database, "device": device, "claimant": working.HERE,
            "meters": UNCOUNTED, "reporter": LoopReporter(database, "gpu-0@here", "here"),
        }.items():  # fmt: skip
            monkeypatch.setattr(process, name, lambda value=value: value)
        started.append(Sampler())
        return started[-1]

    yield become
    for sampler in started:
        sampler.stop()


def recorded(database: Database) -> list[Sample]:
    with database.read() as session:
        return list(session.exec(select(Sample).order_by(Sample.id)))  # type: ignore[arg-type]


def last(database: Database) -> tuple[Any, ...]:
    sample = recorded(database)[-1]
    return sample.job_id, sample.model_id, sample.phase


@both_databases
def test_a_sample_says_what_ran_and_in_which_phase(
    settings: Settings, database: Database, worker: Callable[..., Sampler]
) -> None:
    sampler = worker(settings, database)
    sampler.sample()
    (idle,) = recorded(database)
    assert (idle.device_key, idle.kind, idle.job_id, idle.model_id, idle.phase) == ("here/0", "cpu", None, None, None)
    assert idle.utilization_percent is not None
    assert idle.memory_used_mb is not None
    assert (idle.memory_total_mb, idle.temperature_celsius, idle.power_watts) == (16_000.0, None, None)

    job = working.claim(database, accepted(database).id)
    working.publish(settings.redis or "", job)
    sampler.sample()
    assert last(database) == (job.id, "T2V-A14B", None), "claimed, and no phase begun"
    working.report(settings.redis or "", job.id, job.attempt, 10.0, phase="encoding")
    sampler.sample()
    assert last(database) == (job.id, "T2V-A14B", "encoding")
    working.report(settings.redis or "", job.id, job.attempt - 1, 10.0, phase="decoding")
    sampler.sample()
    assert last(database) == (job.id, "T2V-A14B", None), "another attempt's word"
    working.finish(database, job, [])
    sampler.sample()
    assert last(database) == (None, None, None)


def test_a_mock_runs_no_model(settings: Settings, database: Database, worker: Callable[..., Sampler]) -> None:
    job = working.claim(database, accepted(database, mock=True).id)
    worker(settings, database).sample()
    assert last(database) == (job.id, None, None)


def test_without_redis_the_phase_alone_is_missing(
    settings: Settings, database: Database, redis_server: RedisServer, worker: Callable[..., Sampler]
) -> None:
    job = working.claim(database, accepted(database).id)
    sampler = worker(settings.model_copy(update={"redis_url": None}), database)
    sampler.sample()
    assert last(database) == (job.id, "T2V-A14B", None)
    redis_server.kill()
    gone = Settings(**{**settings.model_dump(), "redis_url": redis_server.url})
    worker(gone, database).sample()
    assert last(database) == (job.id, "T2V-A14B", None)


def test_a_database_that_is_away_costs_samples_and_nothing_else(
    tmp_path: Path, settings: Settings, worker: Callable[..., Sampler], caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:///{tmp_path / 'later.db'}"
    database = Database(url)
    sampler = worker(settings.model_copy(update={"sample_seconds": 0.02}), database)
    with pytest.raises(Unavailable):
        sampler.sample()
    sampler.start()
    wait_for(lambda: "loop sampler: DatabaseUnavailable" in caplog.text, 20)
    migrate(url)
    wait_for(lambda: len(recorded(database)) >= 3, 20)
    sampler.stop()
    assert not sampler.loop.is_alive()
    database.close()


def test_a_gauge_that_fails_is_read_again_and_no_error_ends_the_loop(
    settings: Settings, database: Database, worker: Callable[..., Sampler], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = worker(settings.model_copy(update={"sample_seconds": 0.02}), database)
    read, errors = sampler._gauge.read, iter([ValueError("the driver"), KeyError("power"), UnicodeError("a name")])

    def reading() -> Any:
        if (error := next(errors, None)) is not None:
            raise error
        return read()

    monkeypatch.setattr(sampler._gauge, "read", reading)
    sampler.start()
    wait_for(lambda: len(recorded(database)) >= 2, 20)
    assert [(seen.loop, seen.process) for seen in loop_reports.seen(database)] == [("sampler", "gpu-0@here")]
