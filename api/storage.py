"""The store as the web process meets it: opened when it is first needed, and only used while there is room.

It cannot be opened at start: its marker is compared with the database's, and the database may be away then.
"""

import shutil
import threading
import time

from shared import nodes
from shared.database import Database
from shared.errors import StoreFull
from shared.settings import Settings
from shared.store import Store, open_store

_LOOK_SECONDS = 1.0


class Storage:
    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._free_mb = 0.0
        self._looked_at = float("-inf")

    def store(self) -> Store:
        """Raises DatabaseUnavailable or StoreMismatch."""
        with self._lock:
            if self._store is None:
                root = self._settings.store_dir
                self._store = open_store(root, lambda: nodes.agreed(self._database, "store"), create=True)
            return self._store

    def check_room(self) -> None:
        """Raises StoreFull where less is free than `min_free_disk_mb`. Looks at most once a second."""
        if time.monotonic() - self._looked_at > _LOOK_SECONDS:
            root = self._settings.store_dir
            there = next(folder for folder in (root, *root.parents) if folder.exists())
            self._free_mb = shutil.disk_usage(there).free / 1e6
            self._looked_at = time.monotonic()
        if self._free_mb < self._settings.min_free_disk_mb:
            raise StoreFull()
