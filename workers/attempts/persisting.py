"""What an attempt asks of the database once its work is done: it waits for one that is unavailable."""

import time
from collections.abc import Callable
from typing import TypeVar

from shared.errors import DatabaseUnavailable, StoreFull
from shared.settings import Settings

_RETRY_SECONDS = 1.0
T = TypeVar("T")


def persist(settings: Settings, write: Callable[[], T]) -> T:
    """Read or write, and retry while the database is unavailable. This is safe if a write names the attempt."""
    deadline = time.monotonic() + 10 * settings.lease_seconds
    while True:
        try:
            return write()
        except (DatabaseUnavailable, StoreFull):
            if time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)
