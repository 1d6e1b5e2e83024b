"""The registered devices and nodes, the pauses and the windows, read at most every two seconds.

Registered devices include silent, drained, quarantined and paused ones, which may come back, but not those of removed
nodes.
"""

import time
from dataclasses import dataclass, field

from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Pause
from shared.jobs.claims import pauses
from shared.jobs.lines import windows
from shared.jobs.lines.windows import Windows
from shared.models.memory_plan import Needs

_KEEP_SECONDS = 2.0


@dataclass(frozen=True)
class Host:
    """A registered device and its host's memory, in MB (10^6 bytes)."""

    key: str
    node: str
    kind: str
    memory_mb: int
    host_mb: int | None
    open: bool  # online, its node is not drained, and it is neither quarantined nor paused
    state: str  # in words, why it is not open
    capability: int | None = None  # the compute capability of a GPU, times ten; None: unknown

    def fits(self, needs: Needs) -> bool:
        """Return whether the device could ever run a job with these needs."""
        return needs.host_mb(self.kind, self.memory_mb, self.host_mb, self.capability) is not None


@dataclass(frozen=True)
class Seen:
    """What was registered at one moment."""

    devices: tuple[Host, ...] = ()
    io_nodes: frozenset[str] = frozenset()  # names of the nodes whose io workers accept jobs
    pauses: tuple[Pause, ...] = ()  # in force
    windows: Windows = field(default_factory=Windows)  # of jobs of low priority


class Hosts:
    """Reads what is registered. Any thread may use it."""

    def __init__(self, database: Database, silence_seconds: float) -> None:
        self._database = database
        self._silence_seconds = silence_seconds
        self._read_at = float("-inf")
        self._seen = Seen()

    @property
    def is_fresh(self) -> bool:
        """Return whether `seen` needs no query."""
        return time.monotonic() - self._read_at <= _KEEP_SECONDS

    def seen(self, *, again: bool = False) -> Seen:
        """Return what is registered. Raises DatabaseUnavailable. `again`: read it in any case."""
        if again or not self.is_fresh:
            self._seen = self._read()
            self._read_at = time.monotonic()
        return self._seen

    def _read(self) -> Seen:
        known = nodes.nodes(self._database)
        memory = {node.name: node.memory_mb for node, _ in known}
        drained = {node.name for node, _ in known if node.drained_at is not None}
        stopped = pauses.in_force(self._database)
        paused = {row.value for row in stopped if row.kind == "device"}
        devices = []
        for item in nodes.devices(self._database):
            device = item.device
            state = ""
            if not item.alive(self._silence_seconds):
                state = "offline"
            elif device.quarantined_at is not None:
                state = "quarantined"
            elif device.node in drained:
                state = "drained"
            elif device.key in paused:
                state = "paused"
            devices.append(
                Host(
                    key=device.key,
                    node=device.node,
                    kind=device.kind,
                    memory_mb=device.memory_mb,
                    host_mb=memory.get(device.node),
                    open=not state,
                    state=state,
                    capability=device.compute_capability,
                )
            )
        io_nodes = {node.name for node, silent in known if nodes.is_heard(silent, self._silence_seconds)} - drained
        return Seen(tuple(devices), frozenset(io_nodes), tuple(stopped), windows.read(self._database))
