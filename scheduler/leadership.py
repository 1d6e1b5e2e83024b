"""Which dispatcher leads, whether Redis still has its data, and the wait between passes.

One dispatcher leads at a time, by a lock in Redis, so that passes are not made twice. Two at once do no harm, because
SQL guards every change.
"""

import logging
import math
import secrets
import threading
import time
from contextlib import suppress

import redis

from scheduler.alerts.facts import REDIS_LOST
from shared import clock
from shared.cluster import nodes
from shared.database.engine import Database
from shared.jobs import dispatch
from shared.messaging import celery
from shared.messaging.progress import connect
from shared.settings import Settings
from shared.stored_names import WAKE_KEY
from shared.telemetry.loop_reports import DISPATCHER
from shared.telemetry.loops import Loop, LoopReporter
from shared.telemetry.metrics import Meters

log = logging.getLogger("wanworks.dispatcher")

_LOCK_KEY = "wanworks:dispatcher:lock"
_LOCK_SECONDS = 6.0
_LONGEST_PASS_SECONDS = 120.0
# The leader and Redis's data are checked at most this often, so that a wake-up does not wait for the replies.
_CHECK_SECONDS = 1.0
# One wait for a wake-up: shorter than the lock and the socket's timeout, and short enough for a stop.
_WAIT_SECONDS = 0.5


class Leadership:
    """Holds the dispatcher's lock. Without Redis this process always leads."""

    def __init__(self, settings: Settings, database: Database, meters: Meters, reporter: LoopReporter) -> None:
        self._database = database
        self._reporter = reporter
        self._every_seconds = settings.dispatch_seconds
        self._redis = connect(settings.redis, timeout=5.0) if settings.redis else None
        self._led_at = float("-inf")  # when the lock was last requested
        self._checked_at = float("-inf")  # when both the lock and Redis's data were last checked
        self._lock = (
            self._redis.lock(_LOCK_KEY, timeout=_LOCK_SECONDS, blocking=False, thread_local=False)
            if self._redis is not None
            else None
        )
        self._loop = Loop("dispatcher-lock", _LOCK_SECONDS / 3, self._extend, meters=meters)

    def start(self) -> None:
        """Begin to extend the lock in the background while a long pass runs."""
        self._loop.start()

    def stop(self) -> None:
        """Stop extending the lock, and release it."""
        self._loop.stop()
        if self._lock is not None:
            try:
                self._lock.release()
            except redis.RedisError as error:
                log.info("the leader's lock was not released: %s", error)

    def may_run(self) -> bool:
        """Return whether this process leads. If it does, messages that Redis has lost have been recalled.

        Raises RedisError, OSError and DatabaseUnavailable.
        """
        if time.monotonic() - self._checked_at < _CHECK_SECONDS:
            return True
        if not self.leads():
            return False
        self.check_epoch()
        self._checked_at = self._led_at
        return True

    def leads(self) -> bool:
        """Take or extend the lock. Return whether this process has it. Raises RedisError and OSError."""
        if self._redis is None or self._lock is None:
            return True
        self._led_at = time.monotonic()
        leads = False
        with suppress(redis.exceptions.LockError):
            if self._lock.owned():
                self._lock.extend(_LOCK_SECONDS, replace_ttl=True)
                leads = True
            else:
                leads = bool(self._lock.acquire())
        if not leads:
            self._checked_at = float("-inf")
        return leads

    def check_epoch(self) -> None:
        """Recall all messages if Redis has no epoch key, because then it has lost its data."""
        if self._redis is None or self._redis.exists(celery.EPOCH_KEY):
            return
        epoch = secrets.token_hex(8)
        lost = dispatch.recall(self._database)
        if nodes.note(self._database, "redis_epoch", epoch) is not None:
            nodes.note(self._database, REDIS_LOST, str(clock.now().timestamp()))
        # Set after the rows are changed: if the database is unavailable, the next pass finds the key missing again.
        self._redis.set(celery.EPOCH_KEY, epoch)
        if lost:
            log.warning("Redis has lost its data: %d dispatch messages are sent again", lost)

    def wait(self, stopping: threading.Event, at_most: float = math.inf) -> None:
        """Wait for a wake-up, until the next pass is due, or for `stopping`. Keep the lock meanwhile.

        `at_most`: so many seconds.
        """
        due = time.monotonic() + min(self._every_seconds, at_most)
        while not stopping.is_set() and (left := due - time.monotonic()) > 0:
            if self._redis is None:
                stopping.wait(left)
                return
            try:
                if self._redis.blpop([WAKE_KEY], timeout=min(left, _WAIT_SECONDS)) is not None:
                    return
                if time.monotonic() - self._led_at > _LOCK_SECONDS / 3 and self.leads():
                    self._reporter.report(DISPATCHER, self._every_seconds)  # alive, with nothing to do
            except (redis.RedisError, OSError):
                stopping.wait(min(left, _WAIT_SECONDS))

    def _extend(self) -> None:
        """Extend the lock during a long pass, but not during one that never ends."""
        since = time.monotonic() - self._led_at
        if self._lock is not None and _LOCK_SECONDS / 3 < since < _LONGEST_PASS_SECONDS:
            with suppress(redis.RedisError, OSError):
                self._lock.extend(_LOCK_SECONDS, replace_ttl=True)
