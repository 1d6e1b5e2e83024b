"""Follows the ends of flows' jobs: what waited for them is released or skipped, and a flow ends with its last job."""

import logging
import time

from scheduler.job_reports import JobReports
from shared.database.engine import Database
from shared.jobs.flows import advancing

log = logging.getLogger("wanworks.dispatcher")

_SEARCH_SECONDS = 60.0


class Flows:
    """The flows whose jobs have ended or started since the last pass."""

    def __init__(self, database: Database, reports: JobReports) -> None:
        self._database = database
        self._reports = reports
        self._searched_at = float("-inf")

    def follow(self) -> None:
        """Follow every end that was not followed yet. Raises DatabaseUnavailable and StoreFull."""
        for flow_id in advancing.unsettled(self._database):
            with self._reports.contained(flow_id):
                done = advancing.advance(self._database, flow_id)
                for job in done.skipped:
                    self._reports.publish_state(job)
                if done.ended is not None:
                    log.info("flow %s has %s", flow_id, done.ended.state)

    def note_started(self) -> None:
        """Mark flows as running whose first job runs. Raises DatabaseUnavailable and StoreFull."""
        advancing.note_started(self._database)

    def find_missed(self) -> None:
        """Once a minute, find ends that processes of an earlier version have not marked."""
        if time.monotonic() - self._searched_at > _SEARCH_SECONDS:
            self._searched_at = time.monotonic()
            if missed := advancing.mark_missed(self._database):
                log.warning("%d ends of jobs were not marked for their flows, and are now", missed)
