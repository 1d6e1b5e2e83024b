"""Do something to a few jobs, and publish it: one step of an action on many jobs."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.exc import IntegrityError

from api.services import stopping
from api.services.admission.admission import Admission
from api.services.admission.retrying import Retrying
from api.services.storage import Storage
from api.services.waker import Waker
from shared.catalogue.job_types import BULK, GENERATION, BulkAction
from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import LimitReached, RequestError, StoreFull, StoreMismatch, Unavailable
from shared.jobs import bulk, records
from shared.jobs.bulk import Selection, Tally, Task
from shared.jobs.reading import dead
from shared.messaging.progress import Progress
from shared.states import JOB_ENDS, JobState, Priority
from shared.telemetry.metrics import Meters

_RETRIED_AT_ONCE = 20  # each may copy an image, and the lease is renewed after all of them

log = logging.getLogger("wanworks.bulk")


@dataclass(frozen=True)
class Action:
    """What is done, and to which jobs."""

    name: BulkAction
    which: Selection
    priority: Priority | None = None
    of_nodes: bool = False  # whether jobs of nodes may be retried


class Actions:
    def __init__(
        self,
        database: Database,
        admission: Admission,
        storage: Storage,
        progress: Progress,
        meters: Meters,
        waker: Waker,
    ) -> None:
        self._database = database
        self._admission = admission
        self._storage = storage
        self._progress = progress
        self._meters = meters
        self._waker = waker

    def step(self, action: Action, tally: Tally, task: Task | None = None) -> Tally | None:
        """Do it to the next few jobs. Return what has been done by then; None if there are no more.

        Raises Fenced and Cancelled if that has happened to the task, and DatabaseUnavailable.
        """
        limit = _RETRIED_AT_ONCE if action.name == "retry" else bulk.AT_ONCE
        jobs = bulk.following(self._database, action.which, tally.cursor, limit)
        if not jobs:
            return None
        if action.name == "retry":
            tally = self._retried(action, jobs, tally, task)
        else:
            ids = [job.id for job in jobs]
            tally, stopped = bulk.act(
                self._database, action.name, action.which, ids, tally, priority=action.priority, task=task
            )
            stopping.publish(self._progress, self._meters, stopped)
            if action.name == "delete":
                self._remove_files([*ids])
            elif action.name == "set_priority":
                for job_id in ids:
                    self._progress.hint(job_id)
        self._waker.wake()
        return tally

    def _retried(self, action: Action, jobs: Sequence[Job], tally: Tally, task: Task | None) -> Tally:
        retrying = Retrying(self._database, self._admission)
        retries = dead.retries_of(self._database, [job.id for job in jobs])
        changed, skipped, detail = 0, Counter[str](), tally.detail
        full: set[str | None] = set()
        for job in jobs:
            mine = task is not None and any(one > task.job_id for one in retries.get(job.id, ()))
            if mine:  # by this task, before it was interrupted
                changed += 1
                continue
            reason = _not_retried(action, job, retries)
            if reason is None and job.owner in full:
                reason = "limit_reached"
            if reason is None:
                try:
                    outcome = retrying.retry(job)
                    changed += not outcome.replayed
                    reason = "already_retried" if outcome.replayed else None
                except LimitReached as error:
                    full.add(job.owner)
                    reason, detail = "limit_reached", error.message
                except RequestError as error:
                    reason = error.code
                except (StoreFull, IntegrityError):
                    reason = "not_stored"
            if reason is not None:
                skipped[reason] += 1
        tally = tally.plus(changed, skipped, jobs[-1].id, detail)
        if task is not None:
            bulk.save(self._database, task, tally)
        return tally

    def _remove_files(self, job_ids: Sequence[str]) -> None:
        """Remove the files and rows of deleted jobs that have ended. What remains, the retention policy removes."""
        try:
            states = records.winning_attempts(self._database, job_ids)
            ended = [job_id for job_id in job_ids if job_id in states and states[job_id][0] in JOB_ENDS]
            gone = records.deleted_ones(self._database, ended)
            left = self._storage.store().drop_jobs(gone) if gone else {}
            for job_id in gone:
                self._progress.forget(job_id)
            records.purge(self._database, [job_id for job_id in gone if job_id not in left])
        except (Unavailable, StoreMismatch) as error:
            log.warning("deleted jobs: their files will be removed later: %s", error)


def _not_retried(action: Action, job: Job, retries: dict[str, list[str]]) -> str | None:
    """Return why the job is not retried."""
    if job.type == BULK:
        return "is_bulk_action"
    if job.status not in JOB_ENDS:
        return "has_not_ended"
    if job.status == JobState.SUCCEEDED and action.which.status != JobState.SUCCEEDED:
        return "has_succeeded"
    if job.id in retries:
        return "already_retried"
    if job.type != GENERATION and not action.of_nodes:
        return "needs_admin"
    return None
