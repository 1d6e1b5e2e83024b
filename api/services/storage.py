"""The store in the web process: opened when first needed, with checks of free space.

It is not opened at start, because its marker is compared with the database's, which may be unavailable then.
"""

import shutil
import threading
import time

from shared.cluster import nodes
from shared.database.engine import Database
from shared.errors import ConfigurationError, StoreFull, StoreMismatch, StoreUnavailable, Unavailable
from shared.settings import Settings
from shared.storage.store import Store, open_store

_ROOM_CHECK_SECONDS = 1.0
_AWAY_SECONDS = 2.0  # an unreachable store is not tried again for this long
_CHECK_SECONDS = 5.0  # how long the result of `answers` is cached


class Storage:
    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._store: Store | None = None
        self._away_until = float("-inf")
        self._answered = (float("-inf"), False)  # not yet heard from
        self._free_mb = 0.0
        self._room_checked_at = float("-inf")

    def store(self) -> Store:
        """Return the opened store. Raises DatabaseUnavailable, StoreUnavailable or StoreMismatch."""
        with self._lock:
            if self._store is None:
                if time.monotonic() < self._away_until:
                    raise StoreUnavailable()
                try:
                    self._store = open_store(self._settings, self._marker, create=True)
                except StoreUnavailable:
                    self._away_until = time.monotonic() + _AWAY_SECONDS
                    raise
                except ConfigurationError as error:
                    raise StoreUnavailable(
                        "The store's settings are invalid. The server's log has the details."
                    ) from error
            return self._store

    def check_room(self) -> None:
        """Raise StoreFull if less than `min_free_disk_mb` is free. Checks at most once a second.

        For a bucket, the disk of the home folder is checked, because files are written there before the upload.
        """
        if time.monotonic() - self._room_checked_at > _ROOM_CHECK_SECONDS:
            root = self._settings.store_dir if self._settings.store_url is None else self._settings.home
            there = next(folder for folder in (root, *root.parents) if folder.exists())
            self._free_mb = shutil.disk_usage(there).free / 1e6
            self._room_checked_at = time.monotonic()
        if self._free_mb < self._settings.min_free_disk_mb:
            raise StoreFull()

    def answers(self) -> bool:
        """Return whether the bucket responded in the last seconds; always true for a directory.

        False until the first response. One thread checks at a time and others do not wait for it, so that a silent
        bucket does not block many threads.
        """
        if self._settings.store_url is None:
            return True
        if time.monotonic() - self._answered[0] > _CHECK_SECONDS and self._asking.acquire(blocking=False):
            try:
                self._answered = (time.monotonic(), self._ask())
            finally:
                self._asking.release()
        return self._answered[1]

    def link_origin(self) -> str | None:
        """Return the origin of signed artifact URLs for the page's content security policy.

        None if artifacts are served by this server, or if the store is unavailable.
        """
        if self._settings.store_url is None or not self._settings.store_redirect:
            return None
        try:
            return self.store().link_origin
        except (Unavailable, StoreMismatch):
            return None

    def _ask(self) -> bool:
        try:
            self.store().ask()
        except (Unavailable, StoreMismatch):
            return False
        return True

    def _marker(self) -> str:
        return nodes.agreed(self._database, "store")
