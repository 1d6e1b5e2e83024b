"""Sends dispatch messages by Celery."""

from collections.abc import Callable

from shared.catalogue.job_types import JOB_TYPES
from shared.jobs.dispatch import Waiting
from shared.messaging import celery
from shared.settings import Settings

Send = Callable[[Waiting, str, int], None]
"""(job, device key, newest protocol that the worker reads): send the job's dispatch message to the device's queue.

Raises whatever the transport raises while Redis is unavailable; the message is then sent again later.
"""


def celery_sender(settings: Settings) -> Send:
    """Return a sender that uses Celery. The task id is the job's id, and each device has its own queue."""
    app = celery.celery_app(settings, "wanworks.dispatcher")

    def send(job: Waiting, device_key: str, reads: int) -> None:
        app.send_task(
            JOB_TYPES[job.type].task,
            args=celery.dispatch_message(job.job_id, reads),
            argsrepr=f"({job.type} {job.model_id})",
            kwargsrepr="",
            task_id=job.job_id,
            queue=celery.queue_of(device_key),
            declare=[],  # the worker declares its queue; a message may come before
            retry=False,
        )

    return send
