"""Views of the queue: the jobs that this version knows, those of devices or of nodes, and the published order."""

import logging
import math
import time
from dataclasses import replace
from functools import cache

from shared.catalogue.job_types import JOB_TYPES
from shared.database.engine import Database
from shared.forecast.order import queue_order
from shared.forecast.pausing import Pauses
from shared.forecast.reported import ReportedEnds
from shared.jobs import dispatch
from shared.jobs.dispatch import Queue
from shared.jobs.reading import queue_positions
from shared.messaging import celery
from shared.messaging.progress import RestingRedis

log = logging.getLogger("wanworks.dispatcher")

_PUBLISH_SECONDS = 0.5


def known_jobs(queue: Queue) -> Queue:
    """Return the queue without waiting jobs of unknown types. A newer dispatcher serves those."""
    return replace(queue, waiting=tuple(job for job in queue.waiting if _is_known(job.type)))


def part(queue: Queue, *, of_nodes: bool) -> Queue:
    """Return the jobs of the queue that run on nodes, or those that run on devices."""
    return Queue(
        queue.now,
        tuple(job for job in queue.waiting if (job.target_node is not None) == of_nodes),
        tuple(job for job in queue.busy if (job.device_key == celery.node_key(job.node)) == of_nodes),
    )


class PublishedOrder:
    """Publishes the order of the queue, from which the API answers queue positions."""

    def __init__(self, database: Database, redis: RestingRedis) -> None:
        self._database = database
        self._redis = redis
        self._published_at = float("-inf")
        self._skipped = False

    def due_in(self) -> float:
        """Return in how many seconds another pass must publish what the last one has not; infinite if it has."""
        if not self._skipped:
            return math.inf
        return max(0.0, self._published_at + _PUBLISH_SECONDS - time.monotonic())

    def publish(self, queue: Queue | None, ahead: int, paused: Pauses, ends: ReportedEnds) -> None:
        """Publish the order, at most twice a second, without what is paused. See `due_in`.

        `queue`: the current queue; None if this pass has changed it, so that up to `ahead` jobs are read again.
        """
        self._skipped = time.monotonic() - self._published_at < _PUBLISH_SECONDS
        if self._skipped:
            return
        self._published_at = time.monotonic()
        queue = dispatch.read_queue(self._database, ahead) if queue is None else queue
        while True:
            ids = queue_order(paused.left_out_of(known_jobs(queue)), ends.of(queue))[: dispatch.ORDERED]
            places = {job_id: place for place, job_id in enumerate(ids)}
            cuts = [cut for cut in queue.cuts if cut.job_id in places]
            if not cuts:
                break
            queue = dispatch.read_further(self._database, queue, cuts, max(8, dispatch.ORDERED // len(cuts)))
        queue_positions.publish(self._redis, ids)


@cache
def _is_known(job_type: str) -> bool:
    if job_type not in JOB_TYPES:
        log.warning("jobs of the unknown type %s are left to a newer dispatcher", job_type)
    return job_type in JOB_TYPES
