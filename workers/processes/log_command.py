"""Answer requests for the ends of this node's logs: a remote control command of Celery, for the API on another host."""

from typing import Any

from celery.worker.control import inspect_command

from shared.telemetry import log_files
from shared.telemetry.node_logs import COMMAND
from workers.processes import process


@inspect_command(name=COMMAND)  # type: ignore[untyped-decorator]
def read_log(_state: Any, most: int = 100, process_name: str | None = None, containing: str = "") -> dict[str, Any]:
    """Return the names of the logs of this worker's home, and their last lines."""
    home = process.settings().home
    lines = log_files.tail(home, most, process=process_name, containing=containing)
    return {"names": log_files.names(home), "lines": lines}
