"""The Celery application of the workers, as the main process and its children import it.

A GPU worker has one child that holds the device. The child is spawned, because forking after torch has run hangs.
"""

from typing import Any

from celery import Celery, signals

from shared import garbage
from shared.messaging import celery
from shared.telemetry import tracing
from workers.processes import process, shutdown

# In addition to the downloads: one for a scan, one for a cleanup, one for scheduled work.
_IO_CHILDREN_BESIDE_DOWNLOADS = 3

role = process.role()
app: Celery = celery.celery_app(process.settings(), "wanworks.worker")
app.conf.update(
    include=["workers.processes.child_process", "workers.tasks"]
    + ([] if role == "gpu" else ["workers.processes.version_check", "scheduler.ticks"]),
    worker_concurrency=1 if role == "gpu" else process.settings().download_slots + _IO_CHILDREN_BESIDE_DOWNLOADS,
)
app.Worker = app.subclass_with_self(shutdown.Worker)


@signals.worker_ready.connect
def _on_ready(**_: Any) -> None:
    with shutdown.starting:
        _start()


def _start() -> None:
    from workers.processes import log_command, main_process  # noqa: F401  (the command registers itself)
    from workers.processes.child_process import set_up_traces

    set_up_traces()
    watches: list[Any]
    if role == "io":
        from workers.processes.node_process import NodeWatch
        from workers.processes.webhook_sender import WebhookSender

        node = NodeWatch()
        sender = WebhookSender(process.settings(), process.database(), process.meters(), process.reporter())
        watches = [main_process.take_over(node.stop), sender]
        node.start()
    else:
        from workers.processes.device_watch import DeviceWatch
        from workers.processes.sampler import Sampler

        watches = [main_process.take_over(), Sampler(), DeviceWatch()]
    shutdown.on_stop.extend(watch.stop for watch in watches)
    shutdown.on_exit.extend((process.meters().flush, process.reporter().close, tracing.close))
    for watch in watches:
        watch.start()
    garbage.freeze()
