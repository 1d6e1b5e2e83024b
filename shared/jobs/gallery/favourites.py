"""Favourites: videos that the holder of a key has marked. A video that is anybody's favourite outlives retention."""

from collections.abc import Collection

from sqlalchemy import delete, func
from sqlmodel import Session, col, select

from shared.catalogue.job_types import GENERATION
from shared.database.engine import Database, hold, settled
from shared.database.tables import Favourite, Job
from shared.errors import Conflict, NotFound
from shared.jobs import records
from shared.jobs.ending import videos
from shared.states import JobState

LOCAL = ""  # the holder where no key is needed
MOST = 10_000  # of one holder


@settled
def mark(database: Database, holder: str, job_id: str, *, only: str | None = None) -> Job:
    """Make the video a favourite. Idempotent. `only`: the owner whose jobs the holder sees; None: of any.

    Raises NotFound, and Conflict if the job has no video or the holder has too many favourites.
    """
    with database.write() as session:
        job = records.visible(session, job_id, only, lock=True)
        require_video(job)
        if session.get(Favourite, (holder, job_id)) is None:
            hold(session, f"favourites of {holder}")
            mine = select(func.count()).select_from(Favourite).where(Favourite.holder == holder)
            if session.exec(mine).one() >= MOST:
                raise Conflict(f"There are {MOST:,} favourites already, which is the limit. Remove some first")
            session.add(Favourite(holder=holder, job_id=job_id, place=place_of(job)))
    return job


@settled
def unmark(database: Database, holder: str, job_id: str, *, only: str | None = None) -> Job:
    """Make the video no favourite any more. Idempotent. Raises NotFound. `only` as in `mark`."""
    with database.write() as session:
        job = records.visible(session, job_id, only)
        mine = (col(Favourite.holder) == holder, col(Favourite.job_id) == job_id)
        session.connection().execute(delete(Favourite).where(*mine))
    return job


def among(session: Session, holder: str, job_ids: Collection[str]) -> set[str]:
    """Return those of the jobs that are the holder's favourites."""
    query = select(Favourite.job_id).where(Favourite.holder == holder, col(Favourite.job_id).in_(job_ids))
    return set(session.exec(query))


def require_video(job: Job) -> None:
    """Raise Conflict if the job is not a finished video."""
    if job.type != GENERATION or job.status != JobState.SUCCEEDED:
        what = f"is {job.status}" if job.type == GENERATION else f"is of the type {job.type}"
        raise Conflict(
            f"Job {job.id} {what}. Only a finished video can be a favourite or in a collection; wait until there is one"
        )


def require_videos(session: Session, job_ids: Collection[str], only: str | None) -> list[Job]:
    """Lock the jobs and return them. Raises NotFound and Conflict unless all are finished videos."""
    rows = select(Job).where(col(Job.id).in_(job_ids)).order_by(col(Job.id)).with_for_update()
    found = {job.id: job for job in session.exec(rows)}
    for job_id in job_ids:
        job = found.get(job_id)
        if job is None or job.deleted or (only is not None and job.owner != only):
            raise NotFound("job", job_id)
        require_video(job)
    return list(found.values())


def place_of(job: Job) -> int:
    assert job.finished_at is not None
    return videos.place_of(job.id, job.finished_at)
