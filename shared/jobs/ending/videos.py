"""The table of finished videos: a row is written with a job's success, and removed when the job is deleted.

A favourite, and a video in a collection, is removed with its job too. Until then it is kept from retention.
"""

import unicodedata
import uuid
from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, insert, not_, or_
from sqlmodel import Session, col, select

from shared.catalogue.job_types import GENERATION
from shared.database.tables import CollectedVideo, Favourite, Job, Video, VideoLora
from shared.states import JobState

_TIE_BITS = 21  # tell videos of one millisecond apart
_LATEST_MS = (1 << 42) - 1  # in 2109; with the other bits it fits into a column
_TABLES: tuple[Any, ...] = (Video, VideoLora, Favourite, CollectedVideo)


def place_of(job_id: str, finished_at: datetime) -> int:
    """Return the place of a video among all: by milliseconds, and by the random bits of its id within one."""
    return first_place(finished_at) | (uuid.UUID(job_id).int & ((1 << _TIE_BITS) - 1))


def first_place(moment: datetime) -> int:
    """Return the lowest place of that millisecond."""
    return min(max(0, int(moment.timestamp() * 1000)), _LATEST_MS) << _TIE_BITS


def folded(text: str) -> str:
    """Return the text as it is searched: without differences of case and of composition."""
    return unicodedata.normalize("NFKC", text).casefold()


def note_end(session: Session, job: Job) -> None:
    """Add the row of a job that has succeeded, in the transaction that ends it."""
    if job.type == GENERATION and job.status == JobState.SUCCEEDED and not job.deleted:
        add(session, [job])


def add(session: Session, jobs: Collection[Job]) -> None:
    """Add rows for jobs that have succeeded and have none."""
    rows, loras = [], []
    for job in jobs:
        assert job.finished_at is not None
        place = place_of(job.id, job.finished_at)
        rows.append(
            {
                "job_id": job.id,
                "place": place,
                "owner": job.owner,
                "model_id": job.model_id,
                "size": f"{job.params['width']}x{job.params['height']}",
                "prompt": folded(job.params["prompt"]),
            }
        )
        names = sorted({lora["name"] for lora in job.params.get("loras", ())})
        loras += [{"job_id": job.id, "name": name, "place": place, "owner": job.owner} for name in names]
    if rows:
        session.connection().execute(insert(Video), rows)
    if loras:
        session.connection().execute(insert(VideoLora), loras)


def forget(session: Session, job_ids: Collection[str]) -> None:
    """Remove what the gallery has of these jobs, in the transaction that deletes them. Their rows are locked."""
    for table in _TABLES if job_ids else ():
        session.connection().execute(delete(table).where(col(table.job_id).in_(job_ids)))


def kept(session: Session, job_ids: Collection[str]) -> set[str]:
    """Return those of the jobs that are a favourite, or in a collection, of anybody."""
    found: set[str] = set()
    for table in (Favourite, CollectedVideo):
        found |= set(session.exec(select(table.job_id).where(col(table.job_id).in_(job_ids))))
    return found


def of_no_one() -> ColumnElement[bool]:
    """Return the condition that a job is nobody's favourite and in no collection."""
    return not_(or_(*(exists().where(col(table.job_id) == col(Job.id)) for table in (Favourite, CollectedVideo))))
