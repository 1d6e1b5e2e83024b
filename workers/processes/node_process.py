"""A node's io worker, main process: reports that the node is alive, how full its disk is, and which models it holds.

Two loops, because access to the model storage can hang with a network disk, and the heartbeat must not hang with it.
"""

import shutil
import time

from shared.catalogue import models
from shared.cluster import nodes
from shared.messaging import celery
from shared.messaging.progress import RestingRedis
from shared.telemetry.loops import Loop
from workers.models import presence
from workers.processes import process

_DISK_SECONDS = 5.0  # how often free space is measured


class NodeWatch:
    """Sends the heartbeat with the last measured disk space, and scans the disk for models."""

    def __init__(self) -> None:
        self._settings = process.settings()
        self._catalogue = models.load(self._settings.catalogue)
        self._redis = RestingRedis(self._settings.redis)
        self._disk_mb: tuple[float, float] | None = None  # total and free; None until it has been measured
        self._scanned_at = float("-inf")
        meters, reporter = process.meters(), process.reporter()
        self.heartbeat = Loop(
            "node-heartbeat",
            self._settings.device_heartbeat_seconds,
            self._beat,
            meters=meters,
            reporter=reporter,
        )
        self.scan = Loop(
            "model-storage",
            min(_DISK_SECONDS, self._settings.presence_seconds),
            self._scan,
            meters=meters,
            reporter=reporter,
        )

    def start(self) -> None:
        self.heartbeat.start()
        self.scan.start()

    def stop(self) -> None:
        """End the loops and deregister the node. Raises DatabaseUnavailable and StoreFull."""
        self.scan.stop(timeout=0.0)
        self.heartbeat.stop()  # a later heartbeat would register the node again
        nodes.deregister_node(process.database(), self._settings.node)

    def _beat(self) -> None:
        total_mb, free_mb = self._disk_mb or (None, None)
        nodes.node_beat(process.database(), self._settings.node, total_mb, free_mb, celery.PROTOCOL)

    def _scan(self) -> None:
        """Measure free space and scan for models. Raises OSError if the model storage is unavailable."""
        folder = self._settings.models_dir
        folder.mkdir(parents=True, exist_ok=True)
        disk = shutil.disk_usage(folder)
        first, self._disk_mb = self._disk_mb is None, (disk.total / 1e6, disk.free / 1e6)
        if first:
            self.heartbeat.wake()
        if time.monotonic() - self._scanned_at >= self._settings.presence_seconds:
            presence.scan(self._settings, process.database(), self._catalogue, self._redis)
            self._scanned_at = time.monotonic()
            # Last: a file that cannot be removed must not prevent the scan.
            presence.drop_cancelled_partials(self._settings, process.database(), self._catalogue)
