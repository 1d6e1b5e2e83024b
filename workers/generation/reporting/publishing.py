"""Publishes the progress of a generation: to its stream in Redis, and now and then to the job's webhook.

In a thread of its own, so that the device waits neither for Redis nor for the database.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import StoreFull, Unavailable
from shared.jobs.ending import webhooks
from shared.jobs.ids import new_id
from shared.messaging.progress import STREAM_LENGTH, Progress
from shared.settings import Settings

log = logging.getLogger("wanworks.generation")

_FLUSH_SECONDS = 1.0
_SHOWN = ("percent", "phase", "step", "steps", "eta_seconds")


class ProgressSender:
    """Sends the events of one attempt in their order: ``with ProgressSender(...) as send``.

    The block's end waits for the last ones; after an error they are dropped.
    """

    def __init__(
        self, settings: Settings, database: Database, progress: Progress, job: Job, on_cancel: Callable[[], None]
    ) -> None:
        """`on_cancel` is called, in the thread, when a cancel of the job was requested."""
        self._settings = settings
        self._database = database
        self._progress = progress
        self._job = job
        self._on_cancel = on_cancel
        self._webhook_at = time.monotonic()
        self._waiting: deque[dict[str, Any]] = deque(maxlen=STREAM_LENGTH)  # the stream keeps no more
        self._sending = self._closing = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.flush()
        with self._changed:
            self._closing = True
            self._waiting.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(_FLUSH_SECONDS)  # so that the event of the job's end comes after these

    def __call__(self, event: dict[str, Any]) -> None:
        """Send the event soon, and return at once. For a gang, wait until it is sent.

        The members of a gang agree after each step whether to stop, and the answer of the report says if they should.
        """
        with self._changed:
            self._waiting.append(event)
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        if self._job.devices > 1:
            self.flush()

    def flush(self) -> None:
        """Wait until all events are sent, at most one second."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._sending, _FLUSH_SECONDS)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._sending = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                event = self._waiting.popleft()
                self._sending = True
            try:
                self._send({**event, "attempt": self._job.attempt})
            except Exception as error:  # progress never costs the job
                log.warning("job %s: its progress cannot be published: %r", self._job.id, error)

    def _send(self, event: dict[str, Any]) -> None:
        job = self._job
        if job.webhook_progress and time.monotonic() - self._webhook_at > self._settings.webhook_progress_seconds:
            self._webhook_at = time.monotonic()
            try:
                webhooks.add_progress(self._database, job, f"msg_{new_id()}", {name: event[name] for name in _SHOWN})
            except (Unavailable, StoreFull) as error:
                log.warning("job %s: the progress message for its webhook cannot be stored: %s", job.id, error)
        if self._progress.report(job.id, event):
            self._on_cancel()
