"""What is read by lines and kinds says the same as going through every row."""

import random
from datetime import timedelta
from itertools import product
from typing import Any

import pytest
from sqlalchemy import event, update
from sqlmodel import col, select

from scheduler.dispatcher import Dispatcher
from shared import clock
from shared.catalogue.job_types import DOWNLOAD, GENERATION, DownloadParams, IntegrityCheckParams
from shared.database.engine import Database
from shared.database.tables import Job
from shared.forecast.order import queue_order
from shared.jobs import accepting, dispatch
from shared.jobs.accepting import NewJob
from shared.jobs.dispatch import Queue, Waiting
from shared.jobs.reading import lists, queue_positions, queues
from shared.messaging.progress import RestingRedis
from shared.settings import Settings
from shared.states import JobState, Phase, Priority
from tests.conftest import both_databases
from tests.support.jobs import accepted, new_job

pytestmark = both_databases

OWNERS = (None, "ann", "bob")


def stored(database: Database) -> list[Job]:
    with database.read() as session:
        return list(session.exec(select(Job)))


def changed(database: Database, job_ids: list[str], **values: Any) -> None:
    with database.write() as session:
        session.connection().execute(update(Job).where(col(Job.id).in_(job_ids)).values(**values))


@pytest.fixture
def mixed(database: Database) -> list[Job]:
    """Jobs of every kind, owner and state, some of them deleted, some of every model, an hour old and younger."""
    rng = random.Random(3)
    new = []
    for place in range(160):
        owner, priority = rng.choice(OWNERS), rng.choice(list(Priority))
        if place % 8 == 0:
            new.append(NewJob("integrity_check", IntegrityCheckParams(node="n"), priority, owner=owner))
        elif place == 1:
            new.append(NewJob(DOWNLOAD, DownloadParams(model_id="T2V-A14B", node="n"), priority, owner=owner))
        else:
            model_id = rng.choice(("T2V-A14B", "TI2V-5B"))
            new.append(new_job(model_id, owner=owner, priority=priority, mock=place % 11 == 0))
    made = [one.job for one in accepting.accept(database, new) if isinstance(one, accepting.Accepted)]
    for job in made:
        values: dict[str, Any] = {}
        state = rng.choice([JobState.QUEUED, JobState.QUEUED, JobState.RUNNING, *JobState])
        values["status"] = state
        if state in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED):
            values["finished_at"] = clock.now()
        if state == JobState.QUEUED and rng.random() < 0.3:
            values["phase"] = Phase.WAITING_FOR_MODEL
        if rng.random() < 0.1:
            values["deleted"] = True
        if rng.random() < 0.1:
            values["line"] = ""  # as a process of an older version stores it
        changed(database, [job.id], **values)
    return stored(database)


def test_every_filter_and_all_pages(database: Database, mixed: list[Job]) -> None:
    moment = sorted(job.created_at for job in mixed)[80]
    types, states, models = {job.type for job in mixed}, set(JobState), {job.model_id for job in mixed} - {None}
    asked = [*product((None, *types, "none"), (None, *states), (None, *models), OWNERS, (None, moment), (True, False))]
    for type, status, model_id, only, created_after, oldest_first in random.Random(5).sample(asked, 150):
        wanted = sorted(
            job.id
            for job in mixed
            if not job.deleted
            and (type is None or job.type == type)
            and (status is None or job.status == status)
            and (model_id is None or job.model_id == model_id)
            and (only is None or job.owner == only)
            and (created_after is None or job.created_at > created_after)
        )
        wanted = wanted if oldest_first else wanted[::-1]
        first = lists.page(
            database, limit=7, type=type, status=status, model_id=model_id, only=only, created_after=created_after,
            oldest_first=oldest_first,
        )  # fmt: skip
        assert [job.id for job in first.jobs] == wanted[:7], (type, status, model_id, only, created_after)
        assert first.has_more == (len(wanted) > 7)
        if first.has_more and status is not None:
            second = lists.page(
                database, limit=100, after=wanted[6], type=type, status=status, model_id=model_id, only=only,
                created_after=created_after, oldest_first=oldest_first,
            )  # fmt: skip
            assert [job.id for job in second.jobs] == wanted[7:107]


def test_a_job_that_changes_its_state_meanwhile_is_on_the_page_once(database: Database) -> None:
    """It is claimed, or given back, after the first of the statements that make the page."""
    before, after = JobState.QUEUED, JobState.RUNNING
    changed(database, [accepted(database).id], status=after)
    accepted(database)  # so that jobs of both states are looked for
    for first, second in ((before, after), (after, before)):
        job = accepted(database)
        changed(database, [job.id], status=first)
        statements = 0

        def between(*_: Any, job_id: str = job.id, second: JobState = second) -> None:
            nonlocal statements
            statements += 1
            if statements == 2:
                other = Database(database.url)
                changed(other, [job_id], status=second)
                other.close()

        event.listen(database.engine, "after_cursor_execute", between)
        try:
            page = lists.page(database, limit=10, type=GENERATION)
        finally:
            event.remove(database.engine, "after_cursor_execute", between)
        assert statements > 3
        assert [one.id for one in page.jobs].count(job.id) == 1


def test_figures_are_those_of_the_rows(database: Database, mixed: list[Job]) -> None:
    queued = [job for job in mixed if job.status == JobState.QUEUED]
    running = [job for job in mixed if job.status == JobState.RUNNING]
    for depth in queues.depths(database):
        of_these = [job for job in queued if (job.priority, job.model_id) == (depth.priority, depth.model_id)]
        assert depth.queued == len(of_these)
        assert depth.waiting_for_model == sum(job.phase == Phase.WAITING_FOR_MODEL for job in of_these)
        assert (depth.oldest_seconds is None) == (not of_these)
    assert sum(depth.queued for depth in queues.depths(database)) == len(queued)
    assert sum(depth.running for depth in queues.depths(database)) == len(running)
    ready = [job for job in queued if job.phase != Phase.WAITING_FOR_MODEL]
    assert queues.waiting(database).queued == len(ready)
    loads = queues.generations(database)
    for model_id in {job.model_id for job in mixed}:
        real = [job for job in mixed if job.model_id == model_id and job.type == GENERATION and not job.mock]
        load = loads.get(model_id or "", queues.Load())
        assert load.queued == sum(job.status == JobState.QUEUED for job in real)
        assert load.running == sum(job.status == JobState.RUNNING for job in real)
    ahead = queues.positions(database, mixed)
    assert ahead == {
        job.id: sum((other.priority, other.queued_at) < (job.priority, job.queued_at) for other in queued)
        for job in queued
    }
    newest = sorted((job.id for job in queued if not job.deleted), reverse=True)[:20]
    seen = queues.stirred(database, clock.now() + timedelta(hours=1), limit=20)
    assert {job_id for job_id, row in seen.items() if row[1] == JobState.QUEUED} == set(newest)


@pytest.fixture
def long_queue(database: Database) -> list[str]:
    """3,000 jobs: one owner has most of them, six have few, in every priority; some are held back."""
    rng = random.Random(9)
    new = [
        new_job(
            owner=rng.choice(["much"] * 14 + [f"o{number}" for number in range(6)]),
            priority=rng.choice(list(Priority)),
            delay_seconds=rng.choice([0.0] * 9 + [3600.0]),
        )
        for _ in range(3_000)
    ]
    outcomes = [one for first in range(0, 3_000, 500) for one in accepting.accept(database, new[first : first + 500])]
    return [one.job.id for one in outcomes if isinstance(one, accepting.Accepted)]


def test_the_order_that_is_published_is_that_of_the_whole_queue(
    database: Database, settings: Settings, long_queue: list[str]
) -> None:
    Dispatcher(settings, database, lambda *_: None).run_pass()
    rows = stored(database)
    whole = Queue(dispatch.read_queue(database).now, tuple(_waiting(job) for job in rows), ())
    wanted = queue_order(whole)[: dispatch.ORDERED]
    told = queue_positions.positions(database, RestingRedis(settings.redis), rows)
    exact = [job_id for job_id, position in told.items() if not position.approximate]
    assert sorted(exact, key=lambda job_id: told[job_id].ahead) == wanted


def test_a_look_sees_the_first_of_every_line_and_no_more_than_it_needs(
    database: Database, long_queue: list[str]
) -> None:
    queue = dispatch.read_queue(database)
    rows = stored(database)
    seen = {job.job_id for job in queue.waiting}
    for line in {job.line for job in rows}:
        of_line = sorted((job for job in rows if job.line == line), key=lambda job: job.queued_at)
        assert of_line[0].id in seen
        ready = [job for job in of_line if job.not_before <= queue.now]
        assert not ready or ready[0].id in seen
    assert len(seen) < 1_500


def _waiting(job: Job) -> Waiting:
    return Waiting(
        job.id, job.type, job.model_id, job.model_cache_key, job.target_node, job.priority, job.owner, job.queued_at,
        job.not_before, job.work, job.mock, job.min_vram_mb, job.min_ram_mb, job.phase, job.dispatched_to,
        job.dispatched_at, job.unplaceable_since, job.line,
    )  # fmt: skip
