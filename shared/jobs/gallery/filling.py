"""Add videos that have no row of the table of videos: they ended before it existed, or a process of then ended them."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import exists, not_
from sqlmodel import col, select

from shared.catalogue.job_types import GENERATION
from shared.database.engine import Database
from shared.database.tables import Job, Video
from shared.jobs.ending import videos
from shared.states import JobState

AT_ONCE = 500
_LOOK_BACK = timedelta(hours=1)  # while an installation is upgraded, processes of the old version still end jobs
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


def fill(database: Database, since: datetime | None) -> tuple[int, datetime, bool]:
    """Add the next videos that ended at `since` or later (None: ever).

    Return how many, where to continue, and whether there are more.
    """
    start = since or _BEGINNING
    missing = not_(exists().where(col(Video.job_id) == col(Job.id)))
    query = (
        select(Job)
        .where(Job.status == JobState.SUCCEEDED, col(Job.finished_at) >= start)
        .where(Job.type == GENERATION, col(Job.deleted).is_(False), missing)
        .order_by(col(Job.finished_at))
        .limit(AT_ONCE)
    )
    with database.read() as session:  # almost every pass finds none, and needs no write
        newest = select(Job.finished_at).where(Job.status == JobState.SUCCEEDED).order_by(col(Job.finished_at).desc())
        until = session.exec(newest.limit(1)).first()
        found = [job.id for job in session.exec(query)]
    if not found:
        return 0, max(start, (until or start) - _LOOK_BACK), False
    with database.write() as session:
        locked = select(Job).where(col(Job.id).in_(found)).order_by(col(Job.id)).with_for_update()
        jobs = [job for job in session.exec(locked) if not job.deleted]
        there = set(session.exec(select(Video.job_id).where(col(Video.job_id).in_(found))))
        videos.add(session, [job for job in jobs if job.id not in there])
        ends = [job.finished_at for job in jobs if job.finished_at is not None]
    return len(found), max(ends, default=start), True
