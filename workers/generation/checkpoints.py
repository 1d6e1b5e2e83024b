"""Where the checkpoints of generations lie on a node's disk, and what an attempt's row says of them. Loads no torch.

One folder for each job, named by its id, below the home of the node. It goes when the job has ended; what is left
behind, by a kill or because the job went on elsewhere, is swept. With `checkpoints_in_store` a copy is in the
store, from which an attempt on another node continues.
"""

import logging
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import AttemptStopped, NotFound, StoreFull, Unavailable
from shared.jobs import checkpoints as rows
from shared.states import Phase
from shared.storage.store import Store
from workers.attempts.heartbeat import Heartbeat

if TYPE_CHECKING:  # at run time it would import numpy, in each worker's main process
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

    def fetch(self, store: Store, job: Job, node: str) -> None:
        """Fetch the checkpoint from the store if the latest one is on another node's disk.

        Without it the job starts from its first step, so an error is only logged.
        """
        if job.checkpoint_stored_attempt is None or job.checkpoint_node == node:
            return
        file = self.file(job.id)
        partial = file.parent / f"fetching-{job.attempt}-{os.getpid()}"
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            store.fetch_checkpoint(job.id, job.checkpoint_stored_attempt, partial)
            partial.rename(file)
        except (NotFound, Unavailable, StoreFull, OSError) as error:
            log.warning("job %s: its checkpoint cannot be fetched from the store: %s", job.id, error)
        finally:
            partial.unlink(missing_ok=True)

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

    def __init__(
        self, database: Database, job: Job, heartbeat: Heartbeat, store: Store | None = None, file: Path | None = None
    ) -> None:
        """With `store`, copies of the checkpoint `file` go there."""
        heartbeat.yield_between_steps()
        self._database = database
        self._job = job
        self._heartbeat = heartbeat
        self._store = store
        self._file = file
        self._denoises = False

    def asked_to_yield(self) -> bool:
        """Return whether the attempt should take a checkpoint after this step and give its job back."""
        return self._heartbeat.asked_to_yield

    def written(self, step: int) -> None:
        """Record that a checkpoint after `step` steps is on this node's disk, and copy it to the store."""
        job = self._job
        try:
            rows.note(self._database, job.id, job.attempt, job.node or "", step)
            if self._store is not None and self._file is not None and not self._heartbeat.is_preempted:
                self._copy(self._store, self._file)
        except AttemptStopped:
            pass  # while the store received it; the attempt learns it at its next check
        except (Unavailable, StoreFull) as error:
            log.warning("job %s: its checkpoint cannot be recorded or stored: %s", job.id, error)

    def _copy(self, store: Store, file: Path) -> None:
        """Copy the checkpoint to the store. Remove the copy again if the attempt was superseded meanwhile."""
        job = self._job
        store.put_checkpoint(job.id, job.attempt, file, self._heartbeat.check)
        if rows.note_stored(self._database, job.id, job.attempt):
            store.drop_checkpoints(job.id, lambda attempt: attempt < job.attempt)
        else:
            store.drop_checkpoints(job.id, lambda attempt: attempt == job.attempt)

    def watched(self, report: "Report") -> "Report":
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
