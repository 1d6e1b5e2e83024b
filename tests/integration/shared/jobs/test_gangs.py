"""Claims of jobs on several devices: all devices are taken by one row, and freed with it."""

import threading
from datetime import timedelta

import pytest
from sqlmodel import select

from shared import clock
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Device, Job, Use
from shared.jobs import attempts, dispatch, finishing
from shared.jobs.attempts import Claimant
from shared.jobs.reading import queues
from shared.jobs.usage import durations, gpu_time
from tests.support.jobs import DEMO, accepted, hold

BOTH = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


def on(index: int) -> Claimant:
    return Claimant(node="n", worker=f"gpu-{index}@n", device=f"cpu-{index}", device_key=f"n/{index}")


def registered(database: Database, count: int) -> None:
    hold(database, *DEMO.model_ids, node="n")
    for index in range(count):
        device = Device(
            key=f"n/{index}", node="n", index=index, kind="cpu", uuid=f"cpu-{index}", name="CPU", memory_mb=9000,
            worker=f"gpu-{index}@n", pid=1, visible="", started_at=clock.now(), seen_at=0.0, warm=[],
        )  # fmt: skip
        nodes.register_device(database, device)


def gang(database: Database, leader: int = 0, member: int = 1) -> Job:
    job = accepted(database, request={"devices_per_job": 2})
    assert job.devices == 2
    dispatch.mark_dispatched(database, [(job.id, f"n/{leader}")], {job.id: f"n/{member}"})
    return job


def single(database: Database, index: int) -> Job:
    job = accepted(database)
    dispatch.mark_dispatched(database, [(job.id, f"n/{index}")])
    return job


def claimed(database: Database, job: Job, index: int) -> Job | None:
    return attempts.claim(database, job.id, on(index), 60.0)


@BOTH
def test_a_member_runs_nothing_else_until_the_gang_has_left_its_devices(database: Database) -> None:
    registered(database, 2)
    team, other = gang(database), single(database, 1)
    running = claimed(database, team, 0)
    assert running is not None
    assert running.members == "n/1"
    assert claimed(database, other, 1) is None
    assert {key: job.id for key, job in queues.on_devices(database).items()} == {"n/0": team.id, "n/1": team.id}
    finishing.release_device(database, team.id, running.attempt, 60.0)
    assert claimed(database, other, 1) is not None
    assert set(queues.on_devices(database)) == {"n/1"}


@BOTH
@pytest.mark.parametrize("end", ["crashed", "given back", "cancelled", "failed"])
def test_every_end_of_the_attempt_frees_all_devices(database: Database, end: str) -> None:
    registered(database, 2)
    team, other = gang(database), single(database, 1)
    running = claimed(database, team, 0)
    assert running is not None
    if end == "crashed":
        attempts.crashed(database, team.id, running.attempt, "died", 0.0)
    elif end == "given back":
        attempts.give_back(database, team.id, running.attempt)
    elif end == "cancelled":
        attempts.cancelled(database, team.id, running.attempt)
    else:
        attempts.fail(database, team.id, running.attempt, attempts.Failure("x", "x", retryable=False))
    assert claimed(database, other, 1) is not None


@BOTH
def test_a_gang_begins_only_while_all_its_devices_accept_jobs_and_are_free(database: Database) -> None:
    registered(database, 3)
    busy = single(database, 1)
    assert claimed(database, busy, 1) is not None
    assert claimed(database, gang(database), 0) is None
    waiting = gang(database, leader=0, member=2)
    nodes.deregister_device(database, "n/2", 1)
    assert claimed(database, waiting, 0) is None
    registered(database, 3)
    dispatch.mark_dispatched(database, [(waiting.id, "n/0")])  # as by a dispatcher that knows no members
    assert claimed(database, waiting, 0) is None
    dispatch.mark_dispatched(database, [(waiting.id, "n/0")], {waiting.id: "n/2"})
    assert claimed(database, waiting, 0) is not None


@BOTH
def test_of_two_gangs_that_share_a_device_one_begins(database: Database) -> None:
    registered(database, 2)
    for _ in range(5):
        teams = [gang(database, 0, 1), gang(database, 1, 0)]
        found: list[Job] = []

        def claim(index: int, teams: list[Job] = teams, found: list[Job] = found) -> None:
            if (job := claimed(database, teams[index], index)) is not None:
                found.append(job)

        threads = [threading.Thread(target=claim, args=(index,)) for index in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(found) == 1
        attempts.cancelled(database, found[0].id, found[0].attempt)


def test_device_time_counts_every_device_and_figures_do_not_mix(database: Database) -> None:
    registered(database, 2)
    team = gang(database)
    running = claimed(database, team, 0)
    assert running is not None
    result = {"timings": {"denoising": 1.0}, "warm": True}
    ended = attempts.succeed(database, team.id, running.attempt, result)
    assert ended.finished_at is not None
    assert ended.started_at is not None
    with database.read() as session:
        use = session.exec(select(Use)).one()
    assert use.devices == 2
    assert use.device_seconds == pytest.approx(2 * (ended.finished_at - ended.started_at).total_seconds())
    key = ended.model_cache_key
    assert durations.measured(database, key).samples(1.0) == 0
    assert durations.measured(database, key, devices=2).samples(1.0) == 1
    assert gpu_time.gpu_seconds(database, "nobody", clock.now() - timedelta(days=1), clock.now()) == 0.0
