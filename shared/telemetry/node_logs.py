"""Read the logs of other nodes: their workers answer over Redis."""

from collections.abc import Collection, Mapping, Sequence
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
        self, workers: Mapping[str, Collection[str]], most: int, *, process: str | None = None, containing: str = ""
    ) -> dict[str, Read | None]:
        """Return the last lines of each node's logs; None for a node of which no worker answers within two seconds.

        `workers`: by node, the names of its workers; each may have a home of its own, for example in a container.
        """
        here = self._settings.node
        found: dict[str, Read | None] = {}
        if here in workers:
            lines = log_files.tail(self._settings.home, most, process=process, containing=containing)
            found[here] = Read(tuple(log_files.names(self._settings.home)), tuple(lines))
        asked = sorted(worker for node, names in workers.items() if node != here for worker in names)
        answers = self._ask(asked, {"most": most, "process_name": process, "containing": containing})
        for node, names in workers.items():
            if node != here:
                found[node] = _together([answers[name] for name in names if name in answers], most)
        return found

    def _ask(self, workers: Sequence[str], arguments: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the answers by worker, of those that answer."""
        from kombu.exceptions import OperationalError

        if not workers:
            return {}
        try:
            replies = self._app.control.broadcast(
                COMMAND, arguments, destination=list(workers), reply=True, timeout=_PATIENCE_SECONDS, limit=len(workers)
            )
        except OperationalError:
            return {}  # Redis is away, and so is everything behind it
        # A worker of an older version answers with an error.
        return {worker: answer for reply in replies or () for worker, answer in reply.items() if "lines" in answer}

    @cached_property
    def _app(self) -> "Celery":
        return celery_app(self._settings, "wanworks.api")  # a web process loads Celery only for this


def _together(answers: Sequence[dict[str, Any]], most: int) -> Read | None:
    """Return what a node's workers have answered as one; those of one host have read the same files."""
    if not answers:
        return None
    lines = log_files.last((line for answer in answers for line in answer["lines"]), most)
    return Read(tuple(sorted({name for answer in answers for name in answer["names"]})), tuple(lines))
