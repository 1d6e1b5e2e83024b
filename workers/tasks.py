"""The Celery tasks: each takes a dispatch message's arguments, runs the job, and reports its end to Celery."""

import logging
from functools import cache
from typing import Any

from celery import Task, shared_task
from celery.exceptions import Ignore

from shared.catalogue.job_types import JOB_TYPES, JobType
from shared.cluster import nodes
from shared.errors import AttemptStopped, Cancelled, DeviceFailed, JobFailed, Unavailable
from shared.jobs import dispatch
from shared.messaging import celery
from shared.messaging.progress import RestingRedis
from workers.processes import child_process, process

log = logging.getLogger("wanworks.tasks")


class JobTask(Task):  # type: ignore[misc]
    """The task of a dispatch message. The main process recovers its job when the child dies."""

    Request = "workers.processes.main_process:JobRequest"
    ignore_result = True


def _task(job_type: JobType) -> Any:
    """Return the task of a job type. It runs the job if the message still applies, and fails only after the row did."""

    @shared_task(name=job_type.task, bind=True, base=JobTask)
    def answer(self: Any, job_id: str, protocol: int, *later: Any, **later_named: Any) -> None:
        if protocol > celery.PROTOCOL:
            hand_back(job_id, protocol)
            raise Ignore()
        try:
            if not process.runner().run(job_type.name, job_id):
                raise Ignore()  # not claimed, or another process finishes it and reports its end
        except Cancelled:
            # Celery has no state for a task that stopped on request, so send the event to its listeners directly.
            self.send_event("task-revoked", terminated=False, signum=None, expired=False)
            raise Ignore() from None
        except DeviceFailed as error:
            child_process.end(str(error))
        except AttemptStopped:
            raise Ignore() from None
        except Unavailable as error:
            # Nothing began, or it is unknown whether it did: the main process returns jobs that no child runs.
            log.warning("job %s: %s", job_id, error)
            raise Ignore() from None
        except JobFailed as error:
            raise JobFailed(f"{error.code}: {error}") from None
        except MemoryError as error:
            # Celery ends the main process when a task raises MemoryError.
            raise JobFailed(f"out_of_memory: {error}") from None

    return answer


def hand_back(job_id: str, protocol: int) -> None:
    """Return a job whose message has a newer protocol, and record which protocol this worker reads."""
    _warn_once(protocol)
    database, key = process.database(), process.claimant().device_key
    nodes.reads_protocol(database, key, celery.PROTOCOL)
    if dispatch.hand_back(database, job_id, key):
        celery.wake(RestingRedis(process.settings().redis))


@cache
def _warn_once(protocol: int) -> None:
    log.warning("returned a message of protocol %d: this worker reads protocols up to %d", protocol, celery.PROTOCOL)


TASKS = {
    job_type.name: _task(job_type)
    for job_type in JOB_TYPES.values()
    if job_type.runs_on == ("device" if process.role() == "gpu" else "node")
}
