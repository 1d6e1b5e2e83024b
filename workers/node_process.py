"""A node's io worker, main process: says that the node is alive, how full its disk is, and which models it holds."""

import logging
import shutil
import threading
import time

from shared import broker, catalogue, nodes
from shared.errors import StoreFull, Unavailable
from shared.progress import RestingRedis
from workers import presence, process

log = logging.getLogger("wanworks.node")

_BEAT_SECONDS = 5.0


class NodeWatch(threading.Thread):
    """One beat after the other, and a presence scan whenever it is due."""

    def __init__(self) -> None:
        super().__init__(name="node-watch", daemon=True)
        self._settings = process.settings()
        self._catalogue = catalogue.load(self._settings.catalogue)
        self._redis = RestingRedis(self._settings.redis)
        self._stopping = threading.Event()

    def run(self) -> None:
        scanned_at = float("-inf")
        while not self._stopping.is_set():
            try:
                self._beat()
                if time.monotonic() - scanned_at >= self._settings.presence_seconds:
                    self._scan()
                    scanned_at = time.monotonic()
            except (Unavailable, StoreFull) as error:
                log.warning("database: %s", error)
            except OSError as error:
                log.error("model storage: %s", error)
            self._stopping.wait(min(_BEAT_SECONDS, self._settings.presence_seconds))

    def stop(self) -> None:
        self._stopping.set()
        self.join(timeout=2)  # its last beat must not come after the farewell
        try:
            nodes.node_goodbye(process.database(), self._settings.node)
        except (Unavailable, StoreFull) as error:
            log.warning("cannot say goodbye: %s", error)

    def _beat(self) -> None:
        folder = self._settings.models_dir
        folder.mkdir(parents=True, exist_ok=True)
        disk = shutil.disk_usage(folder)
        nodes.node_beat(process.database(), self._settings.node, disk.total / 1e6, disk.free / 1e6, broker.PROTOCOL)

    def _scan(self) -> None:
        presence.look(self._settings, process.database(), self._catalogue, self._redis)
