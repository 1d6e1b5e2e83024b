"""The list in the order of service, the search, and the totals, compared with going through every row."""

import random
from typing import Any

import pytest

from shared.database.engine import Database
from shared.database.tables import Job
from shared.jobs.lines import holding
from shared.jobs.reading import queue_order, queue_positions, search, totals
from shared.jobs.reading.queue_order import Which
from shared.messaging.progress import RestingRedis
from shared.states import JOB_ENDS, JobState
from tests.conftest import both_databases
from tests.integration.shared.jobs.test_large_queues import changed, mixed, stored  # noqa: F401
from tests.support.jobs import accepted

pytestmark = both_databases


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The order that the dispatcher has published: change the list."""
    order: list[str] = []
    monkeypatch.setattr(queue_positions, "order", lambda client: list(order))
    return order


NO_REDIS = RestingRedis(None)


def pages(database: Database, which: Which, limit: int) -> list[str]:
    """The ids on all pages."""
    found: list[str] = []
    after = None
    while True:
        page = queue_order.page(database, NO_REDIS, which, limit, after)
        found += [job.id for job in page.jobs]
        after = page.next
        if after is None:
            return found
        assert queue_order.CURSOR.fullmatch(after), after
        assert page.jobs


def expected(rows: list[Job], published: list[str], which: Which) -> list[str]:
    rows = [
        job
        for job in rows
        if not job.deleted and which.fits(job) and (which.status is None or job.status == which.status)
    ]
    running = sorted(job.id for job in rows if job.status == JobState.RUNNING)
    queued = [job for job in rows if job.status == JobState.QUEUED and job.held is None]
    first = [job_id for job_id in published if job_id in {job.id for job in queued}]
    line = [job for job in queued if job.id not in first]
    line.sort(key=lambda job: (job.priority, job.queued_at, job.id))
    held = [job for job in rows if job.status == JobState.QUEUED and job.held is not None]
    held.sort(key=lambda job: (job.queued_at, job.id))
    paused = sorted(job.id for job in rows if job.status == JobState.PAUSED)
    ended = sorted((job.id for job in rows if job.status in JOB_ENDS), reverse=True)
    return [*running, *first, *(job.id for job in line), *(job.id for job in held), *paused, *ended]


def test_all_pages_have_each_job_once_in_the_order_of_service(
    database: Database,
    mixed: list[Job],  # noqa: F811
    published: list[str],
) -> None:
    rng = random.Random(7)
    waiting = [job.id for job in mixed if job.status == JobState.QUEUED]
    for job_id, reason in zip(waiting[:12], (holding.START_TIME, holding.WINDOW, holding.DEPENDENCY) * 4, strict=True):
        row = next(job for job in mixed if job.id == job_id)
        changed(database, [job_id], held=reason, line=holding.waiting_line(reason, row.owner), queued_at=2e9)
    rows = stored(database)
    in_lines = [job for job in rows if job.status == JobState.QUEUED and job.held is None and job.line]
    in_lines.sort(key=lambda job: job.queued_at)
    # Each line is published in its order, and the lines are mixed.
    first = [job.id for job in sorted(in_lines, key=lambda job: (job.queued_at, rng.random()))][:20]
    for order in ([], first):
        published[:] = order
        for which in (
            Which(), Which(only="ann"), Which(status="queued"), Which(type="generation", model_id="T2V-A14B"),
            Which(status="succeeded"), Which(status="running"), Which(only="bob", status="queued", type="generation"),
        ):  # fmt: skip
            for limit in (7, 100):
                assert pages(database, which, limit) == expected(rows, order, which), (which, limit, bool(order))


def test_jobs_that_were_queued_at_once_are_on_one_page_each(database: Database, published: list[str]) -> None:
    ids = [accepted(database).id for _ in range(9)]
    changed(database, ids, queued_at=1_790_000_000.123456)
    published[:] = ids[3:5]
    assert pages(database, Which(), 2) == [*ids[3:5], *ids[:3], *ids[5:]]


def test_a_page_after_a_job_that_has_left_the_queue_leaves_none_out(database: Database, published: list[str]) -> None:
    ids = [accepted(database).id for _ in range(6)]
    published[:] = ids
    first = queue_order.page(database, NO_REDIS, Which(status="queued"), 2)
    changed(database, ids[:2], status=JobState.RUNNING)
    published[:] = ids[2:]
    rest = queue_order.page(database, NO_REDIS, Which(status="queued"), 10, first.next)
    assert [job.id for job in rest.jobs] == ids[2:]


def test_search_by_words_and_by_the_beginning_of_the_id(database: Database, monkeypatch: Any) -> None:
    boat = accepted(database, prompt="A paper BOAT on the Ärmelkanal").id
    other = accepted(database, prompt="a paper crane").id
    hidden = accepted(database, prompt="a paper boat", owner="ann").id
    found = search.page(database, "ärmelkanal boat", only=None, limit=5)
    assert ([job.id for job in found.jobs], found.next, found.looked_at) == ([boat], None, 3)
    assert [job.id for job in search.page(database, "paper", only="ann", limit=5).jobs] == [hidden]
    assert [job.id for job in search.page(database, other[:30], only=None, limit=5).jobs] == [other]
    assert not search.page(database, "100%", only=None, limit=5).jobs, "nothing is a wildcard"
    monkeypatch.setattr(search, "LOOKED_AT", 2)
    monkeypatch.setattr(search, "_AT_ONCE", 1)
    bounded = search.page(database, "ärmelkanal", only=None, limit=5)
    assert (bounded.jobs, bounded.next, bounded.looked_at) == ([], other, 2)
    further = search.page(database, "ärmelkanal", only=None, limit=5, after=bounded.next)
    assert [job.id for job in further.jobs] == [boat]
    one = search.page(database, "paper", only=None, limit=1)
    two = search.page(database, "paper", only=None, limit=1, after=one.next)
    assert [one.jobs[0].id, two.jobs[0].id] == [hidden, other]


def test_totals_by_state(database: Database, mixed: list[Job]) -> None:  # noqa: F811
    for only, type, model_id in ((None, None, None), ("ann", None, None), (None, "generation", "TI2V-5B")):
        wanted = dict.fromkeys(JobState, 0)
        for job in mixed:
            if not job.deleted and Which(only, type, None, model_id).fits(job):
                wanted[JobState(job.status)] += 1
        assert totals.by_state(database, only=only, type=type, model_id=model_id) == wanted


def test_jobs_moved_to_the_front_are_first_whether_published_or_not(database: Database, published: list[str]) -> None:
    ids = [accepted(database).id for _ in range(4)]
    holding.move_to_front(database, ids[2])
    holding.move_to_front(database, ids[3])
    assert pages(database, Which(status="queued"), 1) == [ids[3], ids[2], ids[0], ids[1]]
    published[:] = [ids[2], ids[0]]
    assert pages(database, Which(status="queued"), 3) == [ids[3], ids[2], ids[0], ids[1]]
