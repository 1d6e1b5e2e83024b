"""Batches for tests: stored as by the API."""

from typing import Any

from shared.database.engine import Database
from shared.database.tables import Batch, Job
from shared.jobs import batches, records
from shared.jobs.batches import NewBatch
from tests.support.jobs import new_job


def batch_of(count: int, **values: Any) -> tuple[NewBatch, list[records.NewJob]]:
    """Return a batch of so many jobs that is not stored yet. `values` are of the batch; `job` has those of the jobs."""
    of_jobs = values.pop("job", {})
    ids = records.new_ids(count)
    jobs = [new_job(id=job_id, owner=values.get("owner"), **of_jobs) for job_id in ids]
    return NewBatch(records.new_id(), **values), jobs


def stored(database: Database, count: int, **values: Any) -> tuple[Batch, list[Job]]:
    """Store a batch; return it with its jobs."""
    new, jobs = batch_of(count, **values)
    done = batches.accept(database, new, jobs)
    assert not done.replayed
    return done.batch, [records.get(database, job.id) for job in jobs]
