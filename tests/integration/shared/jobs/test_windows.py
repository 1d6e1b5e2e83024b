"""Windows for jobs of low priority: held, released, claimed, and changed meanwhile; on both databases."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlmodel import select

from scheduler import pausing
from scheduler.recovery import Recovery
from shared.access import keys
from shared.access.keys import Limits
from shared.database.engine import Database
from shared.database.tables import ApiKey, Job, epoch_now
from shared.forecast.pausing import read as read_pauses
from shared.jobs import attempts, dispatch, ordering, records
from shared.jobs.lines import heads, holding, windows
from shared.jobs.reading import queues
from shared.settings import Settings
from shared.states import JobState, Priority, Scope
from tests.conftest import both_databases
from tests.integration.scheduler.queued_jobs import Sent, aged, many
from tests.integration.shared.jobs.races.racing import Pair, is_error, row
from tests.support.interleaving import interleavings
from tests.support.jobs import CLAIMANT, DEMO, UNCOUNTED, accepted, claimed, hold
from tests.support.models import library

pytestmark = both_databases
LOW = Priority.LOW


def closed(hours: int = 3) -> str:
    """A window that opens in so many hours and closes one hour later, whatever the time is now."""
    opens = datetime.now(UTC) + timedelta(hours=hours)
    return f"{opens:%H:%M}-{opens + timedelta(hours=1):%H:%M} UTC"


def opened() -> str:
    """A window that has been open for an hour and is open for another."""
    now = datetime.now(UTC)
    return f"{now - timedelta(hours=1):%H:%M}-{now + timedelta(hours=1):%H:%M} UTC"


@pytest.fixture(autouse=True)
def _host(database: Database) -> None:
    library.device(database, on="n", index=0, kind="cpu")
    hold(database, *DEMO.model_ids)


def follow(database: Database) -> tuple[int, int]:
    return holding.follow_windows(database, windows.read(database))


def key(database: Database, window: str | None, name: str = "k") -> ApiKey:
    return keys.make(database, name, (Scope.SUBMIT,), Limits(low_priority_window=window))[0]


def _in_lines(database: Database) -> list[str]:
    with database.read() as session:
        connection = session.connection()
        found = heads.first_of_each(connection, (Job.id, Job.queued_at), heads.lines_there(connection), 1000)
        return [job_id for job_id, _ in sorted(found, key=lambda one: one[1])]


def test_a_low_job_waits_for_the_window_and_joins_its_line_when_it_opens(database: Database) -> None:
    windows.set_installation(database, closed())
    low, normal = accepted(database, priority=LOW), accepted(database)
    assert (low.held, normal.held) == ("window", None)
    assert (_in_lines(database), queues.held(database)) == ([normal.id], 1)
    assert follow(database) == (0, 0)
    aged(database, 5000, low.id)
    windows.set_installation(database, opened())
    assert follow(database) == (1, 0)
    assert _in_lines(database) == [normal.id, low.id]
    queue = dispatch.read_queue(database)
    assert max(queue.now - job.queued_at for job in queue.waiting) < 60, "waiting counts from the opening"
    assert claimed(database, low.id).status == JobState.RUNNING


def test_a_claim_outside_the_window_is_refused_whatever_was_sent(database: Database) -> None:
    low = accepted(database, priority=LOW)
    dispatch.mark_dispatched(database, [(low.id, CLAIMANT.device_key)])
    windows.set_installation(database, closed())
    assert attempts.claim(database, low.id, CLAIMANT, 60) is None
    windows.set_installation(database, "")
    assert attempts.claim(database, low.id, CLAIMANT, 60) is not None
    windows.set_installation(database, closed())
    assert attempts.renew(database, low.id, 1, 60).requested_action is None, "what runs finishes"


def test_closing_holds_waiting_jobs_and_recalls_what_was_sent(database: Database) -> None:
    jobs = [accepted(database, priority=LOW, owner=owner) for owner in ("a", "a", "b")]
    other = accepted(database)
    dispatch.mark_dispatched(database, [(jobs[0].id, CLAIMANT.device_key)])
    windows.set_installation(database, closed())
    assert follow(database) == (0, 3)
    assert _in_lines(database) == [other.id]
    assert row(database, jobs[0].id).dispatched_to is None
    assert {row(database, job.id).line for job in jobs} == {holding.held_line("a"), holding.held_line("b")}
    windows.set_installation(database, "")
    assert follow(database) == (3, 0)
    assert _in_lines(database) == [other.id, *(job.id for job in jobs)]


def test_a_keys_window_replaces_the_installations_both_ways(database: Database) -> None:
    windows.set_installation(database, closed())
    always, own = key(database, "always", "always"), key(database, None, "own")
    assert accepted(database, priority=LOW, owner=always.id).held is None
    job = accepted(database, priority=LOW, owner=own.id)
    assert job.held == "window"
    keys.change_limits(database, "own", {"low_priority_window": opened()})
    assert follow(database) == (1, 0)
    keys.change_limits(database, "own", {"low_priority_window": None})
    assert follow(database) == (0, 1)
    keys.change_limits(database, "always", {"low_priority_window": closed()})
    assert follow(database) == (0, 1)


def test_many_jobs_are_released_in_batches_in_order_of_arrival(database: Database) -> None:
    windows.set_installation(database, closed())
    first = many(database, 700, priority=LOW, owner="a")
    second = many(database, 20, priority=LOW, owner="b")
    windows.set_installation(database, opened())
    assert follow(database) == (270, 0), "of each owner alike"
    assert set(second) < set(_in_lines(database))
    assert follow(database) == (450, 0)
    assert [job_id for job_id in _in_lines(database) if job_id not in second] == first
    windows.set_installation(database, closed())
    assert follow(database) == (0, 720)
    assert _in_lines(database) == []


def test_a_new_priority_holds_and_releases(database: Database) -> None:
    windows.set_installation(database, closed())
    job = accepted(database)
    assert ordering.set_priority(database, job.id, LOW).held == "window"
    assert _in_lines(database) == []
    aged(database, 5000, job.id)
    assert ordering.set_priority(database, job.id, Priority.HIGH).held is None
    assert _in_lines(database) == [job.id]
    assert _now(database) - row(database, job.id).queued_at < 60


def test_at_its_start_time_a_low_job_waits_for_its_window(database: Database) -> None:
    windows.set_installation(database, closed())
    job = accepted(database, priority=LOW, start_after=_now(database) + 1000)
    assert job.held == "start_time"
    assert ordering.set_priority(database, job.id, Priority.NORMAL).held == "start_time"
    ordering.set_priority(database, job.id, LOW)
    aged(database, 1001, job.id)
    assert holding.release_due(database) == 1
    assert row(database, job.id).held == "window"


def test_a_job_moved_to_the_front_starts_in_spite_of_its_window(database: Database) -> None:
    windows.set_installation(database, closed())
    job = accepted(database, priority=LOW)
    assert holding.move_to_front(database, job.id).held is None
    assert follow(database) == (0, 0)
    assert claimed(database, job.id).status == JobState.RUNNING


def test_a_job_that_returns_from_the_front_waits_for_its_window_again(database: Database) -> None:
    windows.set_installation(database, closed())
    job = accepted(database, priority=LOW)
    assert job.held == "window"
    holding.move_to_front(database, job.id)
    assert holding.move_back(database, job.id).held == "window"


def test_maintenance_has_no_window(database: Database) -> None:
    in_force = windows.read(database)
    assert in_force.is_empty
    windows.set_installation(database, closed())
    in_force = windows.read(database)
    now = _now(database)
    assert in_force.closed("generation", LOW.rank, None, None, now)
    assert not in_force.closed("integrity_check", LOW.rank, None, None, now)
    assert not in_force.closed("generation", Priority.NORMAL.rank, None, None, now)


def test_a_cancelled_job_is_not_released(database: Database) -> None:
    windows.set_installation(database, closed())
    job = accepted(database, priority=LOW)
    assert records.request_cancel(database, job.id).ended
    windows.set_installation(database, "")
    assert follow(database) == (0, 0)
    assert row(database, job.id).status == JobState.CANCELLED


def test_the_dispatcher_stores_its_setting_and_leaves_out_what_is_not_held_yet(
    database: Database, settings: Settings
) -> None:
    low, normal = accepted(database, priority=LOW), accepted(database)
    windows.set_installation(database, closed())
    queue = dispatch.read_queue(database)
    now = read_pauses(database, queue)
    assert [job.job_id for job in pausing.startable(database, queue, now).waiting] == [normal.id]
    assert row(database, low.id).held is None
    sent = Sent(settings.model_copy(update={"low_priority_window": closed()}), database)
    sent.dispatcher.run_pass()
    assert [job_id for job_id, _ in sent.jobs] == [normal.id]
    assert row(database, low.id).held == "window"
    again = Recovery(settings, database, None, UNCOUNTED)  # type: ignore[arg-type]
    again.run()
    assert windows.read(database).is_empty, "a dispatcher without the setting has started"
    assert row(database, low.id).held is None


@pytest.mark.parametrize("by_key", [False, True])
def test_no_claim_comes_after_a_window_was_closed(database: Database, by_key: bool) -> None:
    owner = key(database, "always").id

    def close() -> Any:
        if by_key:
            return keys.change_limits(database, "k", {"low_priority_window": closed()})
        return windows.set_installation(database, closed())

    def pair() -> Pair:
        windows.set_installation(database, "")
        keys.change_limits(database, "k", {"low_priority_window": "always" if by_key else None})
        job = accepted(database, priority=LOW, owner=owner)
        dispatch.mark_dispatched(database, [(job.id, CLAIMANT.device_key)])
        return lambda: attempts.claim(database, job.id, CLAIMANT, 60), close

    for _, met in interleavings(database, pair):
        assert not is_error(met.first)
        assert not is_error(met.second)
        if met.second_was_through:
            assert met.first is None, "the window was closed while the claim was under way"


def _writer(database: Database, name: str, job_id: str) -> Any:
    match name:
        case "claim":
            return attempts.claim(database, job_id, CLAIMANT, 60)
        case "cancel":
            return records.request_cancel(database, job_id)
        case "front":
            return holding.move_to_front(database, job_id)
        case "priority":
            return ordering.set_priority(database, job_id, Priority.HIGH)
        case "dispatch":
            return dispatch.mark_dispatched(database, [(job_id, CLAIMANT.device_key)])
    raise AssertionError(name)


@pytest.mark.parametrize("other", ["claim", "cancel", "front", "priority", "dispatch"])
@pytest.mark.parametrize("opens", [False, True], ids=["holding", "releasing"])
def test_holding_and_releasing_leave_a_job_in_one_place(race: Any, database: Database, other: str, opens: bool) -> None:
    def make() -> Job:
        windows.set_installation(database, closed() if opens else "")
        job = accepted(database, priority=LOW)
        if not opens:
            dispatch.mark_dispatched(database, [(job.id, CLAIMANT.device_key)])
        windows.set_installation(database, "" if opens else closed())
        return job

    for _, met in race.run(make, lambda: follow(database), lambda: _writer(database, other, race.job_id)):
        follow(database)  # the next pass holds what another writer had locked
        job = row(database, met.id)
        if job.status == JobState.CANCELLED:
            assert job.held is None
            continue
        assert job.status == JobState.QUEUED, "a job outside its window was claimed"
        if job.held is None:
            assert job.line == holding.line_of_job(job)
            assert opens or job.front_at is not None or job.priority != LOW.rank
        else:
            assert job.line == holding.held_line(job.owner)
        records.request_cancel(database, job.id)


def _now(database: Database) -> float:
    with database.read() as session:
        return float(session.connection().execute(select(epoch_now())).scalar_one())
