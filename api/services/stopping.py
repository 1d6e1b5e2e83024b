"""Publish that jobs were cancelled, or that a cancel of running ones was requested."""

from collections.abc import Iterable

from shared.jobs.records import Stopped
from shared.messaging.progress import Progress
from shared.states import JobState
from shared.telemetry.metrics import Meters, count_end


def publish(progress: Progress, meters: Meters, stopped: Iterable[Stopped]) -> None:
    for one in stopped:
        job = one.job
        if one.ended:
            event = {"kind": "state", "attempt": job.attempt, "status": job.status}
            progress.report(job.id, event, ended=True)
            count_end(meters, job)
        elif job.status == JobState.RUNNING:
            progress.ask_to_cancel(job.id)
