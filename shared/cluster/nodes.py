"""Nodes, their devices and supervised processes, and values that the whole installation shares.

Sole reader and writer of those four tables, except for the quarantine of devices (`shared/jobs/device_faults.py`).
"""

import base64
import hashlib
import importlib.metadata
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlmodel import Session, col, select

from shared import clock
from shared.database.engine import Database, hold, is_repetition, settled
from shared.database.tables import Device, Installation, Job, Node, Process, epoch_now
from shared.errors import Conflict, NotFound
from shared.jobs import device_faults, dispatch
from shared.jobs.attempts import Failure
from shared.jobs.claims import pauses
from shared.models import replicas
from shared.settings import Settings
from shared.states import JobState
from shared.telemetry import loop_reports

REPORT_SECONDS = 10.0  # how often a supervisor reports its processes
# Built once, because every pass of the dispatcher executes them.
_DEVICES = select(Device, epoch_now() - col(Device.seen_at)).order_by(col(Device.node), col(Device.index))
_NODES = select(Node, epoch_now() - col(Node.seen_at)).order_by(col(Node.name))


@dataclass(frozen=True)
class SeenDevice:
    """A device's row, and the seconds since its last heartbeat by the database's clock."""

    device: Device
    silent_seconds: float
    deregistered: bool

    def alive(self, silence_seconds: float) -> bool:
        """Return whether its worker is believed to accept jobs."""
        return not self.deregistered and is_heard(self.silent_seconds, silence_seconds)


def is_heard(silent_seconds: float, silence_seconds: float) -> bool:
    """Return whether a device or node counts as alive after this many seconds without a heartbeat.

    One that has deregistered sent its last heartbeat in 1970.
    """
    return silent_seconds <= silence_seconds


def carries(device: Device, min_vram_mb: int, min_ram_mb: int) -> bool:
    """Return whether the device has the memory, in MB (10^6 bytes): its own on a GPU, the host's on a CPU."""
    return (min_vram_mb if device.kind == "cuda" else min_ram_mb) <= device.memory_mb


@settled
def register_device(database: Database, device: Device, host_memory_mb: int | None = None) -> None:
    """Record that a worker has started on this device. It overwrites an earlier worker's row, but no quarantine.

    `host_memory_mb`: of its node, if known.
    """
    with database.write() as session:
        hold(session, f"device {device.key}")
        node = _ensure(session, device.node)  # its io worker may start later or never, but a drain needs the row
        if host_memory_mb is not None:
            node.memory_mb = host_memory_mb
            session.add(node)
        device_faults.restore(session, device)
        session.merge(device)
        session.flush()
        session.connection().execute(_seen(device.key))


def device_beat(database: Database, key: str) -> bool:
    """Record a heartbeat of the worker on this device.

    Return False if the device no longer has a row, because its node was removed.
    """
    with database.write() as session:
        return bool(session.connection().execute(_seen(key)).rowcount)


def report_loaded(database: Database, key: str, loaded: Sequence[dict[str, Any]]) -> None:
    """Record the models that the device has loaded, unless its worker has deregistered it.

    It is no heartbeat: a child also reports them when a job leaves it because its worker stops.
    """
    with database.write() as session:
        query = update(Device).where(col(Device.key) == key, col(Device.seen_at) != 0.0)
        session.connection().execute(query.values(warm=list(loaded)))


def reads_protocol(database: Database, key: str, protocol: int) -> None:
    """Record the newest message protocol that the worker reads. `key`: of its device or node."""
    node, _, place = key.rpartition("/")
    of_device = update(Device).where(col(Device.key) == key).values(message_protocol=protocol)
    of_node = update(Node).where(col(Node.name) == node).values(message_protocol=protocol)
    with database.write() as session:
        session.connection().execute(of_node if place == "io" else of_device)


def deregister_device(database: Database, key: str, pid: int) -> None:
    """Record that the worker on this device has stopped, unless another has replaced it."""
    with database.write() as session:
        query = update(Device).where(col(Device.key) == key, col(Device.pid) == pid).values(seen_at=0.0, warm=[])
        session.connection().execute(query)


def ask_to_release(database: Database, keys: Collection[str]) -> None:
    """Let these devices drop their loaded models as soon as they are idle."""
    with database.write() as session:
        query = update(Device).where(col(Device.key).in_(keys), col(Device.must_release).is_(False))
        session.connection().execute(query.values(must_release=True))


def must_release(database: Database, key: str) -> bool:
    """Return whether the device is to drop its loaded models."""
    with database.read() as session:
        return bool(session.exec(select(Device.must_release).where(Device.key == key)).first())


def released(database: Database, key: str) -> None:
    """Record that the device has nothing loaded any more."""
    with database.write() as session:
        query = update(Device).where(col(Device.key) == key).values(must_release=False, warm=[])
        session.connection().execute(query)


def warm(database: Database, key: str) -> list[dict[str, Any]]:
    """Return what the worker on this device has loaded, by its last report."""
    with database.read() as session:
        device = session.get(Device, key)
        return list(device.warm) if device is not None else []


def with_keys(database: Database, keys: Collection[str]) -> list[Device]:
    """Return those of these devices that are registered, by key."""
    with database.read() as session:
        return list(session.exec(select(Device).where(col(Device.key).in_(keys)).order_by(col(Device.key))))


def devices(database: Database) -> list[SeenDevice]:
    """Return all registered devices, by node and index."""
    with database.read() as session:
        return [SeenDevice(device, silent, device.seen_at == 0.0) for device, silent in session.execute(_DEVICES)]


def node_beat(
    database: Database, name: str, disk_total_mb: float | None, disk_free_mb: float | None, message_protocol: int = 1
) -> None:
    """Record a heartbeat of the node's io worker, its model storage, and the newest message protocol that it reads."""
    with database.write() as session:
        node = _ensure(session, name)
        node.version = _version()
        node.disk_total_mb = disk_total_mb
        node.disk_free_mb = disk_free_mb
        node.message_protocol = message_protocol
        session.add(node)
        session.flush()
        session.connection().execute(update(Node).where(col(Node.name) == name).values(seen_at=epoch_now()))


def deregister_node(database: Database, name: str) -> None:
    """Record that the node's io worker has shut down."""
    with database.write() as session:
        session.connection().execute(update(Node).where(col(Node.name) == name).values(seen_at=0.0))


@settled
def drain(
    database: Database,
    name: str,
    *,
    by: str = "local",
    reason: str = "",
    until: float | None = None,
    running: pauses.Running = "finish",
) -> Node:
    """Stop the node from accepting new jobs. Idempotent. Raises NotFound.

    It is also a pause of the node, for which the other values are (`pauses.pause`). Claims lock the node's row
    (`attempts.claim`), so no claim that began earlier is committed after this returns.
    """
    with database.write() as session:
        node = _locked(session, name)
        node.drained_at = node.drained_at or clock.now()
        session.add(node)
        pauses.store(session, pauses.Scope("node", name), by=by, reason=reason, until=until, running=running)
        return node


@settled
def undrain(database: Database, name: str) -> Node:
    """Let the node accept jobs again. Raises NotFound."""
    with database.write() as session:
        node = _locked(session, name)
        node.drained_at = None
        session.add(node)
        pauses.end(session, pauses.Scope("node", name))
        return node


def drained(database: Database) -> frozenset[str]:
    """Return the names of drained nodes, alive or not."""
    with database.read() as session:
        return frozenset(session.exec(select(Node.name).where(col(Node.drained_at).is_not(None))))


@settled
def remove(database: Database, name: str, silence_seconds: float) -> list[Job]:
    """Remove a dead node, its devices and its replicas, and fail the jobs that wait for it. Return those jobs.

    Raises NotFound, and Conflict if it sent a heartbeat within `silence_seconds`, or a job counts as running there
    because its lease has not expired.
    """
    with database.write() as session:
        if is_repetition() and session.get(Node, name) is None:
            return dispatch.given_up_with_node(session, name)
        node = _locked(session, name)
        latest = select(epoch_now() - func.max(col(Device.seen_at))).where(Device.node == name)
        silent = session.exec(select(epoch_now() - col(Node.seen_at)).where(Node.name == name)).one()
        device_silent = session.exec(latest).one()
        if is_heard(min(silent, silent if device_silent is None else device_silent), silence_seconds):
            raise Conflict(f"Node {name} is running; stop it first")
        running = select(func.count()).where(Job.node == name, Job.status == JobState.RUNNING)
        if session.exec(running).one():
            raise Conflict(f"Jobs of node {name} count as running until their leases have expired")
        pauses.end(session, pauses.Scope("node", name))
        gone = Failure("node_lost", f"Node {name} was removed", retryable=True)
        ended = dispatch.give_up_node(session, name, gone)
        replicas.forget(session, name)
        loop_reports.forget_node(session, name)
        for rows in (delete(Device).where(col(Device.node) == name), delete(Process).where(col(Process.node) == name)):
            session.connection().execute(rows)
        session.delete(node)
        return ended


def nodes(database: Database) -> list[tuple[Node, float]]:
    """Return every node, with the seconds since its io worker's last heartbeat."""
    with database.read() as session:
        return [(node, silent) for node, silent in session.execute(_NODES)]


def report_processes(database: Database, node: str, names: Collection[str], processes: Sequence[Process]) -> None:
    """Store what a supervisor on that node runs now. `names`: all processes that it has ever run."""
    with database.write() as session:
        hold(session, f"processes of {node}")
        session.connection().execute(delete(Process).where(col(Process.node) == node, col(Process.name).in_(names)))
        session.add_all(processes)
        session.flush()
        session.connection().execute(
            update(Process).where(col(Process.node) == node, col(Process.name).in_(names)).values(seen_at=epoch_now())
        )


def processes(database: Database) -> list[Process]:
    """Return the processes of supervisors that have reported recently."""
    query = select(Process).where(epoch_now() - col(Process.seen_at) <= 3 * REPORT_SECONDS)
    with database.read() as session:
        return list(session.exec(query.order_by(col(Process.node), col(Process.name))))


def note(database: Database, name: str, value: str) -> str | None:
    """Store a value of the whole installation. Return the previous value."""
    insert = sqlite_insert if database.is_sqlite else postgresql_insert
    with database.write() as session:
        before = session.exec(select(Installation.value).where(Installation.name == name)).first()
        session.connection().execute(
            insert(Installation)
            .values(name=name, value=value)
            .on_conflict_do_update(index_elements=["name"], set_={"value": value})
        )
        return before


def noted(database: Database, name: str) -> str | None:
    """Return a value stored by `note`."""
    with database.read() as session:
        row = session.get(Installation, name)
        return row.value if row is not None else None


def agreed(database: Database, name: str) -> str:
    """Return the installation's value of that name. The first call generates it at random."""
    if (value := noted(database, name)) is not None:
        return value
    insert = sqlite_insert if database.is_sqlite else postgresql_insert
    generated = insert(Installation).values(name=name, value=secrets.token_hex(16)).on_conflict_do_nothing()
    with database.write() as session:
        session.connection().execute(generated)
        return session.exec(select(Installation.value).where(Installation.name == name)).one()


def webhook_secret(settings: Settings, database: Database) -> str:
    """Return the key that signs messages to jobs' webhooks: the setting, or a generated one of the installation."""
    if settings.webhook_secret is not None:
        return settings.webhook_secret.get_secret_value()
    key = hashlib.sha256(b"webhooks " + agreed(database, "webhook_secret").encode()).digest()
    return f"whsec_{base64.b64encode(key).decode()}"


def _ensure(session: Session, name: str) -> Node:
    """Return the node's row. Insert it if it is missing; several processes of a node may do so at once."""
    if (node := session.get(Node, name)) is None:
        insert = sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgresql_insert
        row = {"name": name, "version": _version(), "started_at": clock.now(), "seen_at": 0.0}
        session.connection().execute(insert(Node).values(row).on_conflict_do_nothing())
        node = session.exec(select(Node).where(Node.name == name)).one()
    return node


def _locked(session: Session, name: str) -> Node:
    node = session.exec(select(Node).where(Node.name == name).with_for_update()).one_or_none()
    if node is None:
        raise NotFound("node", name)
    return node


def _version() -> str:
    return importlib.metadata.version("wanworks")


def _seen(key: str) -> Any:
    return update(Device).where(col(Device.key) == key).values(seen_at=epoch_now())
