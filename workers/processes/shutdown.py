"""The shutdown of a worker's main process: within seconds, whatever its children, the broker and the database do.

Celery's own shutdowns wait for every child to read its queue to the end, and a child that is still importing torch does
not read. Here the jobs are returned first, then the children are killed, and Celery gets the rest of the time to
restore its messages and to report the worker as offline.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from billiard.process import current_process
from billiard.util import _run_finalizers as run_finalizers
from celery import bootsteps
from celery.apps.worker import Worker as CeleryWorker
from celery.platforms import EX_FAILURE
from celery.worker import state

from workers.processes import main_loop

log = logging.getLogger("wanworks.worker")

LIMIT_SECONDS = 3.0  # from the signal to the exit of the process; the supervisor grants a little more
_DEREGISTERING_SECONDS = 2.0  # of them, for the loops and the database
_STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})

starting = threading.Lock()
"""Held while the worker registers and adds its calls below: a shutdown comes before that or after it."""
on_stop: list[Callable[[], Any]] = []
"""Calls that a shutdown makes first, all at once, each in its own thread."""
on_exit: list[Callable[[], Any]] = []
"""Calls that a shutdown makes one after the other once those have ended."""


class Worker(CeleryWorker):  # type: ignore[misc]
    """Celery's worker with this module's shutdown."""

    def install_platform_tweaks(self, worker: Any) -> None:
        super().install_platform_tweaks(worker)
        self._hub_reader, self._hub_writer = os.pipe()
        signal_reader, signal_writer = os.pipe()
        os.set_blocking(signal_writer, False)
        # The interpreter's own handler writes to this pipe whatever the main thread is doing, so a signal takes effect
        # even while that thread waits for a server, and no code of ours runs inside a signal handler.
        signal.set_wakeup_fd(signal_writer, warn_on_full_buffer=False)
        for number in _STOP_SIGNALS:
            signal.signal(number, lambda *_: None)
        threading.Thread(target=self._wait_for_signal, args=(signal_reader,), name="shutdown", daemon=True).start()

    def register_with_event_loop(self, hub: Any) -> None:
        super().register_with_event_loop(hub)
        main_loop.watch(hub)
        hub.add_reader(self._hub_reader, self._terminate_celery)

    def start(self) -> None:
        super().start()
        if state.should_terminate is not None:
            _kill_children()
            run_finalizers()  # for the children's queues and semaphores
            os._exit(0)  # interpreter finalisation takes seconds on a busy host and cannot be interrupted

    def _terminate_celery(self) -> None:
        os.read(self._hub_reader, 64)
        state.should_terminate = EX_FAILURE
        state.maybe_shutdown()

    def _wait_for_signal(self, signal_reader: int) -> None:
        while not _STOP_SIGNALS.intersection(os.read(signal_reader, 64)):
            pass
        deadline = time.monotonic() + LIMIT_SECONDS
        threading.Thread(target=_end_at, args=(deadline,), name="shutdown-limit", daemon=True).start()
        log.info("this worker is stopping")
        starting.acquire(timeout=_DEREGISTERING_SECONDS)
        if not on_stop:
            _end_at(0.0)  # the worker has not started, so it holds nothing
        _call_all(on_stop, _DEREGISTERING_SECONDS)
        for call in on_exit:
            _call(call)
        # Set only now: Celery then ignores requests whose child dies, and until now their jobs must be recovered.
        state.should_terminate = EX_FAILURE
        os.write(self._hub_writer, b".")
        while self.blueprint.state == bootsteps.RUN and time.monotonic() < deadline:
            time.sleep(0.01)  # Celery would replace children that die while it still runs
        _kill_children()


def _end_at(deadline: float) -> None:
    """End the process at the deadline: an exiting interpreter waits for threads, Celery and children without limit."""
    time.sleep(max(0.0, deadline - time.monotonic()))
    try:
        _kill_children()
    finally:
        os._exit(0)


def _kill_children() -> None:
    """Kill the children. One that is just being started is missed; it exits itself when its parent is gone."""
    for child in list(current_process()._children):  # active_children() fails on one that is being started
        pid = getattr(child._popen, "pid", None)
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _call_all(calls: Sequence[Callable[[], Any]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    threads = [threading.Thread(target=_call, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _call(call: Callable[[], Any]) -> None:
    try:
        call()
    except Exception:
        log.exception("an error during the shutdown of this worker; the shutdown continues")
