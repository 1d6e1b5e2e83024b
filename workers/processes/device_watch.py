"""The loop of a GPU worker's main process that watches for Xid errors. A critical one quarantines the device."""

import logging

from shared.errors import FaultKind
from shared.jobs import device_faults
from shared.messaging import celery
from shared.messaging.progress import RestingRedis
from shared.telemetry.loops import Loop
from shared.telemetry.metrics import XIDS
from workers.devices.xids import Xid, XidWatch
from workers.processes import process

log = logging.getLogger("wanworks.worker")

_PASS_SECONDS = 2.0


class DeviceWatch:
    """Watches one device. A critical error that cannot be stored is kept for the next pass."""

    def __init__(self) -> None:
        self._xids = XidWatch(process.device())
        self._redis = RestingRedis(process.settings().redis)
        self._unstored: Xid | None = None
        self.loop = Loop("xids", _PASS_SECONDS, self.watch, meters=process.meters(), reporter=process.reporter())

    def start(self) -> None:
        self.loop.start()

    def stop(self) -> None:
        if self.loop.stop():  # do not close what is still read
            self._xids.close()

    def watch(self) -> None:
        """Make one pass. Raises Unavailable or StoreFull if the database cannot store the quarantine."""
        for xid in self._xids.read():
            process.meters().count(XIDS, process.settings().node, str(process.device().index), str(xid.number))
            log.log(logging.ERROR if xid.critical else logging.WARNING, "%s reports %s", process.device_id(), xid)
            if xid.critical:
                self._unstored = self._unstored or xid
        if self._unstored is not None:
            key = process.claimant().device_key
            if device_faults.quarantine(process.database(), key, FaultKind.XID, f"The driver reports {self._unstored}"):
                celery.wake(self._redis)  # messages to this device are recalled
            self._unstored = None
