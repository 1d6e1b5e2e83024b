"""`home/run/state.json`, which `up` writes for `status` and other commands. Mode 0600: it contains passwords."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from wanworks.supervise.child import started_ticks
from wanworks.supervise.embedded_redis import write_private
from wanworks.supervise.supervisor import ProcessState, ProcessStatus


@dataclass(frozen=True)
class Addresses:
    """The addresses of this installation's parts, None for a part that is not started here, its catalogue, and the
    devices by the names of their workers."""

    api_url: str | None
    redis_url: str
    database_url: str
    flower_url: str | None
    flower_user: str | None
    catalogue: str
    devices: Mapping[str, str]  # such as cpu:0 of gpu-0


def state_file(home: Path) -> Path:
    return home / "run" / "state.json"


def write_state(
    home: Path, node: str, pid: int, addresses: Addresses, processes: Sequence[ProcessStatus], ready: bool
) -> None:
    """Write the state. Raises OSError."""
    state = {
        "home": str(home),
        "node": node,
        "pid": pid,
        "pid_started": started_ticks(pid),
        "ready": ready,
        **addresses.__dict__,
        "processes": [
            {
                "name": process.name,
                "pid": process.pid,
                "state": process.state.value,
                "restarts": process.restarts,
                "since": _iso(process.since),
            }
            for process in processes
        ],
    }
    write_private(state_file(home), json.dumps(state, indent=1) + "\n")


def read_state(home: Path) -> dict[str, Any] | None:
    """Return the state written by the last `up` on this home, with `running` added; None without one.

    Where that `up` is gone without a farewell (`kill -9`), its processes are gone too and are shown as stopped.
    """
    try:
        state: dict[str, Any] = json.loads(state_file(home).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    started = state.pop("pid_started")
    state["running"] = started is not None and started_ticks(state["pid"]) == started
    if not state["running"]:
        state["ready"] = False
        for process in state["processes"]:
            process.update(pid=None, state=ProcessState.STOPPED.value)
    return state


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
