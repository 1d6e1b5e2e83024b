"""Finished videos for tests: ended as workers end them, or many of them stored at once."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import update
from sqlmodel import col, select

from shared import clock
from shared.database.engine import Database
from shared.database.tables import Job, Video
from shared.jobs import attempts, ids
from shared.jobs.ending import videos
from tests.support.jobs import accepted, claimed, new_job

ARTIFACTS = [
    {"name": name, "kind": kind, "bytes": 4, "sha256": "0" * 64, "content_type": type}
    for name, kind, type in (("video.mp4", "video", "video/mp4"), ("thumbnail.jpg", "thumbnail", "image/jpeg"))
]


def finished(database: Database, prompt: str = "a cat", **values: Any) -> Job:
    """Return a job that has just succeeded."""
    job = accepted(database, prompt=prompt, **values)
    claimed(database, job.id)
    return attempts.succeed(database, job.id, 1, {"artifacts": ARTIFACTS})


def aged(database: Database, job: Job, by: timedelta) -> None:
    """Put the job's end back."""
    with database.write() as session:
        moment = clock.now() - by
        session.connection().execute(update(Job).where(col(Job.id) == job.id).values(finished_at=moment))


def stored(
    database: Database,
    prompts: Sequence[str],
    *,
    until: datetime | None = None,
    artifacts: Sequence[dict[str, Any]] = (),
    **values: Any,
) -> list[str]:
    """Store a finished video for each prompt, a second apart, the last one newest. Return their ids, oldest first."""
    last = until or clock.now()
    job_ids: list[str] = []
    new = new_job(**values)
    params = new.params.model_dump(mode="json")
    for first in range(0, len(prompts), 500):
        jobs = []
        for number, prompt in enumerate(prompts[first : first + 500], first):
            ended = last - timedelta(seconds=len(prompts) - 1 - number)
            jobs.append(
                Job(
                    id=ids.new_id(), type="generation", status="succeeded", model_id=params["model_id"], priority=2,
                    owner=new.owner, params={**params, "prompt": prompt}, labels={}, queued_at=0.0, attempt=1,
                    percent=100.0, created_at=ended, started_at=ended, finished_at=ended,
                    result={"artifacts": [*artifacts], "width": 64, "height": 64},
                )
            )  # fmt: skip
        with database.write() as session:
            session.add_all(jobs)
            videos.add(session, jobs)
        job_ids += [job.id for job in jobs]
    return job_ids


def listed(database: Database) -> set[str]:
    """Return the ids of all jobs that the table of videos has."""
    with database.read() as session:
        return set(session.exec(select(Video.job_id)))
