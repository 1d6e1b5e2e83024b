"""A node's io worker, main process: says that the node is alive, how full its disk is, and which models it holds."""

import logging
import shutil
import threading

from shared import broker, catalogue, nodes, replicas
from shared.errors import StoreFull, Unavailable
from shared.progress import RestingRedis
from workers import process

log = logging.getLogger("wanworks.node")


class NodeWatch(threading.Thread):
    """One presence scan after the other."""

    def __init__(self) -> None:
        super().__init__(name="node-watch", daemon=True)
        self._settings = process.settings()
        self._catalogue = catalogue.load(self._settings.catalogue)
        self._redis = RestingRedis(self._settings.redis)
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.look()
            except (Unavailable, StoreFull) as error:
                log.warning("database: %s", error)
            except OSError as error:
                log.error("model storage: %s", error)
            self._stopping.wait(self._settings.presence_seconds)

    def stop(self) -> None:
        self._stopping.set()

    def look(self) -> None:
        """Records the node's disk and replicas; wakes the dispatcher where a replica has changed."""
        folder = self._settings.models_dir
        folder.mkdir(parents=True, exist_ok=True)
        disk = shutil.disk_usage(folder)
        database = process.database()
        nodes.node_beat(database, self._settings.node, disk.total / 1e6, disk.free / 1e6)
        found = {entry.model_id: replicas.scan(folder, entry) for entry in self._catalogue.entries}
        if replicas.record(database, self._settings.node, self._catalogue, found):
            broker.nudge(self._redis)
