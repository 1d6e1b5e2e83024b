"""What becomes of a worker's child as it is born: its logs, its end with its parent, its manners, its libraries.

Named among the modules that Celery imports, since a spawned child imports nothing else of ours before its first task.
"""

import contextlib
import ctypes
import logging
import os
import signal
from typing import Any

from celery import signals

from shared.errors import ConfigurationError
from shared.telemetry import logs, tracing
from workers.processes import process

_PR_SET_PDEATHSIG = 1
# Hashing and fetching must not take a step's cores from a generation.
_IO_NICENESS = 10


def set_up_logs() -> None:
    """Of the main process and of each child, in place of Celery's own."""
    device = process.device_id() if process.role() == "gpu" else None
    logs.set_up(process.settings(), process.worker_name(), device=device)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line for every request otherwise
    logging.getLogger("multiprocessing").setLevel(logging.WARNING)  # a line in its own format for each child otherwise


def set_up_traces() -> None:
    """Of the main process and of each child; they tell of themselves as one service."""
    tracing.set_up(process.settings(), "worker" if process.role() == "gpu" else "io")


@signals.setup_logging.connect
def _on_setup_logging(**_: Any) -> None:
    set_up_logs()


@signals.worker_process_init.connect
def _on_child(**_: Any) -> None:
    """A child must not outlive its main process, and loads the libraries before the first job asks for them."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        os._exit(1)
    set_up_traces()
    if process.role() == "gpu":
        from workers.generation import run

        # What is wrong is logged, and told by each job: a child that died of it would only be started again.
        with contextlib.suppress(ConfigurationError):
            run.preload()
    else:
        os.nice(_IO_NICENESS)


@signals.worker_process_shutdown.connect
def _on_child_end(**_: Any) -> None:
    tracing.close()
