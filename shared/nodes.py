"""Nodes, their devices and supervised processes, and what the whole installation agrees on.

Sole reader and writer of those four tables.
"""

import base64
import hashlib
import importlib.metadata
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, update
from sqlmodel import col, select

from shared import clock
from shared.database import Database
from shared.settings import Settings
from shared.tables import Device, Installation, Node, Process, epoch_now

REPORT_SECONDS = 10.0  # how often a supervisor says what it runs


@dataclass(frozen=True)
class SeenDevice:
    """A device's row and how long ago its worker was heard, in seconds by the database's clock."""

    device: Device
    silent_seconds: float
    said_goodbye: bool


def carries(device: Device, min_vram_mb: int, min_ram_mb: int) -> bool:
    """Whether the device has the memory, in MB (10^6 bytes): its own on a GPU, the host's on a CPU."""
    return (min_vram_mb if device.kind == "cuda" else min_ram_mb) <= device.memory_mb


def register_device(database: Database, device: Device) -> None:
    """A worker has started on this device; what an earlier one left is overwritten."""
    with database.write() as session:
        session.merge(device)
        session.flush()
        session.connection().execute(_seen(device.key))


def device_beat(database: Database, key: str, warm: Sequence[dict[str, Any]] | None = None) -> None:
    """The worker on this device is alive; `warm`, where given, is what it has loaded."""
    with database.write() as session:
        query = _seen(key)
        session.connection().execute(query if warm is None else query.values(warm=list(warm)))


def device_goodbye(database: Database, key: str, pid: int) -> None:
    """The worker on this device has stopped, unless another has taken its place."""
    with database.write() as session:
        query = update(Device).where(col(Device.key) == key, col(Device.pid) == pid).values(seen_at=0.0, warm=[])
        session.connection().execute(query)


def warm(database: Database, key: str) -> list[dict[str, Any]]:
    """What the worker on this device last said that it has loaded."""
    with database.read() as session:
        device = session.get(Device, key)
        return list(device.warm) if device is not None else []


def devices(database: Database) -> list[SeenDevice]:
    """Every device that ever registered, by node and index."""
    query = select(Device, epoch_now() - col(Device.seen_at)).order_by(col(Device.node), col(Device.index))
    with database.read() as session:
        return [SeenDevice(device, silent, device.seen_at == 0.0) for device, silent in session.exec(query)]


def node_beat(database: Database, name: str, disk_total_mb: float | None, disk_free_mb: float | None) -> None:
    """The node's io worker is alive, and this is its model storage."""
    with database.write() as session:
        node = session.get(Node, name) or Node(name=name, version="", started_at=clock.now(), seen_at=0.0)
        node.version = importlib.metadata.version("wanworks")
        node.disk_total_mb = disk_total_mb
        node.disk_free_mb = disk_free_mb
        session.add(node)
        session.flush()
        session.connection().execute(update(Node).where(col(Node.name) == name).values(seen_at=epoch_now()))


def node_goodbye(database: Database, name: str) -> None:
    """The node's io worker has stopped in good order."""
    with database.write() as session:
        session.connection().execute(update(Node).where(col(Node.name) == name).values(seen_at=0.0))


def nodes(database: Database) -> list[tuple[Node, float]]:
    """Every node and how long ago its io worker was heard, in seconds."""
    query = select(Node, epoch_now() - col(Node.seen_at)).order_by(col(Node.name))
    with database.read() as session:
        return [(node, silent) for node, silent in session.exec(query)]


def report_processes(database: Database, node: str, names: Collection[str], processes: Sequence[Process]) -> None:
    """What a supervisor on that node runs now; `names` are all that it ever had, and no other supervisor's there."""
    with database.write() as session:
        session.connection().execute(delete(Process).where(col(Process.node) == node, col(Process.name).in_(names)))
        session.add_all(processes)
        session.flush()
        session.connection().execute(
            update(Process).where(col(Process.node) == node, col(Process.name).in_(names)).values(seen_at=epoch_now())
        )


def processes(database: Database) -> list[Process]:
    """Of the supervisors that were heard lately."""
    query = select(Process).where(epoch_now() - col(Process.seen_at) <= 3 * REPORT_SECONDS)
    with database.read() as session:
        return list(session.exec(query.order_by(col(Process.node), col(Process.name))))


def note(database: Database, name: str, value: str) -> str | None:
    """Writes down something about the whole installation; what stood there before."""
    with database.write() as session:
        row = session.get(Installation, name)
        before = row.value if row is not None else None
        session.merge(Installation(name=name, value=value))
        return before


def noted(database: Database, name: str) -> str | None:
    with database.read() as session:
        row = session.get(Installation, name)
        return row.value if row is not None else None


def agreed(database: Database, name: str) -> str:
    """The installation's value of that name, drawn at random by whoever asks first."""
    with database.write() as session:
        row = session.get(Installation, name)
        if row is None:
            row = Installation(name=name, value=secrets.token_hex(16))
            session.add(row)
        return row.value


def webhook_secret(settings: Settings, database: Database) -> str:
    """What signs the messages to jobs' webhooks: as set, or the installation's own, drawn by whoever asks first."""
    if settings.webhook_secret is not None:
        return settings.webhook_secret.get_secret_value()
    key = hashlib.sha256(b"webhooks " + agreed(database, "webhook_secret").encode()).digest()
    return f"whsec_{base64.b64encode(key).decode()}"


def _seen(key: str) -> Any:
    return update(Device).where(col(Device.key) == key).values(seen_at=epoch_now())
