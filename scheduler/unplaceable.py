"""Ends jobs that nothing has been able to run for too long.

A busy, drained or quarantined device, or a model that is being downloaded, is waited for. Time without a running
dispatcher does not count, because the whole installation may have been off.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from scheduler.job_reports import JobReports
from scheduler.placement.gangs import enough
from shared.cluster import nodes
from shared.database.engine import Database
from shared.forecast.hosts import Hosts
from shared.forecast.slots import carries, fits
from shared.jobs import dispatch, download_control
from shared.jobs.attempts import Failure
from shared.jobs.dispatch import Queue, Waiting
from shared.jobs.lines.names import needs_of
from shared.models.memory_plan import Needs

# How often the dispatcher stores that it watches unplaceable jobs. A longer pause than the second figure does not
# count as time in which a job could not be placed.
_STORE_SECONDS, _PAUSE_SECONDS = 10.0, 60.0
_WATCHED_AT = "unplaceable_watched_at"


class UnplaceableJobs:
    """Records since when nothing could run a job, and fails jobs for which that lasted `limit_seconds`."""

    def __init__(self, database: Database, reports: JobReports, limit_seconds: float) -> None:
        self._database = database
        self._reports = reports
        self._limit_seconds = limit_seconds
        # By the database's clock: the last pass of this process, and when that was last stored for other processes.
        self._watched_at = self._stored_at = 0.0

    def passed(self, now: float) -> None:
        """Remember that a pass was made at `now`, by the database's clock."""
        self._watched_at = now

    def check(
        self, queue: Queue, hosts: Hosts, held: Mapping[str, frozenset[str]], read_again: Callable[[], Queue]
    ) -> None:
        """Record which jobs are unplaceable, and fail those whose time is up. Raises DatabaseUnavailable.

        `read_again` returns the queue as it is then.
        """
        if self._exclude_pause(queue):
            queue = read_again()
        alike: dict[tuple[Any, ...], list[Waiting]] = defaultdict(list)
        for job in queue.waiting:
            alike[needs_of(job)].append(job)
        coming: frozenset[str] | None = None
        for group in alike.values():
            one = group[0]
            failure = _reason(one, hosts, held)
            if failure is not None and failure.code == "model_unavailable":
                if coming is None:
                    coming = frozenset(download.model_id or "" for download in download_control.active(self._database))
                failure = None if one.model_id in coming else failure
            if any((job.unplaceable_since is None) == (failure is not None) for job in group):
                dispatch.note_unplaceable(self._database, one, failure is not None)
            if failure is None:
                continue
            for job in group:
                if job.unplaceable_since is None or queue.now - job.unplaceable_since < self._limit_seconds:
                    continue
                with self._reports.contained(job.job_id):
                    if (ended := dispatch.give_up(self._database, job.job_id, failure)) is not None:
                        self._reports.publish_state(ended)

    def _exclude_pause(self, queue: Queue) -> bool:
        """Exclude the time in which no dispatcher ran. Return whether any job's time has changed."""
        if all(job.unplaceable_since is None for job in queue.waiting):
            return False
        last, moved = self._watched_at, False
        if queue.now - last > _PAUSE_SECONDS:
            stored = nodes.noted(self._database, _WATCHED_AT)  # by another dispatcher, or an earlier process
            last = max(last, float(stored or 0.0))
            if queue.now - last > _PAUSE_SECONDS:
                moved = dispatch.put_off_unplaceable(self._database, last) > 0
        if queue.now - self._stored_at > _STORE_SECONDS:
            nodes.note(self._database, _WATCHED_AT, str(queue.now))
            self._stored_at = queue.now
        return moved


def _reason(job: Waiting, hosts: Hosts, held: Mapping[str, frozenset[str]]) -> Failure | None:
    """Return why nothing could run the job; None if something could, even if it is busy, drained or quarantined."""
    if job.target_node is not None:
        if job.target_node in hosts.nodes or job.target_node in hosts.drained:
            return None
        return Failure("node_lost", f"Node {job.target_node} has been silent", retryable=True)
    devices = (*hosts.devices, *hosts.closed_devices)
    if enough(job, [device for device in devices if fits(job, device)]):
        return None
    holders = {node for node, models in held.items() if job.model_id in models}
    if not holders and not job.mock:
        return Failure("model_unavailable", f"No node holds {job.model_id}", retryable=True)
    if job.devices > 1 and any(fits(job, device) for device in devices):
        return Failure("no_device", f"No node has {job.devices} live devices of one kind for it", retryable=True)
    if not any(carries(job, device) for device in devices):
        if job.memory_needs and not any(Needs.read(job.memory_needs).runs_on(each.capability) for each in devices):
            return Failure("no_device", "No live device has the compute capability that fp8 needs: 8.9", retryable=True)
        return Failure("no_device", "No live device has the memory that this job needs", retryable=True)
    return Failure("node_lost", f"The nodes that hold {job.model_id} have been silent", retryable=True)
