"""Set up a worker's child process: logs, exit with its parent, libraries.

Celery is configured to import this module: a spawned child imports no other module of ours before its first task.
"""

import contextlib
import ctypes
import logging
import os
import signal
from typing import Any, NoReturn

from celery import signals

from shared import garbage
from shared.cluster import nodes
from shared.errors import ConfigurationError, StoreFull, Unavailable
from shared.telemetry import logs, tracing
from workers.processes import process

log = logging.getLogger("wanworks.worker")

_PR_SET_PDEATHSIG = 1


def set_up_logs() -> None:
    """Set up logging of the main process or a child, instead of Celery's own."""
    device = process.device_id() if process.role() == "gpu" else None
    logs.set_up(process.settings(), process.worker_name(), device=device)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs a line for every request
    logging.getLogger("multiprocessing").setLevel(logging.WARNING)  # it logs a line in its own format for each child


def set_up_traces() -> None:
    """Set up tracing of the main process or a child; they report as one service."""
    tracing.set_up(process.settings(), "worker" if process.role() == "gpu" else "io")


@signals.setup_logging.connect
def _on_setup_logging(**_: Any) -> None:
    set_up_logs()


@signals.worker_process_init.connect
def _on_child(**_: Any) -> None:
    """Make the child exit with its main process, and load the libraries before the first job needs them."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        os._exit(1)
    set_up_traces()
    if process.role() == "gpu":
        from workers.generation import compiled_code, run

        compiled_code.keep_in(process.settings().home)
        process.ahead().end_process = end

        # The error is logged, and each job reports it. A child that exited here would only be restarted.
        with contextlib.suppress(ConfigurationError):
            run.preload()
            run.compile_ahead(process.settings(), process.catalogue())
    garbage.freeze()


def end(reason: str) -> NoReturn:
    """End this process at once, without the destructors of libraries. Celery starts another one in its place."""
    log.error("this process ends: %s", reason)
    try:
        nodes.report_loaded(process.database(), process.claimant().device_key, [])
    except (Unavailable, StoreFull) as error:
        log.warning("the loaded models cannot be cleared: %s", error)
    except Exception:
        log.exception("the loaded models cannot be cleared")
    try:
        process.meters().flush()
        tracing.close()
        logging.shutdown()
    finally:
        os._exit(1)


@signals.worker_process_shutdown.connect
def _on_child_end(**_: Any) -> None:
    tracing.close()
