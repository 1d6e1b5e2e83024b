"""Only hopeless jobs fail: what nothing could run for the whole limit, while a dispatcher looked."""

import pytest

from shared import clock
from shared.cluster import nodes
from shared.database.engine import Database
from shared.jobs import attempts, download_control, records
from shared.settings import Settings
from shared.states import JobState
from tests.conftest import both_databases
from tests.integration.scheduler.queued_jobs import HOUR, WATCHED_AT, Sent, aged, many
from tests.support.models import library

pytestmark = both_databases


def impatient(settings: Settings, database: Database, hours: float = 24.0) -> Sent:
    return Sent(settings.model_copy(update={"unplaced_limit_hours": hours}), database)


def states(database: Database, job_ids: list[str]) -> set[str]:
    return {records.get(database, job_id).status for job_id in job_ids}


def test_a_weekends_batch_survives_an_upgrade_on_monday(database: Database, sent: Sent, settings: Settings) -> None:
    batch = many(database, 30)
    aged(database, 60 * HOUR, *batch)
    for index in range(2):
        nodes.deregister_device(database, f"n/{index}", 1)
    for _ in range(3):
        sent.dispatcher.run_pass()
    assert states(database, batch) == {JobState.QUEUED}
    library.device(database, on="n", index=0, kind="cpu")
    assert sent.dispatcher.run_pass() == 1
    assert {records.get(database, job_id).unplaceable_since for job_id in batch} == {None}, "the time is forgotten"


def test_what_nothing_could_run_for_the_whole_limit_fails_with_its_reason(database: Database, sent: Sent) -> None:
    batch = many(database, 30)
    for index in range(2):
        nodes.deregister_device(database, f"n/{index}", 1)
    sent.dispatcher.run_pass()
    aged(database, 23 * HOUR, *batch, column="unplaceable_since")
    sent.dispatcher.run_pass()
    assert states(database, batch) == {JobState.QUEUED}
    later = many(database, 1)
    sent.dispatcher.run_pass()
    aged(database, 1.1 * HOUR, *batch, *later, column="unplaceable_since")
    sent.dispatcher.run_pass()
    assert states(database, batch) == {JobState.FAILED}
    assert states(database, later) == {JobState.QUEUED}, "its time began later, and did not begin theirs anew"
    assert {(records.get(database, job_id).error or {})["code"] for job_id in batch} == {"no_device"}


def test_a_node_that_comes_back_in_between_starts_the_time_anew(database: Database, settings: Settings) -> None:
    library.node(database)
    job = library.download(database)
    sent = impatient(settings, database)
    nodes.deregister_node(database, "here")
    sent.dispatcher.run_pass()
    aged(database, 23 * HOUR, job.id, column="unplaceable_since")
    library.node(database)
    sent.dispatcher.run_pass()
    nodes.deregister_node(database, "here")
    sent.dispatcher.run_pass()
    aged(database, 2 * HOUR, job.id, column="unplaceable_since")
    sent.dispatcher.run_pass()
    assert records.get(database, job.id).status == JobState.QUEUED
    aged(database, 23 * HOUR, job.id, column="unplaceable_since")
    sent.dispatcher.run_pass()
    after = records.get(database, job.id)
    assert (after.status, (after.error or {})["code"]) == (JobState.FAILED, "node_lost")


def test_a_model_that_is_on_its_way_is_waited_for(database: Database, settings: Settings) -> None:
    library.node(database)
    library.device(database, kind="cpu")
    (waiting,) = many(database, 1)
    fetching = library.start(database, library.download(database))
    sent = impatient(settings, database, hours=1e-9)
    for _ in range(3):
        sent.dispatcher.run_pass()
    assert records.get(database, waiting).status == JobState.QUEUED
    download_control.pause(database, fetching.id)
    attempts.paused(database, fetching.id, 1, download_control.BY_OWNER, attempts.Fetched())
    sent.dispatcher.run_pass()
    assert records.get(database, waiting).status == JobState.QUEUED
    records.request_cancel(database, fetching.id)
    for _ in range(2):
        sent.dispatcher.run_pass()
    after = records.get(database, waiting)
    assert (after.status, (after.error or {})["code"]) == (JobState.FAILED, "model_unavailable")


@pytest.mark.parametrize("watched", ["for an hour, noted", "not noted before it ended", "by itself, before an outage"])
def test_time_in_which_no_dispatcher_looked_does_not_count_as_unplaceable(
    database: Database, sent: Sent, settings: Settings, watched: str
) -> None:
    """The whole installation is off over a weekend; its dispatcher comes up before its devices."""
    batch = many(database, 3)
    for index in range(2):
        nodes.deregister_device(database, f"n/{index}", 1)
    sent.dispatcher.run_pass()
    aged(database, 62 * HOUR, *batch, column="unplaceable_since")
    later = sent.dispatcher if watched.startswith("by itself") else Sent(settings, database).dispatcher
    later._unplaceable._watched_at = max(0.0, later._unplaceable._watched_at - 61 * HOUR)
    if watched.endswith(", noted"):
        nodes.note(database, WATCHED_AT, str(clock.now().timestamp() - 61 * HOUR))
    later.run_pass()
    assert states(database, batch) == {JobState.QUEUED}
    waited = clock.now().timestamp() - float(records.get(database, batch[0]).unplaceable_since or 0)
    assert waited == pytest.approx(0 if watched.startswith("not noted") else HOUR, abs=60)
    aged(database, 24 * HOUR, *batch, column="unplaceable_since")
    later.run_pass()
    assert states(database, batch) == {JobState.FAILED}, "what was watched counts"


def test_time_in_which_another_dispatcher_looked_counts_as_unplaceable(
    database: Database, sent: Sent, settings: Settings
) -> None:
    batch = many(database, 3)
    for index in range(2):
        nodes.deregister_device(database, f"n/{index}", 1)
    for _ in range(2):
        sent.dispatcher.run_pass()
    aged(database, 25 * HOUR, *batch, column="unplaceable_since")
    Sent(settings, database).dispatcher.run_pass()
    assert states(database, batch) == {JobState.FAILED}
