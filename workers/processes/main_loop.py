"""Detect whether the event loop of a worker's main process is running.

While it waits for an unavailable broker it receives nothing from its children: a request that a child has finished
still counts as active, and one that has begun is not known yet. This module must not depend on jobs.
"""

import time
from typing import Any

_TURN_SECONDS = 1.0
_SILENT_SECONDS = 3.0

_turned_at: float | None = None


def watch(hub: Any) -> None:
    """Watch the loop. Call this whenever Celery's loop starts again: it drops all timers with the connection."""
    _turn()
    hub.call_repeatedly(_TURN_SECONDS, _turn)


def turns() -> bool:
    """Return whether the loop has run within the last seconds; True if it was never watched."""
    return _turned_at is None or time.monotonic() - _turned_at <= _SILENT_SECONDS


def _turn() -> None:
    global _turned_at
    _turned_at = time.monotonic()
