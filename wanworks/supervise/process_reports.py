"""Report this supervisor's processes to the database, so that a crash loop on any node can open an alert.

It uses a separate thread, because an unavailable database must never delay a restart.
"""

import logging
import threading
from collections.abc import Sequence

from shared.cluster import nodes
from shared.cluster.nodes import REPORT_SECONDS
from shared.database.engine import Database
from shared.database.tables import Process
from shared.errors import StoreFull, Unavailable
from wanworks.supervise.supervisor import ProcessStatus

log = logging.getLogger("wanworks.process_reports")


class ProcessReports:
    def __init__(self, database_url: str, node: str) -> None:
        self._database = Database(database_url)
        self._node = node
        self._processes: Sequence[ProcessStatus] = ()
        self._names: set[str] = set()
        self._due = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="process-reports", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def publish(self, processes: Sequence[ProcessStatus]) -> None:
        self._names |= {process.name for process in processes}
        self._processes = processes
        self._due.set()

    def stop(self) -> None:
        """Report that no process runs here any more; wait only briefly."""
        self._ended = True
        self._processes = ()
        self._due.set()
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        while True:
            self._due.wait(REPORT_SECONDS)
            self._due.clear()
            ended = self._ended
            rows = [
                Process(
                    node=self._node,
                    name=process.name,
                    state=process.state.value,
                    restarts=process.restarts,
                    since=process.since,
                    seen_at=0.0,
                )
                for process in self._processes
            ]
            try:
                nodes.report_processes(self._database, self._node, set(self._names), rows)
            except (Unavailable, StoreFull):
                self._due.wait(1.0)  # retried; meanwhile the rows' age shows the failure
            except Exception:  # the thread must continue to report
                log.exception("the processes could not be reported; retrying")
                self._due.wait(1.0)
            if ended:
                self._database.close()
                return
