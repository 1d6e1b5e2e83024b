"""Wake the dispatcher from a thread, without blocking requests. Wake-ups in quick succession are merged."""

import logging
import threading

from shared.messaging import celery
from shared.messaging.progress import RestingRedis

log = logging.getLogger("wanworks.waker")


class Waker:
    def __init__(self, client: RestingRedis) -> None:
        self._client = client
        self._due = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="waker", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        self._due.set()

    def close(self) -> None:
        """Send a pending wake-up and stop the thread."""
        self._closing = True
        self._due.set()
        self._thread.join(timeout=2)

    def _run(self) -> None:
        while not self._closing:
            self._due.wait()
            self._due.clear()
            try:
                celery.wake(self._client)
            except Exception:  # the thread must go on
                log.exception("the dispatcher could not be woken; it will notice new jobs at its next pass")
