"""Reads the nodes and devices that placement may use."""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Node
from shared.forecast.slots import DeviceView
from shared.messaging import celery
from shared.stored_names import LOADED_MODEL_KEY


@dataclass(frozen=True)
class Hosts:
    """The nodes and devices during one pass. Placement leaves out drained nodes, and quarantined and paused devices.

    What runs there is finished.
    """

    nodes: Mapping[str, Node]  # alive and accepting jobs
    devices: tuple[DeviceView, ...]  # likewise
    drained: frozenset[str]  # names of nodes, alive or not
    closed: frozenset[str]  # keys of quarantined or paused devices, alive or not
    closed_devices: tuple[DeviceView, ...]  # alive, and drained, quarantined or paused
    loaded_mb: Mapping[str, int]  # the host memory of the models loaded on each device
    protocols: Mapping[str, int]  # the newest message protocol that is read, by device key and by io worker's key


def read_hosts(
    database: Database,
    held: Mapping[str, frozenset[str]],
    silence_seconds: float,
    paused: frozenset[str] = frozenset(),
) -> Hosts:
    """Return the hosts. Raises DatabaseUnavailable.

    `held`: ids of the models that each node holds completely. `silence_seconds`: hosts silent for longer are dead.
    `paused`: keys of devices that are paused.
    """
    known = nodes.nodes(database)
    drained = frozenset(node.name for node, _ in known if node.drained_at is not None)
    registered = nodes.devices(database)
    closed = paused | {item.device.key for item in registered if item.device.quarantined_at is not None}
    seen = [item.device for item in registered if item.alive(silence_seconds)]
    memory = {node.name: node.memory_mb for node, _ in known}
    views = [
        DeviceView(
            key=device.key,
            node=device.node,
            kind=device.kind,
            memory_mb=device.memory_mb,
            # Another version may have written entries without the key.
            warm=frozenset(key for entry in device.warm if (key := entry.get(LOADED_MODEL_KEY)) is not None),
            holds=held.get(device.node, frozenset()),
            host_mb=memory.get(device.node),
            capability=device.compute_capability,
        )
        for device in seen
    ]
    return Hosts(
        nodes={node.name: node for node, silent in known if silent < silence_seconds and node.name not in drained},
        devices=tuple(view for view in views if view.node not in drained and view.key not in closed),
        drained=drained,
        closed=closed,
        closed_devices=tuple(view for view in views if view.node in drained or view.key in closed),
        loaded_mb={device.key: round(sum(entry.get("host_mb") or 0.0 for entry in device.warm)) for device in seen},
        protocols={device.key: device.message_protocol for device in seen}
        | {celery.node_key(node.name): node.message_protocol for node, _ in known},
    )
