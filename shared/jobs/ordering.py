"""Change the order of the queue: the priority of one job. It locks the row before it decides by its state."""

from sqlmodel import Session

from shared.catalogue.job_types import DOWNLOAD
from shared.database.engine import Database, settled
from shared.database.tables import Job
from shared.errors import Conflict
from shared.jobs import records
from shared.jobs.lines import holding
from shared.states import JOB_ENDS, JobState, Priority


@settled
def set_priority(database: Database, job_id: str, priority: Priority, *, only: str | None = None) -> Job:
    """Set the priority of a job that waits, or of a download. Idempotent. `only` as in `records.get`.

    Raises NotFound, and Conflict if the job has ended, or runs and is not a download.
    """
    with database.write() as session:
        job = records.visible(session, job_id, only, lock=True)
        if job.status in JOB_ENDS:
            raise Conflict(f"The job has already {job.status}; only a job that waits can be given a priority")
        if job.status == JobState.RUNNING and job.type != DOWNLOAD:
            raise Conflict("The job is running; only a job that waits can be given a priority")
        return give_priority(session, job, priority)


def give_priority(session: Session, job: Job, priority: Priority) -> Job:
    """Set the priority of a job whose row is locked, put it into its line, and recall its dispatch.

    A job that becomes one of low priority waits for its window, and one that was, no longer does.
    """
    if job.priority != priority.rank:
        job.priority = priority.rank
        if job.status == JobState.RUNNING:
            job.line = holding.line_of_job(job)
        else:
            holding.settle(session, job)
            job.dispatched_to = job.dispatched_at = None
        session.add(job)
    return job
