"""The store as the web process meets it: opened when it is first needed, and only used while there is room.

It cannot be opened at start: its marker is compared with the database's, and the database may be away then.
"""

import shutil
import threading
import time

from shared.cluster import nodes
from shared.database.engine import Database
from shared.errors import ConfigurationError, StoreFull, StoreMismatch, StoreUnavailable, Unavailable
from shared.settings import Settings
from shared.storage.store import Store, open_store

_LOOK_SECONDS = 1.0
_AWAY_SECONDS = 2.0  # a store that could not be reached is not asked again for that long
_ASK_SECONDS = 5.0  # how long an answer to `answers` holds


class Storage:
    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._store: Store | None = None
        self._away_until = float("-inf")
        self._answered = (float("-inf"), True)
        self._free_mb = 0.0
        self._looked_at = float("-inf")

    def store(self) -> Store:
        """Raises DatabaseUnavailable, StoreUnavailable or StoreMismatch."""
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
                    raise StoreUnavailable("The store's settings are wrong; the server's log says how") from error
            return self._store

    def check_room(self) -> None:
        """Raises StoreFull where less is free than `min_free_disk_mb`. Looks at most once a second.

        A bucket is never full: then it is the home's disk that counts, where what is on its way lies.
        """
        if time.monotonic() - self._looked_at > _LOOK_SECONDS:
            root = self._settings.store_dir if self._settings.store_url is None else self._settings.home
            there = next(folder for folder in (root, *root.parents) if folder.exists())
            self._free_mb = shutil.disk_usage(there).free / 1e6
            self._looked_at = time.monotonic()
        if self._free_mb < self._settings.min_free_disk_mb:
            raise StoreFull()

    def answers(self) -> bool:
        """Whether the bucket is there, as of the last few seconds; a directory is taken to be.

        One asks at a time, and nobody waits for another's answer: a silent bucket must not hold many threads.
        """
        if self._settings.store_url is None:
            return True
        if time.monotonic() - self._answered[0] > _ASK_SECONDS and self._asking.acquire(blocking=False):
            try:
                self._answered = (time.monotonic(), self._ask())
            finally:
                self._asking.release()
        return self._answered[1]

    def link_origin(self) -> str | None:
        """Where clients are sent for artifacts, as a page's policy has to name it; None where they are not, or where
        the store cannot be asked."""
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
