"""Batches for tests: stored as by the API."""

from typing import Any

from shared.database.engine import Database
from shared.database.tables import Batch, Job
from shared.jobs import accepting, batches, ids, records
from shared.jobs.batches import NewBatch
from tests.support.jobs import new_job


def batch_of(count: int, **values: Any) -> tuple[NewBatch, list[accepting.NewJob]]:
    """Return a batch of so many jobs that is not stored yet. `values` are of the batch; `job` has those of the jobs."""
    of_jobs = values.pop("job", {})
    job_ids = ids.new_ids(count)
    jobs = [new_job(id=job_id, owner=values.get("owner"), **of_jobs) for job_id in job_ids]
    return NewBatch(ids.new_id(), **values), jobs


def stored(database: Database, count: int, **values: Any) -> tuple[Batch, list[Job]]:
    """Store a batch; return it with its jobs."""
    new, jobs = batch_of(count, **values)
    done = batches.accept(database, new, jobs)
    assert not done.replayed
    return done.batch, [records.get(database, job.id) for job in jobs]
