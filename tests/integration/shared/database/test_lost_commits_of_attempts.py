"""An attempt keeps its files whichever commit gets no answer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import DatabaseUnavailable, Draining
from shared.jobs import attempts, dispatch
from shared.jobs.attempts import Claimant
from shared.settings import Settings
from shared.states import JobState
from tests.conftest import both_databases
from tests.integration.shared.database.losing_commits import Losing, When, row
from tests.support.jobs import CLAIMANT, UNCOUNTED, accepted, claimed
from workers.attempts.heartbeat import Heartbeat
from workers.attempts.runner import Runner

pytestmark = both_databases


class Making:
    """A job type whose attempt leaves one file, which `undo` removes."""

    at_most: int | None = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ended: list[str] = []

    def file(self, job: Job) -> Path:
        return self.folder / f"{job.id}-{job.attempt}"

    def run(self, job: Job, heartbeat: Heartbeat) -> dict[str, Any]:
        self.file(job).write_text("video")
        return {"artifacts": [self.file(job).name]}

    def undo(self, job: Job) -> None:
        self.file(job).unlink(missing_ok=True)

    def after(self, job: Job) -> None:
        self.ended.append(job.id)


def runner(settings: Settings, database: Database, work: Making) -> Runner:
    return Runner(settings, database, CLAIMANT, {"generation": work}, UNCOUNTED)


@pytest.mark.parametrize("when", ["after", "before"])
@pytest.mark.parametrize("commit", [1, 2], ids=["claim", "end"])
def test_a_winner_keeps_its_files_whichever_commit_is_not_answered(
    losing: Losing, settings: Settings, tmp_path: Path, commit: int, when: When
) -> None:
    database = losing.database
    claimed(database, accepted(database).id)  # the node holds the model
    job = accepted(database)
    dispatch.mark_dispatched(database, [(job.id, CLAIMANT.device_key)])
    work = Making(tmp_path)
    if commit == 1:
        losing.lose(1, when)
    else:
        run = work.run

        def then_lose(job: Job, heartbeat: Heartbeat) -> dict[str, Any]:
            made = run(job, heartbeat)
            losing.lose(1, when)
            return made

        work.run = then_lose  # type: ignore[method-assign]
    assert runner(settings, database, work).run("generation", job.id)
    after = row(database, job.id)
    assert (after.status, after.attempt) == (JobState.SUCCEEDED, 1)
    assert work.file(after).read_text() == "video"
    assert work.ended == [job.id]
    assert losing.count() == 1


def test_files_stay_where_nobody_can_say_whether_their_attempt_has_won(
    losing: Losing, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database commits the end, is then away for longer than the worker's patience, and comes back."""
    database = losing.database
    claimed(database, accepted(database).id)
    job = accepted(database)
    dispatch.mark_dispatched(database, [(job.id, CLAIMANT.device_key)])
    monkeypatch.setattr("shared.database.engine._REPEAT_AFTER_SECONDS", (0.0,))
    impatient = settings.model_copy(update={"lease_seconds": 1e-6})
    work = Making(tmp_path)
    run = work.run

    def then_lose(job: Job, heartbeat: Heartbeat) -> dict[str, Any]:
        made = run(job, heartbeat)
        losing.lose(1, "after")  # the end
        losing.lose(3, "before")  # its repetition, and the giving back
        return made

    work.run = then_lose  # type: ignore[method-assign]
    monkeypatch.setattr(attempts, "claim", _claim_for(60.0))
    with pytest.raises((DatabaseUnavailable, Draining)):
        runner(impatient, database, work).run("generation", job.id)
    after = row(database, job.id)
    assert after.status == JobState.SUCCEEDED
    assert work.file(after).read_text() == "video"


def _claim_for(seconds: float) -> Callable[..., Job | None]:
    claim = attempts.claim

    def claiming(database: Database, job_id: str, claimant: Claimant, lease: float, at_most: int | None) -> Job | None:
        return claim(database, job_id, claimant, seconds, at_most)

    return claiming
