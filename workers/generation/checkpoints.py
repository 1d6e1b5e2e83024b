"""Where the checkpoints of generations lie on a node's disk, and what an attempt's row says of them. Loads no torch.

One folder for each job, named by its id, below the home of the node. It goes when the job has ended; what is left
behind, by a kill or because the job went on elsewhere, is swept.
"""

import logging
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import StoreFull, Unavailable
from shared.jobs import checkpoints as rows
from shared.states import Phase
from workers.attempts.heartbeat import Heartbeat
from workers.generation.context import Report

log = logging.getLogger("wanworks.generation")

FILE = "checkpoint.safetensors"


class Checkpoints:
    """The folders of all jobs of one node."""

    def __init__(self, home: Path) -> None:
        self.root = home / "checkpoints"

    def file(self, job_id: str) -> Path:
        """Return the path of the job's checkpoint, whether there is one or not."""
        return self.root / job_id / FILE

    def remove(self, job_id: str) -> None:
        """Remove the job's checkpoint and what was being written of the next one."""
        shutil.rmtree(self.root / job_id, ignore_errors=True)

    def job_ids(self) -> list[str]:
        """Return the ids of the jobs that have a folder."""
        try:
            return sorted(os.listdir(self.root))
        except FileNotFoundError:
            return []

    def sweep(self, database: Database, node: str) -> None:
        """Remove the folders of jobs that have ended, are gone, or have a later checkpoint on another node.

        Raises Unavailable.
        """
        there = self.job_ids()
        self._remove_all(set(there) - rows.may_continue(database, node, there) if there else ())

    def _remove_all(self, job_ids: Collection[str]) -> None:
        for job_id in job_ids:
            log.info("job %s: its checkpoint is not needed any more", job_id)
            self.remove(job_id)


class AttemptRow:
    """Reads requests from the row of a running attempt, and writes its checkpoints there."""

    def __init__(self, database: Database, job: Job, heartbeat: Heartbeat) -> None:
        heartbeat.yield_between_steps()
        self._database = database
        self._job = job
        self._heartbeat = heartbeat
        self._denoises = False

    def asked_to_yield(self) -> bool:
        """Return whether the attempt should take a checkpoint after this step and give its job back."""
        return self._heartbeat.asked_to_yield

    def written(self, step: int) -> None:
        """Record that a checkpoint after `step` steps is on this node's disk."""
        job = self._job
        try:
            rows.note(self._database, job.id, job.attempt, job.node or "", step)
        except (Unavailable, StoreFull) as error:
            log.warning("job %s: its checkpoint cannot be recorded: %s", job.id, error)

    def watched(self, report: Report) -> Report:
        """Return a report that also records after which step the attempt has continued."""

        def watched(phase: Phase, step: int | None = None, steps: int | None = None) -> None:
            report(phase, step, steps)
            if phase is Phase.DENOISING and not self._denoises:
                self._denoises = True
                if step:
                    self._resumed(step)

        return watched

    def _resumed(self, step: int) -> None:
        try:
            rows.note_resumed(self._database, self._job.id, self._job.attempt, step)
        except (Unavailable, StoreFull) as error:
            log.warning("job %s: that it has continued cannot be recorded: %s", self._job.id, error)
