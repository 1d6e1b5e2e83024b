"""The class of all background threads: it makes pass after pass until it is stopped.

A pass that raises is logged and counted, and the next one follows. A loop that hangs stops reporting, which other
processes detect (`shared/telemetry/loop_reports.py`).
"""

import logging
import threading
import time
from collections.abc import Callable

from shared.database.engine import Database
from shared.errors import StoreFull, Unavailable
from shared.telemetry import loop_reports
from shared.telemetry.metrics import LOOP_ERRORS, Meters

log = logging.getLogger("wanworks.loops")

_REPORT_SECONDS = 10.0
_SAME_ERROR_SECONDS = 60.0


class RepeatedErrors:
    """Decides whether to log an error. The same error in a row is logged once a minute."""

    def __init__(self) -> None:
        self._last: tuple[str, float] = ("", float("-inf"))

    def is_news(self, error: Exception) -> bool:
        text, now = f"{type(error).__name__}: {error}", time.monotonic()
        if text == self._last[0] and now - self._last[1] < _SAME_ERROR_SECONDS:
            return False
        self._last = (text, now)
        return True


class LoopReporter:
    """Reports the loops of one process, each at most every ten seconds. It never raises."""

    def __init__(self, database: Database, process: str, node: str) -> None:
        self._database = database
        self._process = process
        self._node = node
        self._reported_at: dict[str, float] = {}

    def report(self, loop: str, every_seconds: float) -> None:
        now = time.monotonic()
        if now - self._reported_at.get(loop, float("-inf")) < _REPORT_SECONDS:
            return
        self._reported_at[loop] = now  # also if it fails: a missing database must not be tried in each pass
        try:
            loop_reports.record(self._database, self._process, self._node, loop, every_seconds)
        except (Unavailable, StoreFull) as error:
            log.warning("loop %s: cannot be reported: %s", loop, error)
        except Exception:
            log.exception("loop %s: cannot be reported", loop)

    def close(self) -> None:
        """Remove the process's reports. Call it during shutdown, once its loops have ended."""
        try:
            loop_reports.forget_process(self._database, self._process)
        except (Unavailable, StoreFull) as error:
            log.warning("cannot deregister the loops: %s", error)
        except Exception:
            log.exception("cannot deregister the loops")


class Loop(threading.Thread):
    """Calls `work` every `every_seconds`, the first time after `first_after_seconds`, until `stop`.

    If `work` returns True there is more to do, and the next pass begins immediately.
    """

    def __init__(
        self,
        name: str,
        every_seconds: float,
        work: Callable[[], bool | None],
        *,
        meters: Meters,
        reporter: LoopReporter | None = None,
        first_after_seconds: float = 0.0,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.stopping = threading.Event()
        self._every_seconds = every_seconds
        self._work = work
        self._meters = meters
        self._reporter = reporter
        self._wait_seconds = first_after_seconds
        self._woken = threading.Event()
        self._errors = RepeatedErrors()

    def run(self) -> None:
        self._woken.wait(self._wait_seconds)
        while not self.stopping.is_set():
            self._woken.clear()
            more = self._pass()
            if self._reporter is not None:
                self._reporter.report(self.name, self._every_seconds)
            if not more and not self.stopping.is_set():
                self._woken.wait(self._every_seconds)

    def wake(self) -> None:
        """Begin the next pass now, or as soon as the current one has ended."""
        self._woken.set()

    def stop(self, timeout: float = 2.0) -> bool:
        """End the loop after its current pass, and wait up to `timeout` seconds. Return whether it has ended."""
        self.stopping.set()
        self._woken.set()
        if self.is_alive() and threading.current_thread() is not self:
            self.join(timeout)
        return not self.is_alive()

    def _pass(self) -> bool:
        try:
            return bool(self._work())
        except Exception as error:
            self._meters.count(LOOP_ERRORS, self.name)
            self._log(error)
            return False

    def _log(self, error: Exception) -> None:
        """Log the error unless it repeats, so that a long outage does not fill the log."""
        if not self._errors.is_news(error):
            return
        expected = isinstance(error, Unavailable | StoreFull)
        log.log(
            logging.WARNING if expected else logging.ERROR,
            "loop %s: %s: %s; the loop continues",
            self.name,
            type(error).__name__,
            error,
            exc_info=None if expected else error,
        )
