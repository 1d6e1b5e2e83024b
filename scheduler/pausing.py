"""What may not start now is left out of placement, and recalled from devices that have not started it yet.

That is what is paused, and jobs of low priority outside their window until they are held.
"""

from shared.database.engine import Database
from shared.forecast.pausing import Pauses
from shared.jobs import dispatch
from shared.jobs.dispatch import Queue


def startable(database: Database, queue: Queue, now: Pauses) -> Queue:
    """Return the queue without the paused jobs; their messages are recalled, and they do not count as unplaceable."""
    paused = [] if now.cover_nothing else [job for job in queue.waiting if now.covers(job)]
    if sent := [job.job_id for job in paused if job.dispatched_to is not None]:
        dispatch.recall(database, sent)
    if unplaceable := {job.line for job in paused if job.unplaceable_since is not None}:
        dispatch.forget_unplaceable(database, unplaceable)
    return now.left_out_of(queue) if paused or now.resumed_at else queue
