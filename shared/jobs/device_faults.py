"""Faults of devices: recorded with the attempt that they ended, counted, and the quarantine that follows from them.

Sole writer of the `device_faults` table and of the quarantine in `devices`. Faults of a device count until a generation
succeeds on it or an operator releases it. A fault is part of the transaction that ends its attempt, so a restart of a
worker or of the dispatcher neither loses nor repeats one.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, delete, func, update
from sqlmodel import Session, col, select

from shared import clock
from shared.catalogue.job_types import BENCHMARK, GENERATION
from shared.database.engine import Database, hold, is_repetition, settled
from shared.database.tables import Device, DeviceFault, Job
from shared.errors import FaultKind, NotFound
from shared.jobs.ids import new_id

log = logging.getLogger("wanworks.devices")

FAULTS_IN_A_ROW = 3
"""So many faults without a success between them quarantine a device, if they come from at least two jobs."""
JOBS_AT_LEAST = 2
DEVICES_PER_JOB = 2
"""A job that took down so many different devices fails and is not given to another one."""
_ON_DEVICES = (GENERATION, BENCHMARK)
_KEPT = timedelta(days=30)  # of cleared faults, which still count against their jobs
_DETAIL = 300  # characters


@dataclass(frozen=True)
class Fault:
    """What happened to a device during an attempt."""

    kind: FaultKind
    detail: str


def record(session: Session, job: Job, fault: Fault | None, *, cancelled: bool = False) -> Sequence[str]:
    """Record the fault that ended the job's attempt. Return the keys of all devices that the job has taken down.

    Only generations that use a model count. The death of a process that was to be cancelled does not. Call it in the
    transaction that ends the attempt, before the row forgets its device.
    """
    if fault is None or job.type not in _ON_DEVICES or job.mock or None in (job.node, job.device, job.device_key):
        return ()
    if cancelled and fault.kind == FaultKind.PROCESS_DEATH:
        return ()
    node, uuid, key = job.node or "", job.device or "", job.device_key or ""
    hold(session, f"faults of {node} {uuid}")
    row = DeviceFault(
        id=new_id(), node=node, uuid=uuid, device_key=key, job_id=job.id, attempt=job.attempt, pid=job.pid,
        kind=fault.kind, detail=fault.detail[:_DETAIL], at=clock.now(),
    )  # fmt: skip
    session.add(row)
    session.flush()
    job.avoid_device = key
    _judge(session, row)
    session.connection().execute(delete(DeviceFault).where(col(DeviceFault.cleared_at) < clock.now() - _KEPT))
    found = select(DeviceFault).where(DeviceFault.job_id == job.id).order_by(col(DeviceFault.id))
    return list({(one.node, one.uuid): one.device_key for one in session.exec(found)}.values())


def clear_after_success(session: Session, job: Job) -> None:
    """Reset the row of faults of the device on which the job succeeded. A quarantine stays until its release."""
    if job.type in _ON_DEVICES and not job.mock and job.node is not None and job.device is not None:
        session.connection().execute(
            update(DeviceFault)
            .where(*_open(job.node, job.device), col(DeviceFault.quarantine_reason).is_(None))
            .values(cleared_at=clock.now())
        )


@settled
def quarantine(database: Database, key: str, kind: FaultKind, detail: str) -> bool:
    """Quarantine a device because of what its driver reports. Return False if it was quarantined already, or is gone.

    Placement leaves the device out, and it claims nothing, until `release`. The job that runs there continues.
    """
    with database.write() as session:
        device = session.get(Device, key, with_for_update=True)
        if device is None or device.quarantined_at is not None:
            return is_repetition() and device is not None and device.quarantine_reason == detail[:_DETAIL]
        row = DeviceFault(
            id=new_id(), node=device.node, uuid=device.uuid, device_key=key, kind=kind, detail=detail[:_DETAIL],
            at=clock.now(),
        )  # fmt: skip
        session.add(row)
        _quarantine(session, row, detail)
        return True


@settled
def release(database: Database, key: str) -> Device:
    """End a device's quarantine and reset its row of faults. Idempotent. Raises NotFound."""
    with database.write() as session:
        device = session.get(Device, key, with_for_update=True)
        if device is None:
            raise NotFound("device", key)
        hold(session, f"faults of {device.node} {device.uuid}")
        device.quarantined_at = device.quarantine_reason = None
        session.add(device)
        clearing = update(DeviceFault).where(*_open(device.node, device.uuid)).values(cleared_at=clock.now())
        session.connection().execute(clearing)
        return device


def restore(session: Session, device: Device) -> None:
    """Give the row of a device that registers the quarantine of its GPU, whatever index the GPU had before."""
    query = select(DeviceFault).where(*_open(device.node, device.uuid), col(DeviceFault.quarantine_reason).is_not(None))
    found = session.exec(query.order_by(col(DeviceFault.id)).limit(1)).first()
    device.quarantined_at = found.at if found is not None else None
    device.quarantine_reason = found.quarantine_reason if found is not None else None


def counts(database: Database) -> dict[tuple[str, str], int]:
    """Return how many faults each device has had in a row, by (node, UUID); without devices that have none."""
    query = (
        select(DeviceFault.node, DeviceFault.uuid, func.count())
        .where(col(DeviceFault.cleared_at).is_(None))
        .group_by(col(DeviceFault.node), col(DeviceFault.uuid))
    )
    with database.read() as session:
        return {(node, uuid): count for node, uuid, count in session.exec(query)}


def _judge(session: Session, latest: DeviceFault) -> None:
    """Quarantine the device if its faults in a row suffice."""
    faults = session.exec(select(DeviceFault).where(*_open(latest.node, latest.uuid))).all()
    jobs = {fault.job_id for fault in faults if fault.job_id is not None}
    if len(faults) >= FAULTS_IN_A_ROW and len(jobs) >= JOBS_AT_LEAST:
        reason = f"{len(faults)} faults in a row, of {len(jobs)} jobs; the last: {latest.detail}"
        _quarantine(session, latest, reason)


def _quarantine(session: Session, fault: DeviceFault, reason: str) -> None:
    fault.quarantine_reason = reason[:_DETAIL]
    session.add(fault)
    session.flush()
    here = (col(Device.node) == fault.node, col(Device.uuid) == fault.uuid, col(Device.quarantined_at).is_(None))
    marking = update(Device).where(*here).values(quarantined_at=fault.at, quarantine_reason=fault.quarantine_reason)
    if session.connection().execute(marking).rowcount:
        log.error("device %s is quarantined: %s", fault.device_key, reason)


def _open(node: str, uuid: str) -> tuple[ColumnElement[bool], ...]:
    return (col(DeviceFault.node) == node, col(DeviceFault.uuid) == uuid, col(DeviceFault.cleared_at).is_(None))
