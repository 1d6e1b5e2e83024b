"""Both databases read by the indexes that are there for it, whatever the table holds."""

import re
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from itertools import product

import pytest
from sqlalchemy import event, text

from shared import clock, daily_window
from shared.database.engine import Database, migrate
from shared.jobs import batches, bulk, dispatch, download_control, records
from shared.jobs.ending import webhooks
from shared.jobs.flows import advancing
from shared.jobs.lines import holding, windows
from shared.jobs.reading import lists, queues, running_attempts
from shared.states import JobState
from tests.bench.large.scale import store
from tests.conftest import both_databases
from tests.support.flows import Node, accepted_flow
from tests.support.jobs import DEMO

_LONG_AGO = timedelta(days=3650)


def plans(database: Database, ask: Callable[[], object]) -> list[set[str]]:
    """The indexes of the table of jobs by which each statement is carried out that `ask` makes."""
    found = [_indexes(plan) for plan in explained(database, ask, "jobs")]
    assert found
    return found


def explained(database: Database, ask: Callable[[], object], table: str) -> list[str]:
    """The plan of each statement about that table that `ask` makes."""
    asked = []

    def note(_: object, __: object, statement: str, values: object, *___: object) -> None:
        asked.append((statement, values))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        ask()
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    found = []
    with database.read() as session:
        for statement, values in asked:
            if table in statement:
                rows = session.connection().exec_driver_sql(explain + statement, values)  # type: ignore[arg-type]
                found.append("\n".join(str(row[-1]) for row in rows))
    return found


def _indexes(plan: str) -> set[str]:
    """The indexes that a plan reads; also `whole table` where it reads that."""
    found = set(re.findall(r"ix_jobs_\w+|jobs_pkey|sqlite_autoindex_jobs_\d", plan))
    if re.search(r"Seq Scan on jobs|SCAN (inner_)?jobs$", plan, re.MULTILINE):
        found.add("whole table")
    return found


def all_of(database: Database, ask: Callable[[], object]) -> set[str]:
    return set().union(*plans(database, ask))


@pytest.mark.parametrize("counted", [False, True], ids=["as it is", "after ANALYZE and a start"])
@pytest.mark.parametrize(("ended", "queued"), [(0, 1), (0, 3000), (3000, 0), (3000, 300)])
def test_sqlite_finds_what_the_dispatcher_asks_for(database: Database, ended: int, queued: int, counted: bool) -> None:
    store(database, ended=ended, queued=queued)
    if counted:
        with database.write() as session:
            session.connection().execute(text("ANALYZE"))
        database.close()
        migrate(database.url)
    of_states = {"ix_jobs_ended", "ix_jobs_kind"}
    queue = dispatch.read_queue(database)
    read_queue = all_of(database, lambda: dispatch.read_queue(database))
    assert {"ix_jobs_line"} <= read_queue <= {"ix_jobs_line", "ix_jobs_bell"} | of_states
    assert len(read_queue & of_states) == 1, "those that run"
    if queue.cuts:
        assert "ix_jobs_bell" in read_queue
        further = all_of(database, lambda: dispatch.read_further(database, queue, queue.cuts[:1], 8))
        assert further == {"ix_jobs_line"}
    assert all_of(database, lambda: dispatch.next_on(database, "n/0")) == {"ix_jobs_bell"}
    assert all_of(database, lambda: queues.queued_by_priority(database)) == {"ix_jobs_order"}
    assert all_of(database, lambda: queues.waiting(database)) == {"ix_jobs_line"}
    assert all_of(database, lambda: running_attempts.lapsed(database)) <= of_states
    assert all_of(database, lambda: download_control.stopped_by_full_disk(database)) <= of_states
    assert "whole table" not in all_of(database, lambda: queues.depths(database))
    in_force = windows.Windows(daily_window.parse("00:00-00:01 UTC"))
    of_held = {"ix_jobs_held", "ix_jobs_line", "sqlite_autoindex_jobs_1"}  # the last one finds those that are held
    assert all_of(database, lambda: holding.follow_windows(database, in_force)) <= of_held
    assert all_of(database, lambda: dispatch.read_held(database, 10)) == {"ix_jobs_held"}
    assert all_of(database, lambda: holding.with_latest_start(database)) == {"ix_jobs_expiring"}
    assert all_of(database, lambda: queues.held_by_reason(database, [])) == {"ix_jobs_held"}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_what_is_due_is_sought_by_its_time(database: Database) -> None:
    """However much is stored for later, PostgreSQL reads only what is due."""
    store(database, ended=0, queued=3000)
    with database.write() as session:
        connection = session.connection()
        in_a_day = f"{time.time() + 86400} + row_number"
        numbered = "(SELECT id, row_number() OVER (ORDER BY id) FROM jobs) AS numbered"
        connection.exec_driver_sql(
            f"UPDATE jobs SET held = 'start_time', queued_at = {in_a_day}, start_before = {in_a_day} FROM {numbered} "
            "WHERE jobs.id = numbered.id"
        )
        connection.exec_driver_sql(
            "INSERT INTO webhook_messages (id, job_id, type, url, receiver, data, state, created_at, due_at, tries)"
            " SELECT id, id, 'job.succeeded', 'https://h/', 'h:443', '{}', 'waiting', now(), queued_at, 1 FROM jobs"
        )
        connection.exec_driver_sql("ANALYZE jobs")
        connection.exec_driver_sql("ANALYZE webhook_messages")
    asked: list[tuple[Callable[[], object], str, str]] = [
        (lambda: holding.release_due(database), "jobs", "queued_at"),
        (lambda: holding.expired(database), "jobs", "start_before"),
        (lambda: webhooks.take_due(database, 60.0), "webhook_messages", "due_at"),
    ]
    for ask, table, column in asked:
        for plan in explained(database, ask, table):
            assert re.search(rf"Index Cond: .*{column} <= ", plan), plan


@both_databases
def test_a_pass_reads_the_flows_of_running_jobs_alone(database: Database) -> None:
    for _ in range(300):
        accepted_flow(database, a=Node(), b=Node(after=("a",)))
    with database.write() as session:
        connection = session.connection()
        first = connection.exec_driver_sql("SELECT min(id) FROM jobs").scalar_one()
        connection.exec_driver_sql(f"UPDATE jobs SET status = 'running' WHERE id = '{first}'")
        connection.exec_driver_sql("ANALYZE")
    about_jobs, *about_flows = explained(database, lambda: advancing.note_started(database), "flow")
    assert _indexes(about_jobs) & {"ix_jobs_ended", "ix_jobs_kind"}, about_jobs
    assert about_flows
    assert not any("jobs" in plan for plan in about_flows), about_flows


@both_databases
def test_what_is_kept_is_not_read_to_find_what_is_to_be_dropped(database: Database) -> None:
    store(database, ended=3000, queued=300)
    read = all_of(database, lambda: records.purgeable(database, clock.now() - _LONG_AGO))
    assert {"ix_jobs_hidden", "ix_jobs_ended"} == read


@both_databases
def test_batches_and_bulk_actions_are_found_by_their_indexes(database: Database) -> None:
    store(database, ended=8000, queued=2000)
    with database.write() as session:
        some = "(SELECT id FROM jobs WHERE substr(id, 36) = '0')"
        session.connection().exec_driver_sql(f"UPDATE jobs SET batch_id = substr(id, 1, 4) WHERE id IN {some}")
        batch_id = session.connection().exec_driver_sql("SELECT min(batch_id) FROM jobs").scalar_one()
        if not database.is_sqlite:
            session.connection().exec_driver_sql("ANALYZE jobs")
    for status, after in product((None, "queued", "succeeded"), (None, "0")):
        finding, *_ = plans(
            database, partial(lists.page, database, limit=50, batch_id=batch_id, status=status, after=after)
        )
        assert finding == {"ix_jobs_batch"}, (status, after)
    assert all_of(database, lambda: batches.counts(database, [batch_id])) == {"ix_jobs_batch"}
    assert all_of(database, lambda: batches.members(database, batch_id)) == {"ix_jobs_batch"}
    assert all_of(database, lambda: bulk.claim_next(database, "web@here", 1, 60.0)) <= {"ix_jobs_held"}
    before = clock.now() - timedelta(days=1)
    *finding, showing = plans(database, partial(lists.page, database, limit=50, status="queued", created_before=before))
    assert set().union(*finding) <= {"ix_jobs_kind", "ix_jobs_ended"}
    assert "whole table" not in showing


@both_databases
def test_a_list_is_read_from_the_index_of_its_kinds(database: Database) -> None:
    """Also of a kind that most jobs are of, which a planner would look for in the order of the ids, or anywhere."""
    store(database, ended=8000, queued=2000)
    with database.read() as session:
        middle = session.connection().exec_driver_sql("SELECT id FROM jobs ORDER BY id LIMIT 1 OFFSET 500").scalar_one()
    since = clock.now() - timedelta(days=29)
    for status, type, model_id, oldest_first, after, created_after in product(
        (None, *JobState), (None, "generation", "download"), (None, DEMO.model_ids[0]), (False, True),
        (None, middle), (None, since),
    ):  # fmt: skip
        if (status, type, model_id) == (None, None, None):
            continue

        ask = partial(
            lists.page, database, limit=50, status=status, type=type, model_id=model_id,
            oldest_first=oldest_first, after=after, created_after=created_after,
        )  # fmt: skip
        *finding, showing = plans(database, ask)
        # A state that few jobs are in may be read as a whole.
        assert set().union(*finding) <= {"ix_jobs_kind", "ix_jobs_ended"}, (finding, ask.keywords)
        assert "whole table" not in showing
