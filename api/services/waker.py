"""Wakes the dispatcher without keeping anybody waiting: many nudges at once become one."""

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
        """Sends what is due and stops."""
        self._closing = True
        self._due.set()
        self._thread.join(timeout=2)

    def _run(self) -> None:
        while not self._closing:
            self._due.wait()
            self._due.clear()
            try:
                celery.wake(self._client)
            except Exception:  # the thread serves all requests to come
                log.exception("the dispatcher could not be woken; it goes on")
