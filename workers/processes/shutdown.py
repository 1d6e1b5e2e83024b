"""How a worker's main process ends: within seconds, whatever its children, the broker and the database do.

Celery's own shutdowns wait for every child to read its queue to the end, and a child that is still importing torch does
not read. Here the jobs are given back first, then the children are killed, and Celery gets what is left of the limit to
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

LIMIT_SECONDS = 3.0  # from the signal to the end of the process; the supervisor grants a little more
_HANDING_BACK_SECONDS = 2.0  # of them, for what the loops and the database need
_STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})

coming_up = threading.Lock()
"""Held while the worker registers and says how to undo it: a stop comes before that or after it."""
handing_back: list[Callable[[], Any]] = []
"""What is to be called when the process stops, all at once, each in a thread of its own."""
at_last: list[Callable[[], Any]] = []
"""What is to be called one after the other once those have ended."""


class Worker(CeleryWorker):  # type: ignore[misc]
    """Celery's worker, with this module's way to stop."""

    def install_platform_tweaks(self, worker: Any) -> None:
        super().install_platform_tweaks(worker)
        self._told_hub, self._tells_hub = os.pipe()
        heard, tells = os.pipe()
        os.set_blocking(tells, False)
        # The interpreter's own handler writes there whatever the main thread is doing, so that a signal is heeded also
        # while that thread waits for a server, and nothing of ours runs inside a signal handler.
        signal.set_wakeup_fd(tells, warn_on_full_buffer=False)
        for number in _STOP_SIGNALS:
            signal.signal(number, lambda *_: None)
        threading.Thread(target=self._end_when_asked, args=(heard,), name="shutdown", daemon=True).start()

    def register_with_event_loop(self, hub: Any) -> None:
        super().register_with_event_loop(hub)
        main_loop.watch(hub)
        hub.add_reader(self._told_hub, self._terminate_celery)

    def start(self) -> None:
        super().start()
        if state.should_terminate is not None:
            _kill_children()
            run_finalizers()  # of the children's queues and semaphores
            os._exit(0)  # tearing an interpreter down takes seconds on a busy host, and nothing can cut it short

    def _terminate_celery(self) -> None:
        os.read(self._told_hub, 64)
        state.should_terminate = EX_FAILURE
        state.maybe_shutdown()

    def _end_when_asked(self, heard: int) -> None:
        while not _STOP_SIGNALS.intersection(os.read(heard, 64)):
            pass
        deadline = time.monotonic() + LIMIT_SECONDS
        threading.Thread(target=_end_at, args=(deadline,), name="shutdown-limit", daemon=True).start()
        log.info("this worker is stopping")
        coming_up.acquire(timeout=_HANDING_BACK_SECONDS)
        if not handing_back:
            _end_at(0.0)  # it has not come up, so it has nothing
        _call_all(handing_back, _HANDING_BACK_SECONDS)
        for call in at_last:
            _call(call)
        # Only now: with this set, Celery leaves a request alone whose child dies, and until now that means recovery.
        state.should_terminate = EX_FAILURE
        os.write(self._tells_hub, b".")
        while self.blueprint.state == bootsteps.RUN and time.monotonic() < deadline:
            time.sleep(0.01)  # Celery would replace children that die while it still runs
        _kill_children()


def _end_at(deadline: float) -> None:
    """An interpreter that ends waits for its threads, for Celery and for its children: for so long, and no longer."""
    time.sleep(max(0.0, deadline - time.monotonic()))
    try:
        _kill_children()
    finally:
        os._exit(0)


def _kill_children() -> None:
    """One that is being started this very moment is missed: it ends by itself when it finds its parent gone."""
    for child in list(current_process()._children):  # active_children() would fail on one that is being started
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
        log.exception("an error while this worker stops; it goes on")
