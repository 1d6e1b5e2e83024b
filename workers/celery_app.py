"""The Celery application of the workers, as the main process and its children import it.

A GPU worker has one child that holds the device; the child is spawned, since forking after torch has run hangs.
"""

from typing import Any

from celery import Celery, signals

from shared import broker, tracing
from workers import process

# Beside the downloads: one for a scan, one for a cleanup, one for ticks.
_IO_CHILDREN_BESIDE_DOWNLOADS = 3

role = process.role()
app: Celery = broker.celery_app(process.settings(), "wanworks.worker")
app.conf.update(
    include=["workers.child_process", "workers.tasks"]
    + ([] if role == "gpu" else ["workers.version_check", "scheduler.ticks"]),
    worker_concurrency=1 if role == "gpu" else process.settings().download_slots + _IO_CHILDREN_BESIDE_DOWNLOADS,
)
_watches: list[Any] = []


@signals.worker_ready.connect
def _on_ready(**_: Any) -> None:
    from workers import main_process
    from workers.child_process import set_up_traces

    set_up_traces()
    _watches.append(main_process.take_over())
    if role == "io":
        from workers.node_process import NodeWatch
        from workers.webhook_sender import WebhookSender

        _watches.append(NodeWatch())
        _watches.append(WebhookSender(process.settings(), process.database(), process.meters()))
    else:
        from workers.sampler import Sampler

        _watches.append(Sampler())
    for watch in _watches:
        watch.start()


@signals.worker_shutting_down.connect
def _on_shutting_down(**_: Any) -> None:
    for watch in _watches:
        watch.stop()
    tracing.close()
