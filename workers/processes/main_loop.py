"""Whether the event loop of a worker's main process turns.

While it waits for a broker that is away it hears nothing of its children: an answer that one has ended still counts as
under way, and one that has begun is not known yet. Knows nothing of jobs.
"""

import time
from typing import Any

_TURN_SECONDS = 1.0
_SILENT_SECONDS = 3.0

_turned_at: float | None = None


def watch(hub: Any) -> None:
    """To be called whenever Celery's loop begins anew: it drops all timers with the connection."""
    _turn()
    hub.call_repeatedly(_TURN_SECONDS, _turn)


def turns() -> bool:
    """Whether it has turned within the last seconds; True where it was never watched."""
    return _turned_at is None or time.monotonic() - _turned_at <= _SILENT_SECONDS


def _turn() -> None:
    global _turned_at
    _turned_at = time.monotonic()
