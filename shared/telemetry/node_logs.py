"""Read the logs of other nodes: their workers answer over Redis."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from shared.messaging.celery import celery_app
from shared.settings import Settings
from shared.telemetry import log_files

if TYPE_CHECKING:
    from celery import Celery

COMMAND = "wanworks_log"
_PATIENCE_SECONDS = 2.0


@dataclass(frozen=True)
class Read:
    """What the workers of a node answered."""

    names: tuple[str, ...]  # of the processes with a log
    lines: tuple[log_files.Line, ...]  # oldest first


class NodeLogs:
    """Reads logs of this host from its files, and asks workers for those of others."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def read(
        self, node: str, workers: Sequence[str], most: int, *, process: str | None = None, containing: str = ""
    ) -> Read | None:
        """Return the last lines of a node's logs, or None if none of its workers answers within two seconds.

        `workers`: names of its workers; each may have a home of its own, for example in a container.
        """
        if node == self._settings.node:
            lines = log_files.tail(self._settings.home, most, process=process, containing=containing)
            return Read(tuple(log_files.names(self._settings.home)), tuple(lines))
        answers = self._ask(workers, {"most": most, "process_name": process, "containing": containing})
        if not answers:
            return None
        found = [line for answer in answers for line in answer["lines"]]
        names = sorted({name for answer in answers for name in answer["names"]})
        return Read(tuple(names), tuple(log_files.last(found, most)))

    def _ask(self, workers: Sequence[str], arguments: dict[str, Any]) -> list[dict[str, Any]]:
        from kombu.exceptions import OperationalError

        if not workers:
            return []
        try:
            replies = self._app.control.broadcast(
                COMMAND, arguments, destination=list(workers), reply=True, timeout=_PATIENCE_SECONDS, limit=len(workers)
            )
        except OperationalError:
            return []  # Redis is away, and so is everything behind it
        # A worker of an older version answers with an error.
        return [answer for reply in replies or () for answer in reply.values() if "lines" in answer]

    @cached_property
    def _app(self) -> "Celery":
        return celery_app(self._settings, "wanworks.api")  # a web process loads Celery only for this
