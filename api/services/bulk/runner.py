"""Carries out actions on very many jobs, one after the other, in every web process.

The action is a job, claimed under a lease that each step renews. If this process dies, the dispatcher returns the job
to the queue, and any web process continues after the last step whose transaction was committed.
"""

import logging
import os

from api.services.bulk.actions import Action, Actions
from shared.catalogue.job_types import BulkParams
from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import Cancelled, DatabaseUnavailable, Fenced, StoreFull, Unavailable
from shared.jobs import attempts, bulk
from shared.jobs.attempts import Failure
from shared.jobs.bulk import Tally, Task
from shared.messaging.progress import Progress
from shared.states import JobState, Priority
from shared.telemetry.loops import Loop
from shared.telemetry.metrics import Meters, count_end

log = logging.getLogger("wanworks.bulk")

_EVERY_SECONDS = 1.0
_LEASE_SECONDS = 20.0  # longer than a step, whose commit renews it


class BulkRunner(Loop):
    """Claims the action that waits longest, and carries it out."""

    def __init__(
        self, database: Database, actions: Actions, progress: Progress, meters: Meters, node: str, lease: float = 0.0
    ) -> None:
        super().__init__("bulk", _EVERY_SECONDS, self._next, meters=meters)
        self._database = database
        self._actions = actions
        self._progress = progress
        self._counts = meters
        self._worker = f"web@{node}"
        self._lease_seconds = lease or _LEASE_SECONDS

    def _next(self) -> bool:
        job = bulk.claim_next(self._database, self._worker, os.getpid(), self._lease_seconds)
        if job is None:
            return False
        self._report(job)
        try:
            ended = self._run(job)
        except Fenced:
            log.warning("job %s: attempt %d was superseded", job.id, job.attempt)
            return True
        except (DatabaseUnavailable, StoreFull):
            raise  # its lease expires, and the job is continued
        except Unavailable as error:
            log.warning("job %s: attempt %d returns the job: %s", job.id, job.attempt, error)
            ended = attempts.give_back(self._database, job.id, job.attempt, delay_seconds=_LEASE_SECONDS)
        except Exception as error:
            log.exception("job %s: attempt %d failed", job.id, job.attempt)
            failure = Failure("internal_error", f"An unexpected {type(error).__name__} occurred", retryable=False)
            ended = attempts.fail(self._database, job.id, job.attempt, failure, job.percent)
        if ended is not None:
            self._report(ended)
        return True

    def _run(self, job: Job) -> Job | None:
        """Carry out the action until it has ended or this process stops. Return the job's row after that."""
        task = Task(job.id, job.attempt, self._lease_seconds)
        action = action_of(job)
        tally = Tally(**job.result) if job.result else Tally(matched=bulk.count(self._database, action.which))
        try:
            bulk.save(self._database, task, tally)
            while not self.stopping.is_set():
                further = self._actions.step(action, tally, task)
                if further is None:
                    return attempts.succeed(self._database, job.id, job.attempt, bulk.as_result(tally))
                tally = further
                event = {"kind": "progress", "attempt": job.attempt, "percent": min(99.0, tally.percent)}
                self._progress.report(job.id, event)
        except Cancelled:
            return attempts.cancelled(self._database, job.id, job.attempt, min(99.0, tally.percent))
        return attempts.give_back(self._database, job.id, job.attempt)

    def _report(self, job: Job) -> None:
        ended = job.finished_at is not None
        event = {"kind": "state", "attempt": job.attempt, "status": JobState(job.status).value}
        self._progress.report(job.id, event, ended=ended)
        if ended:
            count_end(self._counts, job)


def action_of(job: Job) -> Action:
    """Return the action that the job carries out."""
    params = BulkParams.model_validate(job.params)
    priority = Priority(params.priority) if params.priority is not None else None
    return Action(params.action, bulk.selection_of(job), priority, params.of_nodes)
