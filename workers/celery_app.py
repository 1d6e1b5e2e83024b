"""The Celery application of the workers, as the main process and its children import it.

A GPU worker has one child that holds the device; the child is spawned, since forking after torch has run hangs.
"""

import ctypes
import os
import signal
from typing import Any

from celery import Celery, signals

from shared import broker
from workers import process

_IO_CHILDREN = 1
_PR_SET_PDEATHSIG = 1

role = os.environ.get("WANWORKS_ROLE", "gpu")
app: Celery = broker.celery_app(process.settings(), "wanworks.worker")
app.conf.update(
    include=["workers.tasks"] if role == "gpu" else ["scheduler.ticks"],
    worker_concurrency=1 if role == "gpu" else _IO_CHILDREN,
)
_watch: Any = None


@signals.worker_ready.connect
def _on_ready(**_: Any) -> None:
    global _watch
    if role == "gpu":
        from workers.main_process import register

        _watch = register()
    else:
        from workers.node_process import NodeWatch

        _watch = NodeWatch()
        _watch.start()


@signals.worker_shutting_down.connect
def _on_shutting_down(**_: Any) -> None:
    if _watch is not None:
        _watch.stop()


@signals.worker_process_init.connect
def _on_child(**_: Any) -> None:
    """A child must not outlive its main process, and loads the libraries before the first job asks for them."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        os._exit(1)
    if role == "gpu":
        from workers import generation

        generation.preload()
