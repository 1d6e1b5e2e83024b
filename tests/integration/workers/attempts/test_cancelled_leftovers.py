"""A cancel takes effect until the end and leaves no files of an attempt and no partial files of a download."""

from pathlib import Path
from typing import Any

import pytest

from shared.catalogue import models
from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import Cancelled, JobFailed
from shared.jobs import attempts, dispatch, download_control, records
from shared.jobs.attempts import Fetched
from shared.settings import Settings
from shared.states import JobState
from shared.storage.store import open_store
from tests.conftest import both_databases
from tests.support.jobs import CLAIMANT, DEMO, UNCOUNTED, accepted, claimed
from tests.support.models import library
from workers.attempts.heartbeat import Heartbeat
from workers.attempts.runner import Runner
from workers.models import presence


class LateCancel:
    """An attempt that is cancelled during the last part of its work."""

    at_most: int | None = None

    def __init__(self, database: Database, store: Any, fails: bool) -> None:
        self._database, self._store, self._fails = database, store, fails

    def run(self, job: Job, heartbeat: Heartbeat) -> dict[str, Any]:
        (self._store.attempt_dir(job.id, job.attempt) / "video.mp4").write_bytes(b"x")
        assert records.request_cancel(self._database, job.id).job.status == JobState.RUNNING
        if self._fails:
            raise JobFailed("after all")
        return {"artifacts": []}

    def undo(self, job: Job) -> None:
        self._store.drop_attempt(job.id, job.attempt)

    def after(self, job: Job) -> None: ...


@both_databases
@pytest.mark.parametrize("fails", [False, True])
def test_a_cancel_that_comes_while_the_end_is_written_is_obeyed(
    database: Database, settings: Settings, fails: bool
) -> None:
    store = open_store(settings, lambda: "test", create=True)
    claimed(database, accepted(database).id)  # the node holds the model
    job = accepted(database)
    dispatch.mark_dispatched(database, [(job.id, CLAIMANT.device_key)])
    work = LateCancel(database, store, fails)
    with pytest.raises(Cancelled):
        Runner(settings, database, CLAIMANT, {"generation": work}, UNCOUNTED).run("generation", job.id)
    assert records.get(database, job.id).status == JobState.CANCELLED
    assert not (Path(store.root) / "artifacts" / job.id).exists(), "not even an empty folder"


def partial(settings: Settings, model_id: str, oid: str = "a" * 64) -> Path:
    """A download's partial file of that model."""
    repo = models.load("demo").get(model_id).repo
    path = settings.models_dir / f"models--{repo.replace('/', '--')}" / "blobs" / f"{oid}.incomplete"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"begun")
    return path


def paused(database: Database, model_id: str = "T2V-A14B") -> Job:
    job = library.start(database, library.download(database, model_id))
    download_control.pause(database, job.id)
    found = attempts.paused(database, job.id, job.attempt, download_control.BY_OWNER, Fetched(5, 10, 50.0))
    assert found is not None
    return found


@pytest.mark.parametrize("ended", ["cancelled while paused", "cancelled in the queue", "deleted", "its child has died"])
def test_the_partial_files_of_a_cancelled_download_are_removed(
    database: Database, settings: Settings, ended: str
) -> None:
    library.node(database)
    kept = partial(settings, "TI2V-5B")
    paused(database, "TI2V-5B")
    begun = partial(settings, "T2V-A14B")
    job = paused(database)
    presence.drop_cancelled_partials(settings, database, DEMO)
    assert begun.exists(), "a paused download goes on from there"
    match ended:
        case "cancelled while paused":
            records.request_cancel(database, job.id)
        case "cancelled in the queue":
            download_control.resume(database, job.id)
            records.request_cancel(database, job.id)
        case "deleted":
            records.remove(database, job.id)
            assert records.purge(database, [job.id]) == 0, "its row names what is to be removed"
        case _:
            download_control.resume(database, job.id)
            again = library.start(database, job)
            records.request_cancel(database, job.id)
            attempts.crashed(database, job.id, again.attempt, "died", 0.0)
    presence.drop_cancelled_partials(settings, database, DEMO)
    assert not begun.exists()
    assert kept.exists(), "another download needs that"
    assert download_control.with_partials(database, "here") == []
    assert records.purge(database, [job.id]) == 1


def test_partial_files_that_another_download_of_the_model_needs_stay(database: Database, settings: Settings) -> None:
    library.node(database)
    begun = partial(settings, "T2V-A14B")
    records.request_cancel(database, paused(database).id)
    library.download(database)
    presence.drop_cancelled_partials(settings, database, DEMO)
    assert begun.exists()
    assert download_control.with_partials(database, "here") == []
