"""The Celery tasks: a bell's arguments in, the runner's work, and Celery told the truth about how it ended."""

import logging
from functools import cache
from typing import Any

from celery import Task, shared_task
from celery.exceptions import Ignore

from shared.catalogue.job_types import JOB_TYPES, JobType
from shared.cluster import nodes
from shared.errors import AttemptStopped, Cancelled, JobFailed, Unavailable
from shared.jobs import dispatch
from shared.messaging import celery
from shared.messaging.progress import RestingRedis
from workers.processes import process

log = logging.getLogger("wanworks.tasks")


class JobTask(Task):  # type: ignore[misc]
    """A bell. The main process recovers its job when the child dies."""

    Request = "workers.processes.main_process:JobRequest"
    ignore_result = True


def _task(job_type: JobType) -> Any:
    """The task of one job type: runs the job if the bell is still good; fails only after the row says failed."""

    @shared_task(name=job_type.task, bind=True, base=JobTask)
    def answer(self: Any, job_id: str, protocol: int, *later: Any, **later_named: Any) -> None:
        if protocol > celery.PROTOCOL:
            hand_back(job_id, protocol)
            raise Ignore()
        try:
            if not process.runner().run(job_type.name, job_id):
                raise Ignore()
        except Cancelled:
            # Celery has no word for a task that stopped because it was asked to, so say it to those who listen.
            self.send_event("task-revoked", terminated=False, signum=None, expired=False)
            raise Ignore() from None
        except AttemptStopped:
            raise Ignore() from None
        except Unavailable as error:
            # Nothing was begun, or nobody knows whether it was: the main process gives back what no child carries.
            log.warning("job %s: %s", job_id, error)
            raise Ignore() from None
        except JobFailed as error:
            raise JobFailed(f"{error.code}: {error}") from None
        except MemoryError as error:
            # Out of a task a MemoryError would take the main process down.
            raise JobFailed(f"out_of_memory: {error}") from None

    return answer


def hand_back(job_id: str, protocol: int) -> None:
    """A bell of a newer protocol: the row says what this worker reads, and the job is rung anew in that."""
    _say_once(protocol)
    database, key = process.database(), process.claimant().device_key
    nodes.reads_protocol(database, key, celery.PROTOCOL)
    if dispatch.hand_back(database, job_id, key):
        celery.wake(RestingRedis(process.settings().redis))


@cache
def _say_once(protocol: int) -> None:
    log.warning("a bell of protocol %d was handed back: this worker reads up to %d", protocol, celery.PROTOCOL)


TASKS = {
    job_type.name: _task(job_type)
    for job_type in JOB_TYPES.values()
    if (job_type.runs_on == "device") == (process.role() == "gpu")
}
