"""This node's copies of LoRAs from a bucket: fetched before the jobs that need them, removed when space runs out."""

import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from shared.catalogue.job_types import LoraFile
from shared.errors import NotFound
from shared.settings import Settings
from shared.storage.store import Store

log = logging.getLogger("wanworks.loras")

_USED_LATELY_SECONDS = 3600.0


class LoraCopies:
    def __init__(self, settings: Settings, store: Store) -> None:
        self._folder = settings.home / "lora-copies"
        self._most_bytes = settings.lora_copies_gb * 1e9
        self._store = store

    def paths(self, files: Iterable[LoraFile]) -> dict[str, Path]:
        """Return each file as a local one, by SHA-256; those that the store no longer has are left out.

        Raises StoreUnavailable and StoreFull.
        """
        found: dict[str, Path] = {}
        for file in files:
            with suppress(NotFound):
                found[file.sha256] = self._store.lora_file(file.sha256, self._folder)
        self._trim()
        return found

    def _trim(self) -> None:
        """Remove the copies that were not used for the longest time, as long as they are more than the limit."""
        copies = []
        for path in self._folder.glob("*.safetensors") if self._folder.is_dir() else ():
            with suppress(FileNotFoundError):
                status = path.stat()
                copies.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in copies)
        for used, size, path in sorted(copies):
            if total <= self._most_bytes or used > time.time() - _USED_LATELY_SECONDS:
                return
            path.unlink(missing_ok=True)
            total -= size
            log.info("the copy of the LoRA %s was removed: it was not used lately", path.stem)
