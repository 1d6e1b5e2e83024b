"""Jobs that run on several devices of a node at once: gangs.

A gang is one row with one lease. `device_key` is its first device, whose worker claims and runs it; `members` names the
others. While the row is dispatched or on its devices, the members are reserved. The row is the only record of that, so
whatever ends the attempt, or takes its device from it, frees all of them in the same transaction.
"""

from collections.abc import Iterable

from sqlalchemy import bindparam
from sqlmodel import Session, col, select

from shared.database.tables import Device, Job
from shared.jobs.finishing import ON_DEVICE
from shared.states import JobState

# Built once, because a device waits for its claim.
_RESERVED = select(Job.members).where(Job.status == JobState.RUNNING, col(Job.devices) > 1, ON_DEVICE)
_DEVICES = (
    select(Device.key, Device.quarantined_at, Device.seen_at)
    .where(col(Device.key).in_(bindparam("keys", expanding=True)))
    .order_by(col(Device.key))
    .with_for_update()
)
_OCCUPIED = select(Job.id).where(
    Job.status == JobState.RUNNING, ON_DEVICE, col(Job.device_key).in_(bindparam("keys", expanding=True))
)


def keys_of(members: str) -> tuple[str, ...]:
    """Return the device keys of a row's `members`."""
    return tuple(members.split())


def joined(keys: Iterable[str]) -> str:
    """Return the keys as a row keeps them."""
    return " ".join(keys)


def locked(session: Session, device_key: str, devices: int, joined_members: str) -> tuple[str, ...] | None:
    """Lock the devices of a gang in the order of their keys. Return the keys of its members; none for a single job.

    `devices` and `joined_members` are the values of its row. Return None if a device is missing, accepts no jobs or
    runs one. Call it before the device is locked otherwise.
    """
    if devices == 1:
        return ()
    members = keys_of(joined_members)
    if len(members) + 1 != devices:  # a dispatcher of an earlier version has sent it to one device
        return None
    found = session.execute(_DEVICES, {"keys": [device_key, *members]}).all()
    closed = any(quarantined is not None or seen_at == 0.0 for _, quarantined, seen_at in found)
    if closed or len(found) <= len(members):
        return None
    return members if session.execute(_OCCUPIED, {"keys": list(members)}).first() is None else None


def are_free(session: Session, device_key: str, members: Iterable[str]) -> bool:
    """Return whether no running gang has one of these devices as a member.

    Every claim locks its devices first, so of two claims that share a device the later one sees the earlier.
    """
    wanted = {device_key, *members}
    return all(wanted.isdisjoint(keys_of(taken)) for taken in session.execute(_RESERVED).scalars())
